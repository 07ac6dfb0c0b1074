// SPDX-License-Identifier: Apache-2.0
package import DNSLists
package import Policy
import Reputation
import SMTP
package import Structures
import Suspicion

/// The shield without I/O: facts and time go in, orders come out.
///
/// It reads no clock, starts no thread and allocates nothing in the steady state; the same facts with
/// the same seed give the same orders. One engine belongs to one worker.
///
/// Here is one switch for each fact, and which part of the engine it concerns. Parts are types with state of their own:
/// `Clients` (connections, held or talking, and the sessions of those that talk), `Downstream` (the server and the links
/// to it), `Headers` (of load balancers), `Judge` (what a peer gets, and why), all on one `Core`. What happened comes up
/// as a value, and the engine acts on it in the files beside this one, which stand in floors: each calls only those below
/// it. Code that makes a session able to go on wakes it, and at the end of each fact one loop runs the woken ones.
package struct Engine: ~Copyable {
  package var core: Core
  var clients: Clients
  var downstream: Downstream
  var headers: Headers
  package var judge: Judge
  var woken: Woken
  /// Whether any listener stands behind a load balancer: fixed at the start, as the sockets are.
  let hasBalancers: Bool
  /// Which worker's engine this is, and how many there are.
  let worker: Int
  let workers: Int
  /// When the engine next checks whether room must be made.
  var nextRelief = Instant.origin
  let ports: Ports
  private let staysPut = StaysPut()

  /// - Parameters:
  ///   - limits: this worker's share.
  ///   - seed: of the hash keys and the session ids.
  ///   - secret: under which names are remembered. All workers must have it in common; without it, one of the seed.
  ///   - epoch: what a clock on the wall says at instant 0, in microseconds since 1970.
  ///   - servers: the downstreams; only one so far.
  ///   - worker: which of the workers this is; a client that a load balancer names may be another's.
  package init(
    policy: Policy, limits: Limits, seed: UInt64, secret: (UInt64, UInt64)? = nil,
    epoch: Int64 = 0, servers: [Server] = [Server()], worker: Int = 0, workers: Int = 1
  ) {
    var random = SeededGenerator(seed: seed)
    let hash = SipHash(k0: random.next(), k1: random.next())
    let salt = random.next() << 48
    // Another stream than a worker's own keys come from.
    var common = SeededGenerator(seed: seed ^ 0x6C6F_6769_6E73)
    let ownSecret = (common.next(), common.next())
    hasBalancers = policy.listeners.contains { $0.balancers != nil }
    self.worker = worker
    self.workers = workers
    ports = Ports(clients: limits.connections, links: limits.downstreamConnections)
    let pending = hasBalancers ? limits.proxyHeaders : 0
    headers = Headers(capacity: pending, hash: hash)
    core = Core(policy, limits, headers: pending)
    clients = Clients(limits, salt: salt)
    if policy.lists != nil { clients.matches.prepare(connections: limits.connections) }
    downstream = Downstream(servers, limits, worker: worker)
    woken = Woken(capacity: limits.sessions)
    let bucketHash = SipHash(k0: random.next(), k1: random.next())
    let memory = Memory(
      capacity: limits.sources, hash: SipHash(k0: random.next(), k1: random.next()),
      secret: secret ?? ownSecret, epoch: epoch)
    judge = Judge(limits, memory: memory, hash: hash, bucketHash: bucketHash)
  }

  // MARK: Ports

  package var slotCount: Int { ports.count }

  /// The generation of a slot's present tenant: a completion with another one is stale.
  package func generation(of slot: Int) -> UInt32 {
    // Asked for each completion: without a switch.
    ports.isClient(slot)
      ? clients.connections[ClientIndex(slot)].generation
      : downstream.links[LinkIndex(slot - ports.clients)].generation
  }

  /// What is at the other end of a slot; nil if its tenant is another one by now.
  private func port(_ slot: Slot) -> Port? {
    let index = Int(slot.index)
    guard index < ports.count, generation(of: index) == slot.generation else { return nil }
    return ports[index]
  }

  // MARK: Facts

  /// Bytes arrived that `listen` asked for. All of them are taken.
  package mutating func received(
    _ slot: Slot, _ bytes: Span<UInt8>, now: Instant, into m: inout Moment
  ) {
    guard case .client(let i) = port(slot) else { return }
    m.now = now
    core.counters.bytesIn += UInt64(bytes.count)
    switch clients.connections[i].state {
    case .waiting: pregreeted(i, bytes, &m)
    case .idle: firstWords(i, bytes, &m)
    case .pit: heardInPit(i, bytes, &m)
    case .draining: m.append(.listen(slot))
    case .banner: spokeIntoBanner(i, bytes, now: m.now)
    case .free, .announced, .talking, .dripping, .refusing, .closing, .securing: break
    }
    runWoken(&m)
  }

  /// Bytes arrived in the region that `fill` named: `count` of them, at its beginning.
  package mutating func filled(_ slot: Slot, _ count: Int, now: Instant, into m: inout Moment) {
    m.now = now
    switch port(slot) {
    case .client(let i):
      core.counters.bytesIn += UInt64(count)
      switch clients.connections[i].state {
      case .talking: sessionHeard(i, count, &m)
      case .announced: heardHeader(i, count, &m)
      case .draining: m.append(.listen(slot))
      // It spoke out of turn on its way into the tarpit, and what it said cannot be paired any more.
      case .dripping, .pit: close(i, &m)
      case .free, .waiting, .banner, .idle, .refusing, .closing, .securing: break
      }
    case .link(let l):
      if let event = downstream.heard(l, count, &core, &m) {
        apply(event, l, &m)
      } else {
        readReplies(l, &m)
      }
    case nil: break
    }
    runWoken(&m)
  }

  /// Part of a region that `send` named went out: the first `count` bytes.
  package mutating func sent(_ slot: Slot, _ count: Int, now: Instant, into m: inout Moment) {
    m.now = now
    switch port(slot) {
    case .client(let i):
      core.counters.bytesOut += UInt64(count)
      switch clients.connections[i].state {
      case .banner: textSent(i, count, .banner, &m)
      case .refusing: textSent(i, count, clients.connections[i].text, &m)
      case .talking: sessionSent(i, count, &m)
      case .free, .announced, .waiting, .idle, .dripping, .pit, .draining, .closing, .securing:
        break
      }
    case .link(let l): apply(downstream.sent(l, count, &core, &m), l, &m)
    case nil: break
    }
    runWoken(&m)
  }

  /// The peer has closed its sending side: there is nothing more to read.
  package mutating func ended(_ slot: Slot, now: Instant, into m: inout Moment) {
    m.now = now
    switch port(slot) {
    case .client(let i): clientEnded(i, &m)
    case .link(let l): apply(downstream.fail(l, .closed, &core, &m), l, &m)
    case nil: break
    }
    runWoken(&m)
  }

  /// The connection is broken, or could not be made.
  package mutating func failed(_ slot: Slot, now: Instant, into m: inout Moment) {
    m.now = now
    switch port(slot) {
    case .client(let i): hungUp(i, &m)
    case .link(let l):
      let why: Subject = downstream.links[l].state == .connecting ? .connect : .closed
      apply(downstream.fail(l, why, &core, &m), l, &m)
    case nil: break
    }
    runWoken(&m)
  }

  /// The connection that `connect` asked for stands.
  package mutating func connected(_ slot: Slot, now: Instant, into m: inout Moment) {
    guard case .link(let l) = port(slot) else { return }
    m.now = now
    let s = downstream.links[l].session
    let facts = s.exists ? clients.secured[clients.sessions[s].owner] : nil
    downstream.connected(l, facts, &core, &m)
  }

  /// The DNS lists have answered `lookUp`.
  ///
  /// - Parameter matched: the items of the policy's sites that the client is on.
  package mutating func lookedUp(
    _ slot: Slot, _ matched: ItemSet, now: Instant, into m: inout Moment
  ) {
    guard case .client(let i) = port(slot) else { return }
    m.now = now
    listsAnswered(i, matched, &m)
    runWoken(&m)
  }

  /// The handshake that `secure` asked for has succeeded.
  package mutating func secured(
    _ slot: Slot, _ facts: TLSFacts, now: Instant, into m: inout Moment
  ) {
    m.now = now
    switch port(slot) {
    case .client(let i): clientSecured(i, facts, &m)
    case .link(let l): downstream.secured(l, &core, &m)
    case nil: break
    }
    runWoken(&m)
  }

  /// The handshake that `secure` asked for has failed, or the peer left during it.
  package mutating func notSecured(
    _ slot: Slot, _ why: Subject, now: Instant, into m: inout Moment
  ) {
    m.now = now
    switch port(slot) {
    case .client(let i): clientNotSecured(i, why, &m)
    case .link(let l): apply(downstream.notSecured(l, why, &core, &m), l, &m)
    case nil: break
    }
    runWoken(&m)
  }

  /// Nothing of the slot is in flight any more and its descriptor is closed: the place is free.
  package mutating func closed(_ slot: Slot, now: Instant, into m: inout Moment) {
    m.now = now
    switch port(slot) {
    case .client(let i):
      core.timers.cancel(i)
      // A session that could not be given back while the kernel might still touch its memory.
      unpin(clients.connections[i].session)
      judge.giveBackTLSPlace(i, &clients)
      // A connection that never said for whom it is was nobody's yet.
      if !clients.connections[i].flags.contains(.announced) {
        judge.gaveBack(.slots, clients.connections[i])
      }
      releaseHeader(i)
      clients.clear(i)
      core.places.clients.release(i)
    case .link(let l):
      let (holder, s) = downstream.closed(l, &core)
      if let holder { judge.shares.giveBack(.links, holder) }
      if s.exists { unpinned(s, &m) }
    case nil: break
    }
    runWoken(&m)
  }

  /// Time has come to `now`. Carries out what is due.
  ///
  /// - Returns: whether it stopped early because the queue was nearly full; empty it and call again.
  package mutating func timeReached(_ now: Instant, into m: inout Moment) -> Bool {
    m.now = now
    if now >= downstream.nextProbe { downstream.probe(&core, &m) }
    if now >= nextRelief { relieve(now: now) }
    defer { core.timers.settle() }
    if m.isNearlyFull { return true }
    if core.timers.peekExpired(now: now) == nil { return false }
    let tick = core.timers.tickAtOrBefore(now)
    let most = core.isDraining ? 0 : UInt32(clamping: core.tarpitTime / 10_000)
    while !m.isNearlyFull {
      guard let first = core.timers.peekExpired(now: now) else { return false }
      if clients.drip(from: first, tick: tick, most: most, &core, &m) { continue }
      guard let due = core.timers.popExpired(now: now) else { return false }
      switch ports[due] {
      case .client(let i): clientTimer(i, &m)
      case .link(let l): apply(downstream.timer(l, &core, &m), l, &m)
      }
      runWoken(&m)
    }
    return true
  }

  /// When `timeReached` is wanted next.
  package func nextDeadline(now: Instant) -> Instant {
    let probe = downstream.nextProbe
    guard let timer = core.timers.nextDeadline(now: now) else { return probe }
    return min(timer, probe)
  }
}
