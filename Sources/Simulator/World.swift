// SPDX-License-Identifier: Apache-2.0
package import Personas
package import Policy
package import Shield
import Structures

/// The engine, unchanged, among the clients of a scenario, on a virtual clock and a virtual network.
///
/// One seed decides everything: who comes when, every delay, every loss. `trace` is a hash over all that
/// happened, the same on every machine and in every build. Time moves in milliseconds.
package struct World: ~Copyable {
  /// A connection of a client, from both ends.
  struct Bot: Linked {
    var actor = Actor()
    /// Which of those it is that had this record: events of an earlier one are not for it.
    var generation: UInt16 = 0
    /// Its place in the engine, or -1 once that is given back.
    var slot: Int32 = -1
    var client: Client
    /// One way, in milliseconds.
    var latency: UInt16 = 0
    var isTaken = false
    /// It has closed, and the shield has been told.
    var hasEnded = false
    var endTold = false
    var isReset = false
    var marks = Marks()
    /// The shield has closed.
    var isClosed = false
    /// Lines that have arrived and are not read yet, of those in `said`.
    var arrived: Int32 = 0
    /// The last line it said that is not read yet, and behind which the first of them is; or -1.
    var said: Int32 = -1

    /// Who is free has said nothing.
    var link: Int32 {
      get { said }
      set { said = newValue }
    }
  }

  /// What the scenario has in store for a connection. An octet, because there are many.
  struct Marks: OptionSet {
    let rawValue: UInt8
    /// It reads slowly.
    static let slow = Marks(rawValue: 1)
    /// The mail server behind was away or broke in the middle of it.
    static let metFault = Marks(rawValue: 2)
    /// Of its TLS handshake the hello, or the end, is at the shield.
    static let hello = Marks(rawValue: 4)
    static let finished = Marks(rawValue: 8)
  }

  /// Something that a bot said and that the shield has not read.
  struct Said: Linked {
    var line: Line
    /// Octets of it that are read already.
    var read: Int32 = 0
    /// How many such lines, one after the other: the octets of one who trickles.
    var times: Int32 = 1
    /// The next one.
    var link: Int32 = -1
  }

  /// A client between two connections.
  struct Waiting: Linked {
    var client: Client
    var link: Int32 = -1
  }

  /// What the engine wants of a slot.
  struct Socket: BitwiseCopyable {
    /// What it has ordered and was not told yet.
    var orders = SlotOrders()
    /// No reply before this moment, for the delay that was promised.
    var notBefore: Int64 = 0
    /// The bot at a client's slot, or -1.
    var bot: Int32 = -1
    /// What `sent` is still to be told; what a slow reader takes in before that.
    var sent: Int32 = 0
    var sending: Int32 = 0
    var isReady = false
    var hasFailed = false
    /// A connection to the mail server stands; the engine knows that, or that a client's has failed.
    var isUp = false
    var upTold = false
  }

  package internal(set) var engine: Engine
  package internal(set) var population: Population
  var effects = Moment(capacity: 256)
  var events = EventQueue()
  /// When each bot will do something by itself: not after its deadline, perhaps before.
  var timers = TimeLists()
  /// The last moment of the run; what would happen later does not.
  var horizon = TimeLists.end
  var bots: Pool<Bot>
  var said = Pool(Said(line: .quit))
  var letters = Letters()
  var waiting: Pool<Waiting>
  var sockets: Slab<Socket>
  /// Slots below this are clients.
  let clientSlots: Int
  var ready: [Int32] = []
  var server: ServerSide
  var random: SeededGenerator
  var words: [UInt8] = []
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
    bots = Pool(Bot(client: .nobody))
    waiting = Pool(Waiting(client: .nobody))
    sockets = Slab(capacity: engine.slotCount, repeating: Socket())
    clientSlots = limits.connections
    server = ServerSide(
      population.scenario.downstream, links: limits.downstreamConnections, seed: seed &+ 1)
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

  /// Runs the scenario to its end, and then until everybody is gone or `after` seconds have passed; 49 days at most
  /// in all.
  ///
  /// - Parameter progress: hears how far the run is, in seconds of its own time, a few hundred times at most.
  package mutating func run(after: Double = 0, progress: (@Sendable (Double) -> Void)? = nil) {
    let scenario = population.scenario
    let end = Int64(min(scenario.duration * 1_000, Double(TimeLists.end)))
    horizon = min(end + Int64(min(max(after, 0) * 1_000, Double(TimeLists.end))), TimeLists.end)
    for entry in scenario.entries.indices {
      for _ in 0..<scenario.entries[entry].atOnce { begin(entry) }
      arrange(entry)
    }
    add(.sample, at: sampleEvery, 0)
    guard let progress else {
      advance(to: end)
      advance(to: horizon)
      return finish()
    }
    // In steps, which change nothing: an event belongs to its millisecond, whichever step that is in.
    for (last, steps) in [(end, 100), (horizon, 100)] {
      let first = now
      for step in 1...Int64(steps) {
        advance(to: first + (last - first) * step / Int64(steps))
        progress(Double(now) / 1_000)
      }
    }
    finish()
  }

  /// Lets time pass up to `end`, in milliseconds.
  mutating func advance(to end: Int64) {
    while true {
      let due = max((engine.nextDeadline(now: instant).microseconds + 999) / 1_000, now)
      let next = min(events.next, timers.next, due)
      if next > end { break }
      now = max(next, now)
      if due <= now { tick() }
      while true {
        let at = min(events.next, timers.next)
        if at > now { break }
        events.advance(to: at)
        timers.advance(to: at)
        while let event = events.takeFirst() { happen(event) }
        while let i = timers.takeFirst() { reach(i) }
      }
    }
    now = max(end, now)
  }

  mutating func tick() {
    while engine.timeReached(instant, into: &effects) { settle() }
    settle()
    // A deadline that is not a whole tick is kept at the next one.
    if engine.nextDeadline(now: instant).microseconds <= now * 1_000 { now += 1 }
  }

  /// Something will happen, unless the run is over by then.
  mutating func add(
    _ kind: SimEvent.Kind, at moment: Int64, _ index: Int, _ payload: Int = 0,
    generation: UInt16 = 0
  ) {
    if moment > horizon { return }
    events.add(
      SimEvent(
        index: UInt32(truncatingIfNeeded: index), payload: UInt32(truncatingIfNeeded: payload),
        generation: generation, kind: kind), at: moment)
  }

  /// The same to a client, after as long as a byte is under way.
  mutating func add(_ kind: SimEvent.Kind, toReach i: Int, _ payload: Int = 0) {
    add(
      kind, at: now + Int64(bots[i].latency), i, payload, generation: bots[i].generation)
  }

  mutating func happen(_ event: SimEvent) {
    eventCount += 1
    let i = Int(event.index)
    switch event.kind {
    case .arrival:
      begin(i)
      arrange(i)
    case .comeBack:
      let client = waiting[i].client
      waiting.give(i)
      connect(client)
    case .sample: sample()
    case .linkUp, .linkDown, .linkReply, .linkEnd, .taken: linkEvent(event)
    case .hearByte, .hear, .seeEnd, .arrive, .arriveEnd, .arriveReset, .hello, .helloAnswer,
      .finished:
      if bots[i].isTaken && bots[i].generation == event.generation { botEvent(event, i) }
      if event.kind == .hear { letters.give(event.payload) }
    }
    settle()
  }

  mutating func botEvent(_ event: SimEvent, _ i: Int) {
    switch event.kind {
    case .hearByte:
      if bots[i].hasEnded { return }
      let step = bots[i].actor.heard(
        UInt8(truncatingIfNeeded: event.payload), persona(i), now: now * 1_000)
      goOn(i, step)
    case .hear:
      if bots[i].hasEnded { return }
      let wasLetThrough = bots[i].actor.isLetThrough
      let step = letters.read(
        event.payload, by: &bots[i].actor, persona(i), now: now * 1_000)
      if !wasLetThrough && bots[i].actor.isLetThrough { through += 1 }
      goOn(i, step)
    case .seeEnd:
      if !bots[i].hasEnded {
        bots[i].actor.closed(broken: bots[i].isReset)
        leave(i)
      }
    case .arrive:
      bots[i].arrived += 1
      makeReady(bots[i].slot)
    case .arriveEnd:
      bots[i].endTold = true
      makeReady(bots[i].slot)
      forget(i)
    case .arriveReset:
      bots[i].isReset = true
      makeReady(bots[i].slot)
      forget(i)
    case .hello:
      bots[i].marks.insert(.hello)
      makeReady(bots[i].slot)
    case .helloAnswer:
      if bots[i].hasEnded { return }
      let step = bots[i].actor.secured(persona(i), now: now * 1_000)
      // Ahead of what it says next.
      if step != .leave { add(.finished, toReach: i) }
      goOn(i, step)
    case .finished:
      bots[i].marks.insert(.finished)
      makeReady(bots[i].slot)
    default: break
    }
  }

  func persona(_ i: Int) -> SharedPersona { population.shared[Int(bots[i].client.persona)] }

  /// The moment has come at which a bot's deadline may be.
  mutating func reach(_ i: Int) {
    eventCount += 1
    let step = bots[i].actor.timer(persona(i), now: now * 1_000)
    goOn(i, step, notBefore: now + 1)
    settle()
  }

  /// A client does what it decided, and then waits until its deadline at most, not before `earliest`.
  mutating func goOn(_ i: Int, _ step: Actor.Step, notBefore earliest: Int64 = 0) {
    carryOut(i, step)
    if bots[i].hasEnded { return }
    let deadline = bots[i].actor.deadline(persona(i))
    if deadline == .max { return timers.takeOut(i) }
    let due = max((deadline + 999) / 1_000, earliest)
    // One that is later now is seen to when the earlier moment comes.
    if due >= timers.moment(of: i) { return }
    timers.takeOut(i)
    if due <= horizon { timers.put(i, at: due) }
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
    let faults = LineFaults(population.scenario, seed: seed)
    let i = bots.take(Bot(client: client))
    timers.makeRoom(bots.count)
    bots[i].generation = UInt16(truncatingIfNeeded: offered)
    bots[i].isTaken = true
    bots[i].latency = max(1, faults.latency)
    if faults.isSlow { bots[i].marks.insert(.slow) }
    botsOpen += 1
    offered += 1
    let port = UInt16(1_024 + random.next() % 60_000)
    note(1, i, UInt64(client.number))
    let admission = engine.accepted(
      Peer(address: client.address, port: port, listener: 0), now: instant, into: &effects)
    // The client's clock starts when its SYN is answered.
    let first = bots[i].actor.opened(
      persona(i), seed: seed, now: now * 1_000)
    switch admission {
    case .held(let slot):
      let k = Int(slot.index)
      sockets[k] = Socket()
      sockets[k].bot = Int32(i)
      bots[i].slot = Int32(slot.index)
      if isTraced(i) { tell("connects from \(client.address), slot \(slot)") }
      goOn(i, first, notBefore: now + 1)
      if faults.resetAfter >= 0 {
        add(.arriveReset, at: now + Int64(faults.resetAfter), i, generation: bots[i].generation)
      }
    case .refused(let region):
      if isTraced(i) { tell("is refused: there is no slot") }
      hand(i, region)
      add(.seeEnd, toReach: i)
    case .dropped:
      add(.seeEnd, toReach: i)
    }
    settle()
  }

  /// Carries out what a client does.
  mutating func carryOut(_ i: Int, _ step: Actor.Step) {
    switch step {
    case .nothing: break
    case .leave: leave(i)
    case .say(let line):
      if bots[i].slot >= 0 && !bots[i].isClosed {
        say(i, line)
        note(2, i, UInt64(bots[i].actor.awaited.rawValue))
        if isTraced(i) { tell("says \(line)") }
        add(.arrive, toReach: i)
      }
    case .secure:
      population.secures(bots[i].client)
      if bots[i].slot >= 0 && !bots[i].isClosed {
        note(9, i, 0)
        if isTraced(i) { tell("begins a handshake") }
        add(.hello, toReach: i)
      }
    }
  }

  /// Keeps a line until the shield reads it.
  mutating func say(_ i: Int, _ line: Line) {
    let last = Int(bots[i].said)
    if last >= 0 && line == .trickle && said[last].line == .trickle {
      said[last].times += 1
      return
    }
    let place = said.take(Said(line: line))
    if last >= 0 {
      said[place].link = said[last].link
      said[last].link = Int32(place)
    } else {
      said[place].link = Int32(place)
    }
    bots[i].said = Int32(place)
  }

  /// Takes what has arrived of a client, at most so many octets, into `words`.
  mutating func read(_ i: Int, atMost most: Int) {
    words.removeAll(keepingCapacity: true)
    while bots[i].arrived > 0 && words.count < most {
      let last = Int(bots[i].said)
      let first = Int(said[last].link)
      let before = words.count
      let isWhole = Words.write(
        said[first].line, persona(i),
        number: Int(bots[i].client.number), known: known, from: Int(said[first].read),
        atMost: most - before, into: &words)
      if !isWhole {
        said[first].read += Int32(words.count - before)
        break
      }
      bots[i].arrived -= 1
      said[first].read = 0
      said[first].times -= 1
      if said[first].times > 0 { continue }
      if first == last {
        bots[i].said = -1
      } else {
        said[last].link = said[first].link
      }
      said.give(first)
    }
    note(8, i, UInt64(words.count))
  }

  /// A client closes its end: what it sent before still arrives.
  mutating func leave(_ i: Int) {
    guard !bots[i].hasEnded else { return }
    bots[i].hasEnded = true
    timers.takeOut(i)
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
    let isFault = bots[i].marks.contains(.metFault) || bots[i].isReset || server.isAway(now * 1_000)
    let again = population.ended(
      &client, bots[i].actor, letThrough: bots[i].actor.isLetThrough, byFault: isFault,
      now: now * 1_000)
    if let again, again / 1_000 <= horizon {
      let place = waiting.take(Waiting(client: client))
      add(.comeBack, at: max(again / 1_000, now + 1), place)
    }
    if bots[i].slot < 0 {
      free(i)
    } else {
      add(.arriveEnd, toReach: i)
    }
  }

  /// Both ends are through with a connection.
  mutating func forget(_ i: Int) {
    if bots[i].hasEnded && bots[i].isClosed { free(i) }
  }

  mutating func free(_ i: Int) {
    guard bots[i].isTaken else { return }
    bots[i].isTaken = false
    let last = bots[i].said
    while bots[i].said >= 0 {
      let first = said[Int(last)].link
      if first == last { bots[i].said = -1 } else { said[Int(last)].link = said[Int(first)].link }
      said.give(Int(first))
    }
    bots.give(i)
  }

  /// Bytes of the shield go to a client.
  mutating func hand(_ i: Int, _ region: Region) {
    // What would come after the run's end is not kept until then.
    guard !bots[i].hasEnded, now + Int64(bots[i].latency) <= horizon else { return }
    add(.hear, toReach: i, Int(letters.put(engine.core.arena, region)))
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
    // An entry is large, and to ask for one that is not there as dear as to take it.
    while engine.core.journal.count > 0, let entry = engine.core.journal.next() { journal(entry) }
  }

  mutating func carryOut() {
    for k in 0..<effects.dripCount {
      let drip = effects.drip(at: k)
      sockets[Int(drip.slot.index)].orders.drip(drip.slot)
      let i = Int(sockets[Int(drip.slot.index)].bot)
      guard i >= 0 else { continue }
      eventCount += 1
      if bots[i].isReset || bots[i].endTold {
        sockets[Int(drip.slot.index)].hasFailed = true
        makeReady(Int32(drip.slot.index))
      } else {
        note(4, i, UInt64(drip.byte))
        add(.hearByte, toReach: i, Int(drip.byte))
      }
    }
    for n in 0..<effects.count {
      let effect = effects[n]
      let k = Int(effect.slot.index)
      if case .connect = effect {
        let orders = sockets[k].orders
        sockets[k] = Socket()
        sockets[k].orders = orders
      }
      sockets[k].orders.take(effect)
      switch effect {
      case .listen, .watch, .fill, .secure, .close: makeReady(Int32(k))
      case .send(_, let region): send(k, region)
      case .connect(let slot, _):
        let isAway = server.isAway(now * 1_000)
        add(isAway ? .linkDown : .linkUp, at: now + 1, k, Int(slot.generation & 0xFFFF))
      case .narrow, .widen, .lookUp: break
      case .hand: invariantFailed("there is no other worker here")
      case .finish:
        let i = Int(sockets[k].bot)
        if i >= 0 && k < clientSlots { add(.seeEnd, toReach: i) }
      }
    }
    effects.removeAll()
  }

  mutating func send(_ k: Int, _ region: Region) {
    if k < clientSlots { sendToClient(k, region) } else { sendBehind(k, region) }
  }

  mutating func sendToClient(_ k: Int, _ region: Region) {
    let i = Int(sockets[k].bot)
    guard i >= 0 else { return }
    eventCount += 1
    if bots[i].isReset {
      sockets[k].hasFailed = true
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
    if bots[i].marks.contains(.slow) {
      sockets[k].sending = Int32(region.count)
      add(.taken, at: now + Int64(region.count), k, Int(engine.generation(of: k) & 0xFFFF))
    } else {
      sockets[k].sent = Int32(region.count)
      makeReady(Int32(k))
    }
  }

  mutating func sendBehind(_ k: Int, _ region: Region) {
    let l = k - clientSlots
    eventCount += 1
    guard server.heard(l, engine.core.arena, region, now: now * 1_000) else {
      fault(behind: l)
      sockets[k].hasFailed = true
      makeReady(Int32(k))
      return
    }
    takeAnswers()
    sockets[k].sent = Int32(region.count)
    makeReady(Int32(k))
  }

  /// A fault of the scenario, not of the shield: whose downstream connection it is, is noted.
  private mutating func fault(behind l: Int) {
    guard let client = engine.client(ofLink: l) else { return }
    let i = Int(sockets[client].bot)
    if i >= 0 { bots[i].marks.insert(.metFault) }
  }

  /// What the server says and does is on its way.
  mutating func takeAnswers() {
    while let (l, count, moment, ends) = server.next() {
      let k = clientSlots + l
      let generation = UInt16(truncatingIfNeeded: engine.generation(of: k))
      let at = max((moment + 999) / 1_000, now)
      add(.linkReply, at: at, k, count, generation: generation)
      if ends { add(.linkEnd, at: at, k, generation: generation) }
    }
  }

  mutating func linkEvent(_ event: SimEvent) {
    let k = Int(event.index)
    let current = UInt16(truncatingIfNeeded: engine.generation(of: k))
    switch event.kind {
    case .linkUp, .linkDown:
      guard current == UInt16(truncatingIfNeeded: event.payload) else { return }
      if event.kind == .linkDown {
        fault(behind: k - clientSlots)
        sockets[k].hasFailed = true
      } else {
        sockets[k].isUp = true
        server.connected(k - clientSlots, now: now * 1_000)
        takeAnswers()
      }
    case .linkReply where current == event.generation:
      server.arrived(k - clientSlots, Int(event.payload))
    case .linkEnd where current == event.generation: sockets[k].hasFailed = true
    case .taken:
      guard current == UInt16(truncatingIfNeeded: event.payload) else { return }
      sockets[k].sent = sockets[k].sending
      sockets[k].sending = 0
    default: return
    }
    makeReady(Int32(k))
  }

  /// Hands over a fact that a slot waits for, one at a time: the orders it causes may change the others.
  mutating func deliver(_ k: Int) {
    let slot = Slot(index: UInt32(k), generation: engine.generation(of: k))
    if sockets[k].orders.isClosing {
      close(k, slot)
    } else if sockets[k].orders.isSecuring {
      shakeHands(k, slot)
    } else if k < clientSlots {
      deliver(k, slot)
      if hasMore(k) { makeReady(Int32(k)) }
    } else {
      deliverBehind(k, slot)
      if hasMoreBehind(k) { makeReady(Int32(k)) }
    }
  }

  /// The shield's part of a handshake: one flight, which answers the hello, and then it waits for the end.
  mutating func shakeHands(_ k: Int, _ slot: Slot) {
    let i = Int(sockets[k].bot)
    if k >= clientSlots || engine.policy.tls(ofListener: 0) == .implicit {
      // No client of ours does its part of this one: it takes no time.
      sockets[k].orders.answer(.secured, slot)
      engine.secured(slot, TLSFacts(), now: instant, into: &effects)
      makeReady(Int32(k))
    } else if i < 0 {
      return
    } else if bots[i].isReset || sockets[k].hasFailed {
      sockets[k].orders.fail()
      deliver(k, slot)
    } else if bots[i].marks.contains(.finished) {
      sockets[k].orders.answer(.secured, slot)
      engine.secured(slot, TLSFacts(), now: instant, into: &effects)
      makeReady(Int32(k))
    } else if bots[i].arrived > 0 || bots[i].endTold {
      sockets[k].orders.answer(.notSecured, slot)
      engine.notSecured(
        slot, bots[i].arrived > 0 ? .notTLS : .alert, now: instant, into: &effects)
    } else if bots[i].marks.contains(.hello) {
      bots[i].marks.remove(.hello)
      add(.helloAnswer, toReach: i)
    }
  }

  mutating func deliver(_ k: Int, _ slot: Slot) {
    let i = Int(sockets[k].bot)
    guard i >= 0 else { return }
    if bots[i].isReset || sockets[k].hasFailed {
      sockets[k].hasFailed = false
      if !sockets[k].upTold {
        sockets[k].upTold = true
        sockets[k].sent = 0
        sockets[k].orders.fail()
        engine.failed(slot, now: instant, into: &effects)
      }
      return
    }
    if tellSent(k, slot) { return }
    if bots[i].arrived > 0 {
      if let region = sockets[k].orders.fill {
        read(i, atMost: region.count)
        Self.copy(words, words.count, to: &engine.core.arena, at: region.offset)
        sockets[k].orders.answer(.filled, slot)
        engine.filled(slot, words.count, now: instant, into: &effects)
      } else if sockets[k].orders.want == .listen {
        sockets[k].orders.answer(.received, slot)
        read(i, atMost: 512)
        let bytes = words
        engine.received(slot, bytes.span, now: instant, into: &effects)
      }
    } else if bots[i].endTold && sockets[k].orders.reads(.watch) {
      sockets[k].orders.answer(.ended, slot)
      engine.ended(slot, now: instant, into: &effects)
    }
  }

  private static func copy(_ bytes: [UInt8], _ count: Int, to arena: inout Arena, at offset: Int) {
    arena.write(bytes.span.extracting(0..<count), at: offset)
  }

  mutating func deliverBehind(_ k: Int, _ slot: Slot) {
    let l = k - clientSlots
    if sockets[k].isUp && !sockets[k].upTold {
      sockets[k].upTold = true
      sockets[k].orders.answer(.connected, slot)
      engine.connected(slot, now: instant, into: &effects)
      return
    }
    if tellSent(k, slot) { return }
    if server.hasArrived(l), let region = sockets[k].orders.fill {
      let count = server.move(l, to: &engine.core.arena, region)
      sockets[k].orders.answer(.filled, slot)
      engine.filled(slot, count, now: instant, into: &effects)
    } else if sockets[k].hasFailed && !server.hasArrived(l) {
      sockets[k].hasFailed = false
      sockets[k].orders.fail()
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
    sockets[k].orders.answer(.sent, slot)
    engine.sent(slot, count, now: instant, into: &effects)
    return true
  }

  func hasMore(_ k: Int) -> Bool {
    if sockets[k].orders.isClosing { return true }
    let i = Int(sockets[k].bot)
    guard i >= 0 else { return false }
    if sockets[k].hasFailed { return true }
    if bots[i].isReset { return !sockets[k].upTold }
    if sockets[k].sent > 0 { return true }
    let orders = sockets[k].orders
    return bots[i].arrived > 0 ? orders.reads(.listen) : bots[i].endTold && orders.reads(.watch)
  }

  func hasMoreBehind(_ k: Int) -> Bool {
    let l = k - clientSlots
    return sockets[k].orders.isClosing || sockets[k].sent > 0
      || sockets[k].isUp && !sockets[k].upTold
      || server.hasArrived(l) && sockets[k].orders.fill != nil
      || sockets[k].hasFailed && !server.hasArrived(l)
  }

  mutating func close(_ k: Int, _ slot: Slot) {
    let i = Int(sockets[k].bot)
    sockets[k].orders.answer(.closed, slot)
    sockets[k] = Socket()
    if k >= clientSlots {
      server.gone(k - clientSlots)
    } else if i >= 0 {
      bots[i].isClosed = true
      bots[i].slot = -1
      note(6, i, 0)
      if bots[i].hasEnded {
        free(i)
      } else {
        add(.seeEnd, toReach: i)
      }
    }
    engine.closed(slot, now: instant, into: &effects)
  }
}
