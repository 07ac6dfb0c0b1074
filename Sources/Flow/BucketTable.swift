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

/// Token buckets for many sources in fixed memory, 16 bytes each: the GCRA of ITU-T I.371 in its virtual
/// scheduling form, where a bucket is nothing but the time at which it would be full again.
///
/// Not a record of who was there: a full bucket and no bucket are the same thing. Kept: no source
/// under its rate is ever refused, whatever happens to the table; a source over its limit is forgotten
/// only when its debt is paid, never because of newcomers.
///
/// Eight buckets form a set, chosen by a keyed hash so that nobody can aim at a set. When a set is full, a
/// newcomer takes the place of a bucket that is full again, else of the one with the smallest debt among
/// those within their limits; this makes a flood of fresh sources push out itself. When all eight are
/// over their limits the newcomer goes unrecorded (and passes): mail is not lost because of strangers.
@frozen
package struct BucketTable: ~Copyable {
  @frozen
  @usableFromInline
  package struct Bucket: BitwiseCopyable {
    /// The hash of the source; the lowest bit is set while it is over its limit.
    @usableFromInline package var key: UInt64
    /// The theoretical arrival time in marks (see `Rate`); the bucket is full once the clock is there.
    @usableFromInline package var arrival: Int64

    @inlinable
    package init(key: UInt64, arrival: Int64) {
      self.key = key
      self.arrival = arrival
    }
  }

  package enum Decision: Equatable, Sendable {
    case allowed
    /// Nothing was counted; the same request would pass after this time if nothing else is counted.
    case over(retryAfter: Duration)
  }

  /// How far beyond the burst a bucket may go into debt: longer would be a ban, and bans are made by rules.
  @inlinable package static var debtMax: Int64 { 3_600_000_000 << Rate.fractionBits }

  @usableFromInline package var buckets: Slab<Bucket>
  @usableFromInline package let sets: UInt64
  @usableFromInline package let hash: SipHash
  /// How many sources were forgotten before their buckets were full again.
  @usableFromInline package var evictedCount: UInt64
  /// How many times a newcomer found its set taken by sources over their limits and was not recorded.
  @usableFromInline package var unrecordedCount: UInt64

  /// - Parameters:
  ///   - capacity: sources; rounded up to a multiple of 8, at least 8.
  ///   - hash: keyed with a secret of this process (or with the seed of a simulation).
  package init(capacity: Int, hash: SipHash) {
    invariant(capacity >= 0 && capacity <= 1 << 40, "a table cannot have \(capacity) buckets")
    sets = UInt64(max(1, (capacity + 7) / 8))
    self.hash = hash
    evictedCount = 0
    unrecordedCount = 0
    buckets = Slab(capacity: Int(sets) * 8, repeating: Bucket(key: 0, arrival: .min))
  }

  /// How many sources fit.
  package var capacity: Int { buckets.capacity }
  /// Bytes this table takes.
  package var footprint: Int { buckets.footprint }
  /// How many sources were forgotten before their buckets were full again.
  package var evicted: UInt64 { evictedCount }
  /// How many newcomers were not recorded because their set was full of sources over their limits.
  package var unrecorded: UInt64 { unrecordedCount }

  /// Counts `units` if the limit has room for them; a refused attempt costs the source nothing.
  ///
  /// A request larger than the whole burst passes when the bucket is full, and is counted whole:
  /// refusing it would be refusing it for ever.
  ///
  /// - Parameters:
  ///   - units: 0 asks whether the source is within its limit.
  ///   - now: 0…17 years after the origin.
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
      if let slot { buckets[slot].key |= 1 }
      return .over(retryAfter: Rate.duration(rate.subtracting(rate.tolerance, from: need)))
    }
    let sum = units <= rate.burst ? need : rate.adding(debt, rate.marks(of: units))
    store(hash, slot, debt: min(sum, rate.tolerance &+ BucketTable.debtMax), rate, now)
    return .allowed
  }

  /// Counts `units` whatever the limit says: for what has happened already, such as bytes that came in.
  ///
  /// - Parameter now: 0…17 years after the origin.
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

  /// The first of the eight buckets where a source may be; the lowest bit is no part of the hash.
  @inlinable
  package func firstOfSet(_ hash: UInt64) -> Int {
    Int(truncatingIfNeeded: (hash | 1).multipliedFullWidth(by: sets).high) &* 8
  }

  @inlinable
  package func find(_ hash: UInt64) -> Int? {
    let first = firstOfSet(hash)
    for slot in first..<first &+ 8 where (buckets[slot].key ^ hash) >> 1 == 0 { return slot }
    return nil
  }

  /// How far a bucket is from full, in marks.
  @inlinable
  package func debt(_ slot: Int?, _ now: Instant) -> Int64 {
    guard let slot else { return 0 }
    let clock = now.microseconds << Rate.fractionBits
    let arrival = buckets[slot].arrival
    return arrival <= clock ? 0 : arrival &- clock
  }

  @inlinable
  package mutating func store(
    _ hash: UInt64, _ slot: Int?, debt: Int64, _ rate: Rate, _ now: Instant
  ) {
    let arrival = (now.microseconds << Rate.fractionBits) &+ debt
    var over = debt > rate.tolerance
    guard let slot else {
      if debt > 0 { admit(Bucket(key: hash & ~1 | (over ? 1 : 0), arrival: arrival), now) }
      return
    }
    // Once over the limit, a source is kept as such until half of its bucket is there again, or else
    // each unit it gets would open a moment in which newcomers can push it out.
    if buckets[slot].key & 1 == 1 && debt > rate.tolerance / 2 { over = true }
    buckets[slot] = Bucket(key: hash & ~1 | (over ? 1 : 0), arrival: arrival)
  }

  @inlinable
  package mutating func admit(_ bucket: Bucket, _ now: Instant) {
    let clock = now.microseconds << Rate.fractionBits
    let first = firstOfSet(bucket.key)
    var place = -1
    var placeIsOver = true
    for slot in first..<first &+ 8 {
      let other = buckets[slot]
      if other.arrival <= clock {
        buckets[slot] = bucket
        return
      }
      let over = other.key & 1 == 1
      if place < 0 || (placeIsOver && !over)
        || (placeIsOver == over && other.arrival < buckets[place].arrival)
      {
        place = slot
        placeIsOver = over
      }
    }
    // Only another one over its limit, and deeper in debt, takes the place of one over its limit.
    if placeIsOver && (bucket.key & 1 == 0 || bucket.arrival <= buckets[place].arrival) {
      unrecordedCount &+= 1
      return
    }
    evictedCount &+= 1
    buckets[place] = bucket
  }
}
