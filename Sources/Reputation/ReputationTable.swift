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

/// What is remembered of one source: 16 bytes.
@frozen
package struct SourceRecord: BitwiseCopyable, Sendable, Equatable {
  /// The upper half of the key's hash; 0 marks a free entry.
  @usableFromInline package var tag: UInt32 = 0
  /// Until which minute since the origin it counts as known good; 0 for never.
  package var goodUntil: UInt32 = 0
  /// The second since the origin at which a session left while we delayed it; 0 for never.
  package var leftAt: UInt32 = 0
  /// Until when a proof is remembered, in units of 4 minutes since the origin, on a circle of 16 bits
  /// (182 days); 0 for never.
  package var badUntil: UInt16 = 0
  /// How often it left at each of the first eight stages while delayed, 2 bits a stage: 1 halves the delay
  /// there, 2 lifts it. A stage's chances outlive a departure at another one, or a sender with two delays
  /// that are too long for it would wander between them for ever.
  package var chances: UInt16 = 0

  package init() {}
}

/// The bounded memory of sources: who was good, who was bad, who left while we delayed it.
///
/// Sets of eight records chosen by a keyed hash. A full set gives up the record that is worth least:
/// an expired one, then the oldest that only left, then a bad one, and a good one last; so a flood of
/// new sources cannot wash out the senders that earned their standing. Not persistent: a restart
/// forgets (state on disk is Storage's).
package struct ReputationTable: ~Copyable {
  private var records: Slab<SourceRecord>
  private let hash: SipHash
  private let sets: UInt64
  /// Records in use that had to be given up for others.
  package private(set) var evictions: UInt64 = 0

  package static let ways = 8

  /// - Parameter capacity: how many sources are remembered at most; rounded up to a multiple of 8.
  package init(capacity: Int, hash: SipHash) {
    let sets = max((capacity + Self.ways - 1) / Self.ways, 1)
    records = Slab(capacity: sets * Self.ways, repeating: SourceRecord())
    self.sets = UInt64(sets)
    self.hash = hash
  }

  package var footprint: Int { records.footprint }
  package var capacity: Int { records.capacity }

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

  private func find(_ key: UInt64) -> Int? {
    let tag = Self.tag(key)
    let first = Int(key % sets) * Self.ways
    for i in first..<(first + Self.ways) where records[i].tag == tag { return i }
    return nil
  }

  private static func tag(_ key: UInt64) -> UInt32 { max(UInt32(truncatingIfNeeded: key >> 32), 1) }

  /// The record of a source, made if there is none: never fails, but may cost the least worth one.
  private mutating func make(_ key: UInt64, now: Instant) -> Int {
    if let index = find(key) { return index }
    let first = Int(key % sets) * Self.ways
    var chosen = first
    var least = UInt64.max
    for i in first..<(first + Self.ways) {
      let worth = Self.worth(records[i], now: now)
      if worth < least {
        least = worth
        chosen = i
      }
    }
    if least > 0 { evictions += 1 }
    records[chosen] = SourceRecord()
    records[chosen].tag = Self.tag(key)
    return chosen
  }

  private static func worth(_ record: SourceRecord, now: Instant) -> UInt64 {
    if record.tag == 0 { return 0 }
    // By what is left of each, so that it stays within its bits whatever the clock says.
    let good = UInt64(max(Int64(record.goodUntil) - Int64(minutes(now)), 0))
    let bad = isBad(record, now: now) ? UInt64(record.badUntil &- quarters(now)) : 0
    return min(good, 0xF_FFFF) << 44 | min(bad, 0xFFF) << 32 | UInt64(record.leftAt)
  }

  // MARK: Good and bad

  package func isGood(_ key: UInt64, now: Instant) -> Bool {
    guard let index = find(key) else { return false }
    return records[index].goodUntil > Self.minutes(now)
  }

  /// A message of this source was accepted downstream.
  package mutating func markGood(_ key: UInt64, for period: Int64, now: Instant) {
    let index = make(key, now: now)
    records[index].goodUntil = Self.minutes(now.after(microseconds: period)) + 1
    records[index].chances = 0
  }

  package func isBad(_ key: UInt64, now: Instant) -> Bool {
    guard let index = find(key) else { return false }
    return Self.isBad(records[index], now: now)
  }

  /// This source was proven bad: it loses its good standing.
  package mutating func markBad(_ key: UInt64, for period: Int64, now: Instant) {
    let index = make(key, now: now)
    records[index].goodUntil = 0
    records[index].badUntil = Self.quarters(now.after(microseconds: period))
  }

  private static func isBad(_ record: SourceRecord, now: Instant) -> Bool {
    // On the circle, ahead means within half of it: periods are therefore limited to 90 days.
    record.badUntil != 0 && Int16(bitPattern: record.badUntil &- quarters(now)) > 0
  }

  // MARK: Second chance

  /// A session of this source left while it was delayed at `stage`.
  package mutating func left(_ key: UInt64, stage: UInt8, after: Int64, now: Instant) {
    guard stage < 8 else { return }
    let index = make(key, now: now)
    let since = Int64(Self.seconds(now)) - Int64(records[index].leftAt)
    let shift = UInt16(stage) * 2
    let before = records[index].chances >> shift & 3
    // Leaving again at once is one departure: only a return that waited earns the next step.
    if before == 0 || (before == 1 && since * 1_000_000 >= after) {
      records[index].chances += 1 << shift
    }
    records[index].leftAt = Self.seconds(now)
  }

  /// By what the delay at `stage` is divided for a source that comes back: 1 (no chance earned),
  /// 2 (half), or 0 (no delay).
  package func divisor(_ key: UInt64, stage: UInt8, after: Int64, now: Instant) -> Int64 {
    guard stage < 8, let index = find(key) else { return 1 }
    let chances = records[index].chances >> (UInt16(stage) * 2) & 3
    let since = Int64(Self.seconds(now)) - Int64(records[index].leftAt)
    guard chances > 0, since * 1_000_000 >= after else { return 1 }
    return chances == 1 ? 2 : 0
  }

  // MARK: Clocks. One is added so that 0 can mean never.

  private static func seconds(_ now: Instant) -> UInt32 {
    UInt32(clamping: now.microseconds / 1_000_000 + 1)
  }
  private static func minutes(_ now: Instant) -> UInt32 {
    UInt32(clamping: now.microseconds / 60_000_000 + 1)
  }
  private static func quarters(_ now: Instant) -> UInt16 {
    max(UInt16(truncatingIfNeeded: now.microseconds / 240_000_000 + 1), 1)
  }
}
