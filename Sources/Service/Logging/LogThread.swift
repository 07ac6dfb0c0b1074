// SPDX-License-Identifier: Apache-2.0
//
// The thread that turns journal entries into log lines. Workers only append to a queue; formatting,
// aggregating and writing happen here. Invariant: whatever the log's destination does, no worker waits.

import Driver
import Glibc
import Logging
import Policy
import Shield
import Structures
import Suspicion
import Synchronization
import Uring

final class LogThread: Sendable {
  private struct State {
    var policy: Policy
    /// Where the downstream is, by the number of the address.
    var downstream: [String]
    var isFinishing = false
    var isFinished = false
  }

  private let queue: JournalQueue
  private let logger: Logger
  private let floodLines: Int
  private let origin: Int64
  private let state: Mutex<State>

  /// - Parameters:
  ///   - downstream: where that is, as the log is to name it.
  ///   - origin: the clock reading, in microseconds, that is the entries' instant 0.
  init(
    queue: JournalQueue, policy: Policy, logger: Logger, floodLines: Int, downstream: [String],
    origin: Int64
  ) {
    self.origin = origin
    self.queue = queue
    self.logger = logger
    self.floodLines = floodLines
    state = Mutex(State(policy: policy, downstream: downstream))
  }

  func adopt(downstream: [String]) { state.withLock { $0.downstream = downstream } }

  func adopt(_ policy: Policy) { state.withLock { $0.policy = policy } }

  /// Writes what is left and ends the thread. Waits for at most two seconds.
  func finish() {
    state.withLock { $0.isFinishing = true }
    for _ in 0..<200 where !state.withLock({ $0.isFinished }) { usleep(10_000) }
  }

  func run() {
    var entries: [JournalEntry] = []
    entries.reserveCapacity(JournalQueue.portion)
    var gate = FloodGate(linesPerSecond: floodLines)
    var standing = DownstreamStanding()
    while true {
      let (policy, downstream, isFinishing) = state.withLock {
        ($0.policy, $0.downstream, $0.isFinishing)
      }
      let text = JournalText(policy: policy, downstream: downstream)
      let dropped = queue.take(&entries)
      for entry in entries {
        guard standing.isNews(entry) else { continue }
        if entry.isAlwaysWritten || gate.admits(entry.floodKind, now: entry.at) {
          write(entry, text)
        }
      }
      let now = Instant(microseconds: MonotonicClock.now() - origin)
      let summaries = isFinishing ? gate.flush(now: now) : gate.due(now: now)
      for line in summaries { logger.notice("\(line)") }
      if dropped > 0 { logger.warning("\(dropped) log entries dropped: the log was too slow") }
      let idle = entries.isEmpty
      if isFinishing && idle {
        state.withLock { $0.isFinished = true }
        return
      }
      if idle { usleep(50_000) }
    }
  }

  private func write(_ entry: JournalEntry, _ text: JournalText) {
    switch entry.event {
    case .downstreamDown, .possibleDuplicate, .zoneFailed:
      logger.warning("\(text.line(entry))")
    case .downstreamFailed, .zoneRecovered: logger.notice("\(text.line(entry))")
    default: logger.info("\(text.line(entry))")
    }
  }
}
