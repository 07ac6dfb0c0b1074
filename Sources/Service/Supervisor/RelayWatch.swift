// SPDX-License-Identifier: Apache-2.0
//
// A downstream that could not be asked at the start is asked again until it has answered: where both come up
// together, Sluice is often there first. In a thread of its own, one conversation at a time, bounded in how often.
// Not the judge: what is found is for whoever takes it, and a question that was put off anew is never answered late.

import Glibc
import Synchronization
import Uring

package final class RelayWatch: Sendable {
  /// In milliseconds.
  package struct Pace: Sendable {
    /// Before the second question; then twice as long each time.
    package var first: Int64 = 5_000
    package var most: Int64 = 60_000
    /// How long one that says "later" is asked: a grey list has let us in by then.
    package var patience: Int64 = 600_000

    package init() {}
  }

  private struct State {
    /// Which round of questions is under way; those of earlier ones stop.
    var round = 0
    var found: Preflight?
    /// A round that has no thread yet, because none could be started, and what is known to it.
    var waiting: (round: Int, known: Preflight?)?
  }

  private let state = Mutex(State())
  private let pace: Pace
  private let ask: @Sendable () -> Preflight

  /// - Parameter ask: takes as long as it takes, within its own bounds.
  package init(pace: Pace = Pace(), _ ask: @escaping @Sendable () -> Preflight) {
    self.pace = pace
    self.ask = ask
  }

  /// Begins to ask, instead of what was under way.
  ///
  /// - Parameter known: what was found and told already; nil to ask at once.
  package func begin(after known: Preflight?) {
    let round = next()
    state.withLock { $0.waiting = (round, known) }
    start()
  }

  /// Gives the round that waits its thread, now or at the next `take`.
  private func start() {
    guard let (round, known) = state.withLock({ $0.waiting }) else { return }
    do throws(ThreadError) { try startThread { self.run(round, known) } } catch { return }
    state.withLock { state in if state.round == round { state.waiting = nil } }
  }

  /// Asks no more, and forgets what was not taken.
  package func stop() { _ = next() }

  /// What was found since, if it is news; once.
  package func take() -> Preflight? {
    start()
    return state.withLock { state in
      defer { state.found = nil }
      return state.found
    }
  }

  private func next() -> Int {
    state.withLock { state in
      state.round += 1
      state.found = nil
      state.waiting = nil
      return state.round
    }
  }

  private func isCurrent(_ round: Int) -> Bool { state.withLock { $0.round == round } }

  private func run(_ round: Int, _ known: Preflight?) {
    var told = known?.sentences
    var pause = pace.first
    var putOffSince: Int64?
    if known != nil {
      guard wait(pause, round) else { return }
      pause = min(pause * 2, pace.most)
    }
    while isCurrent(round) {
      let found = ask()
      if found.sentences != told {
        told = found.sentences
        state.withLock { state in if state.round == round { state.found = found } }
      }
      guard found.isOpen else { return }
      let now = MonotonicClock.now() / 1_000
      putOffSince = found.isPutOff ? putOffSince ?? now : nil
      if let putOffSince, now - putOffSince >= pace.patience { return }
      guard wait(pause, round) else { return }
      pause = min(pause * 2, pace.most)
    }
  }

  /// - Returns: false if it was stopped meanwhile.
  private func wait(_ milliseconds: Int64, _ round: Int) -> Bool {
    let end = MonotonicClock.now() / 1_000 + milliseconds
    while isCurrent(round) {
      let left = end - MonotonicClock.now() / 1_000
      if left <= 0 { return true }
      usleep(useconds_t(min(left, 200) * 1_000))
    }
    return false
  }
}
