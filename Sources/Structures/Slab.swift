// SPDX-License-Identifier: Apache-2.0

/// A fixed number of records at addresses that never change, allocated once at start.
///
/// The only place in the pure modules where memory is touched through a pointer. Why it is safe: the
/// block lives exactly as long as the slab, the slab cannot be copied, every record is initialised in
/// `init` and stays so, and each access is checked against `capacity`. Records are trivial (no
/// references), so nothing needs to be deinitialised.
@frozen
package struct Slab<Record: BitwiseCopyable>: ~Copyable {
  @usableFromInline package let base: UnsafeMutablePointer<Record>
  package let capacity: Int

  /// - Parameters:
  ///   - capacity: how many records; may be 0.
  ///   - record: what each record is at first. Pages of all-zero records are still touched here, so
  ///     the memory statement at start is what the process really takes.
  package init(capacity: Int, repeating record: Record) {
    invariant(capacity >= 0, "a slab cannot have \(capacity) records")
    base = .allocate(capacity: max(capacity, 1))
    base.initialize(repeating: record, count: max(capacity, 1))
    self.capacity = capacity
  }

  deinit { base.deallocate() }

  @inlinable
  package subscript(_ index: Int) -> Record {
    @inline(__always) unsafeAddress {
      precondition(UInt(bitPattern: index) < UInt(bitPattern: capacity), "slab index out of range")
      return UnsafePointer(base + index)
    }
    @inline(__always) unsafeMutableAddress {
      precondition(UInt(bitPattern: index) < UInt(bitPattern: capacity), "slab index out of range")
      return base + index
    }
  }

  /// Bytes this slab takes.
  package var footprint: Int { capacity * MemoryLayout<Record>.stride }
}

/// Which of a fixed number of indexes are taken; hands out the next free one after the last.
///
/// Next-fit over a bitmap, so that indexes handed out one after the other are mostly neighbours: the
/// ring's descriptor table can then be filled by one call per run instead of one per connection.
/// It also puts as much time as possible between two uses of an index.
package struct IndexAllocator: ~Copyable {
  private var words: [UInt64]
  private var cursor = 0
  package let capacity: Int
  package private(set) var free: Int

  package init(capacity: Int) {
    self.capacity = capacity
    free = capacity
    words = Array(repeating: 0, count: (capacity + 63) / 64)
    if capacity % 64 != 0 { words[words.count - 1] = ~UInt64(0) << UInt64(capacity % 64) }
  }

  /// The next free index, or nil when all are taken. At worst one pass over capacity / 64 words.
  package mutating func take() -> Int? {
    if free == 0 { return nil }
    var word = cursor / 64
    // Bits below the cursor count as taken on the first look and are seen again after the wrap.
    var taken = words[word] | ~(~UInt64(0) << UInt64(cursor % 64))
    while taken == ~0 {
      word = word + 1 == words.count ? 0 : word + 1
      taken = words[word]
    }
    let index = word * 64 + (~taken).trailingZeroBitCount
    words[word] |= 1 << UInt64(index % 64)
    cursor = index + 1 == capacity ? 0 : index + 1
    free -= 1
    return index
  }

  package mutating func release(_ index: Int) {
    let bit = UInt64(1) << UInt64(index % 64)
    invariant(words[index / 64] & bit != 0, "index \(index) was released twice")
    words[index / 64] &= ~bit
    free += 1
  }

  package func isTaken(_ index: Int) -> Bool { words[index / 64] >> UInt64(index % 64) & 1 == 1 }
}
