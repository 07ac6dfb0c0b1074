// SPDX-License-Identifier: Apache-2.0
#pragma once
#include <stdint.h>
// How often this thread has asked for memory since it started.
uint64_t allocations_of_this_thread(void);
