// SPDX-License-Identifier: Apache-2.0
// The personas of a scenario on real sockets: tens of thousands of clients in one or two threads. Who comes when
// and from where says `Population`, what a connection says and when it leaves says its `Actor`; here are only
// sockets and time, TLS (`TLSLine`), and what a scenario's network does: bytes that are under way for a while,
// readers that are slow, connections that break. A connection is a direct descriptor with one poll. Keeps: there ≤
// most, always; nothing in clear behind the server's 220 to STARTTLS.

import Configuration
import Foundation
import Glibc
package import Personas
import Structures
import Synchronization
import TLS
import Uring

/// What `sluice flood run` was told, checked already.
package struct FloodSettings: Sendable {
  package var targets: FloodTargets
  package var personas: [Persona]
  /// Its duration is how long new clients come.
  package var scenario: Scenario
  package var seed: UInt64
  package var recipient: String
  /// Connections at a time.
  package var most: Int
  /// How long it goes on.
  package var seconds: Double
  package var threads: Int

  package init(
    targets: FloodTargets, personas: [Persona], scenario: Scenario, seed: UInt64,
    recipient: String, most: Int, seconds: Double, threads: Int
  ) {
    self.targets = targets
    self.personas = personas
    self.scenario = scenario
    self.seed = seed
    self.recipient = recipient
    self.most = most
    self.seconds = seconds
    self.threads = threads
  }

  /// The share of one thread: clients come from each at a part of the rate.
  package func part(_ number: Int) -> Population {
    var part = scenario
    for entry in part.entries.indices {
      let all = part.entries[entry].atOnce
      part.entries[entry].rate /= Double(threads)
      part.entries[entry].atOnce = (all - number + threads - 1) / threads
    }
    return Population(
      personas: personas, scenario: part, seed: seed &+ UInt64(number) &* 0x9E37_79B9,
      firstOctet: targets.firstOctet)
  }
}

/// The threads of a flood, seen from outside.
package final class FloodClient: Sendable {
  package let settings: FloodSettings
  private let tallies: Mutex<[FloodTally]>
  private let results = Mutex<(findings: [[PersonaFindings]], checks: FloodChecks)>(
    ([], FloodChecks()))
  private let stopping = Atomic(false)
  private let faults = Mutex<String?>(nil)
  private let done = DispatchSemaphore(value: 0)
  private let started = MonotonicClock.now()

  package init(_ settings: FloodSettings) {
    self.settings = settings
    let empty = FloodTally(entries: settings.scenario.entries.count)
    tallies = Mutex(Array(repeating: empty, count: settings.threads))
    for number in 0..<settings.threads {
      let thread = Thread { [self] in
        var part = FloodThread(
          number, settings, started: started,
          isStopping: { [self] in stopping.load(ordering: .relaxed) },
          publish: { [self] tally in tallies.withLock { $0[number] = tally } })
        do { try part.run() } catch { faults.withLock { $0 = $0 ?? "\(error)" } }
        let (findings, checks) = part.result
        results.withLock { result in
          result.findings.append(findings)
          result.checks += checks
        }
        done.signal()
      }
      thread.name = "flood-\(number)"
      thread.start()
    }
  }

  /// Seconds since the start.
  package var age: Double { Double(MonotonicClock.now() - started) / 1e6 }
  /// Why a thread had to end.
  package var fault: String? { faults.withLock { $0 } }

  /// All threads together, a moment ago.
  package var tally: FloodTally {
    tallies.withLock { list in
      var sum = list[0]
      for tally in list.dropFirst() { sum += tally }
      return sum
    }
  }

  /// Closes every connection and waits for that; what was found.
  package func stop() -> (findings: [PersonaFindings], checks: FloodChecks) {
    stopping.store(true, ordering: .relaxed)
    for _ in 0..<settings.threads { done.wait() }
    return results.withLock { result in
      guard var sum = result.findings.first else { return ([], result.checks) }
      for more in result.findings.dropFirst() {
        for k in sum.indices { sum[k].add(more[k]) }
      }
      return (sum, result.checks)
    }
  }
}

/// One connection.
private struct FloodBot: BitwiseCopyable {
  enum State: UInt8 {
    case free, connecting, open
    /// Its client has left; what it said before is still on its way.
    case leaving
  }

  var actor = Actor()
  var client: Client
  /// Of its actor; used when the connection stands.
  var seed: UInt64
  var line: LineFaults
  /// The moment of the entry in the heap that stands for it.
  var dueAt = Int64.max
  /// Of the 24 bits in tokens.
  var generation: UInt32 = 0
  /// Its send under way, in its ring's list; -1 for none.
  var sending: Int32 = -1
  var watch = ReplyWatch()
  var state = State.free
  var isPolled = false
  /// From STARTTLS's 220 on: it has an entry among its ring's `secures`.
  var isSecure = false
}

/// What is on its way between a client and the kernel, where the scenario has latency.
private enum Late {
  case heard([UInt8])
  case ended(isBroken: Bool)
  case said(Line)
  /// What its TLS has to say by itself.
  case sealed
  case close
}

/// Bytes on their way to the kernel.
private struct Outgoing {
  var base: UnsafeMutableRawPointer
  var count = 0
  var sent = 0
  /// Belongs to this one, and is freed with it.
  var isOwn = true
  var slot = 0
  var generation: UInt32 = 0
  /// Of a large message: octets of its body that are still to be said, whole lines.
  var bodyLeft = 0
  /// What comes after that; of a secured client in clear, to be sealed when its turn has come.
  var following: [UInt8] = []
}

/// A ring and the connections in its table.
private final class FloodRing {
  var ring: Ring
  /// By slot, as many as were ever used.
  var bots: [FloodBot] = []
  var free: [Int32] = []
  var readable: [Int32] = []
  var outgoing: [Outgoing] = []
  var freeOutgoing: [Int32] = []
  /// By slot, the earliest first: latency is the same for all of a connection.
  var late: [Int32: [Late]] = [:]
  /// By slot, of those that are secured.
  var secures: [Int32: TLSLine] = [:]

  init(slots: Int) throws(RingError) { ring = try Ring(entries: FloodThread.window, slots: slots) }

  var hasRoom: Bool { !free.isEmpty || bots.count < ring.slots }
  var isSending: Bool { outgoing.count > freeOutgoing.count }
}

/// One thread's clients. Rings belong to the thread that made them, and one thread may have many.
private struct FloodThread: ~Copyable {
  /// Receives at a time, each with a buffer of its own.
  static let window = 512
  private static let bufferBytes = 4_096
  /// New connections in one turn of the loop, so that those that are there are not forgotten over them.
  private static let arrivalsEach = 128
  /// Clients that will come again, at most.
  private static let awayMost = 500_000
  /// Messages above this are said piece by piece from one text that all share.
  private static let bodyWhole = 8_192
  /// Whole lines of 74 octets.
  private static let pieceBytes = 64_000 / 74 * 74
  /// Microseconds a connect may take: SYNs are sent again after 1, 3, 7 and 15 s.
  private static let connectMost: Int64 = 30_000_000
  /// What a slow reader takes at a time, and what its socket holds: the kernel's least is 2,304 bytes.
  private static let slowBytes = 64
  private static let slowBuffer: Int32 = 1_024

  private struct Place: BitwiseCopyable {
    var ring: UInt16
    var slot: UInt16
    var generation: UInt32
  }

  /// What the network does to a connection at some moment.
  private struct Happening: BitwiseCopyable {
    enum Kind: UInt8 {
      /// The first of what is late is there.
      case arrives
      /// A slow reader reads on.
      case reads
      case breaks
    }
    var place: Place
    var kind: Kind
  }

  private let number: Int
  private let settings: FloodSettings
  private let started: Int64
  private let end: Int64
  private let most: Int
  private let isStopping: () -> Bool
  private let publish: (FloodTally) -> Void
  private var population: Population
  private var rings: [FloodRing] = []
  private var deadlines = DeadlineHeap<Place>()
  private var returns = DeadlineHeap<Client>()
  private var happenings = DeadlineHeap<Happening>()
  /// By entry: when its next client begins.
  private var arrivals: [Int64]
  private var waitingAtOnce: [Int]
  private var tally: FloodTally
  private var checks = FloodChecks()
  private var there = 0
  private var published: Int64 = 0
  private var scratch: [UInt8] = []
  /// Made for the first that wants TLS; of all, because they differ in nothing that is in it.
  private var context: TLSClientContext?
  private let buffers: UnsafeMutableRawPointer
  private let piece: UnsafeMutableRawPointer
  private let addresses: UnsafeMutablePointer<SocketAddress>

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
    population = settings.part(number)
    let entries = population.scenario.entries.count
    arrivals = Array(repeating: .max, count: entries)
    waitingAtOnce = population.scenario.entries.map(\.atOnce)
    tally = FloodTally(entries: entries)
    buffers = .allocate(byteCount: FloodThread.window * FloodThread.bufferBytes, alignment: 64)
    piece = .allocate(byteCount: FloodThread.pieceBytes, alignment: 64)
    for k in 0..<FloodThread.pieceBytes {
      let column = k % 74
      let byte = column == 72 ? 13 : column == 73 ? 10 : UInt8(ascii: "x")
      piece.storeBytes(of: byte, toByteOffset: k, as: UInt8.self)
    }
    // The targets, where the kernel can read them until the end: IPv4, then IPv6, then nobody.
    addresses = .allocate(capacity: 3)
    addresses.initialize(repeating: SocketAddress(Address(v4: 0x7F00_0001), port: 0), count: 3)
    UnsafeMutableRawPointer(addresses + 2).storeBytes(
      of: sa_family_t(AF_UNSPEC), as: sa_family_t.self)
    if let v4 = settings.targets.v4 { addresses[0] = SocketAddress(v4.address, port: v4.port) }
    if let v6 = settings.targets.v6 { addresses[1] = SocketAddress(v6.address, port: v6.port) }
  }

  deinit {
    // `close` has waited for all sends; receives end within their submission.
    buffers.deallocate()
    piece.deallocate()
    addresses.deallocate()
  }

  var result: ([PersonaFindings], FloodChecks) {
    var checks = checks
    for findings in population.findings where findings.kind == Persona.Kind.sender.rawValue {
      checks.honest.looked += findings.clients
      for (reason, count) in findings.lost.sorted(by: { $0.key < $1.key }) {
        checks.honest.broken += count
        if checks.honest.first == nil { checks.honest.first = "\(findings.id): \(reason)" }
      }
    }
    return (population.findings, checks)
  }

  /// Microseconds since the start of the run.
  private var now: Int64 { MonotonicClock.now() - started }

  mutating func run() throws(RingError) {
    for entry in arrivals.indices {
      arrivals[entry] = population.nextArrival(entry, after: 0) ?? .max
    }
    while !isStopping() && now < end && !isOver {
      try come()
      try fire()
      try turn()
      if now - published >= 100_000 { report() }
    }
    try close()
    tally.isDone = true
    report()
  }

  /// Nobody is there, and nobody will come in time.
  private var isOver: Bool {
    there == 0 && returns.next > end && arrivals.allSatisfy { $0 > end }
      && waitingAtOnce.allSatisfy { $0 == 0 }
  }

  private mutating func report() {
    published = now
    tally.away = returns.count
    tally.bytes =
      rings.reduce(0) { sum, held in
        sum + held.bots.capacity * MemoryLayout<FloodBot>.stride
          + held.outgoing.capacity * MemoryLayout<Outgoing>.stride
          + held.outgoing.reduce(0) { $0 + ($1.isOwn ? $1.count : 0) + $1.following.capacity }
      } + deadlines.entries.capacity * MemoryLayout<DeadlineHeap<Place>.Entry>.stride
      + returns.entries.capacity * MemoryLayout<DeadlineHeap<Client>.Entry>.stride
      + happenings.entries.capacity * MemoryLayout<DeadlineHeap<Happening>.Entry>.stride
    publish(tally)
  }

  // MARK: - Coming

  /// Begins the clients whose time has come.
  private mutating func come() throws(RingError) {
    let now = now
    var budget = FloodThread.arrivalsEach
    while budget > 0, let entry = returns.pop(until: now) {
      budget -= 1
      tally.lagMost = max(tally.lagMost, now - entry.at)
      if there >= most {
        tally.missed += 1
        returns.push(entry.payload, at: now + 1_000_000)
      } else {
        try connect(entry.payload)
      }
    }
    for entry in arrivals.indices {
      while budget > 0 && (waitingAtOnce[entry] > 0 || arrivals[entry] <= now) {
        if waitingAtOnce[entry] > 0 {
          waitingAtOnce[entry] -= 1
        } else {
          tally.lagMost = max(tally.lagMost, now - arrivals[entry])
          arrivals[entry] = population.nextArrival(entry, after: arrivals[entry]) ?? .max
        }
        if there >= most {
          tally.missed += 1
          budget -= 1
          continue
        }
        let client = population.begin(entry, now: now)
        let connections = population.concurrency(client)
        let room = min(connections, most - there)
        tally.missed += connections - room
        budget -= room
        for _ in 0..<room { try connect(client) }
      }
    }
  }

  private mutating func connect(_ client: Client) throws(RingError) {
    var client = client
    let seed = population.connects(&client)
    let line = LineFaults(population.scenario, seed: seed)
    let entry = Int(client.entry)
    tally.rows[entry].connections += 1
    tally.events += 1
    let (source, target) = settings.targets.way(client.address)
    let isIPv6 = !target.address.isIPv4
    if !client.address.isIPv4 {
      if !isIPv6 { tally.byIPv4 += 1 } else if target.address.isLoopback { tally.fromOne += 1 }
    }
    let descriptor = OutboundSocket.make(
      from: settings.targets.bindsSources ? source : nil, isIPv6: isIPv6, abortive: false)
    if descriptor < 0 {
      let number = errno
      failed("a socket from \(source)", number)
      var actor = Actor()
      actor.notLetIn(now: now)
      return over(client, actor)
    }
    if line.isSlow { PlainSocket.setOption(descriptor, SOL_SOCKET, SO_RCVBUF, Self.slowBuffer) }
    var index = rings.firstIndex { $0.hasRoom } ?? rings.count
    if index == rings.count {
      rings.append(try FloodRing(slots: max(min(most, RingTables.slotsEach), 1)))
      index = rings.count - 1
    }
    let held = rings[index]
    let slot: Int
    if let free = held.free.popLast() {
      slot = Int(free)
      let generation = held.bots[slot].generation
      held.bots[slot] = FloodBot(client: client, seed: seed, line: line)
      held.bots[slot].generation = generation
    } else {
      slot = held.bots.count
      held.bots.append(FloodBot(client: client, seed: seed, line: line))
    }
    var copy = descriptor
    try held.ring.updateFiles(startingAt: Int32(slot), &copy, count: 1)
    Glibc.close(descriptor)
    held.bots[slot].state = .connecting
    there += 1
    tally.rows[entry].there += 1
    tally.waiting += 1
    tally.thereMost = max(tally.thereMost, there)
    held.ring.connect(
      slot: Int32(slot), to: addresses + (isIPv6 ? 1 : 0), token: token(held, slot, .connect))
    remind(index, slot, at: now + FloodThread.connectMost)
  }

  private mutating func failed(_ what: String, _ number: Int32) {
    tally.errors += 1
    if tally.errors == 1 {
      StandardError.write("\(what) could not be opened: \(String(cString: strerror(number)))")
    }
  }

  private func token(_ held: FloodRing, _ slot: Int, _ operation: Uring.Operation) -> Token {
    Token(operation, generation: held.bots[slot].generation, index: UInt32(slot))
  }

  // MARK: - Time

  private mutating func remind(_ index: Int, _ slot: Int, at moment: Int64) {
    guard moment < rings[index].bots[slot].dueAt, moment <= end else { return }
    rings[index].bots[slot].dueAt = moment
    let place = Place(
      ring: UInt16(index), slot: UInt16(slot), generation: rings[index].bots[slot].generation)
    deadlines.push(place, at: moment)
    // What is left of connections that are over is thrown away before it is more than those that are there.
    if deadlines.count > 4 * there + 4_096 {
      let rings = rings
      deadlines.keep { entry in
        let bot = rings[Int(entry.payload.ring)].bots[Int(entry.payload.slot)]
        return bot.generation == entry.payload.generation && bot.dueAt == entry.at
      }
    }
  }

  /// Lets those act whose time has come.
  private mutating func fire() throws(RingError) {
    let now = now
    while let entry = deadlines.pop(until: now) {
      let index = Int(entry.payload.ring)
      let slot = Int(entry.payload.slot)
      let held = rings[index]
      guard held.bots[slot].generation == entry.payload.generation,
        held.bots[slot].dueAt == entry.at
      else { continue }
      held.bots[slot].dueAt = .max
      tally.events += 1
      tally.lagMost = max(tally.lagMost, now - entry.at)
      switch held.bots[slot].state {
      case .free, .leaving: break
      case .connecting: connected(index, slot, -ETIMEDOUT)
      case .open:
        let persona = population.shared[Int(held.bots[slot].client.persona)]
        let step = held.bots[slot].actor.timer(persona, now: now)
        take(step, index, slot, persona)
      }
    }
    while let entry = happenings.pop(until: now) {
      let place = entry.payload.place
      let (index, slot) = (Int(place.ring), Int(place.slot))
      guard rings[index].bots[slot].generation == place.generation else { continue }
      tally.events += 1
      tally.lagMost = max(tally.lagMost, now - entry.at)
      switch entry.payload.kind {
      case .arrives: arrive(index, slot)
      case .reads: if rings[index].bots[slot].state == .open { poll(index, slot) }
      case .breaks: snap(index, slot)
      }
    }
  }

  // MARK: - The network

  private mutating func happens(
    _ kind: Happening.Kind, _ index: Int, _ slot: Int, at moment: Int64
  ) {
    let place = Place(
      ring: UInt16(index), slot: UInt16(slot), generation: rings[index].bots[slot].generation)
    happenings.push(Happening(place: place, kind: kind), at: moment)
  }

  /// Puts something on its way.
  private mutating func delay(_ what: Late, _ index: Int, _ slot: Int) {
    let held = rings[index]
    held.late[Int32(slot), default: []].append(what)
    happens(.arrives, index, slot, at: now + Int64(held.bots[slot].line.latency) * 1_000)
  }

  /// The earliest that was on its way is there.
  private mutating func arrive(_ index: Int, _ slot: Int) {
    let held = rings[index]
    guard let what = held.late[Int32(slot)]?.removeFirst() else { return }
    let isOpen = held.bots[slot].state == .open
    switch what {
    case .heard(let bytes): if isOpen { hear(bytes.span, index, slot) }
    case .ended(let isBroken): if isOpen { end(index, slot, isBroken: isBroken) }
    case .said(let line):
      say(line, index, slot, population.shared[Int(held.bots[slot].client.persona)])
    case .sealed: pushOut(held, slot)
    case .close: leave(index, slot)
    }
  }

  /// A connection breaks by itself: to connect to nobody sends a reset, as a close with SO_LINGER 0 does.
  private mutating func snap(_ index: Int, _ slot: Int) {
    let held = rings[index]
    switch held.bots[slot].state {
    case .free, .connecting: return
    case .leaving:
      reset(held, slot)
      leave(index, slot)
    case .open:
      held.bots[slot].actor.closed(broken: true)
      reset(held, slot)
      depart(index, slot)
      leave(index, slot)
    }
  }

  private func reset(_ held: FloodRing, _ slot: Int) {
    held.ring.connect(slot: Int32(slot), to: addresses + 2, token: token(held, slot, .connect))
  }

  // MARK: - The rings

  private mutating func turn() throws(RingError) {
    var isBusy = false
    for held in rings where !held.readable.isEmpty { isBusy = true }
    for index in rings.indices {
      let held = rings[index]
      let part = held.readable.suffix(FloodThread.window)
      held.readable.removeLast(part.count)
      for (buffer, slot) in part.enumerated() {
        // Completes within the submission: no two receives ever wait with one buffer.
        let isSlow = held.bots[Int(slot)].line.isSlow
        held.ring.receive(
          slot: slot, into: buffers + buffer * FloodThread.bufferBytes,
          count: isSlow ? FloodThread.slowBytes : FloodThread.bufferBytes,
          flags: Int32(MSG_DONTWAIT),
          token: Token(
            .receive, generation: held.bots[Int(slot)].generation,
            index: UInt32(slot) | UInt32(buffer) << 16))
      }
      // Of several rings the last waits for all, briefly.
      let isLast = index == rings.count - 1
      let wait = isBusy || !part.isEmpty || !isLast ? 0 : min(pause, rings.count > 1 ? 2_000 : .max)
      try held.ring.submitAndWait(timeoutMicroseconds: wait)
      try collect(index, receives: part.count)
    }
    if rings.isEmpty { usleep(UInt32(min(pause, 10_000))) }
  }

  /// How long nothing is due, in microseconds; 0.1 s at most.
  private var pause: Int64 {
    if waitingAtOnce.contains(where: { $0 > 0 }) { return 0 }
    var next = min(deadlines.next, returns.next, happenings.next)
    for arrival in arrivals { next = min(next, arrival) }
    return max(min(next - now, 100_000), 0)
  }

  /// Takes the completions there are, and waits for the receives: their buffers are needed again.
  private mutating func collect(_ index: Int, receives: Int) throws(RingError) {
    let held = rings[index]
    var outstanding = receives
    repeat {
      let count = held.ring.completions()
      for k in 0..<count {
        let completion = held.ring.completion(at: k)
        if completion.token.operation == .receive { outstanding -= 1 }
        completed(index, completion)
      }
      held.ring.advance(count)
      if outstanding > 0 {
        try held.ring.submitAndWait(for: 1, timeoutMicroseconds: 1_000_000)
      }
    } while outstanding > 0
  }

  private mutating func completed(_ index: Int, _ completion: Completion) {
    let held = rings[index]
    let token = completion.token
    switch token.operation {
    case .send: return sent(index, Int(token.index), completion.result)
    case .close:
      // Only now: whatever moves into a slot does so at once, ahead of what waits for submission.
      return held.free.append(Int32(token.index))
    case .connect, .poll, .receive: break
    default: return
    }
    let slot = Int(token.index & 0xFFFF)
    guard held.bots[slot].generation == token.generation else { return }
    switch token.operation {
    case .connect: connected(index, slot, completion.result)
    case .poll:
      held.bots[slot].isPolled = false
      if completion.result >= 0 { held.readable.append(Int32(slot)) }
    default:
      received(index, slot, completion.result, buffer: Int(token.index >> 16))
    }
  }

  private mutating func connected(_ index: Int, _ slot: Int, _ result: Int32) {
    let held = rings[index]
    guard held.bots[slot].state == .connecting else { return }
    let now = now
    if result < 0 {
      if result == -EADDRNOTAVAIL || result == -EADDRINUSE {
        failed("a port of \(held.bots[slot].client.address)", -result)
      }
      held.bots[slot].actor.notLetIn(now: now)
      return finish(index, slot)
    }
    held.bots[slot].state = .open
    held.bots[slot].dueAt = .max
    let persona = population.shared[Int(held.bots[slot].client.persona)]
    let step = held.bots[slot].actor.opened(persona, seed: held.bots[slot].seed, now: now)
    let line = held.bots[slot].line
    if line.resetAfter >= 0 {
      happens(.breaks, index, slot, at: now + Int64(line.resetAfter) * 1_000)
    }
    poll(index, slot)
    take(step, index, slot, persona)
  }

  private func poll(_ index: Int, _ slot: Int) {
    let held = rings[index]
    // A slot that was readable may have another connection by now, and its poll.
    if held.bots[slot].isPolled { return }
    held.bots[slot].isPolled = true
    held.ring.pollAdd(slot: Int32(slot), mask: Ring.readable, token: token(held, slot, .poll))
  }

  private mutating func received(_ index: Int, _ slot: Int, _ result: Int32, buffer: Int) {
    let held = rings[index]
    guard held.bots[slot].state == .open else { return }
    if result == -EAGAIN || result == -EINTR { return poll(index, slot) }
    let line = held.bots[slot].line
    if result <= 0 {
      if line.latency > 0 { return delay(.ended(isBroken: result < 0), index, slot) }
      return end(index, slot, isBroken: result < 0)
    }
    tally.events += 1
    let generation = held.bots[slot].generation
    let start = (buffers + buffer * FloodThread.bufferBytes).assumingMemoryBound(to: UInt8.self)
    let bytes = UnsafeBufferPointer(start: start, count: Int(result))
    if line.latency > 0 {
      delay(.heard(Array(bytes)), index, slot)
    } else {
      hear(bytes.span, index, slot)
    }
    guard held.bots[slot].generation == generation, held.bots[slot].state == .open else { return }
    if line.isSlow {
      happens(.reads, index, slot, at: now + Int64(result) * 1_000)
    } else {
      poll(index, slot)
    }
  }

  /// Bytes of the wire have reached a client.
  private mutating func hear(_ bytes: Span<UInt8>, _ index: Int, _ slot: Int) {
    if rings[index].bots[slot].isSecure { return hearSealed(bytes, index, slot) }
    hearText(bytes, index, slot)
  }

  /// A client hears what is said to it.
  private mutating func hearText(_ bytes: Span<UInt8>, _ index: Int, _ slot: Int) {
    let held = rings[index]
    let persona = population.shared[Int(held.bots[slot].client.persona)]
    let number = held.bots[slot].client.number
    for k in 0..<bytes.count { held.bots[slot].watch.heard(bytes[k], &checks, number) }
    let before = held.bots[slot].actor
    let step = held.bots[slot].actor.heard(bytes, persona, now: now)
    if before.greetedAt < 0 && held.bots[slot].actor.greetedAt >= 0 { tally.waiting -= 1 }
    if !before.isLetThrough && held.bots[slot].actor.isLetThrough { tally.letThrough += 1 }
    take(step, index, slot, persona)
  }

  /// A client sees that the server has closed, or that the connection broke.
  private mutating func end(_ index: Int, _ slot: Int, isBroken: Bool) {
    rings[index].bots[slot].actor.closed(broken: isBroken)
    finish(index, slot)
  }

  // MARK: - Saying

  /// Carries out what a client does, and looks when it will do something by itself.
  private mutating func take(
    _ step: Actor.Step, _ index: Int, _ slot: Int, _ persona: SharedPersona
  ) {
    switch step {
    case .nothing: break
    case .leave: return finish(index, slot)
    case .secure:
      if !secure(index, slot) { return }
    case .say(let line):
      let held = rings[index]
      tally.events += 1
      held.bots[slot].watch.said(line, harvests: persona.value.aim == .harvest)
      if held.bots[slot].line.latency > 0 {
        delay(.said(line), index, slot)
      } else {
        say(line, index, slot, persona)
      }
    }
    remind(index, slot, at: rings[index].bots[slot].actor.deadline(persona))
  }

  private mutating func say(_ line: Line, _ index: Int, _ slot: Int, _ persona: SharedPersona) {
    let held = rings[index]
    let number = Int(held.bots[slot].client.number) * settings.threads + self.number
    scratch.removeAll(keepingCapacity: true)
    var bodyLeft = 0
    var following: [UInt8] = []
    if case .body(let octets) = line, Int(octets) > FloodThread.bodyWhole {
      // The head, then whole lines, then the dot.
      Words.write(
        .body(octets: 0), persona, number: number, known: settings.recipient, into: &scratch)
      following = Array(scratch.suffix(3))
      scratch.removeLast(3)
      bodyLeft = Int(octets) / 74 * 74
    } else {
      Words.write(line, persona, number: number, known: settings.recipient, into: &scratch)
    }
    if held.bots[slot].sending >= 0 {
      // One send at a time, or a full socket would mix them up.
      let place = Int(held.bots[slot].sending)
      held.outgoing[place].following += scratch
      return
    }
    if held.bots[slot].isSecure {
      scratch = scratch.withUnsafeBytes { held.secures[Int32(slot)]?.seal($0) ?? [] }
    }
    send(scratch, held, slot, bodyLeft: bodyLeft, following: following)
  }

  /// Sends octets; nothing of the slot is under way.
  private func send(
    _ octets: [UInt8], _ held: FloodRing, _ slot: Int, bodyLeft: Int = 0, following: [UInt8] = []
  ) {
    var one = Outgoing(base: copy(octets))
    one.count = octets.count
    one.slot = slot
    one.generation = held.bots[slot].generation
    one.bodyLeft = bodyLeft
    one.following = following
    let place: Int
    if let free = held.freeOutgoing.popLast() {
      place = Int(free)
      held.outgoing[place] = one
    } else {
      place = held.outgoing.count
      held.outgoing.append(one)
    }
    held.bots[slot].sending = Int32(place)
    send(held, place)
  }

  private func copy(_ octets: [UInt8]) -> UnsafeMutableRawPointer {
    let base = UnsafeMutableRawPointer.allocate(byteCount: max(octets.count, 1), alignment: 1)
    octets.withUnsafeBytes {
      UnsafeMutableRawBufferPointer(start: base, count: $0.count).copyMemory(from: $0)
    }
    return base
  }

  private func send(_ held: FloodRing, _ place: Int) {
    let one = held.outgoing[place]
    held.ring.send(
      slot: Int32(one.slot), UnsafeRawPointer(one.base) + one.sent, count: one.count - one.sent,
      flags: Int32(MSG_WAITALL), token: Token(.send, index: UInt32(place)))
  }

  /// A send has ended: goes on with what is left of it, or gives it up.
  private mutating func sent(_ index: Int, _ place: Int, _ result: Int32) {
    let held = rings[index]
    let slot = held.outgoing[place].slot
    let isCurrent = held.bots[slot].generation == held.outgoing[place].generation
    if result > 0 && isCurrent {
      held.outgoing[place].sent += Int(result)
      if held.outgoing[place].sent < held.outgoing[place].count { return send(held, place) }
      if prepare(held, place) { return send(held, place) }
    }
    // Of a failure we hear where we read: the server's last word may still be there.
    if held.outgoing[place].isOwn { held.outgoing[place].base.deallocate() }
    held.outgoing[place].isOwn = false
    held.outgoing[place].following = []
    held.freeOutgoing.append(Int32(place))
    if isCurrent { held.bots[slot].sending = -1 }
  }

  /// The next piece of the same client; false if there is none.
  private func prepare(_ held: FloodRing, _ place: Int) -> Bool {
    if let line = secureLine(held, held.outgoing[place].slot) {
      return prepare(held, place, sealedBy: line)
    }
    if held.outgoing[place].bodyLeft > 0 {
      if held.outgoing[place].isOwn { held.outgoing[place].base.deallocate() }
      let count = min(held.outgoing[place].bodyLeft, FloodThread.pieceBytes)
      held.outgoing[place].base = piece
      held.outgoing[place].isOwn = false
      held.outgoing[place].bodyLeft -= count
      held.outgoing[place].count = count
      held.outgoing[place].sent = 0
      return true
    }
    let more = held.outgoing[place].following
    if more.isEmpty { return false }
    held.outgoing[place].following = []
    replace(held, place, by: more)
    return true
  }

  private func replace(_ held: FloodRing, _ place: Int, by octets: [UInt8]) {
    if held.outgoing[place].isOwn { held.outgoing[place].base.deallocate() }
    held.outgoing[place].base = copy(octets)
    held.outgoing[place].isOwn = true
    held.outgoing[place].count = octets.count
    held.outgoing[place].sent = 0
  }

  // MARK: - TLS

  private func secureLine(_ held: FloodRing, _ slot: Int) -> TLSLine? {
    held.bots[slot].isSecure ? held.secures[Int32(slot)] : nil
  }

  /// Begins a handshake.
  ///
  /// - Returns: false if there can be none, and the connection is over.
  private mutating func secure(_ index: Int, _ slot: Int) -> Bool {
    let held = rings[index]
    tally.events += 1
    tally.handshakes += 1
    population.secures(held.bots[slot].client)
    if context == nil {
      var settings = TLSClientSettings(level: .opportunistic, name: nil)
      // Clients are hosts of their own: none has another's tickets.
      settings.resumes = false
      do { context = try TLSClientContext(settings) } catch {
        StandardError.write("TLS is not available: \(error)")
      }
    }
    guard let context else {
      held.bots[slot].actor.notSecured()
      finish(index, slot)
      return false
    }
    guard let line = TLSLine(context) else {
      held.bots[slot].actor.notSecured()
      finish(index, slot)
      return false
    }
    held.secures[Int32(slot)] = line
    held.bots[slot].isSecure = true
    _ = line.advance(Span())
    flush(index, slot)
    return true
  }

  /// Bytes of the wire that are TLS.
  private mutating func hearSealed(_ bytes: Span<UInt8>, _ index: Int, _ slot: Int) {
    let held = rings[index]
    guard let line = held.secures[Int32(slot)] else { return }
    if line.isEstablished { return hearOpened(bytes, line, index, slot) }
    let persona = population.shared[Int(held.bots[slot].client.persona)]
    let found = line.advance(bytes)
    if case .failed = found {
      flush(index, slot)
      held.bots[slot].actor.notSecured()
      return finish(index, slot)
    }
    if persona.value.aim == .tls {
      // It wanted the server's part of it, and no more.
      return take(held.bots[slot].actor.secured(persona, now: now), index, slot, persona)
    }
    flush(index, slot)
    if line.isEstablished {
      let generation = held.bots[slot].generation
      take(held.bots[slot].actor.secured(persona, now: now), index, slot, persona)
      guard held.bots[slot].generation == generation, held.bots[slot].state == .open else { return }
      // Tickets may have come with the end of the handshake.
      hearOpened(Span(), line, index, slot)
    }
  }

  private mutating func hearOpened(
    _ bytes: Span<UInt8>, _ line: TLSLine, _ index: Int, _ slot: Int
  ) {
    let held = rings[index]
    var text: [UInt8] = []
    let found = line.open(bytes, into: &text)
    flush(index, slot)
    let generation = held.bots[slot].generation
    if !text.isEmpty { hearText(text.span, index, slot) }
    guard held.bots[slot].generation == generation, held.bots[slot].state == .open else { return }
    switch found {
    case .closed: end(index, slot, isBroken: false)
    case .failed: end(index, slot, isBroken: true)
    case .open: break
    }
  }

  /// What TLS has to say by itself goes on its way.
  private mutating func flush(_ index: Int, _ slot: Int) {
    let held = rings[index]
    guard let line = secureLine(held, slot), line.hasOutput else { return }
    if held.bots[slot].line.latency > 0 {
      delay(.sealed, index, slot)
    } else {
      pushOut(held, slot)
    }
  }

  private func pushOut(_ held: FloodRing, _ slot: Int) {
    // Whoever ends the send that is under way takes it along.
    guard held.bots[slot].sending < 0, let line = secureLine(held, slot) else { return }
    let octets = line.takeOutput()
    if !octets.isEmpty { send(octets, held, slot) }
  }

  /// The next piece of a secured client, sealed; false if there is none.
  private func prepare(
    _ held: FloodRing, _ place: Int, sealedBy line: TLSLine
  ) -> Bool {
    let octets: [UInt8]
    if held.outgoing[place].bodyLeft > 0 {
      let count = min(held.outgoing[place].bodyLeft, FloodThread.pieceBytes)
      held.outgoing[place].bodyLeft -= count
      octets = line.seal(UnsafeRawBufferPointer(start: piece, count: count))
    } else {
      octets = held.outgoing[place].following.withUnsafeBytes { line.seal($0) }
      held.outgoing[place].following = []
    }
    if octets.isEmpty { return false }
    replace(held, place, by: octets)
    return true
  }

  // MARK: - Going

  /// A connection is over for its client: closes it, once what is on its way has gone.
  private mutating func finish(_ index: Int, _ slot: Int) {
    let held = rings[index]
    let isLate = held.bots[slot].state == .open && held.bots[slot].line.latency > 0
    depart(index, slot)
    if isLate {
      held.bots[slot].state = .leaving
      held.bots[slot].dueAt = .max
      delay(.close, index, slot)
    } else {
      leave(index, slot)
    }
  }

  /// Counts a client as gone, and asks whether it comes again.
  private mutating func depart(_ index: Int, _ slot: Int) {
    let bot = rings[index].bots[slot]
    gone(bot)
    over(bot.client, bot.actor)
  }

  private mutating func gone(_ bot: FloodBot) {
    if bot.actor.greetedAt < 0 { tally.waiting -= 1 }
    tally.rows[Int(bot.client.entry)].there -= 1
  }

  private mutating func over(_ client: Client, _ actor: Actor) {
    var client = client
    let entry = Int(client.entry)
    tally.events += 1
    tally.rows[entry].delivered += Int(actor.delivered)
    switch actor.ending {
    case .impatient: tally.rows[entry].left += 1
    case .deferred, .rejected, .refusedAtConnect: tally.rows[entry].refused += 1
    case .cutOff, .broken: tally.rows[entry].cutOff += 1
    default: break
    }
    guard
      let again = population.ended(&client, actor, letThrough: actor.isLetThrough, now: now)
    else { return }
    if returns.count < FloodThread.awayMost {
      returns.push(client, at: again)
    } else {
      tally.missed += 1
    }
  }

  /// Takes a connection out of its table.
  private mutating func leave(_ index: Int, _ slot: Int) {
    let held = rings[index]
    let bot = held.bots[slot]
    // What is under way keeps the socket open, so it goes first. By its token: to look for all of a slot is to
    // look at every poll there is.
    if bot.state == .connecting {
      held.ring.cancel(token(held, slot, .connect), token: Token(.cancel))
    }
    if bot.isPolled { held.ring.cancel(token(held, slot, .poll), token: Token(.cancel)) }
    if bot.sending >= 0 {
      held.ring.cancel(Token(.send, index: UInt32(bot.sending)), token: Token(.cancel))
    }
    held.ring.closeDirect(slot: Int32(slot), token: Token(.close, index: UInt32(slot)))
    held.late[Int32(slot)] = nil
    if bot.isSecure { held.secures[Int32(slot)] = nil }
    held.bots[slot].generation = (bot.generation + 1) & Token.generationMask
    held.bots[slot].state = .free
    held.bots[slot].dueAt = .max
    there -= 1
  }

  /// The end of the run: who is still there is noted and closed, and every send is waited for.
  private mutating func close() throws(RingError) {
    for index in rings.indices {
      let held = rings[index]
      for slot in held.bots.indices where held.bots[slot].state != .free {
        let bot = held.bots[slot]
        if bot.state != .leaving {
          population.stillThere(
            bot.client, bot.actor, letThrough: bot.actor.isLetThrough, now: now)
          tally.rows[Int(bot.client.entry)].delivered += Int(bot.actor.delivered)
          gone(bot)
        }
        leave(index, slot)
      }
      let until = now + 2_000_000
      while held.isSending && now < until {
        try held.ring.submitAndWait(timeoutMicroseconds: 100_000)
        try collect(index, receives: 0)
      }
      try held.ring.submitAndWait(timeoutMicroseconds: 0)
      try RingTables.empty(&held.ring, held.bots.count)
    }
    rings.removeAll()
  }
}
