// SPDX-License-Identifier: Apache-2.0

/// Something that will happen in a simulated world.
struct SimEvent: BitwiseCopyable {
  enum Kind: UInt8 {
    /// A byte, or `payload` bytes of what is on the way, reach a bot; it sees the end.
    case hearByte, hear, seeEnd
    /// `payload` bytes of a bot reach the shield; its end does, in order or as a reset.
    case arrive, arriveEnd, arriveReset
    /// A bot's own deadline; a client comes back; the next client of an entry comes.
    case deadline, comeBack, arrival
    /// `payload` bytes were taken off the shield's hands.
    case taken
    /// A connection to the mail server stands, fails; a reply of it is there; it ends.
    case linkUp, linkDown, linkReply, linkEnd
    case sample
  }

  /// Milliseconds since the start.
  var at: Int64
  var index: UInt32
  var payload: UInt32
  /// Of events at the same moment the one that was added first comes first.
  var order: UInt32
  var generation: UInt16
  var kind: Kind
}

/// Events by time, in milliseconds: the next second as lists, what is further in a heap. What happens at the same
/// moment happens in the order in which it was added, so a run is the same wherever it runs.
struct EventQueue {
  private static let near = 1_024
  private var lists: [[SimEvent]] = Array(repeating: [], count: near)
  /// Which lists have something, a bit each.
  private var occupied = [UInt64](repeating: 0, count: near / 64)
  /// Everything before this is over.
  private(set) var position: Int64 = 0
  private var heap: [SimEvent] = []
  private var order: UInt32 = 0

  /// Adds an event; one for what is over is for now.
  mutating func add(_ event: SimEvent) {
    var event = event
    event.at = max(event.at, position)
    if event.at < position + Int64(Self.near) {
      append(event)
    } else {
      event.order = order
      order &+= 1
      push(event)
    }
  }

  private mutating func append(_ event: SimEvent) {
    let place = Int(event.at & Int64(Self.near - 1))
    lists[place].append(event)
    occupied[place >> 6] |= 1 << UInt64(place & 63)
  }

  /// When the next event is; nil if there is none.
  func next() -> Int64? {
    let start = Int(position & Int64(Self.near - 1))
    var found = heap.first?.at
    // The word of the start twice: for what comes after it, and at the end for what comes round.
    for step in 0...(Self.near / 64) {
      let word = (start >> 6 + step) & (Self.near / 64 - 1)
      var bits = occupied[word]
      let below = ~UInt64(0) << UInt64(start & 63)
      if step == 0 { bits &= below }
      if step == Self.near / 64 { bits &= ~below }
      if bits != 0 {
        let place = word * 64 + bits.trailingZeroBitCount
        let at = position + Int64((place - start) & (Self.near - 1))
        found = min(found ?? at, at)
        break
      }
    }
    return found
  }

  /// Goes on to `time`, which no event precedes.
  mutating func advance(to time: Int64) {
    position = max(position, time)
    while let first = heap.first, first.at < position + Int64(Self.near) { append(pop()) }
  }

  /// Takes what happens at `position`, in order; `list` is emptied first and keeps its memory.
  mutating func take(into list: inout [SimEvent]) {
    let place = Int(position & Int64(Self.near - 1))
    list.removeAll(keepingCapacity: true)
    swap(&lists[place], &list)
    occupied[place >> 6] &= ~(1 << UInt64(place & 63))
  }

  // A binary heap.

  private static func precedes(_ a: SimEvent, _ b: SimEvent) -> Bool {
    a.at != b.at ? a.at < b.at : Int32(bitPattern: a.order &- b.order) < 0
  }

  private mutating func push(_ event: SimEvent) {
    heap.append(event)
    var child = heap.count - 1
    while child > 0 {
      let parent = (child - 1) / 2
      if !Self.precedes(event, heap[parent]) { break }
      heap[child] = heap[parent]
      child = parent
    }
    heap[child] = event
  }

  private mutating func pop() -> SimEvent {
    let first = heap[0]
    let last = heap.removeLast()
    if heap.isEmpty { return first }
    var parent = 0
    while true {
      var child = 2 * parent + 1
      if child >= heap.count { break }
      if child + 1 < heap.count && Self.precedes(heap[child + 1], heap[child]) { child += 1 }
      if !Self.precedes(heap[child], last) { break }
      heap[parent] = heap[child]
      parent = child
    }
    heap[parent] = last
    return first
  }

  /// Bytes of memory it has.
  var footprint: Int {
    lists.reduce(heap.capacity * MemoryLayout<SimEvent>.stride) {
      $0 + $1.capacity * MemoryLayout<SimEvent>.stride
    }
  }
}
