// SPDX-License-Identifier: Apache-2.0
//
// How another thread gets a worker out of its wait: an eventfd the ring polls. It carries no message;
// the mailbox beside it does (eventfd, not MSG_RING: liburing issue 839 reports lost wake-ups on 6.1).
// Keeps: a signal sent before the worker drains is never lost, and many signals cost one wake-up.

import CUring
import Glibc

/// Arm `ring.pollAdd(descriptor: wakeUp.descriptor, …)`; on its completion call `drain()`, look into
/// the mailbox, and arm again.
package final class WakeUp: Sendable {
  package let descriptor: Int32

  package init() throws(RingError) {
    let made = eventfd(0, Int32(EFD_CLOEXEC) | Int32(EFD_NONBLOCK))
    if made < 0 { throw RingError(.eventDescriptor, errno: errno) }
    descriptor = made
  }

  deinit { close(descriptor) }

  /// From any thread. Never blocks: a counter at its maximum already means "awake".
  package func signal() {
    var one: UInt64 = 1
    _ = write(descriptor, &one, 8)
  }

  /// By the worker, before it looks into the mailbox.
  package func drain() {
    var count: UInt64 = 0
    _ = read(descriptor, &count, 8)
  }
}
