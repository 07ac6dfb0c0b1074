// SPDX-License-Identifier: Apache-2.0
package import DNSLists
package import Reputation
package import Shield
package import Structures

/// The engine's second driver: a virtual clock and a virtual network instead of a ring.
///
/// It carries out the same orders with the same rules as the real one (one wish per slot, one send at a
/// time, close only when nothing is in flight), so that a dialogue or a simulation runs the engine
/// unchanged. Peers are scripts: whoever holds the driver says what a socket hears and reads what it was
/// told. Nothing here is random unless the caller makes it so.
package struct VirtualDriver: ~Copyable {
  /// One side of a virtual connection, seen from the engine.
  package struct Socket: Sendable {
    package internal(set) var isOpen = false
    package internal(set) var slot = Slot(index: 0, generation: 0)
    /// What the engine has ordered and was not told yet.
    var orders = SlotOrders()
    var sending = Region(offset: 0, count: 0)
    /// What the peer has sent and the engine has not taken.
    var inbound = ByteQueue()
    var inboundEnded = false
    var toldEnded = false
    /// What the engine has sent.
    package internal(set) var outbound: [UInt8] = []
    /// When each byte of `outbound` was sent.
    package internal(set) var times: [Instant] = []
    /// The engine shut its sending side, or closed the connection.
    package internal(set) var isFinished = false
    var isBroken = false
    /// Bytes a send may take at once; a slow reader takes few.
    package var window = Int.max
    /// TLS is spoken on it.
    package internal(set) var isSecured = false
    /// For a downstream connection: which client it serves is the engine's business.
    package internal(set) var isDownstream = false
    var server = 0
  }

  package var engine: Engine
  package private(set) var now = Instant.origin
  package private(set) var sockets: [Socket]
  /// Sockets of which there may be a fact to hand over: a bit each. Of the others there is none.
  private var touched: [UInt64]
  private var effects = Moment(capacity: 4_096)
  /// Downstream connections in the order in which the engine asked for them.
  package private(set) var dialled: [Int] = []
  /// To which of the downstream's addresses each of them goes.
  package private(set) var dialledServers: [Int] = []
  /// Whether the downstream takes connections.
  package var downstreamListens = true
  /// Addresses of it that refuse connections, and those that do nothing about them.
  package var refusingServers: Set<Int> = []
  package var silentServers: Set<Int> = [] { didSet { touchAll() } }
  /// The most bytes one receive hands over; 1 drips everything.
  package var receiveMax = Int.max
  /// What `listen` hands over at most: as much as a provided buffer of the ring's driver holds.
  private static let bufferBytes = 512
  /// What handshakes come to: nil is success.
  package var handshakeFault: Subject? { didSet { touchAll() } }
  /// Peers do nothing about their handshakes.
  package var handshakeStands = false { didSet { touchAll() } }
  /// What those that succeed are said to have come to.
  package var handshakeFacts = TLSFacts()
  /// The sockets of clients about whom the lists were asked, in order.
  package private(set) var lookUps: [Int] = []
  /// Every handshake that was asked for, in order.
  package private(set) var handshakes: [Handshake] = []
  /// Downstream sockets whose connection has been decided.
  private var connecting: Set<Int> = []

  package init(engine: consuming Engine) {
    sockets = Array(repeating: Socket(), count: engine.slotCount)
    touched = Array(repeating: 0, count: engine.slotCount / 64 + 1)
    self.engine = engine
  }

  // MARK: The world's side

  /// A client connects.
  ///
  /// - Returns: its slot's index, or nil if it was turned away.
  package mutating func connect(_ peer: Peer) -> Int? {
    let admission = engine.accepted(peer, now: now, into: &effects)
    guard case .held(let slot) = admission else { return nil }
    let i = Int(slot.index)
    sockets[i] = Socket()
    sockets[i].isOpen = true
    sockets[i].slot = slot
    settle()
    return i
  }

  /// The peer of socket `i` sends bytes.
  package mutating func say(_ i: Int, _ bytes: some Sequence<UInt8>) {
    guard sockets[i].isOpen else { return }
    sockets[i].inbound.append(Array(bytes))
    touch(i)
    settle()
  }

  package mutating func say(_ i: Int, _ text: String) { say(i, Array(text.utf8)) }

  /// The peer closes its sending side.
  package mutating func end(_ i: Int) {
    sockets[i].inboundEnded = true
    touch(i)
    settle()
  }

  /// The lists answer about the client of socket `i`.
  package mutating func lookedUp(_ i: Int, _ matched: ItemSet) {
    engine.lookedUp(sockets[i].slot, matched, now: now, into: &effects)
    settle()
  }

  /// Takes what was learnt since the last call.
  package mutating func learnt() -> [Change] {
    var changes: [Change] = []
    while let change = engine.judge.memory.learnt.next() { changes.append(change) }
    return changes
  }

  /// Something was learnt elsewhere, or before.
  package mutating func learn(_ change: Change) { engine.learn(change, now: now) }

  /// The connection breaks.
  package mutating func reset(_ i: Int) {
    guard sockets[i].isOpen else { return }
    sockets[i].isBroken = true
    sockets[i].orders.fail()
    engine.failed(sockets[i].slot, now: now, into: &effects)
    settle()
  }

  /// Lets time pass, carrying out everything due on the way.
  package mutating func advance(to end: Instant) {
    while true {
      let due = engine.nextDeadline(now: now)
      if due > end { break }
      // A deadline is rounded up to the wheel's tick: never stand still.
      now = max(due, now + .milliseconds(1))
      if now > end { break }
      tick()
    }
    now = end
    tick()
  }

  package mutating func advance(by duration: Duration) { advance(to: now + duration) }

  private mutating func tick() {
    while engine.timeReached(now, into: &effects) { settle() }
    settle()
  }

  /// Takes what was sent on socket `i` since the last call.
  package mutating func heard(_ i: Int) -> (bytes: [UInt8], times: [Instant]) {
    let heard = (sockets[i].outbound, sockets[i].times)
    sockets[i].outbound = []
    sockets[i].times = []
    return heard
  }

  package mutating func setWindow(_ i: Int, _ window: Int) {
    sockets[i].window = window
    touch(i)
    settle()
  }

  package mutating func drain() {
    engine.drain(now: now, into: &effects)
    tick()
  }

  /// Whether a connection that the engine asked for stands.
  func takesConnection(_ i: Int) -> Bool {
    sockets[i].isOpen && downstreamListens && !refusingServers.contains(sockets[i].server)
      && !silentServers.contains(sockets[i].server)
  }

  // MARK: The engine's side

  /// Carries out orders and hands over facts until nothing more happens at this instant.
  private mutating func settle() {
    var rounds = 0
    repeat {
      carryOut()
      rounds += 1
      invariant(rounds < 1_000_000, "engine and driver talk to each other for ever")
    } while deliver()
  }

  private mutating func carryOut() {
    for k in 0..<effects.dripCount {
      let drip = effects.drip(at: k)
      let i = Int(drip.slot.index)
      sockets[i].orders.drip(drip.slot)
      if !sockets[i].isBroken {
        sockets[i].outbound.append(drip.byte)
        sockets[i].times.append(now)
      }
    }
    for k in 0..<effects.count {
      let effect = effects[k]
      let i = Int(effect.slot.index)
      touch(i)
      if case .connect(let slot, let server) = effect { dial(slot, server) }
      sockets[i].orders.take(effect)
      switch effect {
      case .send(_, let region): sockets[i].sending = region
      case .secure(_, let handshake): handshakes.append(handshake)
      case .finish, .close: sockets[i].isFinished = true
      case .hand: invariantFailed("there is no other worker here")
      case .lookUp: lookUps.append(i)
      case .listen, .fill, .watch, .connect, .narrow, .widen: break
      }
    }
    effects.removeAll()
  }

  private mutating func dial(_ slot: Slot, _ server: Int) {
    let i = Int(slot.index)
    let orders = sockets[i].orders
    sockets[i] = Socket()
    sockets[i].orders = orders
    sockets[i].slot = slot
    sockets[i].isOpen = true
    sockets[i].isDownstream = true
    sockets[i].server = server
    dialled.append(i)
    dialledServers.append(server)
  }

  private mutating func touch(_ i: Int) { touched[i / 64] |= 1 << UInt64(i % 64) }

  private mutating func touchAll() {
    for word in touched.indices { touched[word] = .max }
  }

  /// Hands over one fact, if there is one to hand over: of the first socket that has one.
  private mutating func deliver() -> Bool {
    for word in touched.indices {
      while touched[word] != 0 {
        let i = word * 64 + touched[word].trailingZeroBitCount
        if i < sockets.count && sockets[i].isOpen && deliver(to: i) { return true }
        touched[word] &= touched[word] - 1
      }
    }
    return false
  }

  /// Hands over a fact of one socket, if there is one.
  private mutating func deliver(to i: Int) -> Bool {
    let slot = sockets[i].slot
    if sockets[i].orders.isClosing {
      sockets[i].isOpen = false
      sockets[i].orders.answer(.closed, sockets[i].slot)
      connecting.remove(i)
      engine.closed(slot, now: now, into: &effects)
      return true
    }
    if sockets[i].isDownstream && !connecting.contains(i) {
      if silentServers.contains(sockets[i].server) { return false }
      connecting.insert(i)
      if takesConnection(i) {
        sockets[i].orders.answer(.connected, slot)
        engine.connected(slot, now: now, into: &effects)
      } else {
        sockets[i].orders.fail()
        engine.failed(slot, now: now, into: &effects)
      }
      return true
    }
    if sockets[i].orders.isSending, sockets[i].window > 0, !sockets[i].isBroken {
      let region = sockets[i].sending
      let count = min(region.count, sockets[i].window)
      for k in 0..<count {
        sockets[i].outbound.append(engine.core.arena[region.offset + k])
        sockets[i].times.append(now)
      }
      if sockets[i].window != .max { sockets[i].window -= count }
      sockets[i].orders.answer(.sent, sockets[i].slot)
      engine.sent(slot, count, now: now, into: &effects)
      return true
    }
    return sockets[i].orders.isSecuring ? shakeHands(i) : hear(i)
  }

  /// What a peer said in clear is no handshake.
  private mutating func shakeHands(_ i: Int) -> Bool {
    let isClear = !sockets[i].inbound.isEmpty
    if handshakeStands && !isClear { return false }
    sockets[i].inbound.removeAll()
    if let fault = isClear ? .notTLS : handshakeFault {
      sockets[i].orders.answer(.notSecured, sockets[i].slot)
      engine.notSecured(sockets[i].slot, fault, now: now, into: &effects)
    } else {
      sockets[i].orders.answer(.secured, sockets[i].slot)
      sockets[i].isSecured = true
      engine.secured(sockets[i].slot, handshakeFacts, now: now, into: &effects)
    }
    return true
  }

  private mutating func hear(_ i: Int) -> Bool {
    let slot = sockets[i].slot
    if sockets[i].isBroken { return false }
    if let region = sockets[i].orders.fill {
      let count = min(region.count, sockets[i].inbound.count, receiveMax)
      if count == 0 {
        return endedReading(i)
      }
      let piece = sockets[i].inbound.take(count)
      sockets[i].orders.answer(.filled, sockets[i].slot)
      engine.core.arena.write(piece.span, at: region.offset)
      engine.filled(slot, count, now: now, into: &effects)
      return true
    }
    switch sockets[i].orders.want {
    case .nothing: return false
    case .watch:
      guard sockets[i].inboundEnded, !sockets[i].toldEnded else { return false }
      sockets[i].toldEnded = true
      return endedReading(i)
    case .listen:
      let count = min(VirtualDriver.bufferBytes, sockets[i].inbound.count, receiveMax)
      if count == 0 { return endedReading(i) }
      let piece = sockets[i].inbound.take(count)
      sockets[i].orders.answer(.received, sockets[i].slot)
      engine.received(slot, piece.span, now: now, into: &effects)
      return true
    }
  }

  private mutating func endedReading(_ i: Int) -> Bool {
    guard sockets[i].inboundEnded else { return false }
    sockets[i].orders.answer(.ended, sockets[i].slot)
    engine.ended(sockets[i].slot, now: now, into: &effects)
    return true
  }
}
