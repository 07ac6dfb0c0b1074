// SPDX-License-Identifier: Apache-2.0
#pragma once
#include <stdint.h>
// How often this thread has asked for memory since it started.
uint64_t allocations_of_this_thread(void);
// Bytes this thread took less those it gave back, with the allocator's headers; another thread's free
// makes it wrong.
int64_t bytes_held_by_this_thread(void);
// The most of them at any moment since the thread started, or since it was forgotten.
int64_t most_bytes_held_by_this_thread(void);
void forget_most_bytes_held(void);
