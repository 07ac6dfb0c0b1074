// SPDX-License-Identifier: Apache-2.0

/// Bytes that wait: appended at the back, read and consumed at the front, in one piece of memory.
///
/// Not a ring, so everything that waits is one `Span`, and not for the engine's steady state: it allocates when it
/// grows. Kept: `count <= limit`, and what was consumed takes no more memory than what waits or `keptBytes`, whichever
/// is more. Every byte is moved to the front at most once for each byte that was consumed before it, so that `append`
/// and `consume` cost constant time per byte.
@frozen
public struct ByteQueue: Sendable {
  /// What was consumed and not yet cleared away, then what waits.
  @usableFromInline package var storage: [UInt8]
  /// How many bytes at the front of `storage` were consumed.
  @usableFromInline package var head: Int
  /// The most bytes that may wait.
  public let limit: Int

  /// Bytes of memory that an empty queue may keep, so that small traffic does not allocate again and again.
  public static let keptBytes = 4_096

  /// - Parameter limit: the most bytes that may wait; without one there is no limit.
  public init(limit: Int = .max) {
    invariant(limit >= 0, "a queue cannot have room for \(limit) bytes")
    self.limit = limit
    storage = []
    head = 0
  }

  /// How many bytes wait.
  @inlinable public var count: Int { storage.count &- head }

  /// Whether no byte waits.
  @inlinable public var isEmpty: Bool { head == storage.count }

  /// How many more bytes fit.
  @inlinable public var room: Int { limit &- count }

  /// All bytes that wait, the oldest first.
  @inlinable
  public var bytes: Span<UInt8> {
    @_lifetime(borrow self)
    get { storage.span.extracting(droppingFirst: head) }
  }

  /// A byte that waits; the oldest has index 0. Any index that is not below `count` ends the process.
  @inlinable
  public subscript(_ index: Int) -> UInt8 {
    precondition(UInt(bitPattern: index) < UInt(bitPattern: count), "no such byte waits")
    return storage[head &+ index]
  }

  /// Where the first byte of a value waits, from `start` on; nil if there is none.
  ///
  /// - Parameter start: what was searched before need not be searched again; 0...`count`.
  @inlinable
  public func firstIndex(of byte: UInt8, from start: Int = 0) -> Int? {
    var index = start
    while index < count {
      if self[index] == byte { return index }
      index &+= 1
    }
    return nil
  }

  /// Adds bytes behind those that wait: all of them, or none where they do not fit.
  ///
  /// - Returns: whether they fitted.
  @inlinable
  @discardableResult
  public mutating func append(_ more: Span<UInt8>) -> Bool {
    if more.count > room { return false }
    storage.append(addingCapacity: more.count) { out in
      for index in more.indices { out.append(more[index]) }
    }
    return true
  }

  /// Adds bytes behind those that wait: all of them, or none where they do not fit.
  ///
  /// - Returns: whether they fitted.
  @inlinable
  @discardableResult
  public mutating func append(_ more: some Collection<UInt8>) -> Bool {
    if more.count > room { return false }
    storage.append(contentsOf: more)
    return true
  }

  /// Lets `body` append up to `most` bytes, or as many as fit, behind those that wait.
  ///
  /// - Returns: how many bytes it appended.
  @inlinable
  @discardableResult
  public mutating func append<Failure: Error>(
    most: Int, _ body: (inout OutputSpan<UInt8>) throws(Failure) -> Void
  ) throws(Failure) -> Int {
    let before = storage.count
    try storage.append(addingCapacity: min(most, room), initializingWith: body)
    return storage.count &- before
  }

  /// Takes the oldest bytes away. More than `count` is a fault of ours and ends the process.
  @inlinable
  public mutating func consume(_ number: Int) {
    precondition(number >= 0 && number <= count, "more is consumed than waits")
    head &+= number
    if head >= ByteQueue.keptBytes || head == storage.count { clearAway() }
  }

  /// Takes the oldest bytes away and returns them: `most`, or all if fewer wait.
  public mutating func take(_ most: Int = .max) -> [UInt8] {
    let number = min(most, count)
    let taken = Array(storage[head..<head + number])
    consume(number)
    return taken
  }

  /// Takes all bytes away.
  public mutating func removeAll() { consume(count) }

  /// Gives the place of what was consumed back where that moves no more bytes than were consumed.
  @usableFromInline
  mutating func clearAway() {
    if isEmpty {
      storage.removeAll(keepingCapacity: storage.capacity <= ByteQueue.keptBytes)
      head = 0
    } else if head >= count {
      let isMuchTooLarge = storage.capacity / 4 > max(count, ByteQueue.keptBytes)
      if isMuchTooLarge { storage = Array(storage[head...]) } else { storage.removeFirst(head) }
      head = 0
    }
  }
}
