// SPDX-License-Identifier: Apache-2.0

/// How many of something each source has open right now: an exact count per 64-bit key, in fixed memory.
///
/// Not a rate and not an estimate: an entry exists exactly while its count is above zero, and nothing is
/// ever pushed out. Kept: entries <= capacity <= slots / 2, so a search always ends at an empty slot.
///
/// Linear probing; taking an entry out moves its followers back, so no tombstones pile up. Keys must
/// be keyed hashes already (`SipHash`): the low bits choose the slot.
@frozen
public struct OpenCounts: ~Copyable {
  @usableFromInline package var keys: Slab<UInt64>
  /// 0 marks an empty slot.
  @usableFromInline package var counts: Slab<UInt32>
  @usableFromInline package let mask: Int
  /// How many different keys may be open at once.
  public let capacity: Int
  @usableFromInline package var used: Int

  /// - Parameter capacity: different keys at once; 0 is allowed and refuses everything. Takes 24 to 48
  ///   bytes each, since the number of slots is a power of two of at least twice that.
  public init(capacity: Int) {
    invariant(capacity >= 0 && capacity <= 1 << 40, "a table cannot count \(capacity) keys")
    var slots = 2
    while slots < capacity * 2 { slots *= 2 }
    self.capacity = capacity
    mask = slots - 1
    used = 0
    keys = Slab(capacity: slots, repeating: 0)
    counts = Slab(capacity: slots, repeating: 0)
  }

  /// Forgets every key.
  public mutating func removeAll() {
    for i in 0..<counts.capacity { counts[i] = 0 }
    used = 0
  }

  /// How many keys have a count above zero.
  @inlinable public var entries: Int { used }

  /// Bytes this table takes.
  public var footprint: Int { keys.footprint + counts.footprint }

  /// The count of `key`; 0 when it is not in the table.
  @inlinable
  public func count(_ key: UInt64) -> UInt32 { counts[find(key)] }

  /// Adds one.
  ///
  /// - Returns: the new count, or nil when the table is full and `key` is not in it: then nothing was
  ///   counted and `decrement` must not be called for it.
  @inlinable
  public mutating func increment(_ key: UInt64) -> UInt32? {
    let slot = find(key)
    let count = counts[slot]
    if count == 0 {
      if used == capacity { return nil }
      used &+= 1
      keys[slot] = key
    }
    if count == .max { return nil }
    counts[slot] = count &+ 1
    return count &+ 1
  }

  /// Takes one off, and forgets the key at zero. The key must have been counted before.
  ///
  /// - Returns: what is left.
  @inlinable
  @discardableResult
  public mutating func decrement(_ key: UInt64) -> UInt32 {
    let slot = find(key)
    let count = counts[slot]
    invariant(count > 0, "a source was closed more often than it was opened")
    counts[slot] = count &- 1
    if count == 1 {
      used &-= 1
      closeGap(at: slot)
    }
    return count &- 1
  }

  /// The slot that holds `key`, or the empty one where it would go.
  @inlinable
  public func find(_ key: UInt64) -> Int {
    var slot = Int(truncatingIfNeeded: key) & mask
    while counts[slot] != 0 && keys[slot] != key { slot = (slot &+ 1) & mask }
    return slot
  }

  /// Moves back every follower that the gap would cut off from the slot its key points to.
  @inlinable
  public mutating func closeGap(at start: Int) {
    var gap = start
    var slot = (gap &+ 1) & mask
    while counts[slot] != 0 {
      let home = Int(truncatingIfNeeded: keys[slot]) & mask
      // The follower may move when its home is not between the gap (excluded) and itself.
      if (slot &- home) & mask >= (slot &- gap) & mask {
        keys[gap] = keys[slot]
        counts[gap] = counts[slot]
        counts[slot] = 0
        gap = slot
      }
      slot = (slot &+ 1) & mask
    }
  }
}
