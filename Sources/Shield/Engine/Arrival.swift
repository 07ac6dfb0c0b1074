// SPDX-License-Identifier: Apache-2.0
import Policy
import Flow
import SMTP
package import Structures
import Suspicion

// How a client connects, and how long it waits for its banner.
extension Engine {
  /// A connection was accepted.
  package mutating func accepted(
    _ peer: Peer, now: Instant, into m: inout Moment
  ) -> Admission {
    m.now = now
    if hasBalancers, peer.via == nil,
      let balancers = core.policy.balancers(ofListener: Int(peer.listener))
    {
      return acceptedBehind(balancers, peer, &m)
    }
    core.counters.accepted += 1
    let standing = judge.standing(of: peer, core, now: now)
    let isKnown = standing.tier == .known
    guard
      core.isDraining
        || judge.mayEnter(
          peer, isKnown: isKnown, isTrusted: standing.isTrusted, clients, &core, now: now)
    else {
      core.counters.shed += 1
      return core.turnAway(.crowded, peer)
    }
    // Room. Slots kept for known senders are theirs alone; the rest is refused by name.
    guard !core.isDraining, core.places.clients.free > (isKnown ? 0 : core.reservedSlots),
      let i = core.places.clients.take()
    else {
      core.counters.shed += 1
      return core.isDraining ? .dropped : core.turnAway(.busy, peer)
    }
    clients.install(peer, in: i, now: now)
    clients.connections[i].flags = standing.flags
    judge.took(.slots, clients.connections[i])
    begin(i, standing, standing.tier, peer, &m)
    return .held(clients.slot(i))
  }

  /// What becomes of a peer that has a slot: refused, held in the tarpit, or greeted after its delay.
  private mutating func begin(
    _ i: ClientIndex, _ standing: Standing, _ tier: Tier, _ peer: Peer, _ m: inout Moment
  ) {
    clients.connections[i].signals = standing.signals
    clients.connections[i].tier = tier
    var connect = clients.entry(.connect, i, core, now: m.now)
    if let balancer = peer.via { connect.via = balancer }
    core.journal.append(connect)

    if standing.isRefused {
      core.journal.append(clients.entry(.denylisted, i, core, now: m.now))
      if core.policy.mode == .enforce {
        turnAway(i, .rejected, &m)
        return
      }
      clients.connections[i].wouldTurnAway()
    }
    if standing.isTrusted {
      core.journal.append(clients.entry(.allowlisted, i, core, now: m.now))
    }

    var least: Int64 = 0
    // A client that would only have been refused has not used up anything.
    switch standing.isRefused
      ? .within : judge.connectionExcess(i, &clients, &core, now: m.now)
    {
    case .within: break
    case .slow(let wait): least = wait
    case .tempfail:
      turnAway(i, .crowded, &m)
      return
    case .refuse:
      turnAway(i, .rejected, &m)
      return
    case .drop:
      core.counters.refused += 1
      close(i, as: .dropped, &m)
      return
    }
    if core.policy.mode == .observe && tier == .bad {
      judge.wouldTarpit(i, clients, &core, now: m.now)
    }
    if core.policy.lists != nil && !standing.isTrusted
      && core.policy.role(ofListener: Int(peer.listener)) == .inbound
    {
      core.counters.lookUps += 1
      m.append(.lookUp(clients.slot(i)))
    }
    if core.policy.tls(of: clients.connections[i]) == .implicit {
      // What the banner's delay is about can be seen only behind the handshake.
      secureFirst(i, &m)
    } else {
      welcome(i, least: least, &m)
    }
  }

  private mutating func secureFirst(_ i: ClientIndex, _ m: inout Moment) {
    clients.connections[i].state = .securing
    if judge.takeTLSPlace(i, &clients, &core, now: m.now) {
      beginHandshake(i, &m)
    } else {
      core.counters.shed += 1
      close(i, as: .shed, &m)
    }
  }

  /// Turns away a client that has just come, for what it is, and has the log say so in Postfix's words.
  mutating func turnAway(_ i: ClientIndex, _ text: PitText, _ m: inout Moment) {
    var reject = clients.entry(.reject, i, core, now: m.now)
    reject.said = text
    reject.reply = text.code
    core.journal.append(reject)
    refuse(i, text, &m)
  }

  // MARK: The banner

  /// Begins the dialogue with a client that may stay.
  ///
  /// - Parameter least: a wait a rate rule asks for, in microseconds.
  mutating func welcome(_ i: ClientIndex, least: Int64 = 0, _ m: inout Moment) {
    clients.connections[i].state = .waiting
    if core.policy.effectiveTier(clients.connections[i]) == .bad {
      enterTarpit(i, .banner, &m)
      return
    }
    let wait = judge.delay(.banner, i, least: least, &clients, &core, now: m.now)
    if wait == 0 {
      sendBanner(i, &m)
    } else {
      core.timers.set(i, at: m.now.after(microseconds: wait))
      m.append(.narrow(clients.slot(i)))
      m.append(.listen(clients.slot(i)))
    }
  }

  mutating func sendBanner(_ i: ClientIndex, _ m: inout Moment) {
    clients.connections[i].state = .banner
    clients.connections[i].position = 0
    core.timers.set(i, at: m.now.after(microseconds: core.policy.timeouts.send))
    m.append(.send(clients.slot(i), core.text(.banner)))
  }

  /// Part of a ready text went out.
  mutating func textSent(_ i: ClientIndex, _ count: Int, _ text: PitText, _ m: inout Moment) {
    clients.connections[i].position += UInt16(clamping: count)
    let region = core.text(text)
    let out = Int(clients.connections[i].position)
    if out < region.count {
      m.append(.send(clients.slot(i), region.from(out)))
    } else if clients.connections[i].state == .refusing {
      beginDraining(i, &m)
    } else {
      greeted(i, &m)
    }
  }

  /// The banner is out: the client's turn.
  private mutating func greeted(_ i: ClientIndex, _ m: inout Moment) {
    if clients.connections[i].session.exists {
      creditBanner(i)
      // It talked before its turn and was let off: what it said is dealt with now.
      beginTalking(i, &m)
      return
    }
    if core.isDraining {
      refuse(i, .shed, &m)
      return
    }
    clients.connections[i].state = .idle
    core.timers.set(i, at: m.now.after(microseconds: core.commandTimeout(i, clients)))
    m.append(.listen(clients.slot(i)))
  }

  /// The banner counts as said in the session that began before or behind it.
  private mutating func creditBanner(_ i: ClientIndex) {
    let s = clients.connections[i].session
    clients.sessions[s].sent(core.text(.banner).count)
    clients.sessions[s].replied(PitText.banner.code)
  }

  /// Bytes before the banner: a bot, or a policy that only looks.
  mutating func pregreeted(_ i: ClientIndex, _ bytes: Span<UInt8>, _ m: inout Moment) {
    var end = 0
    while end < bytes.count && bytes[end] != carriageReturn && bytes[end] != lineFeed { end += 1 }
    let verb = Command(line: bytes.extracting(0..<end)).verb
    var bad = judge.note(.pregreet, i, said: bytes, &clients, &core, now: m.now)
    let sign: Signal? =
      switch verb {
      case .tlsHello: .tlsHello
      case .http, .header: .nonSMTP
      case .binary, .socks: .binary
      default: nil
      }
    if let sign { bad = judge.note(sign, i, &clients, &core, now: m.now) || bad }
    if bad {
      // What it said is answered in the tarpit, behind the banner.
      var owed: UInt32 = 0
      _ = clients.owe(i, bytes, &owed)
      enterTarpit(i, .banner, owed: owed, &m)
      return
    }
    guard leaseOrRefuse(i, &m) else { return }
    keep(i, bytes)
    waitLonger(i, now: m.now)
    m.append(.watch(clients.slot(i)))
  }

  /// The longer wait that a client's new tier has earned counts from its arrival.
  private mutating func waitLonger(_ i: ClientIndex, now: Instant) {
    let passed = clients.age(i, now: now)
    clients.connections[i].delayed = 0
    let more = judge.delay(.banner, i, &clients, &core, now: now) - passed
    if let due = core.timers.deadline(of: i), more > 0 {
      core.timers.set(i, at: max(due, now.after(microseconds: more)))
    }
  }

  /// What is thought of a client has changed while it waits for its banner.
  mutating func waitAnew(_ i: ClientIndex, _ m: inout Moment) {
    if core.policy.effectiveTier(clients.connections[i]) == .known
      && !clients.connections[i].session.exists
    {
      core.timers.cancel(i)
      sendBanner(i, &m)
    } else {
      waitLonger(i, now: m.now)
    }
  }

  /// Words that crossed with the banner: before their time, and kept until the banner is out.
  mutating func spokeIntoBanner(_ i: ClientIndex, _ bytes: Span<UInt8>, now: Instant) {
    judge.note(.pregreet, i, said: bytes, &clients, &core, now: now)
    guard clients.connections[i].session.exists || lease(i, now: now) else { return }
    keep(i, bytes)
  }

  /// The first words after the banner: from here on it is a session.
  mutating func firstWords(_ i: ClientIndex, _ bytes: Span<UInt8>, _ m: inout Moment) {
    guard leaseOrRefuse(i, &m) else { return }
    creditBanner(i)
    keep(i, bytes)
    beginTalking(i, &m)
  }

  /// Puts what a client says before its turn, or first, into its session's input, if it fits.
  private mutating func keep(_ i: ClientIndex, _ bytes: Span<UInt8>) {
    let s = clients.connections[i].session
    let room = core.layout.input(s).from(Int(clients.sessions[s].inbox.end))
    guard bytes.count <= room.count else { return }
    core.arena.write(bytes, at: room.offset)
    clients.sessions[s].inbox.append(bytes.count)
    clients.sessions[s].heard(bytes.count)
  }

  /// Opens the window of a held socket now, so that it is open when a message comes: the client learns of it
  /// with the replies until then.
  private mutating func beginTalking(_ i: ClientIndex, _ m: inout Moment) {
    clients.connections[i].state = .talking
    m.append(.widen(clients.slot(i)))
    wake(i)
  }

  /// Gives a connection a session, or a reply that there is none.
  private mutating func leaseOrRefuse(_ i: ClientIndex, _ m: inout Moment) -> Bool {
    guard judge.mayTake(.sessions, i, clients, &core, now: m.now) else {
      refuse(i, .crowded, as: .shed, &m)
      return false
    }
    if lease(i, now: m.now) { return true }
    noteShed(i, for: .sessions, now: m.now)
    refuse(i, .busy, &m)
    return false
  }

  /// Gives a connection a session. Some are kept for known senders.
  ///
  /// - Returns: false when there is none left for it.
  private mutating func lease(_ i: ClientIndex, now: Instant) -> Bool {
    let reserved = Int(Double(core.limits.sessions) * core.policy.reservedForKnown)
    guard core.places.sessions.free > (clients.connections[i].tier == .known ? 0 : reserved),
      let s = core.places.sessions.take()
    else { return false }
    clients.lease(s, to: i, core, now: now)
    judge.took(.sessions, clients.connections[i])
    return true
  }

  // MARK: Behind a load balancer

  /// Somebody connected to a listener behind a load balancer. Refused with 421, because the mistake is ours or the
  /// balancer's and the sender's mail must not bounce for it.
  private mutating func acceptedBehind(
    _ balancers: PrefixTable, _ peer: Peer, _ m: inout Moment
  ) -> Admission {
    guard balancers.find(peer.address) != nil else {
      refuseHeader(.unlistedBalancer, peer, now: m.now)
      return core.turnAway(.shed, peer)
    }
    if core.isDraining { return .dropped }
    guard let place = headers.take(peer.address) else {
      refuseHeader(.headersWaiting, peer, now: m.now)
      return core.turnAway(.busy, peer)
    }
    guard let i = core.places.clients.take() else {
      headers.release(place)
      core.counters.shed += 1
      return core.turnAway(.busy, peer)
    }
    clients.install(peer, in: i, now: m.now)
    clients.connections[i].state = .announced
    clients.connections[i].headerPlace = place
    clients.connections[i].flags.insert(.announced)
    core.timers.set(i, at: m.now.after(microseconds: Headers.timeout))
    let room = core.layout.header(place).prefix(ProxyHeader.shortest)
    m.append(.fill(clients.slot(i), room))
    return .held(clients.slot(i))
  }

  /// Part of a header has come.
  mutating func heardHeader(_ i: ClientIndex, _ count: Int, _ m: inout Moment) {
    let place = clients.connections[i].headerPlace
    switch headers.heard(place, count, in: core.layout.header(place), core.arena) {
    case .wants(let region): m.append(.fill(clients.slot(i), region))
    case .refused(let why): noHeader(i, why, &m)
    case .complete(let source): announced(i, source, &m)
    }
  }

  /// A header is whole: the client is known, and only now is it judged.
  private mutating func announced(
    _ i: ClientIndex, _ source: ProxyHeader.Source, _ m: inout Moment
  ) {
    var peer = clients.peer(i)
    peer.via = peer.address
    if case .client(let address, let port) = source {
      peer.address = address
      peer.port = port
      let home = workers > 1 ? Steering.worker(for: address, of: UInt32(workers)) : worker
      if home != worker {
        clients.connections[i].address = address
        clients.connections[i].port = port
        clients.connections[i].state = .closing
        core.timers.cancel(i)
        m.append(.hand(clients.slot(i), worker: home))
        m.append(.close(clients.slot(i)))
        return
      }
    } else {
      // Its own health check: nobody spoke for anybody.
      peer.via = nil
      peer.isNobody = true
    }
    releaseHeader(i)
    core.timers.cancel(i)
    enter(peer, in: i, &m)
  }

  /// A client whom a load balancer has named goes on in the slot that its connection has.
  private mutating func enter(_ peer: Peer, in i: ClientIndex, _ m: inout Moment) {
    core.counters.accepted += 1
    let standing = judge.standing(of: peer, core, now: m.now)
    // A health check of a listed load balancer. Its mail is not accepted: see `forward`.
    let tier = peer.isNobody && !standing.isRefused ? .known : standing.tier
    clients.install(peer, in: i, now: m.now)
    clients.connections[i].flags = standing.flags
    let mayEnter =
      core.isDraining
      || judge.mayEnter(
        peer, isKnown: tier == .known, isTrusted: standing.isTrusted, clients, &core,
        now: m.now)
    // A client that is refused has its slot until it has been told.
    judge.took(.slots, clients.connections[i])
    if !mayEnter {
      refuse(i, .crowded, as: .shed, &m)
      return
    }
    let reserved = tier == .known ? 0 : core.reservedSlots
    guard !core.isDraining, core.places.clients.free >= reserved else {
      refuse(i, core.isDraining ? .shed : .busy, &m)
      return
    }
    begin(i, standing, tier, peer, &m)
  }

  /// What came is no header, or none came in time.
  mutating func noHeader(_ i: ClientIndex, _ why: Subject, _ m: inout Moment) {
    refuseHeader(why, clients.peer(i), now: m.now)
    // The line just written is its closing line.
    clients.connections[i].flags.insert(.logged)
    refuse(i, .shed, &m)
  }
}

extension Core {
  /// Slots that are kept for known senders.
  fileprivate var reservedSlots: Int {
    Int(Double(limits.connections) * policy.reservedForKnown)
  }

  /// A client of a TLS-only listener does not expect clear text.
  fileprivate func turnAway(_ text: PitText, _ peer: Peer) -> Admission {
    policy.tls(ofListener: Int(peer.listener)) == .implicit ? .dropped : .refused(self.text(text))
  }
}

extension Standing {
  fileprivate var flags: ConnectionFlags {
    var flags = ConnectionFlags()
    if isTrusted { flags.insert(.trusted) }
    if isKnown { flags.insert(.known) }
    return flags
  }
}
