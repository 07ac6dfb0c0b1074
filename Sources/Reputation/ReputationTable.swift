// SPDX-License-Identifier: Apache-2.0
package import Structures

/// Eight records of 14 bytes each, field by field, so that none of them costs more than it says and those
/// by which a source is found lie together. All zeros is eight free records.
///
/// Not private only because Swift 6.3 crashes over a private type in a slab of a type of another module.
@frozen
package struct SourceSet: EightRecords, Sendable {
  /// The upper half of the key's hash; 0 marks a free record.
  package var tags = InlineArray<8, UInt32>(repeating: 0)
  /// Three times since the origin in the bits of one word, each 0 for never: until when it counts as known
  /// good, in units of 2 minutes (23 bits, 32 years); the second at which a session left while we delayed it, on
  /// a circle of 24 days (21 bits); until when a proof is remembered, in units of 4 minutes (20 bits, 8 years).
  private var times = InlineArray<8, UInt64>(repeating: 0)
  /// How often it left at each of the first eight stages while delayed, 2 bits a stage: 1 halves the delay
  /// there, 2 lifts it. A stage's chances outlive a departure at another one, or a sender with two delays
  /// that are too long for it would wander between them for ever.
  var chances = InlineArray<8, UInt16>(repeating: 0)

  package static var mixer: UInt64 { 0xD134_2543_DE82_EF95 }

  package init() {}

  static var goodMax: Int64 { 1 << 23 - 1 }
  static var leftMask: Int64 { 1 << 21 - 1 }
  static var badMax: Int64 { 1 << 20 - 1 }

  func good(_ way: Int) -> Int64 { Int64(times[way] & UInt64(Self.goodMax)) }
  func left(_ way: Int) -> Int64 { Int64(times[way] >> 23) & Self.leftMask }
  func bad(_ way: Int) -> Int64 { Int64(times[way] >> 44) }

  mutating func setGood(_ way: Int, _ until: Int64) {
    times[way] = times[way] & ~UInt64(Self.goodMax) | UInt64(min(until, Self.goodMax))
  }
  mutating func setLeft(_ way: Int, _ second: Int64) {
    times[way] = times[way] & ~(UInt64(Self.leftMask) << 23) | UInt64(second & Self.leftMask) << 23
  }
  mutating func setBad(_ way: Int, _ until: Int64) {
    times[way] = times[way] & ~(UInt64(Self.badMax) << 44) | UInt64(min(until, Self.badMax)) << 44
  }

  /// A new source: nothing is known of it.
  mutating func begin(_ way: Int, _ tag: UInt32) {
    tags[way] = tag
    times[way] = 0
    chances[way] = 0
  }
}

/// The bounded memory of sources: which were good, which were bad, which left while we delayed them.
///
/// A source is in one of two sets of eight (`TwoSetTable`); with places for an eighth more than `capacity` each costs
/// 15.75 bytes. Two full sets give up the record that is worth least: an expired one, then the oldest that only left,
/// then a bad one, and a good one last; so a flood of new sources cannot wash out the senders that earned their
/// standing. It changes by `learn` alone, and keeps nothing on disk.
package struct ReputationTable: ~Copyable {
  private var records: TwoSetTable<SourceSet>
  private let hash: SipHash
  /// Records in use that had to be given up for others.
  package private(set) var evictions: UInt64 = 0
  /// How many sources are remembered.
  package let capacity: Int

  /// - Parameter capacity: how many sources are remembered; at least 8 are.
  package init(capacity: Int, hash: SipHash) {
    self.capacity = max(capacity, 8)
    records = TwoSetTable(sets: (self.capacity * 9 + 63) / 64)
    self.hash = hash
  }

  package var footprint: Int { records.footprint }

  /// Under which key a source is kept here. The hash is this table's own: nobody can choose sources that collide.
  package func key(_ source: Source) -> UInt64 {
    hash(UInt64(source.kind.rawValue) | UInt64(source.length) << 8, source.high, source.low)
  }

  /// The tag is the upper half of the key: the sets come from what a multiplication makes of all bits.
  private static func mixed(_ key: UInt64) -> UInt64 { key &* 0x9E37_79B9_7F4A_7C15 }

  private func find(_ key: UInt64) -> TwoSetPlace? {
    records.find(Self.mixed(key), tag: Self.tag(key))
  }

  private static func tag(_ key: UInt64) -> UInt32 { max(UInt32(truncatingIfNeeded: key >> 32), 1) }

  /// The record of a source, made if there is none: never fails, but may cost the least worth one.
  private mutating func make(_ key: UInt64, now: Instant) -> TwoSetPlace {
    if let slot = find(key) { return slot }
    let (chosen, least) = records.choose(Self.mixed(key)) { set, way in
      Self.worth(set, way, now: now)
    }
    if least > 0 { evictions += 1 }
    records[chosen.set].begin(chosen.way, Self.tag(key))
    return chosen
  }

  /// What a record is worth; 0 for a free one, and for one whose content is not worth knowing any more.
  // Inlined, because the eight records would be copied for each call.
  @inline(__always)
  private static func worth(_ set: borrowing SourceSet, _ way: Int, now: Instant) -> UInt64 {
    if set.tags[way] == 0 { return 0 }
    // By what is left of each, so that it stays within its bits whatever the clock says.
    let good = UInt64(max(set.good(way) - pairs(now), 0))
    let bad = UInt64(max(set.bad(way) - quarters(now), 0))
    // The younger the last departure, the more.
    let left = set.left(way)
    let youth = left == 0 ? 0 : UInt64(SourceSet.leftMask + 1 - since(left, now))
    return min(good, 0xF_FFFF) << 44 | min(bad, 0xFFF) << 32 | youth
  }

  // MARK: Learning

  /// Takes in what was learnt, here or elsewhere, now or before this process began.
  ///
  /// - Parameters:
  ///   - change: of a source that this table keeps: what became of log-ins is not for it.
  ///   - epoch: what a clock on the wall said at the origin of `Instant`, in microseconds since 1970.
  ///   - chanceAfter: how long a client must have stayed away, in microseconds, for its next departure to count.
  package mutating func learn(_ change: Change, epoch: Int64, chanceAfter: Int64) {
    let at = Instant(microseconds: change.at &- epoch)
    let until = Instant(microseconds: change.until &- epoch)
    let key = key(change.source)
    switch change.what {
    case .accepted:
      let slot = make(key, now: at)
      // Its second chances stay: a pool whose one address came through would otherwise begin anew with the next.
      records[slot.set].setGood(slot.way, max(Self.pairs(until) + 1, 0))
    case .proven:
      let slot = make(key, now: at)
      records[slot.set].setGood(slot.way, 0)
      records[slot.set].setBad(slot.way, max(Self.quarters(until), 0))
    case .left: left(key, stages: change.stages, after: chanceAfter, now: at)
    case .loginFailed: invariantFailed("a failed log-in is counted, not remembered")
    }
  }

  // MARK: Good and bad

  package func isGood(_ key: UInt64, now: Instant) -> Bool {
    guard let slot = find(key) else { return false }
    return records[slot.set].good(slot.way) > Self.pairs(now)
  }

  package func isBad(_ key: UInt64, now: Instant) -> Bool {
    guard let slot = find(key) else { return false }
    return records[slot.set].bad(slot.way) > Self.quarters(now)
  }

  // MARK: Second chance

  /// A session of this source left while it was delayed: at each of `stages`, a bit each, the first eight.
  private mutating func left(_ key: UInt64, stages: UInt8, after: Int64, now: Instant) {
    if stages == 0 { return }
    let slot = make(key, now: now)
    var chances = records[slot.set].chances[slot.way]
    let since = Self.since(records[slot.set].left(slot.way), now)
    for stage in UInt16(0)..<8 where stages >> stage & 1 == 1 {
      let shift = stage * 2
      let before = chances >> shift & 3
      // Leaving again at once is one departure: only a return that waited earns the next step.
      if before == 0 || (before == 1 && since * 1_000_000 >= after) { chances += 1 << shift }
    }
    records[slot.set].chances[slot.way] = chances
    records[slot.set].setLeft(slot.way, Self.seconds(now))
  }

  /// By what the delay at `stage` is divided for a source that comes back: 1 (no chance earned),
  /// 2 (half), or 0 (no delay).
  package func divisor(_ key: UInt64, stage: UInt8, after: Int64, now: Instant) -> Int64 {
    guard stage < 8, let slot = find(key) else { return 1 }
    let chances = records[slot.set].chances[slot.way] >> (UInt16(stage) * 2) & 3
    let since = Self.since(records[slot.set].left(slot.way), now)
    guard chances > 0, since * 1_000_000 >= after else { return 1 }
    return chances == 1 ? 2 : 0
  }

  /// Seconds since a departure, or since one 24 days later: whoever stays away just that long may find that
  /// it has only just left, and waits.
  private static func since(_ left: Int64, _ now: Instant) -> Int64 {
    (seconds(now) - left) & SourceSet.leftMask
  }

  // MARK: Clocks. They begin `past` before the origin, and one is added, so that 0 can mean never.

  /// How long before the origin a moment may lie, in microseconds: what happened before the process began is learnt
  /// again from a record of it.
  package static var past: Int64 { 30 * 86_400_000_000 }

  private static func seconds(_ now: Instant) -> Int64 {
    max(((now.microseconds + past) / 1_000_000 + 1) & SourceSet.leftMask, 1)
  }
  private static func pairs(_ now: Instant) -> Int64 { (now.microseconds + past) / 120_000_000 + 1 }
  private static func quarters(_ now: Instant) -> Int64 {
    (now.microseconds + past) / 240_000_000 + 1
  }
}
