// SPDX-License-Identifier: Apache-2.0
import Glibc
import Synchronization
import Testing
import Uring

@testable import Service

/// A reading beside everything else.
struct RereadingTests {
  @Test("what was read is given out once; what was asked for meanwhile is told with it")
  func twice() throws {
    let rereading = Rereading<Int>()
    let gate = Mutex(false)
    let begun = try rereading.begin {
      while !gate.withLock({ $0 }) { usleep(1_000) }
      return 7
    }
    let again = try rereading.begin { 8 }
    #expect(begun && !again && rereading.isReading)
    let early = rereading.take()
    #expect(early == nil)
    gate.withLock { $0 = true }
    var taken = rereading.take()
    while taken == nil {
      usleep(1_000)
      taken = rereading.take()
    }
    #expect(taken?.found == 7 && taken?.isWantedAgain == true)
    #expect(!rereading.isReading)
    let none = rereading.take()
    #expect(none == nil)
  }

  @Test("a reading that takes too long is told once")
  func overdue() throws {
    let rereading = Rereading<Int>()
    let gate = Mutex(false)
    let start = MonotonicClock.now()
    _ = try rereading.begin {
      while !gate.withLock({ $0 }) { usleep(1_000) }
      return 7
    }
    let told = [0, 29_000_000, 60_000_000, 90_000_000].map { rereading.isOverdue(now: start + $0) }
    #expect(told == [false, false, true, false])
    gate.withLock { $0 = true }
  }
}
