// SPDX-License-Identifier: Apache-2.0
#pragma once

// Who may include whom. Reads the #include lines of every header and returns one sentence per violation:
//
//     core -> tile -> pack -> balance -> quantize        a stage includes only what stands to its left;
//                      |\---> store                      only cuda/quantize.cuh and its parts may include quantize
//                      |\---> matmul
//                       \---> cuda
//
// A stage is the first name below sinq/: "sinq/pack.hpp" and "sinq/pack/layout.hpp" are pack. Plain text matching: an
// include that is switched off by the preprocessor counts too, which is what we want.

#include <algorithm>
#include <filesystem>
#include <fstream>
#include <map>
#include <regex>
#include <set>
#include <string>
#include <vector>

namespace sinq_test {

using Names = std::set<std::string>;

inline const std::map<std::string, Names>& allowed_stages() {
  static const std::map<std::string, Names> table{
      {"core", {"core"}},
      {"tile", {"core", "tile"}},
      {"pack", {"core", "tile", "pack"}},
      {"balance", {"core", "tile", "pack", "balance"}},
      {"quantize", {"core", "tile", "pack", "balance", "quantize"}},
      {"store", {"core", "tile", "pack", "store"}},
      {"matmul", {"core", "tile", "pack", "matmul"}},
      {"cuda", {"core", "tile", "pack", "cuda"}},
  };
  return table;
}

/// Headers for users, which may include any stage.
inline bool is_umbrella(const std::string& header) {
  return header == "sinq/sinq.hpp" || header == "sinq/kernels.hpp";
}

/// "sinq/pack/layout.hpp" -> "pack"; "" for anything else, also for the files that are no stage.
inline std::string stage_of(const std::string& header) {
  static const std::regex pattern("sinq/([a-z0-9_]+)(/.*|[.](hpp|cuh))");
  std::smatch match;
  if (is_umbrella(header) || header == "sinq/version.hpp") return "";
  return std::regex_match(header, match, pattern) ? match[1].str() : "";
}

/// Headers of other projects are tied to the stage that owns the dependency.
inline std::string foreign_violation(const std::string& stage, const std::string& target) {
  const auto starts = [&](const char* prefix) { return target.rfind(prefix, 0) == 0; };
  if (starts("nlohmann/") && stage != "store") return "only store may include nlohmann-json";
  if ((starts("cuda") || starts("cublas") || starts("cub/") || starts("mma")) && stage != "cuda")
    return "only cuda may include the CUDA Toolkit";
  if (target == "iostream") return "the library prints nothing";
  return "";
}

namespace detail {

/// A path of headers that ends where it began, if one is reachable from `header`.
inline std::string find_cycle(const std::map<std::string, Names>& graph, const std::string& header, Names& done,
                              std::vector<std::string>& path) {
  const auto begin = std::find(path.begin(), path.end(), header);
  if (begin != path.end()) {
    std::string text;
    for (auto it = begin; it != path.end(); ++it) text += *it + " -> ";
    return text + header;
  }
  if (!done.insert(header).second || graph.count(header) == 0) return "";
  path.push_back(header);
  for (const std::string& next : graph.at(header))
    if (std::string cycle = find_cycle(graph, next, done, path); !cycle.empty()) return cycle;
  path.pop_back();
  return "";
}

}  // namespace detail

/// All violations below `include_root` (the folder that holds sinq/), sorted.
inline std::vector<std::string> include_violations(const std::filesystem::path& include_root) {
  namespace fs = std::filesystem;
  static const std::regex pattern("^[ \\t]*#[ \\t]*include[ \\t]*([<\"])([^>\"]+)[>\"]");
  std::vector<std::string> violations;
  std::map<std::string, Names> graph;

  for (const auto& entry : fs::recursive_directory_iterator(include_root)) {
    if (!entry.is_regular_file()) continue;
    const std::string header = entry.path().lexically_relative(include_root).generic_string();
    const auto report = [&](const std::string& target, const std::string& why) {
      violations.push_back(header + " includes " + target + ": " + why);
    };
    const std::string stage = stage_of(header);
    const bool umbrella = is_umbrella(header);
    if (stage.empty() ? !umbrella && header != "sinq/version.hpp" : allowed_stages().count(stage) == 0) {
      violations.push_back(header + " belongs to no stage");
      continue;
    }
    graph[header];

    std::ifstream file(entry.path());
    for (std::string line; std::getline(file, line);) {
      std::smatch match;
      if (!std::regex_search(line, match, pattern)) continue;
      std::string target = match[2];
      if (match[1] == "\"" && target.rfind("sinq/", 0) != 0)  // relative to the including file
        target = (fs::path(header).parent_path() / target).lexically_normal().generic_string();
      if (target.rfind("sinq/", 0) != 0) {
        if (const std::string why = foreign_violation(stage, target); !why.empty()) report(target, why);
        continue;
      }
      graph[header].insert(target);
      const std::string other = stage_of(target);
      if (!fs::exists(include_root / target)) report(target, "there is no such header");
      if (is_umbrella(target)) report(target, "that one is for users");
      if (target.ends_with(".cuh") && !header.ends_with(".cuh")) report(target, "a .hpp must not need nvcc");
      if (umbrella || other.empty()) continue;
      if (header == "sinq/version.hpp") {
        report(target, "version.hpp stands left of everything");
        continue;
      }
      Names allowed = allowed_stages().at(stage);
      if (header == "sinq/cuda/quantize.cuh" || header == "sinq/cuda/quantize_plan.hpp")
        allowed.insert({"balance", "quantize"});
      if (header == "sinq/cuda/quantization.hpp" || header == "sinq/cuda/arithmetic.cuh") allowed.insert("quantize");
      if (allowed.count(other) == 0) report(target, stage + " must not depend on " + other);
    }
  }

  Names done;
  for (const auto& [header, targets] : graph) {
    std::vector<std::string> path;
    if (const std::string cycle = detail::find_cycle(graph, header, done, path); !cycle.empty())
      violations.push_back("a circle: " + cycle);
  }
  std::sort(violations.begin(), violations.end());
  return violations;
}

}  // namespace sinq_test
