// SPDX-License-Identifier: Apache-2.0

/// Which record of a `Slab` is meant: an index that fits no other slab than the one of its records.
@frozen
public struct RecordIndex<Record>: BitwiseCopyable, Hashable, Sendable {
  /// -1 for none.
  @usableFromInline let raw: Int32

  /// - Parameter index: 0 ..< the slab's capacity.
  @inlinable public init(_ index: Int) { raw = Int32(truncatingIfNeeded: index) }

  /// No record.
  @inlinable public static var none: RecordIndex { RecordIndex(-1) }

  /// Whether it is that of a record.
  @inlinable public var exists: Bool { raw >= 0 }

  /// As a number, for what is counted by it.
  @inlinable public var number: Int { Int(raw) }
}

/// Which records of a slab are taken: an `IndexAllocator` whose indexes fit no other slab.
public struct RecordAllocator<Record>: ~Copyable {
  private var indexes: IndexAllocator

  /// All are free; `capacity` may be 0.
  public init(capacity: Int) { indexes = IndexAllocator(capacity: capacity) }

  /// How many of them are free.
  public var free: Int { indexes.free }

  /// The next free index, or nil when all are taken.
  public mutating func take() -> RecordIndex<Record>? {
    indexes.take().map { RecordIndex<Record>($0) }
  }

  /// Gives an index back; one that is not taken is a fault of ours and ends the process.
  public mutating func release(_ index: RecordIndex<Record>) { indexes.release(index.number) }
}
