// SPDX-License-Identifier: Apache-2.0
//
// How other threads reach a worker: a queue of fixed room, and a question that waits for its answer. Neither wakes the
// worker; `Worker` does. Kept: letters are taken in the order in which they were posted, and one that finds no room is
// refused there and then, and counted.

import Glibc
import Synchronization
import Uring

/// Letters to one reader, of any number of writers.
package final class Mailbox<Letter: Sendable>: Sendable {
  /// What became of a letter.
  package enum Posting: Sendable {
    /// It is the only one: the reader may be asleep.
    case first
    /// The reader has been woken for an earlier one that it has not taken yet.
    case behind
    /// There was no room for it.
    case refused
  }

  private struct State {
    var letters: [Letter] = []
    var refused: UInt64 = 0
  }

  private let state = Mutex(State())
  /// How many letters wait at most.
  package let capacity: Int

  /// Room for all letters is taken now, so that posting allocates nothing.
  package init(capacity: Int) {
    self.capacity = capacity
    state.withLock { $0.letters.reserveCapacity(capacity) }
  }

  /// From any thread; never waits for the reader.
  package func post(_ letter: Letter) -> Posting {
    state.withLock { state in
      guard state.letters.count < capacity else {
        state.refused += 1
        return .refused
      }
      state.letters.append(letter)
      return state.letters.count == 1 ? .first : .behind
    }
  }

  /// By the reader: takes all that wait, the oldest first, into a list that must be empty and whose room is used for the
  /// next ones.
  package func take(into letters: inout [Letter]) {
    letters.reserveCapacity(capacity)
    state.withLock { swap(&$0.letters, &letters) }
  }

  /// Whether another letter would be taken. It stays so for the only writer.
  package var hasRoom: Bool { state.withLock { $0.letters.count < capacity } }

  /// How many letters found no room.
  package var refused: UInt64 { state.withLock { $0.refused } }
}

/// A question on its way, for which the one who asked waits. An answer that comes too late is nobody's.
package final class Question<Query: Sendable, Answer: Sendable>: Sendable {
  private let given = Mutex<Answer?>(nil)
  package let query: Query

  package init(_ query: Query) { self.query = query }

  /// By the worker, once.
  package func answer(_ answer: Answer) { given.withLock { $0 = answer } }

  /// Waits for the answer.
  ///
  /// - Parameter deadline: of the monotonic clock, in microseconds; once it has passed this only looks.
  /// - Returns: nil if there was none until then.
  package func wait(until deadline: Int64) -> Answer? {
    while true {
      let found = given.withLock { $0 }
      if found != nil || MonotonicClock.now() >= deadline { return found }
      usleep(200)
    }
  }
}
