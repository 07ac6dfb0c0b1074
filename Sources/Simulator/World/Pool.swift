// SPDX-License-Identifier: Apache-2.0
import Structures

/// A record that can be in a pool's list of free ones.
protocol Linked: BitwiseCopyable {
  /// The next free record while this one is free; the record's own business while it is in use.
  var link: Int32 { get set }
}

/// Records by number. It grows by a sixteenth at a time, so that little of its memory lies idle, and never
/// shrinks: a record that is given back is the next one to be taken.
struct Pool<Record: Linked>: ~Copyable {
  private var slab: Slab<Record>
  private var free: Int32 = -1
  /// Records that are in use or were: the most there were at once.
  private(set) var count = 0

  init(_ record: Record) { slab = Slab(capacity: 64, repeating: record) }

  subscript(_ number: Int) -> Record {
    @inline(__always) _read { yield slab[number] }
    @inline(__always) _modify { yield &slab[number] }
  }

  /// The number of a record that was free and is now this one.
  mutating func take(_ record: Record) -> Int {
    var number = Int(free)
    if number >= 0 {
      free = slab[number].link
    } else {
      if count == slab.capacity { grow(record) }
      number = count
      count += 1
    }
    slab[number] = record
    return number
  }

  mutating func give(_ number: Int) {
    slab[number].link = free
    free = Int32(truncatingIfNeeded: number)
  }

  private mutating func grow(_ record: Record) {
    var larger = Slab(capacity: count + max(count / 16, 64), repeating: record)
    for number in 0..<count { larger[number] = slab[number] }
    slab = larger
  }

  /// Bytes of memory it has.
  var footprint: Int { slab.footprint }
}
