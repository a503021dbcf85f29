// SPDX-License-Identifier: Apache-2.0
#pragma once

// Runs the programs as a user does.

#include <gtest/gtest.h>
#include <sys/wait.h>

#include "examples/tiny_model.hpp"

namespace programs {

using tiny::Json;

struct Outcome {
  int code = -1;
  std::string out;
  std::string err;
};

inline std::string contents(const std::filesystem::path& path) {
  std::ifstream file(path);
  return {std::istreambuf_iterator<char>(file), {}};
}

class Programs : public testing::Test {
 protected:
  Outcome run(const std::string& command) const {
    const std::string line = std::string(SINQ_PROGRAM_DIR "/") + command + " > '" + (directory_ / "out").string() +
                             "' 2> '" + (directory_ / "err").string() + "' < /dev/null";
    const int status = std::system(line.c_str());
    return {WIFEXITED(status) ? WEXITSTATUS(status) : -1, contents(directory_ / "out"), contents(directory_ / "err")};
  }

  void expect_failure(const std::string& command, int code, const std::vector<std::string>& parts) const {
    const Outcome o = run(command);
    EXPECT_EQ(o.code, code) << command;
    EXPECT_EQ(o.out, "") << command;
    for (const std::string& part : parts)
      EXPECT_NE(o.err.find(part), std::string::npos) << command << "\nsays: " << o.err << "lacks: " << part;
  }

  /// Standard output is one JSON object and nothing else.
  Json expect_json(const std::string& command) const {
    const Outcome o = run(command);
    EXPECT_EQ(o.code, 0) << command << "\n" << o.err;
    EXPECT_EQ(std::count(o.out.begin(), o.out.end(), '\n'), 1) << command;
    return sinq::store::parse_json(o.out, command);
  }

  [[nodiscard]] std::string path(const std::string& name) const { return (directory_ / name).string(); }

  /// A byte-level model: what all programs can do.
  std::map<std::string, reference::Tensor> save_model(const std::string& name, const Json& changes = Json::object()) {
    const Json config = tiny::with(tiny::with(tiny::tiny_config("LlamaForCausalLM"),
                                              {{"vocab_size", 256}, {"hidden_size", 48}, {"intermediate_size", 80}}),
                                   changes);
    auto tensors = tiny::random_tensors(tiny::parse(config));
    tiny::save(directory_ / name, config, tensors);
    return tensors;
  }

  tiny::Directory directory_;
};

}  // namespace programs
