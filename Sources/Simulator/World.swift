// SPDX-License-Identifier: Apache-2.0
package import Personas
package import Shield
import Structures
package import Suspicion

/// The engine, unchanged, among the clients of a scenario, on a virtual clock and a virtual network.
///
/// One seed decides everything: who comes when, every delay, every loss. `trace` is a hash over all that
/// happened, the same on every machine and in every build. Time moves in milliseconds.
package struct World: ~Copyable {
  /// A connection of a client, from both ends.
  struct Bot: BitwiseCopyable {
    var actor = Actor()
    var client: Client
    /// Its place in the engine, or -1 once that is given back.
    var slot: Int32 = -1
    var slotGeneration: UInt32 = 0
    /// One way, in milliseconds.
    var latency: UInt16 = 0
    var generation: UInt16 = 0
    /// Bytes that have arrived and are not read yet.
    var arrived: Int32 = 0
    var isTaken = false
    /// It has closed, and the shield has been told.
    var hasEnded = false
    var endTold = false
    var isReset = false
    var isSlow = false
    /// The shield has closed.
    var isClosed = false
  }

  /// What the engine wants of a slot.
  struct Socket: BitwiseCopyable {
    enum Want: UInt8 { case nothing, listen, watch }
    var want = Want.nothing
    var fill: Region?
    /// The bot at a client's slot, or -1.
    var bot: Int32 = -1
    var isReady = false
    var isClosing = false
    /// A handshake was asked for; it takes no time.
    var isSecuring = false
    /// What `sent` is still to be told; what a slow reader takes in before that.
    var sent: Int32 = 0
    var sending: Int32 = 0
    /// A connection to the mail server.
    var isUp = false
    var upTold = false
    var failed = false
    var arrived: Int32 = 0
    /// After so many more bytes it breaks; below 0: never.
    var doom: Int32 = -1
    /// No reply before this moment, for the delay that was promised, and the stage it is for.
    var notBefore: Int64 = 0
  }

  package internal(set) var engine: Engine
  package internal(set) var population: Population
  var effects = EffectQueue(capacity: 256)
  var events = EventQueue()
  var happening: [SimEvent] = []
  var bots: [Bot] = []
  var freeBots: [Int32] = []
  /// What each bot has sent and the shield has not read; what is on its way to it.
  var inbound: [[UInt8]] = []
  var outbound: [[UInt8]] = []
  var sockets: [Socket]
  var linkInbound: [[UInt8]]
  var ready: [Int32] = []
  var waiting: [Client] = []
  var freeWaiting: [Int32] = []
  var server: MailServer
  var random: SeededGenerator
  var words: [UInt8] = []
  var one: [UInt8] = [0]
  var replies: [MailServer.Reply] = []
  let known = "user@inner.example"
  /// Connections that clients have; how many there were at the last sample.
  var botsOpen = 0
  /// By entry, when its last client began, in microseconds.
  var arrivedAt: [Int64]
  var lastOffered = 0
  var lastThrough = 0
  var lastRecipients = 0
  var through = 0
  var offered = 0
  var acknowledged = 0

  /// Milliseconds since the start.
  package internal(set) var now: Int64 = 0
  package internal(set) var eventCount = 0
  package internal(set) var trace: UInt64 = 0xCBF2_9CE4_8422_2325
  package internal(set) var samples: [Sample] = []
  package internal(set) var checks = Checks()
  /// The number of the client whose connections are written down as facts and orders.
  package var traced: UInt32 = 0
  package internal(set) var lines: [String] = []
  let sampleEvery: Int64

  package init(
    policy: Policy, limits: Limits, population: consuming Population, seed: UInt64,
    sampleEvery seconds: Double = 1
  ) {
    engine = Engine(policy: policy, limits: limits, seed: seed)
    sockets = Array(repeating: Socket(), count: engine.slotCount)
    linkInbound = Array(repeating: [], count: limits.downstreamConnections)
    server = MailServer(population.scenario.downstream, seed: seed &+ 1)
    random = SeededGenerator(seed: seed &+ 2)
    sampleEvery = max(Int64(seconds * 1_000), 100)
    arrivedAt = population.scenario.entries.map { _ in 0 }
    self.population = population
  }

  var instant: Instant { Instant(microseconds: now * 1_000) }

  mutating func note(_ kind: UInt64, _ index: Int, _ value: UInt64) {
    var h =
      trace
      ^ (kind << 56 ^ UInt64(truncatingIfNeeded: index) << 24 ^ UInt64(truncatingIfNeeded: now))
    h = (h ^ (h >> 29)) &* 0xBF58_476D_1CE4_E5B9 ^ value
    trace = (h ^ (h >> 32)) &* 0x94D0_49BB_1331_11EB
  }

  // MARK: The run

  /// Runs the scenario to its end, and then until everybody is gone or `after` seconds have passed.
  package mutating func run(after: Double = 0) {
    let scenario = population.scenario
    for entry in scenario.entries.indices {
      for _ in 0..<scenario.entries[entry].atOnce { begin(entry) }
      arrange(entry)
    }
    add(.sample, at: sampleEvery, 0)
    let end = Int64(scenario.duration * 1_000)
    advance(to: end)
    if after > 0 { advance(to: end + Int64(after * 1_000)) }
    finish()
  }

  /// Lets time pass up to `end`, in milliseconds.
  package mutating func advance(to end: Int64) {
    while true {
      let due = (engine.nextDeadline(now: instant).microseconds + 999) / 1_000
      let next = min(events.next() ?? .max, max(due, now))
      if next > end { break }
      now = next
      events.advance(to: now)
      if due <= now { tick() }
      while let at = events.next(), at <= now {
        events.advance(to: at)
        events.take(into: &happening)
        for k in 0..<happening.count { happen(happening[k]) }
      }
    }
    now = end
    events.advance(to: now)
  }

  mutating func tick() {
    while engine.timeReached(instant, into: &effects) { settle() }
    settle()
    // A deadline that is not a whole tick is kept at the next one.
    if engine.nextDeadline(now: instant).microseconds <= now * 1_000 { now += 1 }
  }

  mutating func add(
    _ kind: SimEvent.Kind, at: Int64, _ index: Int, _ payload: Int = 0, generation: UInt16 = 0
  ) {
    events.add(
      SimEvent(
        at: at, index: UInt32(truncatingIfNeeded: index),
        payload: UInt32(truncatingIfNeeded: payload),
        order: 0, generation: generation, kind: kind))
  }

  mutating func happen(_ event: SimEvent) {
    eventCount += 1
    let i = Int(event.index)
    switch event.kind {
    case .arrival:
      begin(i)
      arrange(i)
    case .comeBack:
      let client = waiting[i]
      freeWaiting.append(Int32(i))
      connect(client)
    case .sample: sample()
    case .linkUp, .linkDown, .linkReply, .linkEnd, .taken: linkEvent(event)
    case .hearByte, .hear, .seeEnd, .arrive, .arriveEnd, .arriveReset, .deadline:
      guard bots[i].isTaken, bots[i].generation == event.generation else { return }
      botEvent(event, i)
    }
    settle()
  }

  mutating func botEvent(_ event: SimEvent, _ i: Int) {
    let persona = population.personas[Int(bots[i].client.persona)]
    let time = now * 1_000
    switch event.kind {
    case .hearByte:
      guard bots[i].actor.ending == .none || bots[i].actor.awaited == .quit else { return }
      var bytes = Self.move(&one)
      bytes[0] = UInt8(truncatingIfNeeded: event.payload)
      let step = bots[i].actor.heard(bytes.span, persona, now: time)
      one = bytes
      self.step(i, step, persona)
    case .hear:
      let count = min(Int(event.payload), outbound[i].count)
      if !bots[i].hasEnded {
        var bytes = Self.move(&outbound[i])
        let wasLetThrough = bots[i].actor.isLetThrough
        let step = bots[i].actor.heard(bytes.span.extracting(0..<count), persona, now: time)
        if !wasLetThrough && bots[i].actor.isLetThrough { through += 1 }
        bytes.removeFirst(count)
        // Who merely waits has no buffer.
        outbound[i] = bytes.isEmpty ? [] : bytes
        self.step(i, step, persona)
      } else {
        outbound[i].removeFirst(count)
      }
    case .seeEnd:
      if !bots[i].hasEnded {
        bots[i].actor.closed(broken: bots[i].isReset)
        leave(i)
      }
    case .arrive:
      bots[i].arrived += Int32(event.payload)
      makeReady(bots[i].slot)
    case .arriveEnd:
      bots[i].endTold = true
      makeReady(bots[i].slot)
      forget(i)
    case .arriveReset:
      bots[i].isReset = true
      makeReady(bots[i].slot)
      forget(i)
    case .deadline:
      guard !bots[i].hasEnded else { return }
      let due = bots[i].actor.deadline(persona)
      if due > time {
        arm(i, due)
      } else {
        step(i, bots[i].actor.timer(persona, now: time), persona)
        if bots[i].isTaken && !bots[i].hasEnded { arm(i, bots[i].actor.deadline(persona)) }
      }
    default: break
    }
  }

  mutating func arm(_ i: Int, _ due: Int64) {
    // Never this very millisecond again.
    if due < .max {
      add(
        .deadline, at: max((due + 999) / 1_000, now + 1), i, generation: bots[i].generation)
    }
  }

  /// Takes an array out of its place, so that it can be read while the world changes, without a copy.
  private static func move<T>(_ array: inout [T]) -> [T] {
    var empty: [T] = []
    swap(&array, &empty)
    return empty
  }

  // MARK: Clients

  mutating func arrange(_ entry: Int) {
    // From the moment of the last one, not from the millisecond that it was put off to: half a millisecond more
    // for each would be 5 % fewer of 100 a second.
    if let at = population.nextArrival(entry, after: arrivedAt[entry]) {
      arrivedAt[entry] = at
      add(.arrival, at: (at + 999) / 1_000, entry)
    }
  }

  mutating func begin(_ entry: Int) {
    let client = population.begin(entry, now: now * 1_000)
    for _ in 0..<population.concurrency(client) { connect(client) }
  }

  mutating func connect(_ client: Client) {
    var client = client
    let seed = population.connects(&client)
    let i: Int
    if let free = freeBots.popLast() {
      i = Int(free)
    } else {
      i = bots.count
      bots.append(Bot(client: client))
      inbound.append([])
      outbound.append([])
    }
    let generation = bots[i].generation &+ 1
    bots[i] = Bot(client: client)
    bots[i].generation = generation
    bots[i].isTaken = true
    let faults = LineFaults(population.scenario, seed: seed)
    bots[i].latency = max(1, faults.latency)
    bots[i].isSlow = faults.isSlow
    botsOpen += 1
    offered += 1
    let persona = population.personas[Int(client.persona)]
    let port = UInt16(1_024 + random.next() % 60_000)
    note(1, i, UInt64(client.number))
    let admission = engine.accepted(
      Peer(address: client.address, port: port, listener: 0), now: instant, into: &effects)
    // The client's clock starts when its SYN is answered.
    let first = bots[i].actor.opened(persona, seed: seed, now: now * 1_000)
    switch admission {
    case .held(let slot):
      let k = Int(slot.index)
      sockets[k] = Socket()
      sockets[k].bot = Int32(i)
      bots[i].slot = Int32(slot.index)
      bots[i].slotGeneration = slot.generation
      if isTraced(i) { tell("connects from \(client.address), slot \(slot)") }
      step(i, first, persona)
      if bots[i].isTaken { arm(i, bots[i].actor.deadline(persona)) }
      if faults.resetAfter >= 0 {
        add(.arriveReset, at: now + Int64(faults.resetAfter), i, generation: generation)
      }
    case .refused(let region):
      if isTraced(i) { tell("is refused: there is no slot") }
      hand(i, region)
      add(.seeEnd, at: now + Int64(bots[i].latency), i, generation: generation)
    case .dropped:
      add(.seeEnd, at: now + Int64(bots[i].latency), i, generation: generation)
    }
    settle()
  }

  /// Carries out what a client does.
  mutating func step(_ i: Int, _ step: Actor.Step, _ persona: Persona) {
    switch step {
    case .nothing: break
    case .leave: leave(i)
    case .say(let line):
      words.removeAll(keepingCapacity: true)
      Words.write(
        line, persona, number: Int(bots[i].client.number), known: known, into: &words)
      if bots[i].slot >= 0 && !bots[i].isClosed {
        inbound[i].append(contentsOf: words)
        note(2, i, UInt64(words.count))
        if isTraced(i) { tell("says \(line)") }
        add(
          .arrive, at: now + Int64(bots[i].latency), i, words.count, generation: bots[i].generation)
      }
    }
  }

  /// A client closes its end: what it sent before still arrives.
  mutating func leave(_ i: Int) {
    guard !bots[i].hasEnded else { return }
    bots[i].hasEnded = true
    botsOpen -= 1
    note(3, i, UInt64(bots[i].actor.ending.rawValue))
    if isTraced(i) {
      tell("leaves: \(bots[i].actor.ending.name), awaiting \(bots[i].actor.awaited.name)")
    }
    acknowledged += Int(bots[i].actor.delivered)
    checks.acknowledgements.looked += 1
    if acknowledged > server.messages {
      checks.acknowledgements.fail(
        "client \(bots[i].client.number): \(acknowledged) acknowledged, \(server.messages) accepted behind"
      )
    }
    var client = bots[i].client
    let again = population.ended(
      &client, bots[i].actor, letThrough: bots[i].actor.isLetThrough, now: now * 1_000)
    if let again {
      let place: Int
      if let free = freeWaiting.popLast() {
        place = Int(free)
        waiting[place] = client
      } else {
        place = waiting.count
        waiting.append(client)
      }
      add(.comeBack, at: max(again / 1_000, now + 1), place)
    }
    if bots[i].slot < 0 {
      free(i)
    } else {
      add(.arriveEnd, at: now + Int64(bots[i].latency), i, generation: bots[i].generation)
    }
  }

  /// Both ends are through with a connection.
  mutating func forget(_ i: Int) {
    if bots[i].hasEnded && bots[i].isClosed { free(i) }
  }

  mutating func free(_ i: Int) {
    guard bots[i].isTaken else { return }
    bots[i].isTaken = false
    inbound[i] = []
    outbound[i] = []
    freeBots.append(Int32(i))
  }

  /// Bytes of the shield go to a client.
  mutating func hand(_ i: Int, _ region: Region) {
    guard !bots[i].hasEnded else { return }
    for k in 0..<region.count { outbound[i].append(engine.arena[region.offset + k]) }
    add(
      .hear, at: now + Int64(bots[i].latency), i, region.count, generation: bots[i].generation)
  }

  // MARK: The shield's side

  mutating func makeReady(_ slot: Int32) {
    guard slot >= 0, !sockets[Int(slot)].isReady else { return }
    sockets[Int(slot)].isReady = true
    ready.append(slot)
  }

  /// Carries out orders and hands over facts until nothing more happens at this moment.
  mutating func settle() {
    carryOut()
    while let slot = ready.popLast() {
      sockets[Int(slot)].isReady = false
      deliver(Int(slot))
      carryOut()
    }
    while let entry = engine.journal.next() { journal(entry) }
  }

  mutating func carryOut() {
    for k in 0..<effects.dripCount {
      let drip = effects.drip(at: k)
      let i = Int(sockets[Int(drip.slot.index)].bot)
      guard i >= 0 else { continue }
      eventCount += 1
      if bots[i].isReset || bots[i].endTold {
        sockets[Int(drip.slot.index)].failed = true
        makeReady(Int32(drip.slot.index))
      } else {
        note(4, i, UInt64(drip.byte))
        add(
          .hearByte, at: now + Int64(bots[i].latency), i, Int(drip.byte),
          generation: bots[i].generation)
      }
    }
    var k = 0
    while k < effects.count {
      let effect = effects[k]
      switch effect {
      case .listen(let slot):
        sockets[Int(slot.index)].want = .listen
        makeReady(Int32(slot.index))
      case .watch(let slot):
        sockets[Int(slot.index)].want = .watch
        makeReady(Int32(slot.index))
      case .fill(let slot, let region):
        sockets[Int(slot.index)].fill = region
        makeReady(Int32(slot.index))
      case .send(let slot, let region): send(Int(slot.index), region)
      case .connect(let slot, _):
        let k = Int(slot.index)
        sockets[k] = Socket()
        let isAway = server.isAway(now * 1_000)
        add(isAway ? .linkDown : .linkUp, at: now + 1, k, Int(slot.generation & 0xFFFF))
      case .narrow, .widen: break
      case .secure(let slot, _):
        sockets[Int(slot.index)].isSecuring = true
        makeReady(Int32(slot.index))
      case .hand: invariantFailed("there is no other worker here")
      case .finish(let slot):
        let i = Int(sockets[Int(slot.index)].bot)
        if i >= 0 && engine.isClient(Int(slot.index)) {
          add(
            .seeEnd, at: now + Int64(bots[i].latency), i, generation: bots[i].generation)
        }
      case .close(let slot):
        sockets[Int(slot.index)].isClosing = true
        makeReady(Int32(slot.index))
      }
      k += 1
    }
    effects.removeAll()
  }

  mutating func send(_ k: Int, _ region: Region) {
    if engine.isClient(k) {
      let i = Int(sockets[k].bot)
      guard i >= 0 else { return }
      eventCount += 1
      if bots[i].isReset {
        sockets[k].failed = true
        makeReady(Int32(k))
        return
      }
      checkRelease(k, region)
      note(5, i, UInt64(region.count))
      if bots[i].hasEnded {
        // Nobody is there to hear it: a closed socket answers with a reset.
        let back = now + 2 * Int64(bots[i].latency)
        add(.arriveReset, at: back, i, generation: bots[i].generation)
      }
      if isTraced(i) { tell("hears \(text(region))") }
      hand(i, region)
      if bots[i].isSlow {
        sockets[k].sending = Int32(region.count)
        add(.taken, at: now + Int64(region.count), k, Int(engine.generation(of: k) & 0xFFFF))
      } else {
        sockets[k].sent = Int32(region.count)
        makeReady(Int32(k))
      }
      return
    }
    let l = k - engine.limits.connections
    eventCount += 1
    if sockets[k].doom >= 0 {
      sockets[k].doom -= Int32(region.count)
      if sockets[k].doom < 0 {
        sockets[k].failed = true
        makeReady(Int32(k))
        return
      }
    }
    replies.removeAll(keepingCapacity: true)
    var said = Self.move(&replies)
    var bytes = Self.move(&words)
    bytes.removeAll(keepingCapacity: true)
    for k in 0..<region.count { bytes.append(engine.arena[region.offset + k]) }
    server.heard(l, bytes.span, now: now * 1_000, into: &said)
    words = bytes
    replies = said
    for reply in replies { answer(k, reply) }
    sockets[k].sent = Int32(region.count)
    makeReady(Int32(k))
  }

  mutating func answer(_ k: Int, _ reply: MailServer.Reply) {
    let l = k - engine.limits.connections
    linkInbound[l].append(contentsOf: reply.text)
    let generation = UInt16(truncatingIfNeeded: engine.generation(of: k))
    add(
      .linkReply, at: max((reply.at + 999) / 1_000, now), k, reply.text.count,
      generation: generation)
    if reply.ends {
      add(.linkEnd, at: max((reply.at + 999) / 1_000, now), k, generation: generation)
    }
  }

  mutating func linkEvent(_ event: SimEvent) {
    let k = Int(event.index)
    let current = UInt16(truncatingIfNeeded: engine.generation(of: k))
    switch event.kind {
    case .linkUp, .linkDown:
      guard current == UInt16(truncatingIfNeeded: event.payload) else { return }
      if event.kind == .linkDown {
        sockets[k].failed = true
      } else {
        sockets[k].isUp = true
        if let bytes = server.doom() { sockets[k].doom = Int32(bytes) }
        let l = k - engine.limits.connections
        linkInbound[l].removeAll(keepingCapacity: true)
        answer(k, server.connected(l, now: now * 1_000))
      }
    case .linkReply where current == event.generation:
      sockets[k].arrived += Int32(event.payload)
    case .linkEnd where current == event.generation: sockets[k].failed = true
    case .taken:
      guard current == UInt16(truncatingIfNeeded: event.payload) else { return }
      sockets[k].sent = sockets[k].sending
      sockets[k].sending = 0
    default: return
    }
    makeReady(Int32(k))
  }

  /// Hands over the facts that a slot waits for, one at a time: the orders they cause may change the others.
  mutating func deliver(_ k: Int) {
    let slot = Slot(index: UInt32(k), generation: engine.generation(of: k))
    if sockets[k].isClosing {
      close(k, slot)
      return
    }
    defer { if hasMore(k) { makeReady(Int32(k)) } }
    if sockets[k].isSecuring {
      sockets[k].isSecuring = false
      engine.secured(slot, TLSFacts(), now: instant, into: &effects)
      return
    }
    if engine.isClient(k) {
      let i = Int(sockets[k].bot)
      guard i >= 0 else { return }
      if bots[i].isReset || sockets[k].failed {
        sockets[k].failed = false
        if !sockets[k].upTold {
          sockets[k].upTold = true
          sockets[k].sent = 0
          sockets[k].fill = nil
          engine.failed(slot, now: instant, into: &effects)
        }
        return
      }
      if tellSent(k, slot) { return }
      if bots[i].arrived > 0 {
        if let region = sockets[k].fill {
          let count = min(region.count, Int(bots[i].arrived))
          let bytes = Self.move(&inbound[i])
          engine.arena.write(bytes.span.extracting(0..<count), at: region.offset)
          inbound[i] = bytes
          take(i, count)
          sockets[k].fill = nil
          engine.filled(slot, count, now: instant, into: &effects)
        } else if sockets[k].want == .listen {
          let count = min(512, Int(bots[i].arrived))
          sockets[k].want = .nothing
          let piece = Array(inbound[i][0..<count])
          take(i, count)
          engine.received(slot, piece.span, now: instant, into: &effects)
        }
        return
      }
      if bots[i].endTold && (sockets[k].fill != nil || sockets[k].want != .nothing) {
        sockets[k].fill = nil
        sockets[k].want = .nothing
        engine.ended(slot, now: instant, into: &effects)
      }
      return
    }
    let l = k - engine.limits.connections
    if sockets[k].isUp && !sockets[k].upTold {
      sockets[k].upTold = true
      engine.connected(slot, now: instant, into: &effects)
      return
    }
    if tellSent(k, slot) { return }
    if sockets[k].arrived > 0, let region = sockets[k].fill {
      let count = min(region.count, Int(sockets[k].arrived))
      let bytes = Self.move(&linkInbound[l])
      engine.arena.write(bytes.span.extracting(0..<count), at: region.offset)
      linkInbound[l] = bytes
      linkInbound[l].removeFirst(count)
      sockets[k].arrived -= Int32(count)
      sockets[k].fill = nil
      engine.filled(slot, count, now: instant, into: &effects)
      return
    }
    if sockets[k].failed && sockets[k].arrived == 0 {
      sockets[k].failed = false
      sockets[k].fill = nil
      if sockets[k].isUp {
        engine.ended(slot, now: instant, into: &effects)
      } else {
        engine.failed(slot, now: instant, into: &effects)
      }
    }
  }

  /// Tells how much of a send went out, if that is still to be told.
  mutating func tellSent(_ k: Int, _ slot: Slot) -> Bool {
    let count = Int(sockets[k].sent)
    if count == 0 { return false }
    sockets[k].sent = 0
    engine.sent(slot, count, now: instant, into: &effects)
    return true
  }

  func hasMore(_ k: Int) -> Bool {
    let socket = sockets[k]
    if socket.isClosing { return true }
    if engine.isClient(k) {
      let i = Int(socket.bot)
      guard i >= 0 else { return false }
      if socket.failed { return true }
      if bots[i].isReset { return !socket.upTold }
      if socket.sent > 0 { return true }
      let reads = socket.fill != nil || socket.want == .listen
      return bots[i].arrived > 0 ? reads : bots[i].endTold && (reads || socket.want == .watch)
    }
    return socket.sent > 0 || socket.isUp && !socket.upTold
      || socket.arrived > 0 && socket.fill != nil || socket.failed && socket.arrived == 0
  }

  mutating func take(_ i: Int, _ count: Int) {
    if count == inbound[i].count { inbound[i] = [] } else { inbound[i].removeFirst(count) }
    bots[i].arrived -= Int32(count)
  }

  mutating func close(_ k: Int, _ slot: Slot) {
    if engine.isClient(k) {
      let i = Int(sockets[k].bot)
      sockets[k] = Socket()
      if i >= 0 {
        bots[i].isClosed = true
        bots[i].slot = -1
        note(6, i, 0)
        if bots[i].hasEnded {
          free(i)
        } else {
          add(.seeEnd, at: now + Int64(bots[i].latency), i, generation: bots[i].generation)
        }
      }
    } else {
      server.gone(k - engine.limits.connections)
      sockets[k] = Socket()
    }
    engine.closed(slot, now: instant, into: &effects)
  }
}
