// SPDX-License-Identifier: Apache-2.0
// Moments in order, for a flood's clients: the earliest first. Entries are never taken back; who takes one out
// looks whether it still means anything. Not the engine's wheel: its entries may be days ahead and carry data.

/// A binary heap of things that are due.
package struct DeadlineHeap<Payload: BitwiseCopyable> {
  package struct Entry: BitwiseCopyable {
    var at: Int64
    var payload: Payload
  }

  private(set) var entries: [Entry] = []

  package var count: Int { entries.count }
  /// When the first one is due; .max if there is none.
  package var next: Int64 { entries.first?.at ?? .max }

  package mutating func push(_ payload: Payload, at moment: Int64) {
    var place = entries.count
    entries.append(Entry(at: moment, payload: payload))
    while place > 0 {
      let parent = (place - 1) / 2
      if entries[parent].at <= moment { break }
      entries.swapAt(place, parent)
      place = parent
    }
  }

  /// Takes the first one out if it is due.
  package mutating func pop(until now: Int64) -> Entry? {
    guard let first = entries.first, first.at <= now else { return nil }
    let last = entries.removeLast()
    if !entries.isEmpty {
      entries[0] = last
      sink()
    }
    return first
  }

  private mutating func sink() {
    var place = 0
    while true {
      var child = 2 * place + 1
      if child >= entries.count { return }
      if child + 1 < entries.count && entries[child + 1].at < entries[child].at { child += 1 }
      if entries[place].at <= entries[child].at { return }
      entries.swapAt(place, child)
      place = child
    }
  }

  /// Throws away what means nothing any more.
  package mutating func keep(_ matters: (Entry) -> Bool) {
    // In order of time an array is a heap.
    entries = entries.filter(matters).sorted { $0.at < $1.at }
  }
}
