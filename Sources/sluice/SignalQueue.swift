// SPDX-License-Identifier: Apache-2.0
import Glibc

/// Signals as a queue: blocked in every thread, read where there is time for them.
struct SignalQueue {
  private let set: sigset_t

  init(_ numbers: [Int32]) {
    var set = sigset_t()
    sigemptyset(&set)
    for number in numbers { sigaddset(&set, number) }
    pthread_sigmask(SIG_BLOCK, &set, nil)
    self.set = set
  }

  /// The next signal, or nil after the time given.
  func next(milliseconds: Int) -> Int32? {
    var set = set
    var wait = timespec(tv_sec: milliseconds / 1_000, tv_nsec: milliseconds % 1_000 * 1_000_000)
    let number = sigtimedwait(&set, nil, &wait)
    return number > 0 ? number : nil
  }
}
