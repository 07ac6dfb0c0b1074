// SPDX-License-Identifier: Apache-2.0
#define _GNU_SOURCE
#include "refusals.h"

#include <dlfcn.h>

static _Thread_local int left, refusal;

int refuse_submits(int count, int error) {
  int before = left;
  left = count;
  refusal = error;
  return before;
}

struct io_uring;

// Found before liburing's, because the test's own objects come first.
int io_uring_submit(struct io_uring *ring) {
  if (left > 0) {
    left--;
    return -refusal;
  }
  static int (*real)(struct io_uring *);
  if (!real) real = (int (*)(struct io_uring *))dlsym(RTLD_NEXT, "io_uring_submit");
  return real(ring);
}
