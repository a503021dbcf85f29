// SPDX-License-Identifier: Apache-2.0
// What the README promises, the CI script runs: the two commands are written in both places and compared here.
#include <gtest/gtest.h>

#include <filesystem>
#include <fstream>
#include <sstream>
#include <string>
#include <vector>

namespace {

namespace fs = std::filesystem;

std::string text_of(const std::string& file) {
  std::ifstream stream(fs::path(SINQ_SOURCE_DIR) / file, std::ios::binary);
  EXPECT_TRUE(stream.is_open()) << file;
  std::ostringstream text;
  text << stream.rdbuf();
  return text.str();
}

/// The contents of the fenced blocks of one language.
std::vector<std::string> blocks_of(const std::string& markdown, const std::string& language) {
  std::vector<std::string> blocks;
  const std::string fence = "\n```" + language + "\n";
  for (std::size_t at = markdown.find(fence); at != std::string::npos; at = markdown.find(fence, at)) {
    at += fence.size();
    const std::size_t end = markdown.find("```\n", at);
    if (end == std::string::npos) break;
    blocks.push_back(markdown.substr(at, end - at));
    at = end;
  }
  return blocks;
}

TEST(Commands, TheReadmeHasTwoThatRunTheDemoAndTheTests) {
  const std::vector<std::string> commands = blocks_of(text_of("README.md"), "sh");
  ASSERT_EQ(commands.size(), 2U);
  EXPECT_TRUE(commands[0].ends_with("cmake --workflow --preset demo\n")) << commands[0];
  EXPECT_TRUE(commands[1].ends_with("cmake --workflow --preset test\n")) << commands[1];
  for (const std::string& command : commands)
    EXPECT_TRUE(command.starts_with("SUDO=$(command -v sudo || true); $SUDO apt-get update && ")) << command;
}

TEST(Commands, ContinuousIntegrationRunsTheSecondOne) {
  const std::vector<std::string> commands = blocks_of(text_of("README.md"), "sh");
  ASSERT_EQ(commands.size(), 2U);
  const fs::path script = fs::path(SINQ_SOURCE_DIR) / ".ci/run";
  EXPECT_TRUE(text_of(".ci/run").ends_with("\ncd \"$(dirname \"$0\")/..\"\n" + commands[1]));
  EXPECT_NE(fs::status(script).permissions() & fs::perms::owner_exec, fs::perms::none) << "not executable";
}

// The lines of use in the README are those of programs that are compiled and run.
TEST(Commands, TheReadmeShowsCodeThatRuns) {
  const std::vector<std::string> snippets = blocks_of(text_of("README.md"), "cpp");
  const std::vector<std::string> files = {"examples/quick_start.cpp", "examples/quick_start.cpp",
                                          "tests/consumer/main.cu"};
  ASSERT_EQ(snippets.size(), files.size());
  for (std::size_t k = 0; k < files.size(); ++k) {
    const std::string program = text_of(files[k]);
    std::istringstream lines(snippets[k]);
    for (std::string line; std::getline(lines, line);)
      EXPECT_NE(program.find(line), std::string::npos) << "not in " << files[k] << ": " << line;
  }
}

}  // namespace
