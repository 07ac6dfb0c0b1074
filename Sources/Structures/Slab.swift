// SPDX-License-Identifier: Apache-2.0

/// A fixed number of records at addresses that never change, allocated once at start.
///
/// The only place in the pure modules where memory is touched through a pointer. Why it is safe: the
/// block lives exactly as long as the slab, the slab cannot be copied, every record is initialised in
/// `init` and stays so, and each access is checked against `capacity`. Records are trivial (no
/// references), so nothing needs to be deinitialised.
@frozen
public struct Slab<Record: BitwiseCopyable>: ~Copyable {
  @usableFromInline package let base: UnsafeMutablePointer<Record>
  /// How many records there are.
  public let capacity: Int

  /// - Parameters:
  ///   - capacity: how many records; may be 0.
  ///   - record: what each record is at first. Pages of all-zero records are still touched here, so
  ///     the memory statement at start is what the process really takes.
  public init(capacity: Int, repeating record: Record) {
    invariant(capacity >= 0, "a slab cannot have \(capacity) records")
    base = .allocate(capacity: max(capacity, 1))
    base.initialize(repeating: record, count: max(capacity, 1))
    self.capacity = capacity
  }

  deinit { base.deallocate() }

  /// The record at `index`, 0 ..< capacity; any other index ends the process.
  @inlinable
  public subscript(_ index: Int) -> Record {
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
  public var footprint: Int { capacity * MemoryLayout<Record>.stride }
}

extension Slab {
  /// The record at `index`; `none` ends the process.
  @inlinable
  public subscript(_ index: RecordIndex<Record>) -> Record {
    @inline(__always) unsafeAddress {
      precondition(
        UInt(bitPattern: index.number) < UInt(bitPattern: capacity), "slab index out of range")
      return UnsafePointer(base + index.number)
    }
    @inline(__always) unsafeMutableAddress {
      precondition(
        UInt(bitPattern: index.number) < UInt(bitPattern: capacity), "slab index out of range")
      return base + index.number
    }
  }
}

/// Which of a fixed number of indexes are taken; hands out the next free one after the last.
///
/// Next-fit over a bitmap, so that indexes handed out one after the other are mostly neighbours: the
/// ring's descriptor table can then be filled by one call per run instead of one per connection.
/// It also puts as much time as possible between two uses of an index.
public struct IndexAllocator: ~Copyable {
  private var words: [UInt64]
  private var cursor = 0
  /// How many indexes there are: 0 ..< capacity.
  public let capacity: Int
  /// How many of them are free.
  public private(set) var free: Int

  /// All are free; `capacity` may be 0.
  public init(capacity: Int) {
    self.capacity = capacity
    free = capacity
    words = Array(repeating: 0, count: (capacity + 63) / 64)
    if capacity % 64 != 0 { words[words.count - 1] = ~UInt64(0) << UInt64(capacity % 64) }
  }

  /// The next free index, or nil when all are taken. At worst one pass over capacity / 64 words.
  public mutating func take() -> Int? {
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

  /// Gives an index back; one that is not taken is a fault of ours and ends the process.
  public mutating func release(_ index: Int) {
    let bit = UInt64(1) << UInt64(index % 64)
    invariant(words[index / 64] & bit != 0, "index \(index) was released twice")
    words[index / 64] &= ~bit
    free += 1
  }

  /// Whether `index`, 0 ..< capacity, is taken.
  public func isTaken(_ index: Int) -> Bool { words[index / 64] >> UInt64(index % 64) & 1 == 1 }
}

/// A run of bytes in an `Arena`.
@frozen
public struct Region: BitwiseCopyable, Sendable, Equatable {
  /// Where it begins, in bytes from the start of the arena.
  public var offset: Int
  /// How many bytes it has.
  public var count: Int

  /// `count` bytes from `offset` on; checked against the arena only when it is used.
  @inlinable
  public init(offset: Int, count: Int) {
    self.offset = offset
    self.count = count
  }

  /// The first `count` bytes of this region.
  @inlinable public func prefix(_ count: Int) -> Region { Region(offset: offset, count: count) }
  /// The part from `start` on.
  @inlinable
  public func from(_ start: Int) -> Region { Region(offset: offset + start, count: count - start) }
}

/// One block of bytes at a fixed address, from which every session's and link's buffers are cut.
///
/// The engine keeps its buffers here so that the driver can receive into them and send from them
/// without a copy: an order names a `Region`, the driver adds `base`. Untouched pages cost nothing, so
/// the block may be as large as all sessions at once would need. Why it is safe: the block lives as
/// long as the arena, the arena cannot be copied, and every span is checked against its size.
public struct Arena: ~Copyable {
  /// Where the block begins. For the driver alone.
  public let base: UnsafeMutablePointer<UInt8>
  /// Bytes in the block, at least 1.
  public let count: Int

  /// A block of `count` bytes with whatever is in them; 1 if `count` is less.
  public init(count: Int) {
    self.count = max(count, 1)
    base = .allocate(capacity: self.count)
  }

  deinit { base.deallocate() }

  @inline(__always)
  private func check(_ region: Region) {
    precondition(
      region.offset >= 0 && region.count >= 0 && region.offset <= count - region.count,
      "region outside the arena")
  }

  /// The bytes of a region. They are whatever was last put there.
  @_lifetime(borrow self)
  public func span(_ region: Region) -> Span<UInt8> {
    check(region)
    let span = Span(
      _unsafeStart: UnsafePointer(base + region.offset), count: region.count)
    return _overrideLifetime(span, borrowing: self)
  }

  /// The bytes of a region, to be written.
  @_lifetime(&self)
  public mutating func mutableSpan(_ region: Region) -> MutableSpan<UInt8> {
    check(region)
    let span = MutableSpan(_unsafeStart: base + region.offset, count: region.count)
    return _overrideLifetime(span, mutating: &self)
  }

  /// Lets `body` append into a region; returns how many bytes it appended.
  public mutating func append(
    into region: Region, _ body: (inout OutputSpan<UInt8>) -> Void
  ) -> Int {
    check(region)
    let buffer = UnsafeMutableBufferPointer(start: base + region.offset, count: region.count)
    var output = OutputSpan(buffer: buffer, initializedCount: 0)
    body(&output)
    return output.finalize(for: buffer)
  }

  /// Lets `body` append what it makes of one region into another; the two must not overlap.
  ///
  /// - Returns: how many bytes it appended.
  public mutating func transform(
    from source: Region, into target: Region,
    _ body: (Span<UInt8>, inout OutputSpan<UInt8>) -> Void
  ) -> Int {
    checkDisjoint(source, target)
    let input = Span(_unsafeStart: UnsafePointer(base + source.offset), count: source.count)
    let buffer = UnsafeMutableBufferPointer(start: base + target.offset, count: target.count)
    var output = OutputSpan(buffer: buffer, initializedCount: 0)
    body(input, &output)
    return output.finalize(for: buffer)
  }

  /// Lets `body` write into one region what it makes of another; the two must not overlap.
  public mutating func exchange(
    from source: Region, into target: Region,
    _ body: (Span<UInt8>, inout MutableSpan<UInt8>) -> Void
  ) {
    checkDisjoint(source, target)
    let input = Span(_unsafeStart: UnsafePointer(base + source.offset), count: source.count)
    var output = MutableSpan(_unsafeStart: base + target.offset, count: target.count)
    body(input, &output)
  }

  private func checkDisjoint(_ a: Region, _ b: Region) {
    check(a)
    check(b)
    precondition(
      a.offset + a.count <= b.offset || b.offset + b.count <= a.offset, "regions overlap")
  }

  /// Copies bytes into the arena at `offset`.
  public mutating func write(_ bytes: Span<UInt8>, at offset: Int) {
    check(Region(offset: offset, count: bytes.count))
    bytes.withUnsafeBufferPointer { source in
      guard let start = source.baseAddress else { return }
      (base + offset).update(from: start, count: source.count)
    }
  }

  /// Copies within the arena; the regions may overlap.
  public mutating func move(_ region: Region, to offset: Int) {
    check(region)
    check(Region(offset: offset, count: region.count))
    (base + offset).update(from: base + region.offset, count: region.count)
  }

  /// The byte at `offset`.
  @inlinable public subscript(_ offset: Int) -> UInt8 {
    get {
      precondition(UInt(bitPattern: offset) < UInt(bitPattern: count), "byte outside the arena")
      return base[offset]
    }
    set {
      precondition(UInt(bitPattern: offset) < UInt(bitPattern: count), "byte outside the arena")
      base[offset] = newValue
    }
  }
}
