// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <gtest/gtest.h>

#include <cstdio>
#include <memory>
#include <set>
#include <string>
#include <vector>

// What is in object files, as binutils tell; nothing where they are not installed.

namespace sinq::test {

inline std::vector<std::string> lines_of(const std::string& command) {
  std::vector<std::string> lines;
  const std::unique_ptr<FILE, int (*)(FILE*)> pipe(popen((command + " 2>/dev/null").c_str(), "r"), pclose);
  char buffer[4096];
  std::string line;
  while (pipe && std::fgets(buffer, sizeof buffer, pipe.get())) {
    line += buffer;
    if (line.back() != '\n') continue;
    line.pop_back();
    lines.push_back(line);
    line.clear();
  }
  return lines;
}

inline bool has_tool(const std::string& name) {
  return !lines_of(name + " --version").empty();
}

/// Functions that contain an instruction with the VEX or EVEX prefix (all of their names begin with v).
inline std::set<std::string> functions_with_avx(const std::string& object) {
  std::set<std::string> found;
  std::string function;
  for (const std::string& line : lines_of("objdump -d --no-show-raw-insn " + object)) {
    if (!line.empty() && line.back() == ':' && line.find('<') != std::string::npos) {
      function = line.substr(line.find('<') + 1, line.rfind('>') - line.find('<') - 1);
      continue;
    }
    const std::size_t tab = line.rfind('\t');
    if (tab == std::string::npos || line[tab + 1] != 'v') continue;
    const std::string name = line.substr(tab + 1, line.find(' ', tab) - tab - 1);
    if (name != "verr" && name != "verw" && name != "vmcall") found.insert(function);
  }
  return found;
}

/// Functions of the library that every file may bring and the linker keeps one of. (Those of std and Eigen are beyond
/// its reach: version.hpp.)
inline std::set<std::string> shared_by_name(const std::string& object) {
  std::set<std::string> found;
  for (const std::string& line : lines_of("nm " + object)) {
    const std::size_t at = line.find(" W ");
    if (at != std::string::npos && line.find("4sinq") != std::string::npos) found.insert(line.substr(at + 3));
  }
  return found;
}

/// Instructions with such a prefix stand only in functions of an instruction set.
inline void expect_avx_where_it_belongs(const std::string& object) {
  if (!has_tool("objdump")) GTEST_SKIP() << "objdump is not installed";
  const auto functions = functions_with_avx(object);
  ASSERT_FALSE(functions.empty()) << object;
  for (const std::string& f : functions) {
    const auto within = [&](const char* place) { return f.find(place) != std::string::npos; };
    EXPECT_TRUE(within("4core8run_avx2") || within("4core10run_avx512") || within("6matmul4avx2") ||
                within("6matmul6avx512") || within("6matmul3amx"))
        << f;
  }
}

/// Two objects share no function of the library.
inline void expect_nothing_shared(const std::string& one, const std::string& other) {
  if (!has_tool("nm")) GTEST_SKIP() << "nm is not installed";
  const auto of_one = shared_by_name(one);
  const auto of_other = shared_by_name(other);
  ASSERT_FALSE(of_one.empty() || of_other.empty()) << one << ", " << other;
  for (const std::string& f : of_one) EXPECT_FALSE(of_other.contains(f)) << f;
}

}  // namespace sinq::test
