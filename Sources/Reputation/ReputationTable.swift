// SPDX-License-Identifier: Apache-2.0
package import Structures

/// What kind of source a reputation is kept for. Part of the hashed key, so that an address, the
/// network around it and a HELO domain never share a record.
package enum SourceKind: UInt64, Sendable {
  case address = 1
  /// /24 of IPv4, /64 of IPv6. A network's record may slow its members down or speed them up, never
  /// block them (Wilcox et al. 2010: blocking whole /24s hits a large share of honest servers).
  case network = 2
  case heloDomain = 3
}

/// Eight records of 14 bytes each, field by field, so that none of them costs more than it says and those
/// by which a source is found lie together. All zeros is eight free records.
///
/// Not private only because Swift 6.3 crashes over a private type in a slab of a type of another module.
@frozen
package struct SourceSet: BitwiseCopyable, Sendable {
  /// The upper half of the key's hash; 0 marks a free record.
  var tags = InlineArray<8, UInt32>(repeating: 0)
  /// The lower 16 and the upper 8 bits of the minute since the origin until which it counts as known good (31
  /// years); 0 for never.
  var goodUntil = InlineArray<8, UInt16>(repeating: 0)
  var goodUntilHigh = InlineArray<8, UInt8>(repeating: 0)
  /// The same of the second at which a session left while we delayed it, on a circle of 24 bits (194 days);
  /// 0 for never.
  var leftAtHigh = InlineArray<8, UInt8>(repeating: 0)
  var leftAt = InlineArray<8, UInt16>(repeating: 0)
  /// Until when a proof is remembered, in units of 4 minutes since the origin, on a circle of 16 bits
  /// (182 days); 0 for never.
  var badUntil = InlineArray<8, UInt16>(repeating: 0)
  /// How often it left at each of the first eight stages while delayed, 2 bits a stage: 1 halves the delay
  /// there, 2 lifts it. A stage's chances outlive a departure at another one, or a sender with two delays
  /// that are too long for it would wander between them for ever.
  var chances = InlineArray<8, UInt16>(repeating: 0)

  func good(_ way: Int) -> UInt32 { UInt32(goodUntilHigh[way]) << 16 | UInt32(goodUntil[way]) }

  mutating func setGood(_ way: Int, _ minute: UInt32) {
    goodUntil[way] = UInt16(truncatingIfNeeded: minute)
    goodUntilHigh[way] = UInt8(truncatingIfNeeded: minute >> 16)
  }

  func left(_ way: Int) -> UInt32 { UInt32(leftAtHigh[way]) << 16 | UInt32(leftAt[way]) }

  mutating func setLeft(_ way: Int, _ second: UInt32) {
    leftAt[way] = UInt16(truncatingIfNeeded: second)
    leftAtHigh[way] = UInt8(truncatingIfNeeded: second >> 16)
  }
}

/// The bounded memory of sources: who was good, who was bad, who left while we delayed it.
///
/// Sets of eight records; a source may be in either of two, chosen by a keyed hash, and goes into the one
/// with more room. With places for an eighth more than `capacity`, all but 1 in 200 of so many sources
/// have one, in 15.75 bytes each. Two full sets give up the record that is worth least: an expired one,
/// then the oldest that only left, then a bad one, and a good one last; so a flood of new sources
/// cannot wash out the senders that earned their standing. Not persistent: a restart forgets (state
/// on disk is Storage's).
package struct ReputationTable: ~Copyable {
  private var records: Slab<SourceSet>
  private let hash: SipHash
  private let sets: UInt64
  /// Records in use that had to be given up for others.
  package private(set) var evictions: UInt64 = 0
  /// How many sources are remembered.
  package let capacity: Int

  private static var ways: Int { 8 }

  private struct Slot {
    let set: Int
    let way: Int
  }

  /// - Parameter capacity: how many sources are remembered; at least 8 are.
  package init(capacity: Int, hash: SipHash) {
    self.capacity = max(capacity, 8)
    sets = UInt64((self.capacity * 9 + 63) / 64)
    records = Slab(capacity: Int(sets), repeating: SourceSet())
    self.hash = hash
  }

  package var footprint: Int { records.footprint }

  package func key(_ kind: SourceKind, _ address: Address) -> UInt64 {
    hash(kind.rawValue, address.high, address.low)
  }

  /// The key of a HELO domain, which is compared without regard to case.
  package func key(heloDomain: Span<UInt8>) -> UInt64 {
    var low: UInt64 = 0
    var state: UInt64 = SourceKind.heloDomain.rawValue
    // Fold case by absorbing lower-cased octets eight at a time through the keyed hash.
    for i in 0..<heloDomain.count {
      let byte = heloDomain[i]
      let folded = byte >= 65 && byte <= 90 ? byte | 0x20 : byte
      low = low << 8 | UInt64(folded)
      if i & 7 == 7 {
        state = hash(state, low, UInt64(i))
        low = 0
      }
    }
    return hash(state, low, UInt64(heloDomain.count))
  }

  /// The two sets in which a source may be.
  private func sets(of key: UInt64) -> (Int, Int) {
    // The tag is the upper half: the sets come from what a multiplication makes of all bits.
    let mixed = key &* 0x9E37_79B9_7F4A_7C15
    let first = mixed.multipliedFullWidth(by: sets).high
    let other = (mixed &* 0xD134_2543_DE82_EF95).multipliedFullWidth(by: sets &- 1).high
    var second = first &+ 1 &+ other
    if second >= sets { second &-= sets }
    return (Int(truncatingIfNeeded: first), Int(truncatingIfNeeded: second))
  }

  private func find(_ key: UInt64) -> Slot? {
    let tag = Self.tag(key)
    let (first, second) = sets(of: key)
    let tags = records[first].tags
    for way in 0..<Self.ways where tags[way] == tag { return Slot(set: first, way: way) }
    let others = records[second].tags
    for way in 0..<Self.ways where others[way] == tag { return Slot(set: second, way: way) }
    return nil
  }

  private static func tag(_ key: UInt64) -> UInt32 { max(UInt32(truncatingIfNeeded: key >> 32), 1) }

  /// The record of a source, made if there is none: never fails, but may cost the least worth one.
  private mutating func make(_ key: UInt64, now: Instant) -> Slot {
    if let slot = find(key) { return slot }
    let (first, second) = sets(of: key)
    var chosen = Slot(set: first, way: 0)
    var least = UInt64.max
    var roomiest = 0
    var set = first
    for _ in 0..<2 {
      var room = 0
      for way in 0..<Self.ways {
        let worth = Self.worth(records[set], way, now: now)
        if worth == 0 { room += 1 }
        // Of two sets with room the one with more; else the record that is worth least.
        if worth < least || (worth == 0 && room > roomiest) {
          least = worth
          chosen = Slot(set: set, way: way)
        }
      }
      roomiest = room
      set = second
    }
    if least > 0 { evictions += 1 }
    records[chosen.set].tags[chosen.way] = Self.tag(key)
    records[chosen.set].setGood(chosen.way, 0)
    records[chosen.set].setLeft(chosen.way, 0)
    records[chosen.set].badUntil[chosen.way] = 0
    records[chosen.set].chances[chosen.way] = 0
    return chosen
  }

  /// What a record is worth; 0 for a free one alone.
  private static func worth(_ set: borrowing SourceSet, _ way: Int, now: Instant) -> UInt64 {
    if set.tags[way] == 0 { return 0 }
    // By what is left of each, so that it stays within its bits whatever the clock says.
    let good = UInt64(max(Int64(set.good(way)) - Int64(minutes(now)), 0))
    let until = set.badUntil[way]
    let bad = isBad(until, now: now) ? UInt64(until &- quarters(now)) : 0
    // The younger the last departure, the more: on its circle, as its age counts.
    let left = set.left(way)
    let youth = left == 0 ? 1 : UInt64(0x100_0000 &- (seconds(now) &- left) & 0xFF_FFFF)
    return min(good, 0xF_FFFF) << 44 | min(bad, 0xFFF) << 32 | youth
  }

  // MARK: Good and bad

  package func isGood(_ key: UInt64, now: Instant) -> Bool {
    guard let slot = find(key) else { return false }
    return records[slot.set].good(slot.way) > Self.minutes(now)
  }

  /// A message of this source was accepted downstream.
  package mutating func markGood(_ key: UInt64, for period: Int64, now: Instant) {
    let slot = make(key, now: now)
    let until = Self.minutes(now + .microseconds(period)) + 1
    records[slot.set].setGood(slot.way, min(until, 0xFF_FFFF))
    records[slot.set].chances[slot.way] = 0
  }

  package func isBad(_ key: UInt64, now: Instant) -> Bool {
    guard let slot = find(key) else { return false }
    return Self.isBad(records[slot.set].badUntil[slot.way], now: now)
  }

  /// This source was proven bad: it loses its good standing.
  package mutating func markBad(_ key: UInt64, for period: Int64, now: Instant) {
    let slot = make(key, now: now)
    records[slot.set].setGood(slot.way, 0)
    records[slot.set].badUntil[slot.way] = Self.quarters(now + .microseconds(period))
  }

  private static func isBad(_ until: UInt16, now: Instant) -> Bool {
    // On the circle, ahead means within half of it: periods are therefore limited to 90 days.
    until != 0 && Int16(bitPattern: until &- quarters(now)) > 0
  }

  // MARK: Second chance

  /// A session of this source left while it was delayed at `stage`.
  package mutating func left(_ key: UInt64, stage: UInt8, after: Int64, now: Instant) {
    guard stage < 8 else { return }
    let slot = make(key, now: now)
    let chances = records[slot.set].chances[slot.way]
    let since = Self.since(records[slot.set].left(slot.way), now)
    let shift = UInt16(stage) * 2
    let before = chances >> shift & 3
    // Leaving again at once is one departure: only a return that waited earns the next step.
    if before == 0 || (before == 1 && since * 1_000_000 >= after) {
      records[slot.set].chances[slot.way] = chances + 1 << shift
    }
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

  /// Seconds since a departure, or since one 194 days later: whoever stays away that long may find that it
  /// has just left, and waits.
  private static func since(_ left: UInt32, _ now: Instant) -> Int64 {
    Int64((seconds(now) &- left) & 0xFF_FFFF)
  }

  // MARK: Clocks. One is added so that 0 can mean never.

  private static func seconds(_ now: Instant) -> UInt32 {
    max(UInt32(truncatingIfNeeded: now.microseconds / 1_000_000 + 1) & 0xFF_FFFF, 1)
  }
  private static func minutes(_ now: Instant) -> UInt32 {
    UInt32(clamping: now.microseconds / 60_000_000 + 1)
  }
  private static func quarters(_ now: Instant) -> UInt16 {
    max(UInt16(truncatingIfNeeded: now.microseconds / 240_000_000 + 1), 1)
  }
}
