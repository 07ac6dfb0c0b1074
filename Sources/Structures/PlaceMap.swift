// SPDX-License-Identifier: Apache-2.0

/// Gives some of many places a number in a smaller, bounded table, and finds it again: for what few of a million
/// slots have.
///
/// Open addressing over a table that is half empty at least. Keys are small numbers that nobody outside chooses, so
/// the hash has no key.
package struct PlaceMap: ~Copyable {
  /// By number: the key that has it, or -1.
  private var owners: Slab<Int32>
  private var numbers: IndexAllocator
  /// Numbers, or -1.
  private var table: Slab<Int32>
  /// How many can have a number.
  package let capacity: Int

  /// - Parameter capacity: may be 0.
  package init(capacity: Int) {
    self.capacity = capacity
    owners = Slab(capacity: max(capacity, 1), repeating: -1)
    numbers = IndexAllocator(capacity: capacity)
    var size = 2
    while size < 2 * capacity { size *= 2 }
    table = Slab(capacity: size, repeating: -1)
  }

  /// How many have one.
  package var count: Int { capacity - numbers.free }

  /// Bytes of memory for each of `capacity`, at most.
  package static var bytesEach: Int { 4 + 8 + 4 * 4 }

  private func home(_ key: Int32) -> Int {
    // Fibonacci hashing (Knuth, vol. 3, 6.4).
    let mixed = UInt64(UInt32(bitPattern: key)) &* 0x9E37_79B9_7F4A_7C15
    return Int(mixed >> 32) & (table.capacity - 1)
  }

  private func place(of key: Int32) -> Int? {
    var place = home(key)
    while table[place] >= 0 {
      if owners[Int(table[place])] == key { return place }
      place = (place + 1) & (table.capacity - 1)
    }
    return nil
  }

  /// The number of a key: 0 ..< capacity; nil if it has none.
  package func number(of key: Int) -> Int? {
    guard let place = place(of: Int32(key)) else { return nil }
    return Int(table[place])
  }

  /// Gives a key that has none a number.
  ///
  /// - Returns: nil if there is none left.
  package mutating func add(_ key: Int) -> Int? {
    guard let number = numbers.take() else { return nil }
    owners[number] = Int32(key)
    var place = home(Int32(key))
    while table[place] >= 0 { place = (place + 1) & (table.capacity - 1) }
    table[place] = Int32(number)
    return number
  }

  /// Takes a key's number away, if it has one. Those behind the gap move up, so that all are still found.
  package mutating func remove(_ key: Int) {
    guard var gap = place(of: Int32(key)) else { return }
    numbers.release(Int(table[gap]))
    let mask = table.capacity - 1
    var next = (gap + 1) & mask
    while table[next] >= 0 {
      let wanted = home(owners[Int(table[next])])
      // It may move unless its home lies between the gap and itself.
      if (next - wanted) & mask >= (next - gap) & mask {
        table[gap] = table[next]
        gap = next
      }
      next = (next + 1) & mask
    }
    table[gap] = -1
  }
}
