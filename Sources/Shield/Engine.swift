// SPDX-License-Identifier: Apache-2.0
import Flow
import Reputation
import SMTP
package import Policy
package import Structures
import Suspicion

/// The shield without I/O: facts and time go in, orders come out.
///
/// It reads no clock, starts no thread and allocates nothing in the steady state; the same facts with
/// the same seed give the same orders. One engine belongs to one worker. The parts of its behaviour
/// are in files of their own: Admission (who comes in), Tarpit (T3), Dialogue (the client's commands),
/// Transaction (mail), Relay (the downstream), Judgement (signals, tiers, delays).
package struct Engine: ~Copyable {
  package var policy: Policy
  package let limits: Limits
  package var counters = Counters()
  package var journal: Journal
  /// The block in which every region of an order lies.
  package var arena: Arena
  private let layout: Layout
  /// Whether any listener stands behind a load balancer: fixed at the start, as the sockets are.
  let hasBalancers: Bool
  var headers: Slab<PendingHeader>
  var headerIndexes: IndexAllocator
  var headerCounts: OpenCounts
  /// Which worker's engine this is, and how many there are.
  let worker: Int
  let workers: Int
  /// What a clock on the wall said at instant 0, in microseconds since 1970: for trace headers alone.
  package var wallClock: Int64 = 0
  var connections: Slab<Connection>
  var clientIndexes: IndexAllocator
  var sessions: Slab<Session>
  var sessionIndexes: IndexAllocator
  var links: Slab<Link>
  var linkIndexes: IndexAllocator
  var wheel: TimingWheel
  var buckets: BucketTable
  var open: OpenCounts
  /// What is known of sources; what it has learnt is to be taken from there once a turn.
  package var memory: Memory
  var secured: SecuredTable
  var shares: Shares
  var downstream: Downstream
  let hash: SipHash
  /// Upper bits of every session id, so that ids of two workers or two runs differ.
  let salt: UInt64
  /// Which of the sets of ready texts is in use; the others may still be going out.
  var textSet = 0
  var lines = InlineArray<16, PitLine>(repeating: PitLine())
  /// When it is looked at again whether room must be made.
  var nextRelief = Instant.origin
  private let staysPut = StaysPut()
  /// Set once: no new clients, idle ones are told to go.
  package private(set) var isDraining = false

  /// - Parameters:
  ///   - limits: this worker's share.
  ///   - seed: of the hash keys and the session ids.
  ///   - secret: under which names are remembered. All workers must have it in common; without it, one of the seed.
  ///   - epoch: what a clock on the wall says at instant 0, in microseconds since 1970.
  ///   - servers: the downstreams; one, as yet.
  ///   - worker: which of the workers this is; a client that a load balancer names may be another's.
  package init(
    policy: Policy, limits: Limits, seed: UInt64, secret: (UInt64, UInt64)? = nil,
    epoch: Int64 = 0,
    servers: [Server] = [Server()], worker: Int = 0, workers: Int = 1
  ) {
    var random = SeededGenerator(seed: seed)
    hash = SipHash(k0: random.next(), k1: random.next())
    salt = random.next() << 48
    // Another stream than a worker's own keys come from.
    var common = SeededGenerator(seed: seed ^ 0x6C6F_6769_6E73)
    let ownSecret = (common.next(), common.next())
    self.policy = policy
    self.limits = limits
    journal = Journal(capacity: limits.journal)
    hasBalancers = policy.listeners.contains { $0.balancers != nil }
    self.worker = worker
    self.workers = workers
    let pending = hasBalancers ? limits.proxyHeaders : 0
    headers = Slab(capacity: pending, repeating: PendingHeader())
    headerIndexes = IndexAllocator(capacity: pending)
    headerCounts = OpenCounts(capacity: pending)
    layout = Layout(limits, headers: pending)
    arena = Arena(count: layout.total)
    connections = Slab(capacity: limits.connections, repeating: Connection())
    clientIndexes = IndexAllocator(capacity: limits.connections)
    sessions = Slab(capacity: limits.sessions, repeating: Session())
    sessionIndexes = IndexAllocator(capacity: limits.sessions)
    links = Slab(capacity: limits.downstreamConnections, repeating: Link())
    linkIndexes = IndexAllocator(capacity: limits.downstreamConnections)
    wheel = TimingWheel(capacity: limits.connections + limits.downstreamConnections)
    buckets = BucketTable(
      capacity: limits.buckets, hash: SipHash(k0: random.next(), k1: random.next()))
    // A connection counts under its rule and, in the tarpit, under its source: as many keys as
    // connections are enough, unless most are alone in both; then the last are not counted.
    open = OpenCounts(capacity: limits.connections)
    memory = Memory(
      capacity: limits.sources, hash: SipHash(k0: random.next(), k1: random.next()),
      secret: secret ?? ownSecret, epoch: epoch)
    secured = SecuredTable(capacity: limits.tlsSessions)
    shares = Shares(limits, hash: hash)
    invariant(servers.count == 1, "one downstream, and \(servers.count) were given")
    downstream = Downstream(servers[0])
    prepareTexts()
  }

  // MARK: Places

  /// Slots 0 ..< connections are clients, those above are downstream connections.
  package var slotCount: Int { limits.connections + limits.downstreamConnections }

  package func isClient(_ index: Int) -> Bool { index < limits.connections }

  func slot(client i: Int) -> Slot {
    Slot(index: UInt32(i), generation: connections[i].generation)
  }

  func slot(link i: Int) -> Slot {
    Slot(index: UInt32(limits.connections + i), generation: links[i].generation)
  }

  /// The generation of a slot's present tenant: a completion with another one is stale.
  package func generation(of index: Int) -> UInt32 {
    isClient(index) ? connections[index].generation : links[index - limits.connections].generation
  }

  func isCurrent(_ slot: Slot) -> Bool {
    Int(slot.index) < slotCount && generation(of: Int(slot.index)) == slot.generation
  }

  // MARK: Facts

  /// Bytes arrived that `listen` asked for. All of them are taken.
  package mutating func received(
    _ slot: Slot, _ bytes: Span<UInt8>, now: Instant, into effects: inout EffectQueue
  ) {
    guard isCurrent(slot), isClient(Int(slot.index)) else { return }
    let i = Int(slot.index)
    counters.bytesIn += UInt64(bytes.count)
    switch connections[i].state {
    case .waiting: pregreeted(i, bytes, now: now, into: &effects)
    case .idle: firstWords(i, bytes, now: now, into: &effects)
    case .pit: heardInPit(i, bytes, now: now, into: &effects)
    case .draining: effects.append(.listen(slot))
    case .banner: spokeIntoBanner(i, bytes, now: now)
    case .free, .announced, .talking, .dripping, .refusing, .closing, .securing: break
    }
  }

  /// Bytes arrived in the region that `fill` named: `count` of them, at its beginning.
  package mutating func filled(
    _ slot: Slot, _ count: Int, now: Instant, into effects: inout EffectQueue
  ) {
    guard isCurrent(slot) else { return }
    let index = Int(slot.index)
    if isClient(index) {
      counters.bytesIn += UInt64(count)
      switch connections[index].state {
      case .talking: heard(index, count, now: now, into: &effects)
      case .announced: heardHeader(index, count, now: now, into: &effects)
      case .draining: effects.append(.listen(slot))
      // It spoke out of turn on its way into the tarpit, and what it said cannot be paired any more.
      case .dripping, .pit: close(index, now: now, into: &effects)
      case .free, .waiting, .banner, .idle, .refusing, .closing, .securing: break
      }
    } else {
      linkHeard(index - limits.connections, count, now: now, into: &effects)
    }
  }

  /// Part of a region that `send` named went out: the first `count` bytes.
  package mutating func sent(
    _ slot: Slot, _ count: Int, now: Instant, into effects: inout EffectQueue
  ) {
    guard isCurrent(slot) else { return }
    let index = Int(slot.index)
    if isClient(index) {
      counters.bytesOut += UInt64(count)
      clientSent(index, count, now: now, into: &effects)
    } else {
      linkSent(index - limits.connections, count, now: now, into: &effects)
    }
  }

  /// The peer has closed its sending side: there is nothing more to read.
  package mutating func ended(_ slot: Slot, now: Instant, into effects: inout EffectQueue) {
    guard isCurrent(slot) else { return }
    let index = Int(slot.index)
    if isClient(index) {
      clientEnded(index, now: now, into: &effects)
    } else {
      linkFailed(index - limits.connections, .closed, now: now, into: &effects)
    }
  }

  /// The connection is broken, or could not be made.
  package mutating func failed(_ slot: Slot, now: Instant, into effects: inout EffectQueue) {
    guard isCurrent(slot) else { return }
    let index = Int(slot.index)
    if isClient(index) {
      hungUp(index, now: now, into: &effects)
    } else {
      let l = index - limits.connections
      linkFailed(l, links[l].state == .connecting ? .connect : .closed, now: now, into: &effects)
    }
  }

  /// The connection that `connect` asked for stands.
  package mutating func connected(_ slot: Slot, now: Instant, into effects: inout EffectQueue) {
    guard isCurrent(slot), !isClient(Int(slot.index)) else { return }
    linkConnected(Int(slot.index) - limits.connections, now: now, into: &effects)
  }

  /// Nothing of the slot is in flight any more and its descriptor is closed: the place is free.
  package mutating func closed(_ slot: Slot, now: Instant, into effects: inout EffectQueue) {
    guard isCurrent(slot) else { return }
    let index = Int(slot.index)
    wheel.cancel(index)
    if isClient(index) {
      // A session that could not be given back while the kernel might still touch its memory.
      unpin(Int(connections[index].session))
      giveBackTLSPlace(index)
      // Who never said for whom it is was nobody's yet.
      if !connections[index].flags.contains(.announced) { gaveBack(.slots, index) }
      releaseHeader(index)
      let generation = (connections[index].generation + 1) & 0xFF_FFFF
      connections[index] = Connection()
      connections[index].generation = generation
      clientIndexes.release(index)
    } else {
      let l = index - limits.connections
      let generation = (links[l].generation + 1) & 0xFF_FFFF
      let s = Int(links[l].pinned)
      if links[l].isProbe { downstream.isProbing = false }
      if let holder = links[l].holder { shares.giveBack(.links, holder) }
      links[l] = Link()
      links[l].generation = generation
      linkIndexes.release(l)
      if s >= 0 {
        sessions[s].flags.remove(.relaying)
        if sessions[s].owner >= 0 {
          goOnSwallowing(Int(sessions[s].owner), now: now, into: &effects)
        } else {
          unpin(s)
        }
      }
    }
  }

  /// Time has come to `now`. Carries out what is due.
  ///
  /// - Returns: whether it stopped early because the queue was nearly full; empty it and call again.
  package mutating func timeReached(_ now: Instant, into effects: inout EffectQueue) -> Bool {
    keepProbing(now: now, into: &effects)
    relieve(now: now)
    let tick = wheel.tickAtOrBefore(now)
    let most = isDraining ? 0 : UInt32(clamping: tarpitTime / 10_000)
    defer { wheel.settle() }
    while !effects.isNearlyFull {
      guard let first = wheel.peekExpired(now: now) else { return false }
      if drip(from: first, tick: tick, most: most, into: &effects) { continue }
      guard let index = wheel.popExpired(now: now) else { return false }
      if isClient(index) {
        clientTimer(index, now: now, into: &effects)
      } else {
        linkTimer(index - limits.connections, now: now, into: &effects)
      }
    }
    return true
  }

  /// When `timeReached` is wanted next.
  package func nextDeadline(now: Instant) -> Instant {
    let probe = downstream.nextProbe
    guard let timer = wheel.nextDeadline(now: now) else { return probe }
    return min(timer, probe)
  }

  // MARK: Orders from the operator

  /// Puts a new policy in force. Open connections are judged by it from their next step on.
  ///
  /// What a connection counts under comes from its rule, so the concurrency counts are made anew: some
  /// 0.2 µs a connection.
  package mutating func adopt(_ policy: Policy) {
    let renamed =
      policy.hostname != self.policy.hostname || policy.offersTLS != self.policy.offersTLS
    open.removeAll()
    // What would have been spent has not been.
    let beginsToAct = policy.mode == .enforce && self.policy.mode == .observe
    self.policy = policy
    for i in 0..<connections.capacity where connections[i].state != .free {
      if beginsToAct && !connections[i].flags.contains(.countedBad) { connections[i].delayed = 0 }
      if connections[i].flags.contains(.counted) {
        connections[i].flags.remove(.counted)
        if let key = concurrencyKey(i), open.increment(key) != nil {
          connections[i].flags.insert(.counted)
        }
      }
      if connections[i].flags.contains(.countedBad) {
        if open.increment(badKey(connections[i].address)) == nil {
          connections[i].flags.remove(.countedBad)
        }
      }
    }
    let before = lines
    if renamed { textSet = (textSet + 1) % Layout.textSets }
    prepareTexts()
    if renamed { changeTexts(from: before) }
  }

  /// Begins to stop: nobody new, idle clients get 421, transactions may end.
  package mutating func drain(now: Instant, into effects: inout EffectQueue) {
    isDraining = true
    // One by one through the wheel, so that no single fact causes more orders than the queue takes.
    for i in 0..<connections.capacity {
      switch connections[i].state {
      case .announced, .waiting, .idle, .dripping, .pit: wheel.set(i, at: now)
      case .talking where isBetweenMessages(i): wheel.set(i, at: now)
      case .free, .banner, .talking, .refusing, .draining, .closing, .securing: break
      }
    }
  }

  /// How many client connections there are.
  package var heldCount: Int { limits.connections - clientIndexes.free }
  package var linkCount: Int { limits.downstreamConnections - linkIndexes.free }
  /// The client at whose service downstream connection `l` is, if there is one.
  package func client(ofLink l: Int) -> Int? {
    let s = Int(links[l].session)
    return s >= 0 && sessions[s].owner >= 0 ? Int(sessions[s].owner) : nil
  }
  /// The number of the listener that a client came to.
  package func listener(of slot: Slot) -> Int {
    isClient(Int(slot.index)) ? Int(connections[Int(slot.index)].listener) : 0
  }
  /// How many sessions are leased.
  package var leasedSessions: Int { limits.sessions - sessionIndexes.free }

  /// Brings the gauges up to date. Walks every connection: for a snapshot once a second, not per event.
  package mutating func measure() {
    var (waiting, dripping, talking) = (UInt64(0), UInt64(0), UInt64(0))
    for i in 0..<connections.capacity {
      switch connections[i].state {
      case .announced, .waiting: waiting += 1
      case .dripping, .pit: dripping += 1
      case .talking, .banner, .idle, .securing: talking += 1
      case .free, .refusing, .draining, .closing: break
      }
    }
    counters.held = UInt64(heldCount)
    counters.waiting = waiting
    counters.dripping = dripping
    counters.talking = talking
    counters.links = UInt64(linkCount)
    counters.tlsSessions = UInt64(secured.count)
  }
}

/// What one of each thing the engine keeps takes, in bytes, for the statement at start.
package enum Footprint {
  /// A held connection: its record, its timer, its part of the concurrency counts and of the shares.
  package static var connection: Int {
    MemoryLayout<Connection>.stride + 8 + 7 + Shares.bytesOfSlot
  }
  /// A session without its input buffer.
  package static var session: Int {
    MemoryLayout<Session>.stride + Layout.sessionBytes + Shares.bytesEach
  }
  package static var link: Int {
    MemoryLayout<Link>.stride + 8 + Layout.linkStride + Shares.bytesEach
  }
  /// A place for TLS: what is known of it, and its part of the shares.
  package static var tlsPlace: Int { SecuredTable.bytesEach + 2 * Shares.bytesEach }
  /// A connection whose PROXY header is still to come.
  package static var header: Int { MemoryLayout<PendingHeader>.stride + Layout.headerBytes + 7 }
  /// A journal entry, in the engine's journal and in the queue to the log.
  package static var journalEntry: Int { 2 * MemoryLayout<JournalEntry>.stride }
}

/// Where in the arena whose bytes are.
struct Layout {
  static let textSets = 4
  static let textBytes = 512
  static let heloBytes = 256
  static let pathBytes = 128
  /// MAIL as the downstream was told it (RFC 5321, 4.5.3.1.4: 512 octets), to say it again.
  static let mailBytes = 512
  /// A whole re-made reply of the downstream fits, and what may stand before it.
  static let outboxBytes = 8_192
  /// Kept free behind a reply of the downstream: for two short replies of our own.
  static let outboxReserve = 512
  static let replyBytes = 6_144
  /// The most of a challenge that is handed on at once.
  static let challengeBytes = 4_096
  /// Of a session, without its input.
  static let sessionBytes = heloBytes + 2 * pathBytes + mailBytes + outboxBytes
  static let linkInBytes = 4_096
  static let linkOutBytes = 4_096
  /// The paths of recipients that are with the downstream: the length and the beginning of each.
  static let linkPathBytes = 16 * pathBytes
  /// Of a PROXY header what must be kept, 107 octets of version 1 or 52 of version 2, and room for what is
  /// read only to be passed over.
  static let headerBytes = 256
  static let headerKept = 112
  static let linkStride = linkInBytes + replyBytes + linkOutBytes + linkPathBytes

  let inputBytes: Int
  let sessionStride: Int
  let firstSession: Int
  let firstLink: Int
  let firstHeader: Int
  let total: Int

  init(_ limits: Limits, headers: Int = 0) {
    inputBytes = limits.inputBytes
    sessionStride = Self.sessionBytes + inputBytes
    firstSession = Self.textSets * PitText.allCases.count * Self.textBytes
    firstLink = firstSession + limits.sessions * sessionStride
    firstHeader = firstLink + limits.downstreamConnections * Self.linkStride
    total = firstHeader + headers * Self.headerBytes
  }
}

extension Engine {
  func heloRegion(_ s: Int) -> Region {
    Region(offset: layout.firstSession + s * layout.sessionStride, count: Layout.heloBytes)
  }
  func senderRegion(_ s: Int) -> Region {
    Region(offset: heloRegion(s).offset + Layout.heloBytes, count: Layout.pathBytes)
  }
  func recipientRegion(_ s: Int) -> Region {
    Region(offset: senderRegion(s).offset + Layout.pathBytes, count: Layout.pathBytes)
  }
  func mailRegion(_ s: Int) -> Region {
    Region(offset: recipientRegion(s).offset + Layout.pathBytes, count: Layout.mailBytes)
  }
  func outbox(_ s: Int) -> Region {
    Region(offset: mailRegion(s).offset + Layout.mailBytes, count: Layout.outboxBytes)
  }
  func input(_ s: Int) -> Region {
    Region(offset: outbox(s).offset + Layout.outboxBytes, count: limits.inputBytes)
  }
  func linkIn(_ l: Int) -> Region {
    Region(offset: layout.firstLink + l * Layout.linkStride, count: Layout.linkInBytes)
  }
  func linkReply(_ l: Int) -> Region {
    Region(offset: linkIn(l).offset + Layout.linkInBytes, count: Layout.replyBytes)
  }
  func linkOut(_ l: Int) -> Region {
    Region(offset: linkReply(l).offset + Layout.replyBytes, count: Layout.linkOutBytes)
  }
  /// Where the PROXY header with this number is read.
  func headerRegion(_ place: Int) -> Region {
    Region(offset: layout.firstHeader + place * Layout.headerBytes, count: Layout.headerBytes)
  }
  /// Where the path of the recipient with this number is kept while it is with the downstream.
  func linkPath(_ l: Int, _ number: UInt8) -> Region {
    Region(
      offset: linkOut(l).offset + Layout.linkOutBytes + Int(number & 15) * Layout.pathBytes,
      count: Layout.pathBytes)
  }

  /// Writes the ready texts of the set in use, and at what pace they are said. Called at start and with each
  /// policy.
  mutating func prepareTexts() {
    let host = policy.hostname
    let offersTLS = policy.offersTLS
    for text in PitText.allCases {
      let place = textSet * PitText.allCases.count + Int(text.rawValue)
      let region = Region(offset: place * Layout.textBytes, count: Layout.textBytes)
      let bytes = Array(text.words(host: host, offersTLS: offersTLS).utf8.prefix(Layout.textBytes))
      arena.write(bytes.span, at: region.offset)
      lines[Int(text.rawValue)] = PitLine(
        region.prefix(bytes.count), span: policy.delays[stage(of: text)].bad)
    }
  }

  func line(_ text: PitText) -> PitLine { lines[Int(text.rawValue)] }
  func text(_ text: PitText) -> Region { line(text).region }

  /// The id under which client, log and `explain` know a session: made, not stored.
  func sessionID(_ i: Int) -> UInt64 {
    salt | UInt64(connections[i].generation) << 24 | UInt64(i)
  }
}

extension PitText {
  /// The reply's code.
  package var code: UInt16 {
    switch self {
    case .banner, .starttls: 220
    case .helo, .ehlo, .mail, .done: 250
    case .recipient: 450
    case .unknown: 500
    case .data, .rejected: 554
    case .quit: 221
    case .tooMany, .timeout, .shed, .busy, .crowded: 421
    }
  }

  /// What it says, line ends included.
  package func words(host: String, offersTLS: Bool) -> String {
    switch self {
    case .banner: "220 \(host) ESMTP ready\r\n"
    case .helo: "250 \(host)\r\n"
    case .ehlo:
      "250-\(host)\r\n" + (offersTLS ? "250-STARTTLS\r\n" : "") + "250 ENHANCEDSTATUSCODES\r\n"
    case .mail: "250 2.1.0 Sender noted\r\n"
    case .recipient: "450 4.7.1 Client host rejected: too many signs of abuse, try again later\r\n"
    case .data: "554 5.5.1 No valid recipients\r\n"
    case .done: "250 2.0.0 Done\r\n"
    case .unknown: "500 5.5.1 Command not recognized\r\n"
    case .starttls: "220 2.0.0 Ready to start TLS\r\n"
    case .quit: "221 2.0.0 \(host) closing connection\r\n"
    case .tooMany: "421 4.7.0 \(host) Too many commands, closing connection\r\n"
    case .timeout: "421 4.4.2 \(host) Timeout, closing connection\r\n"
    case .shed: "421 4.3.2 \(host) Service currently unavailable, try again later\r\n"
    case .rejected: "554 5.7.1 \(host) Service unavailable; Client host rejected: access denied\r\n"
    case .busy: "421 4.3.2 \(host) Service unavailable: too busy, try again later\r\n"
    case .crowded:
      "421 4.7.0 \(host) Client host rejected: too many connections, try again later\r\n"
    }
  }
}
