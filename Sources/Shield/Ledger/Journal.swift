// SPDX-License-Identifier: Apache-2.0
import Structures

/// The bounded queue of entries between the engine and whoever writes them down.
///
/// Full means that entries are dropped and counted: logging never slows a session.
package struct Journal: ~Copyable {
  private var entries: Slab<JournalEntry>
  private var head = 0
  package private(set) var count = 0
  package private(set) var dropped: UInt64 = 0

  package init(capacity: Int) {
    entries = Slab(capacity: max(capacity, 16), repeating: JournalEntry(.connect, at: .origin))
  }

  package mutating func append(_ entry: borrowing JournalEntry) {
    if count == entries.capacity {
      dropped += 1
      return
    }
    entries[(head + count) % entries.capacity] = copy entry
    count += 1
  }

  package mutating func next() -> JournalEntry? {
    if count == 0 { return nil }
    let entry = entries[head]
    head = (head + 1) % entries.capacity
    count -= 1
    return entry
  }
}
