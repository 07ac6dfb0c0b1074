// SPDX-License-Identifier: Apache-2.0
//
// The configuration is read anew beside the thread that hears signals: a file on a server that is gone may keep its
// reader waiting for ever, and TERM must not wait with it. One reading at a time. Not the judge: what was read is for
// whoever takes it.

import Synchronization
import Uring

package final class Rereading<Found: Sendable>: Sendable {
  private struct State {
    /// When the reading under way began, in microseconds; nil if there is none.
    var since: Int64?
    var isOverdueTold = false
    var isWantedAgain = false
    var found: Found?
  }

  /// A reading that takes longer is told. In microseconds.
  package static var patience: Int64 { 30_000_000 }

  private let state = Mutex(State())

  package init() {}

  /// Begins to read, or notes that it is wanted once more when the reading under way is done.
  ///
  /// - Returns: whether it has begun.
  package func begin(_ read: @escaping @Sendable () -> Found) throws(ThreadError) -> Bool {
    let isFirst = state.withLock { state in
      state.isWantedAgain = state.since != nil
      if state.isWantedAgain { return false }
      state.since = MonotonicClock.now()
      state.isOverdueTold = false
      return true
    }
    guard isFirst else { return false }
    do throws(ThreadError) {
      try startThread {
        let found = read()
        self.state.withLock { $0.found = found }
      }
    } catch {
      state.withLock { $0.since = nil }
      throw error
    }
    return true
  }

  package var isReading: Bool { state.withLock { $0.since != nil } }

  /// What was read, once; and whether it is wanted again since.
  package func take() -> (found: Found, isWantedAgain: Bool)? {
    state.withLock { state in
      guard let found = state.found else { return nil }
      let isWantedAgain = state.isWantedAgain
      state = State()
      return (found, isWantedAgain)
    }
  }

  /// Whether the reading under way takes longer than it should; true once for each.
  package func isOverdue(now: Int64 = MonotonicClock.now()) -> Bool {
    state.withLock { state in
      guard let since = state.since, state.found == nil, !state.isOverdueTold,
        now - since >= Rereading.patience
      else { return false }
      state.isOverdueTold = true
      return true
    }
  }
}
