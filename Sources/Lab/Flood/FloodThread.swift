// SPDX-License-Identifier: Apache-2.0
// One thread of a flood, which decides what its parts do. `Population` says which clients come and when, an `Actor` what
// its connection says and when it leaves. `FloodRing` moves bytes, `FloodNetwork` delays them, `FloodRecord` keeps figures.
// Keeps: there ≤ most, always; nothing in clear behind the server's 220 to STARTTLS.

import Glibc
import Personas
import Structures
import TLS
import Uring

/// One thread's clients. Rings belong to the thread that made them, and one thread may have many.
struct FloodThread: ~Copyable {
  /// New connections in one turn of the loop, so that those that are there are not forgotten over them.
  private static let arrivalsEach = 128
  /// Microseconds a connect may take: SYNs are sent again after 1, 3, 7 and 15 s.
  private static let connectMost: Int64 = 30_000_000
  /// What a slow reader's socket holds: the kernel's least is 2,304 bytes.
  private static let slowBuffer: Int32 = 1_024

  private let number: Int
  private let settings: FloodSettings
  private let started: Int64
  private let end: Int64
  private let most: Int
  private let isStopping: () -> Bool
  private let publish: (FloodTally) -> Void
  private let memory: FloodMemory
  private var record: FloodRecord
  private var arrivals: FloodArrivals
  private var network = FloodNetwork()
  private var deadlines = DeadlineHeap<FloodPlace>()
  private var rings: [FloodRing] = []
  private var bots = FloodBots()
  private var tls = FloodTLS()
  private var speech = FloodSpeech()
  private var published: Int64 = 0

  init(
    _ number: Int, _ settings: FloodSettings, started: Int64,
    isStopping: @escaping () -> Bool, publish: @escaping (FloodTally) -> Void
  ) {
    self.number = number
    self.settings = settings
    self.started = started
    self.isStopping = isStopping
    self.publish = publish
    end = Int64(settings.seconds * 1_000_000)
    most = max((settings.most - number + settings.threads - 1) / settings.threads, 1)
    memory = FloodMemory(settings.targets)
    record = FloodRecord(settings.part(number))
    arrivals = FloodArrivals(&record.population)
  }

  var result: ([PersonaFindings], FloodChecks) { record.result }

  /// Microseconds since the start of the run.
  private var now: Int64 { MonotonicClock.now() - started }

  mutating func run() throws(RingError) {
    while !isStopping() && now < end && !(record.there == 0 && arrivals.isOver(end)) {
      try come()
      fireDeadlines()
      fireNetwork()
      try turn()
      if now - published >= 100_000 { report(isDone: false) }
    }
    try close()
    report(isDone: true)
  }

  private mutating func report(isDone: Bool) {
    published = now
    let bytes =
      bots.bytes + rings.reduce(0) { $0 + $1.bytes } + arrivals.bytes + network.bytes
      + deadlines.entries.capacity * MemoryLayout<DeadlineHeap<FloodPlace>.Entry>.stride
    publish(record.tally(away: arrivals.away, bytes: bytes, isDone: isDone))
  }

  // MARK: - Coming

  /// Begins the clients whose time has come.
  private mutating func come() throws(RingError) {
    let now = now
    var budget = FloodThread.arrivalsEach
    while budget > 0, let entry = arrivals.returning(until: now) {
      budget -= 1
      record.late(by: now - entry.at)
      if record.there >= most {
        record.missed()
        _ = arrivals.add(entry.payload, at: now + 1_000_000)
      } else {
        try connect(entry.payload)
      }
    }
    for entry in arrivals.entries {
      while budget > 0, let lag = arrivals.begin(entry, &record.population, now: now) {
        record.late(by: lag)
        if record.there >= most {
          record.missed()
          budget -= 1
          continue
        }
        let client = record.population.begin(entry, now: now)
        let connections = record.population.concurrency(client)
        let room = min(connections, most - record.there)
        record.missed(connections - room)
        budget -= room
        for _ in 0..<room { try connect(client) }
      }
    }
  }

  private mutating func connect(_ client: Client) throws(RingError) {
    var client = client
    let seed = record.came(&client, by: settings.targets)
    let line = LineFaults(record.population.scenario, seed: seed)
    let (source, target) = settings.targets.way(client.address)
    let isIPv6 = !target.address.isIPv4
    let descriptor = OutboundSocket.make(
      from: settings.targets.bindsSources ? source : nil, isIPv6: isIPv6, abortive: false)
    if descriptor < 0 {
      let number = errno
      record.failed("a socket from \(source)", number)
      var actor = Actor()
      actor.notLetIn(now: now)
      return over(client, actor)
    }
    if line.isSlow { PlainSocket.setOption(descriptor, SOL_SOCKET, SO_RCVBUF, Self.slowBuffer) }
    let index = rings.firstIndex { $0.hasRoom } ?? rings.count
    if index == rings.count {
      let slots = max(min(most, RingTables.slotsEach), 1)
      rings.append(try FloodRing(index, slots: slots, memory))
    }
    let place = try rings[index].connect(descriptor, isIPv6: isIPv6, isSlow: line.isSlow)
    bots.set(FloodBot(client: client, seed: seed, line: line), at: place)
    record.stands(client)
    remind(place, at: now + FloodThread.connectMost)
  }

  private func ring(_ place: FloodPlace) -> FloodRing { rings[Int(place.ring)] }

  /// Whether a client is still there to hear something.
  private func isOpen(_ place: FloodPlace) -> Bool {
    ring(place).isCurrent(place) && bots[place].state == .open
  }

  private func persona(_ place: FloodPlace) -> SharedPersona {
    record.persona(bots[place].client)
  }

  // MARK: - Time

  private mutating func remind(_ place: FloodPlace, at moment: Int64) {
    guard moment < bots[place].dueAt, moment <= end else { return }
    bots[place].dueAt = moment
    deadlines.push(place, at: moment)
    // What is left of connections that are over is thrown away before it is more than those that are there.
    if deadlines.count > 4 * record.there + 4_096 {
      let (rings, bots) = (rings, bots)
      deadlines.keep { entry in
        let place = entry.payload
        return rings[Int(place.ring)].isCurrent(place) && bots[place].dueAt == entry.at
      }
    }
  }

  /// Lets those act whose time has come.
  private mutating func fireDeadlines() {
    let now = now
    while let entry = deadlines.pop(until: now) {
      let place = entry.payload
      guard ring(place).isCurrent(place), bots[place].dueAt == entry.at else { continue }
      bots[place].dueAt = .max
      record.happened()
      record.late(by: now - entry.at)
      switch bots[place].state {
      case .free, .leaving: break
      case .connecting: connected(place, -ETIMEDOUT)
      case .open: take(bots[place].actor.timer(persona(place), now: now), place)
      }
    }
  }

  /// Lets the network do what it does by now.
  private mutating func fireNetwork() {
    let now = now
    while let entry = network.happening(until: now) {
      let place = entry.payload.place
      guard ring(place).isCurrent(place) else { continue }
      record.happened()
      record.late(by: now - entry.at)
      switch entry.payload.kind {
      case .arrives: arrive(place)
      case .reads: if bots[place].state == .open { ring(place).listen(place) }
      case .breaks: snap(place)
      }
    }
  }

  /// How long nothing is due, in microseconds; 0.1 s at most.
  private var pause: Int64 {
    let next = min(deadlines.next, arrivals.next, network.next)
    return max(min(next - now, 100_000), 0)
  }

  // MARK: - The network

  /// Puts something on its way.
  private mutating func delay(_ what: FloodNetwork.Late, _ place: FloodPlace) {
    network.delay(what, place, until: now + Int64(bots[place].line.latency) * 1_000)
  }

  /// The earliest that was on its way is there.
  private mutating func arrive(_ place: FloodPlace) {
    guard let what = network.arrival(place) else { return }
    let isOpen = bots[place].state == .open
    switch what {
    case .heard(let bytes): if isOpen { hear(bytes.span, place) }
    case .ended(let isBroken): if isOpen { end(place, isBroken: isBroken) }
    case .said(let line): say(line, place)
    case .sealed: ring(place).flush(place)
    case .close: leave(place)
    }
  }

  /// A connection breaks by itself.
  private mutating func snap(_ place: FloodPlace) {
    switch bots[place].state {
    case .free, .connecting: return
    case .leaving: ring(place).reset(place)
    case .open:
      bots[place].actor.closed(broken: true)
      ring(place).reset(place)
      depart(place)
    }
    leave(place)
  }

  // MARK: - Hearing

  private mutating func turn() throws(RingError) {
    let isBusy = rings.contains { $0.hasReadable }
    for index in rings.indices {
      // Of several rings the last waits for all, briefly.
      let isLast = index == rings.count - 1
      let wait = isBusy || !isLast ? 0 : min(pause, rings.count > 1 ? 2_000 : .max)
      for event in try rings[index].turn(wait: wait) {
        guard rings[index].isCurrent(event.place) else { continue }
        switch event.kind {
        case .connected: connected(event.place, event.result)
        case .received(let buffer): received(event.place, event.result, buffer: buffer)
        }
      }
    }
    if rings.isEmpty { usleep(UInt32(min(pause, 10_000))) }
  }

  private mutating func connected(_ place: FloodPlace, _ result: Int32) {
    guard bots[place].state == .connecting else { return }
    let now = now
    if result < 0 {
      if result == -EADDRNOTAVAIL || result == -EADDRINUSE {
        record.failed("a port of \(bots[place].client.address)", -result)
      }
      bots[place].actor.notLetIn(now: now)
      return finish(place)
    }
    bots[place].state = .open
    bots[place].dueAt = .max
    let step = bots[place].actor.opened(persona(place), seed: bots[place].seed, now: now)
    let resetAfter = bots[place].line.resetAfter
    if resetAfter >= 0 { network.add(.breaks, place, at: now + Int64(resetAfter) * 1_000) }
    ring(place).listen(place)
    take(step, place)
  }

  private mutating func received(_ place: FloodPlace, _ result: Int32, buffer: Int) {
    guard bots[place].state == .open else { return }
    if result == -EAGAIN || result == -EINTR { return ring(place).listen(place) }
    let line = bots[place].line
    if result <= 0 {
      if line.latency > 0 { return delay(.ended(isBroken: result < 0), place) }
      return end(place, isBroken: result < 0)
    }
    record.happened()
    let bytes = memory.received(buffer, Int(result))
    if line.latency > 0 {
      delay(.heard(Array(bytes)), place)
    } else {
      hear(bytes.span, place)
    }
    guard isOpen(place) else { return }
    if line.isSlow {
      network.add(.reads, place, at: now + Int64(result) * 1_000)
    } else {
      ring(place).listen(place)
    }
  }

  /// Bytes of the wire have reached a client.
  private mutating func hear(_ bytes: Span<UInt8>, _ place: FloodPlace) {
    guard let line = ring(place).secureLine(place) else { return hearText(bytes, place) }
    if line.isEstablished { return hearOpened(bytes, line, place) }
    hearHandshake(bytes, line, place)
  }

  /// A client hears what is said to it.
  private mutating func hearText(_ bytes: Span<UInt8>, _ place: FloodPlace) {
    let client = bots[place].client
    record.heard(bytes, &bots[place].watch, client)
    let before = bots[place].actor
    let step = bots[place].actor.heard(bytes, persona(place), now: now)
    record.changed(from: before, to: bots[place].actor)
    take(step, place)
  }

  /// A client sees that the server has closed, or that the connection broke.
  private mutating func end(_ place: FloodPlace, isBroken: Bool) {
    bots[place].actor.closed(broken: isBroken)
    finish(place)
  }

  // MARK: - Saying

  /// Carries out what a client does, and looks when it will do something by itself.
  private mutating func take(_ step: Actor.Step, _ place: FloodPlace) {
    switch step {
    case .nothing: break
    case .leave: return finish(place)
    case .secure:
      if !secure(place) { return }
    case .say(let line):
      record.happened()
      bots[place].watch.said(line, harvests: persona(place).value.aim == .harvest)
      if bots[place].line.latency > 0 {
        delay(.said(line), place)
      } else {
        say(line, place)
      }
    }
    remind(place, at: bots[place].actor.deadline(persona(place)))
  }

  private mutating func say(_ line: Line, _ place: FloodPlace) {
    let number = Int(bots[place].client.number) * settings.threads + self.number
    speech.set(
      line, persona(place), number: number, known: settings.recipient,
      inPieces: !ring(place).isSending(place))
    ring(place).say(place, speech)
  }

  // MARK: - TLS

  /// Begins a handshake.
  ///
  /// - Returns: false if there can be none, and the connection is over.
  private mutating func secure(_ place: FloodPlace) -> Bool {
    record.secures(bots[place].client)
    guard let line = tls.line() else {
      bots[place].actor.notSecured()
      finish(place)
      return false
    }
    ring(place).secure(place, line)
    flush(line, place)
    return true
  }

  /// Bytes of a handshake that is not done.
  private mutating func hearHandshake(
    _ bytes: Span<UInt8>, _ line: TLSLine, _ place: FloodPlace
  ) {
    if case .failed = line.advance(bytes) {
      flush(line, place)
      bots[place].actor.notSecured()
      return finish(place)
    }
    if persona(place).value.aim == .tls {
      // It wanted the server's part of it, and no more.
      return take(bots[place].actor.secured(persona(place), now: now), place)
    }
    flush(line, place)
    guard line.isEstablished else { return }
    take(bots[place].actor.secured(persona(place), now: now), place)
    // Tickets may have come with the end of the handshake.
    if isOpen(place) { hearOpened(Span(), line, place) }
  }

  private mutating func hearOpened(_ bytes: Span<UInt8>, _ line: TLSLine, _ place: FloodPlace) {
    var text: [UInt8] = []
    let found = line.open(bytes, into: &text)
    flush(line, place)
    if !text.isEmpty { hearText(text.span, place) }
    guard isOpen(place) else { return }
    switch found {
    case .closed: end(place, isBroken: false)
    case .failed: end(place, isBroken: true)
    case .open: break
    }
  }

  /// What TLS has to say by itself goes on its way.
  private mutating func flush(_ line: TLSLine, _ place: FloodPlace) {
    guard line.hasOutput else { return }
    if bots[place].line.latency > 0 {
      delay(.sealed, place)
    } else {
      ring(place).flush(place)
    }
  }

  // MARK: - Going

  /// A connection is over for its client: closes it, once what is on its way has gone.
  private mutating func finish(_ place: FloodPlace) {
    let isLate = bots[place].state == .open && bots[place].line.latency > 0
    depart(place)
    if isLate {
      bots[place].state = .leaving
      bots[place].dueAt = .max
      delay(.close, place)
    } else {
      leave(place)
    }
  }

  /// Counts a client as gone, and asks whether it comes again.
  private mutating func depart(_ place: FloodPlace) {
    let (client, actor) = (bots[place].client, bots[place].actor)
    record.left(client, actor)
    over(client, actor)
  }

  private mutating func over(_ client: Client, _ actor: Actor) {
    var client = client
    guard let again = record.over(&client, actor, now: now) else { return }
    if !arrivals.add(client, at: again) { record.missed() }
  }

  /// Takes a connection out of its table.
  private mutating func leave(_ place: FloodPlace) {
    ring(place).leave(place)
    network.forget(place)
    bots[place].state = .free
    bots[place].dueAt = .max
    record.closed()
  }

  /// Ends the run: records and closes the connections that are still open, and waits for every send.
  private mutating func close() throws(RingError) {
    for ring in rings {
      for place in ring.places where bots[place].state != .free {
        if bots[place].state != .leaving {
          record.stillThere(bots[place].client, bots[place].actor, now: now)
        }
        leave(place)
      }
      try ring.drain()
    }
    rings.removeAll()
  }
}
