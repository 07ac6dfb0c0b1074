// SPDX-License-Identifier: Apache-2.0

/// Collects networks with their values, in any order, until a `PrefixTable` is made of them.
///
/// Not a table: nothing can be looked up here. Kept: every network stays in the family it was given in.
package struct PrefixTableBuilder {
  /// Which network wins where they overlap.
  package enum Preference: Sendable {
    /// The network with the most fixed bits; no network may come twice.
    case longestPrefix
    /// The network with the smallest value. With line numbers as values this is "first match wins",
    /// whatever the nesting, and a network may come as often as it likes.
    case smallestValue
  }

  var v4 = Networks<UInt32>()
  var v6 = Networks<UInt128>()

  package init() {}

  /// How many networks have been added.
  package var count: Int { v4.items.count + v6.items.count }

  package mutating func reserve(ipv4 count: Int) { v4.items.reserveCapacity(count) }

  /// - Parameter value: below 2^32 - 1.
  package mutating func add(_ block: AddressBlock, _ value: UInt32) {
    invariant(value != noValue, "the value 2^32 - 1 is taken: it marks addresses without a network")
    if block.isIPv4 {
      v4.items.append(
        .init(
          start: UInt32(truncatingIfNeeded: block.low), value: value, length: block.depth &- 96))
    } else {
      v6.items.append(.init(start: block.bits, value: value, length: block.depth))
    }
  }

  /// Calls `body` with every network that has been added.
  package func forEachNetwork(_ body: (AddressBlock, UInt32) -> Void) {
    for item in v4.items {
      let bits = UInt128(item.start) | 0xFFFF_0000_0000
      body(AddressBlock(bits: bits, depth: Int(item.length) + 96, isIPv4: true), item.value)
    }
    for item in v6.items {
      body(AddressBlock(bits: item.start, depth: Int(item.length), isIPv4: false), item.value)
    }
  }
}

/// Ranges that cover a whole family: where each begins, and its value.
struct FlatRanges<Key: FixedWidthInteger & Sendable> {
  var starts: [Key] = [0]
  var values: [UInt32] = [noValue]

  /// From `start` on it is `value`. Starts come in rising order; the later of two equal ones counts.
  mutating func begin(_ value: UInt32, at start: Key) {
    let last = starts.count - 1
    if starts[last] == start {
      values[last] = value
      if last > 0 && values[last - 1] == value {
        starts.removeLast()
        values.removeLast()
      }
    } else if values[last] != value {
      starts.append(start)
      values.append(value)
    }
  }
}

/// The networks of one family.
struct Networks<Key: FixedWidthInteger & UnsignedInteger & BitwiseCopyable & Sendable> {
  struct Item: BitwiseCopyable {
    var start: Key
    var value: UInt32
    var length: UInt8
  }
  var items: [Item] = []

  /// One sweep over the starts in rising order, outer networks before inner ones, with the networks
  /// that are still open on a stack; the top of the stack wins here.
  mutating func flattened(
    _ preference: PrefixTableBuilder.Preference, _ hidden: (UInt32, UInt32) -> Void
  ) -> FlatRanges<Key> {
    items.sort { a, b in
      if a.start != b.start { return a.start < b.start }
      return a.length != b.length ? a.length < b.length : a.value < b.value
    }
    var flat = FlatRanges<Key>()
    flat.starts.reserveCapacity(items.count * 2 + 1)
    flat.values.reserveCapacity(items.count * 2 + 1)
    var open: [(end: Key, value: UInt32)] = []
    var previous: Item?
    for item in items {
      while let top = open.last, top.end < item.start {
        open.removeLast()
        flat.begin(open.last?.value ?? noValue, at: top.end + 1)
      }
      switch preference {
      case .longestPrefix:
        invariant(
          previous.map { $0.start != item.start || $0.length != item.length } ?? true,
          "a network is in the table twice")
        previous = item
      case .smallestValue:
        // Every network on the stack holds the whole of this one, and the top has their smallest value.
        if let outer = open.last?.value, outer < item.value {
          hidden(item.value, outer)
          continue
        }
      }
      open.append((item.start | (Key.max >> Key(item.length)), item.value))
      flat.begin(item.value, at: item.start)
    }
    while let top = open.popLast(), top.end != Key.max {
      flat.begin(open.last?.value ?? noValue, at: top.end + 1)
    }
    return flat
  }
}
