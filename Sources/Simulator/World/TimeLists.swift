// SPDX-License-Identifier: Apache-2.0
import Structures

/// Numbers by time, in milliseconds, each at one moment at most. What is at the same moment comes in the order in
/// which it was put there.
///
/// Four levels of 256 lists: those of the present 256 ms one by one, those of the present 65 s by their 256 ms, and
/// so on. A list comes down a level when its stretch of time begins, before anything can be put there directly,
/// which is why the order holds. Moments are below 2^32 ms, 49 days.
struct TimeLists: ~Copyable {
  /// Lists are circular, so that a number can be taken out of the middle of one without knowing which it is in.
  /// The first 1,024 nodes are their heads. (Not private: Swift 6.3.1 crashes over it in a debug build.)
  struct Node: Linked {
    var link: Int32
    var previous: Int32
    var at: UInt32
  }

  private static let heads = 4 * 256
  private static let none: Int32 = -1
  private var nodes: Pool<Node>
  /// Which lists have something, a bit each; four words a level.
  private var occupied = InlineArray<16, UInt64>(repeating: 0)
  /// Everything before this is over.
  private(set) var position: Int64 = 0

  init() {
    let nobody = Node(link: Self.none, previous: Self.none, at: 0)
    nodes = Pool(nobody)
    for _ in 0..<Self.heads {
      let head = nodes.take(nobody)
      nodes[head].link = Int32(head)
      nodes[head].previous = Int32(head)
    }
  }

  /// The last moment there can be.
  static let end = Int64(UInt32.max)

  /// Makes room for the numbers 0 ..< `count`.
  mutating func makeRoom(_ count: Int) {
    while nodes.count < Self.heads + count {
      _ = nodes.take(Node(link: Self.none, previous: Self.none, at: 0))
    }
  }

  /// When a number is due; `.max` if it is nowhere.
  @inline(__always)
  func moment(of number: Int) -> Int64 {
    let node = Self.heads &+ number
    return nodes[node].link < 0 ? .max : Int64(nodes[node].at)
  }

  /// Puts a number, which is nowhere, at a moment. What is over is now.
  mutating func put(_ number: Int, at moment: Int64) {
    let at = UInt32(truncatingIfNeeded: min(max(moment, position), Self.end))
    link(Self.heads &+ number, at)
  }

  /// Takes a number out, wherever it is.
  mutating func takeOut(_ number: Int) {
    if nodes[Self.heads &+ number].link >= 0 { unlink(Self.heads &+ number) }
  }

  /// Nothing is due before this; the moment itself may turn out to be empty.
  var next: Int64 {
    let here = Int(position & 255)
    if let place = first(0, from: here) { return position & ~255 | Int64(place) }
    for level in 1...3 {
      let shift = Int64(8 &* level)
      // What is at the present place has come down already.
      if let place = first(level, from: Int(position >> shift & 255) &+ 1) {
        return ((position >> (shift &+ 8)) << 8 | Int64(place)) << shift
      }
    }
    return .max
  }

  /// Goes on to a moment that `next` does not precede.
  mutating func advance(to moment: Int64) {
    if moment <= position { return }
    position = moment
    if moment & 255 == 0 {
      for level in (1...3).reversed() where moment & (1 << Int64(8 &* level) &- 1) == 0 {
        bringDown(level)
      }
    }
  }

  /// Takes out the first number that is due now.
  mutating func takeFirst() -> Int? {
    let head = Int(position & 255)
    let first = Int(nodes[head].link)
    if first == head { return nil }
    unlink(first)
    return first &- Self.heads
  }

  /// Bytes of memory it has.
  var footprint: Int { nodes.footprint }

  /// The first place of a level from `start` on, 0…256, that has something.
  @inline(__always)
  private func first(_ level: Int, from start: Int) -> Int? {
    var word = start >> 6
    if word > 3 { return nil }
    var bits = occupied[4 &* level &+ word] & ~UInt64(0) << UInt64(start & 63)
    while bits == 0 {
      word &+= 1
      if word > 3 { return nil }
      bits = occupied[4 &* level &+ word]
    }
    return word &* 64 &+ bits.trailingZeroBitCount
  }

  private mutating func bringDown(_ level: Int) {
    let head = 256 &* level &+ Int(position >> Int64(8 &* level) & 255)
    while true {
      let first = Int(nodes[head].link)
      if first == head { return }
      unlink(first)
      link(first, nodes[first].at)
    }
  }

  private mutating func link(_ node: Int, _ at: UInt32) {
    let far = at ^ UInt32(truncatingIfNeeded: position)
    let level = far < 1 << 8 ? 0 : far < 1 << 16 ? 1 : far < 1 << 24 ? 2 : 3
    let head = 256 &* level &+ Int(at >> UInt32(8 &* level) & 255)
    let last = nodes[head].previous
    nodes[node] = Node(link: Int32(truncatingIfNeeded: head), previous: last, at: at)
    nodes[Int(last)].link = Int32(truncatingIfNeeded: node)
    nodes[head].previous = Int32(truncatingIfNeeded: node)
    occupied[head >> 6] |= 1 << UInt64(head & 63)
  }

  private mutating func unlink(_ node: Int) {
    let (next, previous) = (Int(nodes[node].link), Int(nodes[node].previous))
    nodes[previous].link = Int32(truncatingIfNeeded: next)
    nodes[next].previous = Int32(truncatingIfNeeded: previous)
    nodes[node].link = Self.none
    // Both neighbours are the head: the list is empty now.
    if next == previous && next < Self.heads { occupied[next >> 6] &= ~(1 << UInt64(next & 63)) }
  }
}
