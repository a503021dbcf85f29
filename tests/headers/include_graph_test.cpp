// SPDX-License-Identifier: Apache-2.0
#include "include_graph.hpp"

#include <gtest/gtest.h>

#include <filesystem>
#include <fstream>
#include <string>
#include <utility>
#include <vector>

namespace {

namespace fs = std::filesystem;
using sinq_test::include_violations;

/// A folder include/ with the given headers, which exists as long as the test runs.
class FakeTree {
 public:
  explicit FakeTree(const std::vector<std::pair<std::string, std::string>>& headers) {
    const auto* test = ::testing::UnitTest::GetInstance()->current_test_info();
    root_ = fs::path(::testing::TempDir()) / ("sinq_include_graph_" + std::string(test->name()));
    fs::remove_all(root_);
    for (const auto& [name, text] : headers) {
      fs::create_directories((root_ / name).parent_path());
      std::ofstream(root_ / name) << text;
    }
  }
  FakeTree(const FakeTree&) = delete;
  FakeTree& operator=(const FakeTree&) = delete;
  ~FakeTree() { fs::remove_all(root_); }

  [[nodiscard]] const fs::path& root() const { return root_; }

 private:
  fs::path root_;
};

using Lines = std::vector<std::string>;

TEST(IncludeGraph, TheLibraryKeepsTheOrderOfItsStages) {
  const fs::path include = fs::path(SINQ_SOURCE_DIR) / "include";
  ASSERT_TRUE(fs::exists(include / "sinq/version.hpp")) << "looked in the wrong place: " << include;
  EXPECT_EQ(include_violations(include), Lines{});
}

TEST(IncludeGraph, APermittedTreePasses) {
  const FakeTree tree({{"sinq/version.hpp", "#include <cstdint>\n"},
                       {"sinq/core.hpp", "#include \"core/error.hpp\"\n#include <Eigen/Core>\n"},
                       {"sinq/core/error.hpp", "#include \"../version.hpp\"\n"},
                       {"sinq/pack.hpp", "#include <sinq/core.hpp>\n"},
                       {"sinq/balance.hpp", "#include \"pack.hpp\"\n"},
                       {"sinq/quantize.hpp", "#include \"balance.hpp\"\n"},
                       {"sinq/store.hpp", "#include <nlohmann/json.hpp>\n#include \"sinq/pack.hpp\"\n"},
                       {"sinq/cuda.cuh", "#include <cuda_runtime.h>\n#include \"cuda/quantize.cuh\"\n"},
                       {"sinq/cuda/quantize.cuh", "#include \"../quantize.hpp\"\n"},
                       {"sinq/sinq.hpp", "#include \"quantize.hpp\"\n#include \"store.hpp\"\n"}});
  EXPECT_EQ(include_violations(tree.root()), Lines{});
}

TEST(IncludeGraph, AStepToTheRightIsFoundHoweverItIsWritten) {
  const FakeTree tree({{"sinq/pack.hpp", ""},
                       {"sinq/quantize.hpp", ""},
                       {"sinq/core/a.hpp", "#include \"../pack.hpp\"\n"},
                       {"sinq/core/b.hpp", "#include <sinq/pack.hpp>\n"},
                       {"sinq/core/c.hpp", "  #  include \"sinq/pack.hpp\"\n"},
                       {"sinq/matmul/d.hpp", "#include \"../quantize.hpp\"\n"},
                       {"sinq/cuda/gemm.cuh", "#include \"../quantize.hpp\"\n"}});
  EXPECT_EQ(include_violations(tree.root()),
            (Lines{"sinq/core/a.hpp includes sinq/pack.hpp: core must not depend on pack",
                   "sinq/core/b.hpp includes sinq/pack.hpp: core must not depend on pack",
                   "sinq/core/c.hpp includes sinq/pack.hpp: core must not depend on pack",
                   "sinq/cuda/gemm.cuh includes sinq/quantize.hpp: cuda must not depend on quantize",
                   "sinq/matmul/d.hpp includes sinq/quantize.hpp: matmul must not depend on quantize"}));
}

TEST(IncludeGraph, SiblingsDoNotKnowEachOther) {
  const FakeTree tree({{"sinq/store.hpp", "#include \"matmul.hpp\"\n"}, {"sinq/matmul.hpp", ""}});
  EXPECT_EQ(include_violations(tree.root()),
            Lines{"sinq/store.hpp includes sinq/matmul.hpp: store must not depend on matmul"});
}

TEST(IncludeGraph, DependenciesStayWhereTheyBelong) {
  const FakeTree tree({{"sinq/pack.hpp", "#include <nlohmann/json.hpp>\n"},
                       {"sinq/core.hpp", "#include <cuda_fp16.h>\n"},
                       {"sinq/tile.hpp", "#include <iostream>\n"}});
  EXPECT_EQ(include_violations(tree.root()),
            (Lines{"sinq/core.hpp includes cuda_fp16.h: only cuda may include the CUDA Toolkit",
                   "sinq/pack.hpp includes nlohmann/json.hpp: only store may include nlohmann-json",
                   "sinq/tile.hpp includes iostream: the library prints nothing"}));
}

TEST(IncludeGraph, CirclesStrayHeadersAndDeadIncludesAreFound) {
  const FakeTree tree({{"sinq/core/a.hpp", "#include \"b.hpp\"\n"},
                       {"sinq/core/b.hpp", "#include \"a.hpp\"\n#include \"gone.hpp\"\n"},
                       {"sinq/util.hpp", ""},
                       {"sinq/core/c.hpp", "#include \"../sinq.hpp\"\n"},
                       {"sinq/sinq.hpp", ""},
                       {"sinq/cuda/x.cuh", ""},
                       {"sinq/cuda/plan.hpp", "#include \"x.cuh\"\n"}});
  EXPECT_EQ(include_violations(tree.root()),
            (Lines{"a circle: sinq/core/a.hpp -> sinq/core/b.hpp -> sinq/core/a.hpp",
                   "sinq/core/b.hpp includes sinq/core/gone.hpp: there is no such header",
                   "sinq/core/c.hpp includes sinq/sinq.hpp: that one is for users",
                   "sinq/cuda/plan.hpp includes sinq/cuda/x.cuh: a .hpp must not need nvcc",
                   "sinq/util.hpp belongs to no stage"}));
}

}  // namespace
