// SPDX-License-Identifier: Apache-2.0

/// Appends numbers of any width to words of 64 bits, the lowest bits first.
struct BitWriter {
  var words: [UInt64] = []
  private var open: UInt64 = 0
  private var used = 0

  /// - Parameter width: 0…32; `number` has no more bits.
  mutating func append(_ number: UInt64, _ width: Int) {
    open |= number << UInt64(used)
    used += width
    guard used >= 64 else { return }
    words.append(open)
    used -= 64
    open = used == 0 ? 0 : number >> UInt64(width - used)
  }

  /// Goes on in a new word.
  mutating func align() {
    if used > 0 { words.append(open) }
    open = 0
    used = 0
  }

  /// The words in no more memory than they need, and the two more that a read may touch.
  var finished: [UInt64] { (words + [0, 0]).map { $0 } }
}

extension [UInt64] {
  /// A number of 0…63 bits that begins at a bit. Two words behind its last one must be there.
  @inline(__always)
  func bits(_ bit: Int, _ width: Int) -> UInt64 {
    let word = Int(truncatingIfNeeded: UInt(bitPattern: bit) &>> 6)
    let place = UInt64(truncatingIfNeeded: bit & 63)
    let low = self[word] &>> place
    let high = (self[word &+ 1] &<< 1) &<< (63 &- place)
    return (low | high) & ~(~0 &<< UInt64(truncatingIfNeeded: width))
  }
}

/// Numbers that rise strictly, packed: an eighth of a byte each where they rise by one, and otherwise
/// as many bits as 64 neighbours need to tell how many numbers were left out among them.
///
/// Not searched: a number is found by its index alone. Kept: in their order, each below 2^32.
package struct RisingNumbers: Sendable {
  private let words: [UInt64]
  private let firsts: [UInt32]
  /// Of each 64 numbers: where their words begin, above 6 bits that say how wide they are.
  private let offsets: [UInt32]
  package let count: Int

  /// - Parameter number: the one of an index; called for each once, in their order.
  package init(count: Int, _ number: (Int) -> UInt32) {
    var words = BitWriter()
    var firsts: [UInt32] = []
    var offsets: [UInt32] = []
    var skipped: [UInt64] = []
    for group in stride(from: 0, to: count, by: 64) {
      let first = number(group)
      skipped.removeAll(keepingCapacity: true)
      skipped.append(0)
      for index in group + 1..<max(min(group + 64, count), group + 1) {
        let (more, isLess) = UInt64(number(index)).subtractingReportingOverflow(
          UInt64(first) + UInt64(index - group))
        invariant(!isLess && more >= skipped[index - group - 1], "numbers that were to rise fall")
        skipped.append(more)
      }
      // How many were left out never becomes less.
      let width = 64 - skipped[skipped.count - 1].leadingZeroBitCount
      firsts.append(first)
      offsets.append(UInt32(words.words.count << 6 | width))
      for more in skipped { words.append(more, width) }
      words.align()
    }
    self.words = words.finished
    self.firsts = firsts.map { $0 }
    self.offsets = offsets.map { $0 }
    self.count = count
  }

  /// - Parameter index: 0..<count.
  package subscript(_ index: Int) -> UInt32 {
    precondition(index >= 0 && index < count, "index out of range")
    let group = index >> 6
    let width = Int(offsets[group] & 63)
    let skipped = words.bits(Int(offsets[group] >> 6) * 64 + (index & 63) * width, width)
    return firsts[group] + UInt32(index & 63) + UInt32(skipped)
  }

  /// Bytes they take.
  package var footprint: Int { words.count * 8 + firsts.count * 4 + offsets.count * 4 }
}
