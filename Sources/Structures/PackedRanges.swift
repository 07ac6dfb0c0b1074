// SPDX-License-Identifier: Apache-2.0

/// The ranges of one address family in blocks of up to 128 entries, each number in as few bits as its
/// block needs: some 22 bits an entry for single addresses strewn over IPv4, 15 for routes of up to /24.
///
/// Not searched through a tree: the block is found by its first start, the entry in it through 32
/// stretches and a binary search of about four. Kept: every key lies behind the start of exactly one
/// entry, and reads of a block stay within its words.
///
/// An entry is where a network begins, how long it is, and its outcome; behind its end lies the block's
/// background, which for a block list is nothing and for a routing table the network around. So a
/// lone network is one entry, not two ranges. What a network of another length, or another background,
/// leaves over is an entry of its own, which ends where the next one begins.
///
/// Roads not taken: sorted starts under a directory of 16 bits (18 bits an entry before the outcome,
/// whatever the spacing); Elias-Fano in each block (2 bits less, and a select without a popcount
/// instruction in every lookup); poptrie (three nodes of 24 bytes for a single address).
struct PackedRanges<Key: FixedWidthInteger & UnsignedInteger & BitwiseCopyable & Sendable>: Sendable
{
  /// What is known of an entry beside its start.
  private struct Label: Sendable {
    let outcome: UInt32
    /// The entry has 2^length addresses; the width of the family for one that ends where the next begins.
    let length: UInt8
  }

  /// Where a block begins, in addresses and in words.
  private struct Block: Sendable {
    let first: Key
    let offset: UInt32
  }

  /// Layout of a block, in words of 64 bits:
  ///
  ///     0     count 8 | spare zeros of a start 8 | bits of a low part 8 | bits of a label 8 | background 32
  ///     1…4   for each of 32 stretches, how many entries begin before its end
  ///     5…    of each entry its label, then the low part of its start
  private let words: [UInt64]
  private let blocks: [Block]
  /// For each stretch of the addresses from `origin` on, the block in which it begins; then the last block.
  private let directory: [UInt32]
  private let origin: Key
  private let shift: Key
  /// The most frequent ones first, so that most blocks need few bits to name theirs.
  private let labels: [Label]
  /// Of each block: the smallest value and that of the background, then what the others have more.
  private let values: [UInt64]
  /// Of each block: where its values begin, above 6 bits that say how wide they are. Empty when outcomes
  /// are the values.
  private let valueOffsets: [UInt32]

  private static var stretches: Int { 32 }
  private static var stretchBits: Int { 5 }
  private static var headerWords: Int { 5 }

  var blockCount: Int { blocks.count }
  var valuesLieApart: Bool { !valueOffsets.isEmpty }
  var footprintOfOutcomes: Int {
    words.count * 8 + blocks.count * MemoryLayout<Block>.stride + directory.count * 4
      + labels.count * MemoryLayout<Label>.stride
  }
  var footprintOfValues: Int { values.count * 8 + valueOffsets.count * 4 }

  // Looking up

  /// Rank of the background in a place.
  private static var background: Int { 255 }

  /// The outcome for a key, `noValue` when no network has it; and its place: block × 256 + rank.
  @inline(__always)
  func find(_ key: Key) -> (outcome: UInt32, place: UInt32) {
    let block = self.block(of: key)
    let entry = self.entry(of: key, in: block)
    let background = UInt32(truncatingIfNeeded: words[Int(blocks[block].offset)] &>> 32)
    let rank = entry.holdsKey ? entry.rank : Self.background
    return (
      entry.holdsKey ? entry.label.outcome : background,
      UInt32(truncatingIfNeeded: block &<< 8 | rank)
    )
  }

  /// The last block that begins at or before the key.
  @inline(__always)
  private func block(of key: Key) -> Int {
    if key < origin { return 0 }
    let stretch = Int(truncatingIfNeeded: min((key &- origin) &>> shift, Key(directory.count - 2)))
    var block = Int(directory[stretch])
    var left = Int(directory[stretch &+ 1]) &- block
    // Both searches add or do not add instead of branching: a wrong guess would cost more than the step.
    while left > 0 {
      let half = (left &+ 1) &>> 1
      let first = blocks[block &+ half].first
      block &+= half & Self.mask(first <= key, key, first)
      left &-= half
    }
    return block
  }

  /// All ones when `b` is not after `a`, which is what `isTrue` says.
  @inline(__always)
  private static func mask(_ isTrue: @autoclosure () -> Bool, _ a: Key, _ b: Key) -> Int {
    // The compiler makes a branch of a condition, but not of a difference.
    if Key.bitWidth <= 32 {
      return ~((Int(truncatingIfNeeded: a) &- Int(truncatingIfNeeded: b)) &>> 63)
    }
    return isTrue() ? -1 : 0
  }

  private struct Found {
    let rank: Int
    let label: Label
    /// How far behind the start of the entry the key is.
    let distance: Key

    var holdsKey: Bool {
      label.length >= Key.bitWidth || distance &>> Key(truncatingIfNeeded: label.length) == 0
    }
  }

  /// The last entry of a block that begins at or before the key.
  @inline(__always)
  private func entry(of key: Key, in block: Int) -> Found {
    let first = Int(blocks[block].offset)
    let header = words[first]
    let zeros = Key(truncatingIfNeeded: header &>> 8 & 255)
    let width = Int(truncatingIfNeeded: header &>> 16 & 255)
    let labelWidth = Int(truncatingIfNeeded: header &>> 24 & 255)
    let entryWidth = width &+ labelWidth
    let offset = key &- blocks[block].first
    let scaled = offset &>> zeros
    let high = scaled &>> Key(truncatingIfNeeded: width)
    // Behind the last entry, perhaps by far.
    let isWithin = high < Key(truncatingIfNeeded: Self.stretches)
    var stretch = isWithin ? Int(truncatingIfNeeded: high) : Self.stretches &- 1
    let low = isWithin ? scaled & ~(~0 &<< Key(truncatingIfNeeded: width)) : Key.max
    let start = (first &+ Self.headerWords) &* 64
    let from = stretch == 0 ? 0 : end(first, stretch &- 1)
    var rank = from &- 1
    var left = end(first, stretch) &- from
    while left > 0 {
      let half = (left &+ 1) &>> 1
      let other = read(start &+ (rank &+ half) &* entryWidth &+ labelWidth, width)
      rank &+= half & Self.mask(other <= low, low, other)
      left &-= half
    }
    // None in this stretch: the last one of an earlier one; the first entry of a block is its start.
    if rank < from {
      stretch &-= 1
      while stretch > 0 && end(first, stretch &- 1) > rank { stretch &-= 1 }
    }
    let place = start &+ rank &* entryWidth
    let label: UInt64
    let lowOfEntry: Key
    if Key.bitWidth <= 32 {
      // Both fit into one reading.
      let entry = words.bits(place, entryWidth)
      label = entry & ~(~0 &<< UInt64(truncatingIfNeeded: labelWidth))
      lowOfEntry = Key(truncatingIfNeeded: entry &>> UInt64(truncatingIfNeeded: labelWidth))
    } else {
      label = words.bits(place, labelWidth)
      lowOfEntry = read(place &+ labelWidth, width)
    }
    let begin =
      Key(truncatingIfNeeded: stretch) &<< Key(truncatingIfNeeded: width) | lowOfEntry
    return Found(
      rank: rank, label: labels[Int(truncatingIfNeeded: label)],
      distance: offset &- begin &<< zeros)
  }

  /// How many entries begin before the end of a stretch.
  @inline(__always)
  private func end(_ first: Int, _ stretch: Int) -> Int {
    let ends = words[first &+ 1 &+ stretch &>> 3]
    return Int(truncatingIfNeeded: ends &>> UInt64(truncatingIfNeeded: (stretch & 7) &* 8) & 255)
  }

  /// A number of `width` bits that begins at a bit of `words`.
  @inline(__always)
  private func read(_ bit: Int, _ width: Int) -> Key {
    if Key.bitWidth <= 32 || width < 64 {
      return Key(truncatingIfNeeded: words.bits(bit, width))
    }
    let low = words.bits(bit, 32)
    let middle = words.bits(bit + 32, 32)
    let high = words.bits(bit + 64, width - 64)
    return Key(truncatingIfNeeded: UInt128(high) << 64 | UInt128(middle << 32 | low))
  }

  /// The value at a place: `noValue` for a place that is none.
  func value(at place: UInt32) -> UInt32 {
    let block = Int(place >> 8)
    let rank = Int(place & 255)
    guard block < blockCount else { return noValue }
    let first = Int(blocks[block].offset)
    let header = words[first]
    if rank == Self.background {
      if !valuesLieApart { return UInt32(header >> 32) }
      return UInt32(values[Int(valueOffsets[block] >> 6)] >> 32)
    }
    guard rank < Int(header & 255) else { return noValue }
    let labelWidth = Int(header >> 24 & 255)
    let entryWidth = Int(header >> 16 & 255) + labelWidth
    let outcome = labels[
      Int(words.bits((first + Self.headerWords) * 64 + rank * entryWidth, labelWidth))
    ].outcome
    if !valuesLieApart || outcome == noValue { return outcome }
    let start = Int(valueOffsets[block] >> 6)
    let width = Int(valueOffsets[block] & 63)
    let more = values.bits((start + 1) * 64 + rank * width, width)
    return UInt32(truncatingIfNeeded: values[start]) + UInt32(truncatingIfNeeded: more)
  }

  // Walking through

  func forEachValue(_ body: (UInt32) -> Void) {
    for block in 0..<blockCount {
      let place = UInt32(block) << 8
      let count = UInt32(words[Int(blocks[block].offset)] & 255)
      for rank in 0..<count {
        let value = value(at: place + rank)
        if value != noValue { body(value) }
      }
      let behind = value(at: place + UInt32(Self.background))
      if behind != noValue { body(behind) }
    }
  }

  /// The different values from one key to another, in their order, at most `limit` of them.
  func values(from first: Key, through last: Key, _ limit: Int) -> [UInt32] {
    var found: [UInt32] = []
    var key = first
    while true {
      let value = value(at: find(key).place)
      if value != noValue && !found.contains(value) { found.append(value) }
      let end = self.last(of: key)
      if found.count >= limit || end >= last { return found }
      key = end + 1
    }
  }

  /// The last key of the range that a key lies in.
  private func last(of key: Key) -> Key {
    let block = self.block(of: key)
    let entry = self.entry(of: key, in: block)
    if entry.label.length < Key.bitWidth && entry.holdsKey {
      return key - entry.distance + (1 << Key(entry.label.length) - 1)
    }
    let first = Int(blocks[block].offset)
    let header = words[first]
    let rank = entry.rank + 1
    if rank == Int(header & 255) {
      return block + 1 < blockCount ? blocks[block + 1].first - 1 : Key.max
    }
    let width = Int(header >> 16 & 255)
    let labelWidth = Int(header >> 24 & 255)
    var stretch = 0
    while end(first, stretch) <= rank { stretch += 1 }
    let low = read(
      (first + Self.headerWords) * 64 + rank * (width + labelWidth) + labelWidth, width)
    let zeros = Key(header >> 8 & 255)
    return blocks[block].first + (Key(stretch) << Key(width) | low) << zeros - 1
  }
}

// Packing

/// What each value of a table means for it.
struct Outcomes {
  /// From a value to its outcome; nil when they are the same.
  let table: [UInt32]?
  /// Whether a value says more than its outcome and must be kept.
  let valuesLieApart: Bool

  /// - Parameters:
  ///   - values: those of all ranges.
  ///   - table: the outcome of each value; when nil and there are few values, they are the outcomes.
  init(_ values: [UInt32], _ table: [UInt32]?) {
    self.table = table
    if table != nil {
      valuesLieApart = true
      return
    }
    // Labels for each length and value would cost more than they save beyond this.
    let few = 1_024
    var distinct: Set<UInt32> = []
    var last = noValue
    for value in values where value != last {
      last = value
      distinct.insert(value)
      if distinct.count > few { break }
    }
    valuesLieApart = distinct.count > few
  }

  func outcome(_ value: UInt32) -> UInt32 {
    if value == noValue { return noValue }
    if let table { return table[Int(value)] }
    return valuesLieApart ? 0 : value
  }
}

/// What a block is packed from.
private struct Entries<Key: FixedWidthInteger & UnsignedInteger & BitwiseCopyable & Sendable> {
  struct Entry: BitwiseCopyable {
    var start: Key
    var value: UInt32
    var length: UInt8
  }
  struct Block: BitwiseCopyable {
    var first: Int
    var count: Int
    /// The value of what lies behind the entries.
    var background: UInt32
  }

  var all: [Entry] = []
  var blocks: [Block] = []
  /// With 64 the header costs an entry 2 bits more, with 255 its low part does; ending blocks where it is
  /// cheapest saves less than 1 %.
  static var countMax: Int { 128 }

  init(_ flat: FlatRanges<Key>) {
    let starts = flat.starts
    let values = flat.values
    all.reserveCapacity(starts.count)
    var range = 0
    while range < starts.count {
      var block = Block(first: all.count, count: 0, background: Self.background(flat, range))
      while range < starts.count && block.count < Self.countMax {
        let length = Self.length(starts, range)
        let isLone = length < Key.bitWidth && values[range + 1] == block.background
        all.append(
          Entry(
            start: starts[range], value: values[range],
            length: UInt8(isLone ? length : Key.bitWidth)))
        block.count += 1
        range += isLone ? 2 : 1
      }
      blocks.append(block)
    }
  }

  /// The exponent when the range has a power of two of addresses and is not the last; else the family's width.
  private static func length(_ starts: [Key], _ range: Int) -> Int {
    guard range + 1 < starts.count else { return Key.bitWidth }
    let count = starts[range + 1] - starts[range]
    return count & (count - 1) == 0 ? count.trailingZeroBitCount : Key.bitWidth
  }

  /// What comes most often behind a range that could be an entry alone, among those of the next block.
  private static func background(_ flat: FlatRanges<Key>, _ range: Int) -> UInt32 {
    var candidates: [(value: UInt32, count: Int)] = []
    var best = (value: noValue, count: 0)
    for next in range..<min(range + 2 * countMax, flat.starts.count - 1)
    where length(flat.starts, next) < Key.bitWidth {
      let value = flat.values[next + 1]
      if let known = candidates.firstIndex(where: { $0.value == value }) {
        candidates[known].count += 1
        if candidates[known].count > best.count { best = candidates[known] }
      } else if candidates.count < 32 {
        candidates.append((value, 1))
        if best.count == 0 { best = (value, 1) }
      }
    }
    return best.value
  }
}

extension PackedRanges {
  init(_ flat: FlatRanges<Key>, _ outcomes: Outcomes) {
    let entries = Entries(flat)

    // Labels by how often they come up; equal counts in a fixed order, so that a table is reproducible.
    var counts: [UInt64: Int] = [:]
    for entry in entries.all {
      counts[UInt64(outcomes.outcome(entry.value)) << 8 | UInt64(entry.length), default: 0] += 1
    }
    let names = counts.sorted { ($0.value, $1.key) > ($1.value, $0.key) }.map(\.key)
    labels = names.map { Label(outcome: UInt32($0 >> 8), length: UInt8($0 & 255)) }
    var ranks: [UInt64: UInt64] = [:]
    for (rank, name) in names.enumerated() { ranks[name] = UInt64(rank) }

    var words = BitWriter()
    var values = BitWriter()
    var blocks: [Block] = []
    var valueOffsets: [UInt32] = []
    blocks.reserveCapacity(entries.blocks.count)
    if outcomes.valuesLieApart { valueOffsets.reserveCapacity(entries.blocks.count) }
    var named: [UInt64] = []
    for block in entries.blocks {
      let members = entries.all[block.first..<block.first + block.count]
      let first = entries.all[block.first].start
      blocks.append(Block(first: first, offset: UInt32(words.words.count)))
      named.removeAll(keepingCapacity: true)
      var bits: Key = 0
      for entry in members {
        bits |= entry.start - first
        let name = UInt64(outcomes.outcome(entry.value)) << 8 | UInt64(entry.length)
        named.append(ranks[name] ?? 0)
      }
      let zeros = bits == 0 ? 0 : bits.trailingZeroBitCount
      let span = (entries.all[block.first + block.count - 1].start - first) >> Key(zeros)
      let width = max(0, Key.bitWidth - span.leadingZeroBitCount - Self.stretchBits)
      let labelWidth = 64 - (named.max() ?? 0).leadingZeroBitCount
      words.words.append(
        UInt64(block.count) | UInt64(zeros) << 8 | UInt64(width) << 16 | UInt64(labelWidth) << 24
          | UInt64(outcomes.outcome(block.background)) << 32)
      var ends = [UInt64](repeating: 0, count: Self.stretches)
      for entry in members { ends[Int(((entry.start - first) >> Key(zeros)) >> Key(width))] += 1 }
      for stretch in 1..<Self.stretches { ends[stretch] += ends[stretch - 1] }
      for word in 0..<Self.headerWords - 1 {
        words.words.append((0..<8).reduce(0) { $0 | ends[word * 8 + $1] << UInt64($1 * 8) })
      }
      for (entry, label) in zip(members, named) {
        words.append(label, labelWidth)
        var low = UInt128((entry.start - first) >> Key(zeros) & ~(~0 << Key(width)))
        for piece in stride(from: 0, to: width, by: 32) {
          words.append(UInt64(low & 0xFFFF_FFFF), min(32, width - piece))
          low >>= 32
        }
      }
      words.align()

      guard outcomes.valuesLieApart else { continue }
      var least = UInt32.max
      var most: UInt32 = 0
      for entry in members where entry.value != noValue {
        least = min(least, entry.value)
        most = max(most, entry.value)
      }
      let valueWidth = least > most ? 0 : 32 - (most - least).leadingZeroBitCount
      invariant(values.words.count < 1 << 26, "too many networks for one table")
      valueOffsets.append(UInt32(values.words.count << 6 | valueWidth))
      values.words.append(UInt64(least) | UInt64(block.background) << 32)
      for entry in members {
        values.append(entry.value == noValue ? 0 : UInt64(entry.value - least), valueWidth)
      }
      values.align()
    }
    self.words = words.finished
    self.values = outcomes.valuesLieApart ? values.finished : []
    self.blocks = blocks
    self.valueOffsets = valueOffsets

    // The start of everything, 0, says nothing about where the networks are.
    let origin = blocks.count > 1 ? blocks[1].first : 0
    let span = blocks[blocks.count - 1].first - origin
    let bits = min(18, blocks.count.bitWidth - blocks.count.leadingZeroBitCount)
    let shift = max(0, Key.bitWidth - span.leadingZeroBitCount - bits)
    var directory = [UInt32](repeating: 0, count: Int(span >> Key(shift)) + 2)
    var block = 0
    for stretch in 0..<directory.count - 1 {
      let start = origin + Key(stretch) << Key(shift)
      while block + 1 < blocks.count && blocks[block + 1].first <= start { block += 1 }
      directory[stretch] = UInt32(block)
    }
    directory[directory.count - 1] = UInt32(blocks.count - 1)
    self.directory = directory
    self.origin = origin
    self.shift = Key(shift)
  }
}
