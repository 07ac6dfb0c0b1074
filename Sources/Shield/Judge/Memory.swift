// SPDX-License-Identifier: Apache-2.0
//
// What is known of sources. It changes only by a `Change`, and each change learnt here is also sent to the other workers
// of the process, and to a record on disk once there is one. What tiers and delays follow from it is decided elsewhere.

package import Reputation
import Structures

/// The engine's memory of sources, and what it has learnt since it was last asked.
package struct Memory: ~Copyable {
  private var table: ReputationTable
  private let names: SourceNames
  /// What a clock on the wall said at the origin of `Instant`, in microseconds since 1970. It is asked once: what is
  /// remembered must not expire because somebody sets that clock.
  private let epoch: Int64
  /// What was learnt here and nobody has taken yet. At most 512 changes: they are taken once a turn of the loop.
  package var learnt = ChangeQueue(capacity: 512)

  /// - Parameters:
  ///   - capacity: how many sources are remembered.
  ///   - hash: of the table's own keys.
  ///   - secret: of the hashes of names, the same in all workers.
  ///   - epoch: what a clock on the wall says at the origin of `Instant`, in microseconds since 1970.
  init(capacity: Int, hash: SipHash, secret: (UInt64, UInt64), epoch: Int64) {
    table = ReputationTable(capacity: capacity, hash: hash)
    names = SourceNames(secret: secret)
    self.epoch = epoch
  }

  func source(heloDomain: Span<UInt8>) -> Source { names.source(heloDomain: heloDomain) }
  func source(user: Span<UInt8>) -> Source { names.source(user: user) }

  func isGood(_ source: Source, now: Instant) -> Bool {
    table.isGood(table.key(source), now: now)
  }

  func isBad(_ source: Source, now: Instant) -> Bool { table.isBad(table.key(source), now: now) }

  /// By what the delay at `stage` is divided: 1, 2 or 0 (no delay); see `ReputationTable.divisor`.
  func divisor(_ source: Source, stage: UInt8, after: Int64, now: Instant) -> Int64 {
    table.divisor(table.key(source), stage: stage, after: after, now: now)
  }

  /// Something was learnt here: remembers it, and tells the other workers.
  ///
  /// - Parameters:
  ///   - period: for how long it counts, in microseconds.
  ///   - stages: of a departure, a bit each.
  ///   - chanceAfter: how long a client must stay away, in microseconds, for its next departure to count.
  mutating func learn(
    _ what: Change.What, of source: Source, for period: Int64 = 0, stages: UInt8 = 0,
    chanceAfter: Int64 = 0, now: Instant
  ) {
    let change = Change(
      what, of: source, at: epoch &+ now.microseconds, for: period, stages: stages)
    learnt.append(change)
    remember(change, chanceAfter: chanceAfter)
  }

  /// Takes in a change from elsewhere, or from before.
  mutating func remember(_ change: Change, chanceAfter: Int64) {
    // Log-ins are counted in buckets, among all other rates.
    if change.what == .loginFailed { return }
    table.learn(change, epoch: epoch, chanceAfter: chanceAfter)
  }

  /// When a change happened; nil where that is longer ago than anything is remembered for.
  func time(of change: Change, now: Instant) -> Instant? {
    let at = Instant(microseconds: change.at &- epoch)
    // Of a clock that was set: what has not happened yet happens now.
    if at > now { return now }
    return at.microseconds >= -ReputationTable.past ? at : nil
  }
}
