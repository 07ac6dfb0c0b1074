// SPDX-License-Identifier: Apache-2.0
//
// What Swift cannot import from liburing 2.3 and the kernel's headers: macros over enum bits, the
// completion walk, and names hidden behind __USE_GNU. Not a wrapper: no logic and no state lives here.
// Keeps: features.h comes first (liburing.h defines _GNU_SOURCE, and glibc's types would then differ
// from the ones Swift's own Glibc module saw).
#pragma once
#include <features.h>
#include <liburing.h>
#include <linux/filter.h>
#include <netinet/in.h>
#include <stdint.h>
#include <sys/eventfd.h>
#include <sys/socket.h>

enum {
  CURING_FIXED_FILE = 1 << IOSQE_FIXED_FILE_BIT,
  CURING_BUFFER_SELECT = 1 << IOSQE_BUFFER_SELECT_BIT,
  CURING_SKIP_SUCCESS = 1 << IOSQE_CQE_SKIP_SUCCESS_BIT,
  CURING_POLLRDHUP = 0x2000,
  CURING_SO_ATTACH_REUSEPORT_CBPF = 51,
  CURING_SOCK_CLOEXEC = SOCK_CLOEXEC,
  CURING_MSG_NOSIGNAL = MSG_NOSIGNAL,
  CURING_MSG_WAITALL = MSG_WAITALL,
  CURING_MSG_DONTWAIT = MSG_DONTWAIT,
  // Kernel 6.7; neither liburing 2.3 nor the 6.1 header knows it.
  CURING_SOCKET_OP_SETSOCKOPT = 3,
};

/// How many completions wait. The acquire pairs with the kernel's release of the tail.
static inline unsigned curing_ready(const struct io_uring *ring) {
  return __atomic_load_n(ring->cq.ktail, __ATOMIC_ACQUIRE) - *ring->cq.khead;
}

/// The completion `offset` places after the first unconsumed one; offset < curing_ready().
static inline const struct io_uring_cqe *curing_completion(const struct io_uring *ring,
                                                           unsigned offset) {
  return &ring->cq.cqes[(*ring->cq.khead + offset) & ring->cq.ring_mask];
}

/// Whether the kernel keeps completions that found no room in the queue.
static inline int curing_overflowed(const struct io_uring *ring) {
  return (__atomic_load_n(ring->sq.kflags, __ATOMIC_RELAXED) & IORING_SQ_CQ_OVERFLOW) != 0;
}

/// Entries written but not yet consumed by the kernel.
static inline unsigned curing_unsubmitted(const struct io_uring *ring) {
  return ring->sq.sqe_tail - __atomic_load_n(ring->sq.khead, __ATOMIC_RELAXED);
}

/// Takes up to `wanted` neighbouring free entries, to be filled whole; 0 in `taken` if there are none. What
/// io_uring_get_sqe does, for several at once (never with SQPOLL or SQE128, which we do not use).
static inline struct io_uring_sqe *curing_take(struct io_uring *ring, unsigned wanted,
                                               unsigned *taken) {
  struct io_uring_sq *sq = &ring->sq;
  unsigned first = sq->sqe_tail & sq->ring_mask;
  unsigned room = sq->ring_entries - (sq->sqe_tail - __atomic_load_n(sq->khead, __ATOMIC_RELAXED));
  unsigned whole = sq->ring_entries - first;
  unsigned count = wanted < room ? wanted : room;
  *taken = count < whole ? count : whole;
  sq->sqe_tail += *taken;
  return &sq->sqes[first];
}

/// io_uring_prep_cmd_sock of later liburings, written by hand: the 6.1 header has no names for the
/// members (addr is level | name << 32, splice_fd_in is optlen, addr3 is optval).
static inline void curing_prep_setsockopt(struct io_uring_sqe *sqe, int slot, int level, int name,
                                          const void *value, int length) {
  io_uring_prep_rw(IORING_OP_URING_CMD, sqe, slot, 0, 0, 0);
  sqe->cmd_op = CURING_SOCKET_OP_SETSOCKOPT;
  sqe->addr = (uint32_t)level | (uint64_t)(uint32_t)name << 32;
  sqe->splice_fd_in = length;
  sqe->addr3 = (uint64_t)(uintptr_t)value;
}
