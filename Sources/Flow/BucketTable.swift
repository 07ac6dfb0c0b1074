// SPDX-License-Identifier: Apache-2.0
package import Structures

/// Whose bucket it is: a source as seen by a rule, and which of its limits.
@frozen
package struct BucketKey: Hashable, Sendable, BitwiseCopyable {
  package let high: UInt64
  package let low: UInt64
  /// Prefix length in the lowest byte, then the limit, then whether the network is a negated one.
  package let tag: UInt64

  /// - Parameters:
  ///   - network: with its host bits cleared.
  ///   - length: 0…32 for IPv4, 0…128 for IPv6.
  ///   - limit: tells apart the buckets that one source has.
  ///   - negated: the source is everything outside of the network.
  @inlinable
  package init(_ network: Address, length: Int, limit: UInt8 = 0, negated: Bool = false) {
    high = network.high
    low = network.low
    tag = UInt64(length) | UInt64(limit) << 8 | (negated ? 1 << 16 : 0)
  }

  /// The same source's bucket for another limit.
  @inlinable
  package func with(limit: UInt8) -> BucketKey {
    BucketKey(
      Address(high: high, low: low), length: Int(tag & 255), limit: limit, negated: tag >> 16 == 1)
  }
}

/// Token buckets for many sources in fixed memory, 15 bytes each: the GCRA of ITU-T I.371 in its virtual
/// scheduling form, where a bucket is nothing but the time at which it would be full again.
///
/// Not a record of visits: a full bucket and no bucket are the same thing. Kept: no source
/// under its rate is ever refused, whatever happens to the table; a source over its limit is forgotten
/// only when its debt is paid, never because of newcomers.
///
/// A source is in one of two sets of eight (`TwoSetTable`); there are places for a quarter more than `capacity`. When
/// both sets are full, a newcomer takes the place of a bucket that is full again, else of the one with the smallest
/// debt among those within their limits; this makes a flood of fresh sources push out itself. When all sixteen are
/// over their limits the newcomer goes unrecorded (and passes): mail is not lost because of strangers.
///
/// A source is told from others of its sets by 32 bits of its hash: one in 270 million finds a stranger's
/// bucket in a full table.
@frozen
package struct BucketTable: ~Copyable {
  /// Eight buckets; all zeros is eight free ones.
  @frozen
  @usableFromInline
  package struct BucketSet: EightRecords {
    /// The lower half of each source's hash. Those of a set lie in one line of the cache, or two.
    @usableFromInline package var tags: InlineArray<8, UInt32>
    /// Twice the theoretical arrival time in marks (see `Rate`), and 1 more while the source is over its
    /// limit; the bucket is full once the clock is there.
    @usableFromInline package var arrivals: InlineArray<8, UInt64>

    @inlinable package static var mixer: UInt64 { 0x9E37_79B9_7F4A_7C15 }

    @inlinable
    package init() {
      tags = InlineArray(repeating: 0)
      arrivals = InlineArray(repeating: 0)
    }
  }

  @usableFromInline
  package typealias Slot = TwoSetPlace

  package enum Decision: Equatable, Sendable {
    case allowed
    /// Nothing was counted; the same request would pass after this time if nothing else is counted.
    case over(retryAfter: Duration)
  }

  /// How long before the origin a moment may lie, in microseconds: what happened before the process began is learnt
  /// again from a record of it.
  @inlinable package static var past: Int64 { 30 * 86_400_000_000 }

  /// How far beyond the burst a bucket may go into debt: longer would be a ban, and bans are made by rules.
  @inlinable package static var debtMax: Int64 { 3_600_000_000 << Rate.fractionBits }

  @usableFromInline package var buckets: TwoSetTable<BucketSet>
  @usableFromInline package let hash: SipHash
  /// How many sources were forgotten before their buckets were full again.
  @usableFromInline package var evictedCount: UInt64
  /// How many times a newcomer found its sets taken by sources over their limits and was not recorded.
  @usableFromInline package var unrecordedCount: UInt64
  /// How many sources fit.
  package let capacity: Int

  /// - Parameters:
  ///   - capacity: sources; at least 8 are taken.
  ///   - hash: keyed with a secret of this process (or with the seed of a simulation).
  package init(capacity: Int, hash: SipHash) {
    invariant(capacity >= 0 && capacity <= 1 << 40, "a table cannot have \(capacity) buckets")
    self.capacity = max(capacity, 8)
    buckets = TwoSetTable(sets: (self.capacity * 5 + 31) / 32)
    self.hash = hash
    evictedCount = 0
    unrecordedCount = 0
  }

  /// Bytes this table takes.
  package var footprint: Int { buckets.footprint }
  /// How many sources were forgotten before their buckets were full again.
  package var evicted: UInt64 { evictedCount }
  /// How many newcomers were not recorded because their sets were full of sources over their limits.
  package var unrecorded: UInt64 { unrecordedCount }

  /// Counts `units` if the limit has room for them; a refused attempt costs the source nothing.
  ///
  /// A request larger than the whole burst passes when the bucket is full, and is counted whole:
  /// refusing it would be refusing it for ever.
  ///
  /// - Parameters:
  ///   - units: 0 asks whether the source is within its limit.
  ///   - now: from `past` before the origin to 17 years after it.
  @inlinable
  package mutating func take(_ key: BucketKey, _ units: UInt64, _ rate: Rate, now: Instant)
    -> Decision
  {
    if rate.isUnlimited { return .allowed }
    let hash = self.hash(key.high, key.low, key.tag)
    let slot = find(hash)
    let debt = self.debt(slot, now)
    let need = rate.adding(debt, rate.marks(of: min(units, rate.burst)))
    if need > rate.tolerance {
      if let slot { buckets[slot.set].arrivals[slot.way] |= 1 }
      return .over(retryAfter: Rate.duration(rate.subtracting(rate.tolerance, from: need)))
    }
    let sum = units <= rate.burst ? need : rate.adding(debt, rate.marks(of: units))
    store(hash, slot, debt: min(sum, rate.tolerance &+ BucketTable.debtMax), rate, now)
    return .allowed
  }

  /// Counts `units` whatever the limit says: for what has happened already, such as bytes that came in.
  ///
  /// - Parameter now: from `past` before the origin to 17 years after it.
  /// - Returns: how long until the source is back within its limit; zero when it is within. At most one
  ///   hour: what goes beyond is forgiven.
  @inlinable
  package mutating func charge(_ key: BucketKey, _ units: UInt64, _ rate: Rate, now: Instant)
    -> Duration
  {
    if rate.isUnlimited { return .zero }
    let hash = self.hash(key.high, key.low, key.tag)
    let slot = find(hash)
    let sum = rate.adding(debt(slot, now), rate.marks(of: units))
    let debt = min(sum, rate.tolerance &+ BucketTable.debtMax)
    store(hash, slot, debt: debt, rate, now)
    return debt <= rate.tolerance
      ? .zero : Rate.duration(rate.subtracting(rate.tolerance, from: debt))
  }

  /// How many units `take` would allow now: 0…burst.
  @inlinable
  package func peek(_ key: BucketKey, _ rate: Rate, now: Instant) -> UInt64 {
    if rate.isUnlimited { return .max }
    let debt = self.debt(find(self.hash(key.high, key.low, key.tag)), now)
    if debt == 0 { return rate.burst }
    if debt >= rate.tolerance { return 0 }
    return min(rate.burst, rate.unitsFitting(rate.subtracting(debt, from: rate.tolerance)))
  }

  /// The first moment at which `take` would allow `units`, if nothing else is counted until then.
  @inlinable
  package func earliest(_ key: BucketKey, _ units: UInt64, _ rate: Rate, now: Instant) -> Instant {
    if rate.isUnlimited { return now }
    let debt = self.debt(find(self.hash(key.high, key.low, key.tag)), now)
    let need = rate.adding(debt, rate.marks(of: min(units, rate.burst)))
    if need <= rate.tolerance { return now }
    return now + Rate.duration(rate.subtracting(rate.tolerance, from: need))
  }

  // The steps

  @inlinable
  package func find(_ hash: UInt64) -> Slot? {
    buckets.find(hash, tag: UInt32(truncatingIfNeeded: hash))
  }

  /// A moment in marks, counted from `past` before the origin.
  @inlinable
  package static func clock(_ now: Instant) -> Int64 {
    (now.microseconds &+ past) << Rate.fractionBits
  }

  /// How far a bucket is from full, in marks.
  @inlinable
  package func debt(_ slot: Slot?, _ now: Instant) -> Int64 {
    guard let slot else { return 0 }
    let clock = BucketTable.clock(now)
    let arrival = Int64(buckets[slot.set].arrivals[slot.way] >> 1)
    return arrival <= clock ? 0 : arrival &- clock
  }

  @inlinable
  package mutating func store(
    _ hash: UInt64, _ slot: Slot?, debt: Int64, _ rate: Rate, _ now: Instant
  ) {
    let arrival = UInt64(BucketTable.clock(now) &+ debt) << 1
    var over = debt > rate.tolerance
    guard let slot else {
      if debt > 0 { admit(hash, arrival | (over ? 1 : 0), now) }
      return
    }
    // Once over the limit, a source is kept as such until half of its bucket is there again, or else
    // each unit it gets would open a moment in which newcomers can push it out.
    let wasOver = buckets[slot.set].arrivals[slot.way] & 1 == 1
    if wasOver && debt > rate.tolerance / 2 { over = true }
    buckets[slot.set].arrivals[slot.way] = arrival | (over ? 1 : 0)
  }

  @inlinable
  package mutating func admit(_ hash: UInt64, _ arrival: UInt64, _ now: Instant) {
    // Of a bucket that is full again, whether or not it was over its limit before.
    let past = UInt64(BucketTable.clock(now)) << 1 | 1
    // The one to give up if none is free: within its limit if possible, and of the smallest debt. Over the limit is in
    // the highest bit, which no arrival reaches: 17 years are 2^63 marks.
    let (slot, least) = buckets.choose(hash) { set, way in
      let other = set.arrivals[way]
      return other <= past ? 0 : other << 63 | other >> 1
    }
    if least > 0 {
      // Not even one deeper in debt takes the place of one over its limit: a charge makes debts at will.
      if least >> 63 == 1 {
        unrecordedCount &+= 1
        return
      }
      evictedCount &+= 1
    }
    buckets[slot.set].tags[slot.way] = UInt32(truncatingIfNeeded: hash)
    buckets[slot.set].arrivals[slot.way] = arrival
  }
}
