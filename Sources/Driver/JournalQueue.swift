// SPDX-License-Identifier: Apache-2.0
package import Shield
import Synchronization

/// The journal entries of all workers on their way to the log. Bounded; what does not fit is counted.
package final class JournalQueue: Sendable {
  private struct State {
    /// A ring, begun anew whenever it is empty: with little to log, little of its memory is touched.
    var entries: [JournalEntry] = []
    var head = 0
    var count = 0
    var dropped: UInt64 = 0
  }

  private let state: Mutex<State>
  private let capacity: Int
  /// How many entries are handed over at a time, at most.
  package static let portion = 128

  package init(capacity: Int) {
    self.capacity = capacity
    var first = State()
    first.entries.reserveCapacity(capacity)
    state = Mutex(first)
  }

  package func append(_ entry: JournalEntry) {
    state.withLock { state in
      guard state.count < capacity else {
        state.dropped += 1
        return
      }
      let place = (state.head + state.count) % capacity
      if place == state.entries.count {
        state.entries.append(entry)
      } else {
        state.entries[place] = entry
      }
      state.count += 1
    }
  }

  /// Puts the oldest entries into `portion`, which is emptied first.
  ///
  /// - Returns: how many entries were dropped since the last call.
  package func take(_ portion: inout [JournalEntry]) -> UInt64 {
    portion.removeAll(keepingCapacity: true)
    return state.withLock { state in
      let taken = min(state.count, Self.portion)
      for k in 0..<taken { portion.append(state.entries[(state.head + k) % capacity]) }
      state.count -= taken
      state.head = state.count == 0 ? 0 : (state.head + taken) % capacity
      let dropped = state.dropped
      state.dropped = 0
      return dropped
    }
  }
}
