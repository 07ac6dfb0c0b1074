// SPDX-License-Identifier: Apache-2.0

/// Which value belongs to an address: an immutable table of networks, shared freely among threads.
///
/// Not a tree: nested networks are flattened when the table is built, so that every address lies in
/// exactly one range and a lookup is one search that allocates nothing. Kept: range starts rise
/// strictly, the first is 0, and two neighbouring ranges never have the same value.
///
/// What the ranges look like in memory is nobody else's business: callers see `lookup` and `footprint`.
package final class PrefixTable: Sendable {
  private let v4: RangesIPv4
  private let v6: RangesIPv6

  /// Longest-prefix matching over distinct networks, nested or not.
  ///
  /// - Parameter prefixes: no network twice; values below 2^32 - 1.
  package convenience init(_ prefixes: [(Prefix, UInt32)]) {
    var builder = PrefixTableBuilder()
    for (prefix, value) in prefixes { builder.add(AddressBlock(prefix), value) }
    self.init(&builder, preferring: .longestPrefix)
  }

  /// Flattens what a builder has collected.
  ///
  /// - Parameters:
  ///   - builder: sorted by this, and otherwise left as it was.
  ///   - preference: who wins where networks overlap.
  ///   - hidden: called with (value, other value) for each network that lies wholly within one with a
  ///     smaller value; only when the smallest value is preferred.
  package init(
    _ builder: inout PrefixTableBuilder, preferring preference: PrefixTableBuilder.Preference,
    hidden: (_ value: UInt32, _ by: UInt32) -> Void = { _, _ in }
  ) {
    v4 = RangesIPv4(builder.v4.flattened(preference, hidden))
    v6 = RangesIPv6(builder.v6.flattened(preference, hidden))
  }

  /// The value of the network that wins for this address, or nil when none has it.
  package func lookup(_ address: Address) -> UInt32? {
    let value =
      address.isIPv4
      ? v4.value(address.v4) : v6.value(high: address.high, low: address.low)
    return value == noValue ? nil : value
  }

  /// How many ranges the networks became, gaps between them included.
  package var rangeCount: (ipv4: Int, ipv6: Int) { (v4.values.count, v6.values.count) }

  /// Bytes this table takes.
  package var footprint: Int { v4.footprint + v6.footprint }

  /// Calls `body` with the value of every range; a value that wins nowhere does not come up.
  package func forEachValue(_ body: (UInt32) -> Void) {
    for value in v4.values where value != noValue { body(value) }
    for value in v6.values where value != noValue { body(value) }
  }

  /// The values that win somewhere in `block`, in the order of their addresses.
  ///
  /// - Parameter limit: stop after so many different ones.
  package func values(in block: AddressBlock, limit: Int) -> [UInt32] {
    let last = block.bits | (block.depth == 128 ? 0 : UInt128.max >> UInt128(block.depth))
    var found: [UInt32] = []
    func note(_ value: UInt32) -> Bool {
      if value != noValue && !found.contains(value) { found.append(value) }
      return found.count < limit
    }
    if block.isIPv4 {
      let end = UInt32(truncatingIfNeeded: last)
      var range = v4.range(of: block.address.v4)
      while note(v4.values[range]), range + 1 < v4.starts.count, v4.starts[range + 1] <= end {
        range += 1
      }
    } else {
      var range = v6.range(high: block.high, low: block.low)
      while note(v6.values[range]), range + 1 < v6.highs.count, v6.start(range + 1) <= last {
        range += 1
      }
    }
    return found
  }
}

/// Marks a range that no network has.
private let noValue = UInt32.max

/// Sorted starts found through a directory of the leading bits: 8 bytes per range.
private struct RangesIPv4: Sendable {
  let starts: [UInt32]
  let values: [UInt32]
  /// For each value of the leading bits, the range in which that stretch begins; then the last range.
  let directory: [UInt32]
  let shift: UInt64

  init(_ flat: FlatRanges<UInt32>) {
    starts = flat.starts
    values = flat.values
    // 16 bits in a large table; in a small one no more entries than ranges, since 256 KB for three
    // networks would be most of the process.
    let bits = min(16, starts.count.bitWidth - 1 - starts.count.leadingZeroBitCount)
    shift = UInt64(32 - bits)
    var directory = [UInt32](repeating: 0, count: 1 << bits + 1)
    var range = 0
    for stretch in 0..<(1 << bits) {
      let first = UInt64(stretch) << shift
      while range + 1 < starts.count && UInt64(starts[range + 1]) <= first { range += 1 }
      directory[stretch] = UInt32(range)
    }
    directory[1 << bits] = UInt32(starts.count - 1)
    self.directory = directory
  }

  /// The last range that starts at or before `address`.
  func range(of address: UInt32) -> Int {
    let stretch = Int(UInt64(address) >> shift)
    let first = Int(directory[stretch])
    let last = Int(directory[stretch + 1])
    return lastNotAfter(address, in: starts, from: first, count: last - first + 1)
  }

  func value(_ address: UInt32) -> UInt32 { values[range(of: address)] }

  var footprint: Int { 4 * (starts.count + values.count + directory.count) }
}

/// Sorted starts found through a directory of what lies between the first and the last: 20 bytes per range.
///
/// Fixed leading bits would be of no use here: everything that sends mail lies in 2000::/3, and a list
/// may lie in one /32 altogether. So the stretches are cut from where the networks really are. The
/// halves of a start lie apart because the lower one is only looked at inside of one /64.
private struct RangesIPv6: Sendable {
  let highs: [UInt64]
  let lows: [UInt64]
  let values: [UInt32]
  /// For each stretch, the range in which it begins; then the last range.
  let directory: [UInt32]
  /// Where the first stretch begins.
  let origin: UInt64
  let shift: UInt64

  init(_ flat: FlatRanges<UInt128>) {
    let highs = flat.starts.map { UInt64(truncatingIfNeeded: $0 >> 64) }
    lows = flat.starts.map { UInt64(truncatingIfNeeded: $0) }
    values = flat.values
    // The start of everything, 0, says nothing about where the networks are.
    let origin = highs.count > 1 ? highs[1] : 0
    let span = highs[highs.count - 1] - origin
    let bits = min(16, highs.count.bitWidth - 1 - highs.count.leadingZeroBitCount)
    let shift = max(0, 64 - span.leadingZeroBitCount - bits)
    var directory = [UInt32](repeating: 0, count: Int(span >> UInt64(shift)) + 2)
    var range = 0
    for stretch in 0..<directory.count - 1 {
      let first = origin + UInt64(stretch) << UInt64(shift)
      while range + 1 < highs.count && highs[range + 1] < first { range += 1 }
      directory[stretch] = UInt32(range)
    }
    directory[directory.count - 1] = UInt32(highs.count - 1)
    self.highs = highs
    self.directory = directory
    self.origin = origin
    self.shift = UInt64(shift)
  }

  func start(_ range: Int) -> UInt128 { UInt128(highs[range]) << 64 | UInt128(lows[range]) }

  /// The last range that starts at or before the address.
  func range(high: UInt64, low: UInt64) -> Int {
    // Before the first network there is one range only; what lies after the last start is the last.
    if high < origin { return 0 }
    let stretch = Int(min((high - origin) >> shift, UInt64(directory.count - 2)))
    let first = Int(directory[stretch])
    let count = Int(directory[stretch + 1]) - first + 1
    let last = lastNotAfter(high, in: highs, from: first, count: count)
    if highs[last] < high || lows[last] <= low { return last }
    // The address lies before the last start of its /64: find the place among those of this /64. The
    // first start of all is 0, which is not after any address.
    var before = 0
    var after = last
    while before < after - 1 {
      let middle = (before + after) >> 1
      if (highs[middle], lows[middle]) <= (high, low) { before = middle } else { after = middle }
    }
    return before
  }

  func value(high: UInt64, low: UInt64) -> UInt32 { values[range(high: high, low: low)] }

  var footprint: Int { 16 * highs.count + 4 * (directory.count + values.count) }
}

/// The last index in `first..<first + count` whose key is not after `key`; the first key must not be.
@inline(__always)
private func lastNotAfter<Key: FixedWidthInteger>(
  _ key: Key, in keys: [Key], from first: Int, count: Int
) -> Int {
  var low = first
  var high = first + count - 1
  while low < high {
    let middle = (low + high + 1) >> 1
    if keys[middle] <= key { low = middle } else { high = middle - 1 }
  }
  return low
}

/// Collects networks with their values, in any order, until a `PrefixTable` is made of them.
///
/// Not a table: nothing can be looked up here. Kept: every network stays in the family it was given in.
package struct PrefixTableBuilder {
  /// Who wins where networks overlap.
  package enum Preference: Sendable {
    /// The network with the most fixed bits; no network may come twice.
    case longestPrefix
    /// The network with the smallest value. With line numbers as values this is "first match wins",
    /// whatever the nesting, and a network may come as often as it likes.
    case smallestValue
  }

  fileprivate var v4 = Networks<UInt32>()
  fileprivate var v6 = Networks<UInt128>()

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

private struct FlatRanges<Key: FixedWidthInteger & Sendable> {
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
private struct Networks<Key: FixedWidthInteger & UnsignedInteger & BitwiseCopyable & Sendable> {
  struct Item: BitwiseCopyable {
    var start: Key
    var value: UInt32
    var length: UInt8
  }
  var items: [Item] = []

  /// One sweep over the starts in rising order, outer networks before inner ones, with the networks
  /// that are still open on a stack; the top of the stack is who wins here.
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
