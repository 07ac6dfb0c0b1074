// SPDX-License-Identifier: Apache-2.0

/// Eight records of a `TwoSetTable`, field by field, so that the tags by which one is found lie together and no
/// record costs more than its fields.
public protocol EightRecords: BitwiseCopyable {
  /// Eight free records.
  init()
  /// By what a record is told from the others of its sets: 32 bits of its key's hash.
  var tags: InlineArray<8, UInt32> { get }
  /// An odd number that makes of a hash bits which neither the first set nor the tag has told.
  static var mixer: UInt64 { get }
}

/// Where a record is in a `TwoSetTable`.
@frozen
public struct TwoSetPlace: BitwiseCopyable, Sendable {
  /// Which set.
  public let set: Int
  /// Which of its eight records.
  public let way: Int

  /// The record `way`, 0..<8, of a set.
  @inlinable
  public init(set: Int, way: Int) {
    self.set = set
    self.way = way
  }
}

/// Records in sets of eight, in fixed memory: a set-associative table of which every key has two sets to choose from.
///
/// Not a dictionary: when both sets of a key are full, a record must be given up for it, and which one is the owner's
/// to say. A newcomer goes into the set with more room (Azar, Broder, Karlin, Upfal: Balanced Allocations, 1994): with
/// places for a quarter more than there are keys all but 2 in 10,000 of them have one, with an eighth more all but 1
/// in 200, where single sets of eight with a quarter more would turn away 14 % (simulated). Hashes must be keyed
/// (`SipHash`), so that nobody can aim at a set.
@frozen
public struct TwoSetTable<Eight: EightRecords>: ~Copyable {
  @usableFromInline package var eights: Slab<Eight>
  @usableFromInline package let sets: UInt64

  /// - Parameter sets: of eight records each, at least 1.
  public init(sets: Int) {
    invariant(sets > 0, "a table cannot have \(sets) sets")
    self.sets = UInt64(sets)
    eights = Slab(capacity: sets, repeating: Eight())
  }

  /// Bytes this table takes.
  public var footprint: Int { eights.footprint }

  /// The eight records of a set; another set than there is ends the process.
  @inlinable
  public subscript(_ set: Int) -> Eight {
    @inline(__always) _read { yield eights[set] }
    @inline(__always) _modify { yield &eights[set] }
  }

  /// The two sets in which a record may be; the same one twice only when there is no other.
  @inlinable
  @inline(__always)
  func places(of hash: UInt64) -> (Int, Int) {
    let first = hash.multipliedFullWidth(by: sets).high
    let mixed = hash &* Eight.mixer
    var second = first &+ 1 &+ mixed.multipliedFullWidth(by: sets &- 1).high
    if second >= sets { second &-= sets }
    return (Int(truncatingIfNeeded: first), Int(truncatingIfNeeded: second))
  }

  /// Where the record with a tag is; nil if there is none.
  ///
  /// - Parameter hash: chooses the sets by its upper bits, so the tag must come from others.
  @inlinable
  @inline(__always)
  public func find(_ hash: UInt64, tag: UInt32) -> TwoSetPlace? {
    let (first, second) = places(of: hash)
    let tags = eights[first].tags
    for way in 0..<8 where tags[way] == tag { return TwoSetPlace(set: first, way: way) }
    let others = eights[second].tags
    for way in 0..<8 where others[way] == tag { return TwoSetPlace(set: second, way: way) }
    return nil
  }

  /// The place for a newcomer: a free one in the set that has more of them, else that of the record which is worth
  /// least.
  ///
  /// - Parameter worth: of a record of a set; 0 if it is free, or need not be kept.
  /// - Returns: the place, and what the record there is worth: 0 if nothing is lost.
  @inlinable
  @inline(__always)
  public func choose(
    _ hash: UInt64, worth: (borrowing Eight, Int) -> UInt64
  ) -> (place: TwoSetPlace, worth: UInt64) {
    let (first, second) = places(of: hash)
    var chosen = TwoSetPlace(set: first, way: 0)
    var least = UInt64.max
    var roomiest = 0
    var set = first
    for _ in 0..<2 {
      var room = 0
      for way in 0..<8 {
        let value = worth(eights[set], way)
        if value == 0 { room &+= 1 }
        if value < least || (value == 0 && room > roomiest) {
          least = value
          chosen = TwoSetPlace(set: set, way: way)
        }
      }
      roomiest = room
      set = second
    }
    return (chosen, least)
  }
}
