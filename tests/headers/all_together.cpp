// SPDX-License-Identifier: Apache-2.0
// Every header in one file, beside the files that hold each alone.
#include <all_headers.hpp>

int main() {}
