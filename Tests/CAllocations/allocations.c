// SPDX-License-Identifier: Apache-2.0
// Counts what a test allocates. The executable's own malloc comes before libc's for the whole process,
// Swift's runtime included; each call is counted for its thread and handed on.
#include "allocations.h"
#include <errno.h>
#include <malloc.h>
#include <stddef.h>

extern void *__libc_malloc(size_t);
extern void *__libc_calloc(size_t, size_t);
extern void *__libc_realloc(void *, size_t);
extern void *__libc_memalign(size_t, size_t);
extern void __libc_free(void *);

static _Thread_local uint64_t count;
static _Thread_local int64_t held;
static _Thread_local int64_t held_most;

uint64_t allocations_of_this_thread(void) { return count; }
int64_t bytes_held_by_this_thread(void) { return held; }
int64_t most_bytes_held_by_this_thread(void) { return held_most; }
void forget_most_bytes_held(void) { held_most = held; }

// What the allocator gives away for it: the usable part and its header.
static size_t size_of(void *memory) { return memory ? malloc_usable_size(memory) + 8 : 0; }

static void *taken(void *memory) {
  count++;
  held += (int64_t)size_of(memory);
  if (held > held_most) held_most = held;
  return memory;
}

void *malloc(size_t size) { return taken(__libc_malloc(size)); }

void *calloc(size_t number, size_t size) { return taken(__libc_calloc(number, size)); }

void *realloc(void *old, size_t size) {
  int64_t before = (int64_t)size_of(old);
  void *memory = __libc_realloc(old, size);
  if (memory || !size) held -= before;
  return taken(memory);
}

void free(void *memory) {
  held -= (int64_t)size_of(memory);
  __libc_free(memory);
}

void *memalign(size_t alignment, size_t size) { return taken(__libc_memalign(alignment, size)); }

void *aligned_alloc(size_t alignment, size_t size) { return memalign(alignment, size); }

int posix_memalign(void **out, size_t alignment, size_t size) {
  void *memory = memalign(alignment, size);
  if (!memory) return ENOMEM;
  *out = memory;
  return 0;
}
