// SPDX-License-Identifier: Apache-2.0

/// Something that will happen in a simulated world.
struct SimEvent: Linked {
  enum Kind: UInt8 {
    /// A byte, or a letter (`payload`: its number), reaches a bot; it sees the end.
    case hearByte, hear, seeEnd
    /// A line of a bot reaches the shield; its end does, in order or as a reset.
    case arrive, arriveEnd, arriveReset
    /// A TLS 1.3 handshake: the bot's hello reaches the shield, the answer the bot, and the end of it the shield.
    case hello, helloAnswer, finished
    /// A client comes back; the next client of an entry comes.
    case comeBack, arrival
    /// What a slow reader was sent is taken off the shield's hands.
    case taken
    /// A connection to the mail server stands, fails; `payload` bytes of a reply are there; it ends.
    case linkUp, linkDown, linkReply, linkEnd
    case sample
  }

  var index: UInt32
  var payload: UInt32
  var generation: UInt16
  var kind: Kind

  /// The next free one's number is where the index was.
  var link: Int32 {
    get { Int32(bitPattern: index) }
    set { index = UInt32(bitPattern: newValue) }
  }
}

/// Events by time, in milliseconds. What happens at the same moment happens in the order in which it was added, so
/// a run is the same wherever it runs.
struct EventQueue: ~Copyable {
  private var lists = TimeLists()
  private var events = Pool(SimEvent(index: 0, payload: 0, generation: 0, kind: .sample))

  /// Adds an event; one for what is over is for now.
  mutating func add(_ event: SimEvent, at moment: Int64) {
    let number = events.take(event)
    lists.makeRoom(events.count)
    lists.put(number, at: moment)
  }

  /// Nothing happens before this.
  var next: Int64 { lists.next }

  /// Goes on to a moment that `next` does not precede.
  mutating func advance(to moment: Int64) { lists.advance(to: moment) }

  /// The next event of this moment.
  mutating func takeFirst() -> SimEvent? {
    guard let number = lists.takeFirst() else { return nil }
    let event = events[number]
    events.give(number)
    return event
  }

  /// Bytes of memory it has.
  var footprint: Int { lists.footprint + events.footprint }
}
