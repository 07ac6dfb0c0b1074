// SPDX-License-Identifier: Apache-2.0
//
// Files of tuning/ inside the program: personas, scenarios, and the newest results of the benchmarks.
#pragma once
#include <stddef.h>

struct cshipped_file {
  /// Below tuning/: "personas/b01-impatient.yaml".
  const char *path;
  const unsigned char *bytes;
  size_t count;
};

/// One after the other from 0 on; null behind the last.
const struct cshipped_file *cshipped_file(size_t index);
