// SPDX-License-Identifier: Apache-2.0
//
// The one clock the daemon reads: CLOCK_MONOTONIC in microseconds. Not the time of day, and it stands
// still while the machine is suspended. Keeps: never runs backwards.

import Glibc

package enum MonotonicClock {
  /// Microseconds since some moment before the process began. A vDSO call, no system call.
  package static func now() -> Int64 {
    var time = timespec()
    clock_gettime(CLOCK_MONOTONIC, &time)
    return Int64(time.tv_sec) &* 1_000_000 &+ Int64(time.tv_nsec) / 1000
  }
}
