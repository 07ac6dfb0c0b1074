// SPDX-License-Identifier: Apache-2.0

/// How many of something each source has open right now: a count per key, in fixed memory, 6.75 bytes each.
///
/// Not a rate and not an estimate: an entry exists exactly while its count is above zero, and nothing is
/// ever pushed out. Kept: entries <= capacity < slots, so a search always ends at an empty slot.
///
/// Keys must be keyed hashes already (`SipHash`). Of each the upper 32 bits are kept, which is the whole
/// identity: of 19,000 sources, the most that one ring holds where descriptors are scarce, one in 226,000
/// shares its count with another. Linear probing; taking an entry out moves its followers back, so no
/// tombstones pile up.
@frozen
public struct OpenCounts: ~Copyable {
  @usableFromInline package var tags: Slab<UInt32>
  /// 0 marks an empty slot.
  @usableFromInline package var counts: Slab<UInt16>
  @usableFromInline package let slots: Int
  /// How many different keys may be open at once.
  public let capacity: Int
  @usableFromInline package var used: Int

  /// - Parameter capacity: different keys at once; 0 is allowed and refuses everything. One slot in nine
  ///   stays empty.
  public init(capacity: Int) {
    invariant(capacity >= 0 && capacity < 1 << 30, "a table cannot count \(capacity) keys")
    slots = capacity + capacity / 8 + 2
    self.capacity = capacity
    used = 0
    tags = Slab(capacity: slots, repeating: 0)
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
  public var footprint: Int { tags.footprint + counts.footprint }

  /// The count of `key`; 0 when it is not in the table.
  @inlinable
  public func count(_ key: UInt64) -> UInt32 { UInt32(counts[find(key)]) }

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
      tags[slot] = OpenCounts.tag(key)
    }
    if count == .max { return nil }
    counts[slot] = count &+ 1
    return UInt32(count) &+ 1
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
    return UInt32(count) &- 1
  }

  @inlinable static func tag(_ key: UInt64) -> UInt32 { UInt32(truncatingIfNeeded: key >> 32) }

  /// Where a tag would stand if it stood alone.
  @inlinable
  func home(_ tag: UInt32) -> Int {
    Int(truncatingIfNeeded: (UInt64(tag) &* UInt64(slots)) >> 32)
  }

  @inlinable func after(_ slot: Int) -> Int { slot &+ 1 == slots ? 0 : slot &+ 1 }

  /// The slot that holds `key`, or the empty one where it would go.
  @inlinable
  func find(_ key: UInt64) -> Int {
    let tag = OpenCounts.tag(key)
    var slot = home(tag)
    while counts[slot] != 0 && tags[slot] != tag { slot = after(slot) }
    return slot
  }

  /// Moves back every follower that the gap would cut off from the slot its key points to.
  @inlinable
  mutating func closeGap(at start: Int) {
    var gap = start
    var slot = after(gap)
    while counts[slot] != 0 {
      // The follower may move when its home is not between the gap (excluded) and itself.
      if distance(from: home(tags[slot]), to: slot) >= distance(from: gap, to: slot) {
        tags[gap] = tags[slot]
        counts[gap] = counts[slot]
        counts[slot] = 0
        gap = slot
      }
      slot = after(slot)
    }
  }

  @inlinable
  func distance(from a: Int, to b: Int) -> Int { b >= a ? b &- a : b &- a &+ slots }
}
