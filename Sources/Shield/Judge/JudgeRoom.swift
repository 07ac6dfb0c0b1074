// SPDX-License-Identifier: Apache-2.0
import Policy
import Flow
import Reputation
import SMTP
import Structures
import Suspicion

// What protects the machine, in observe as in enforce: a source that holds too much gets no more. When a pool runs out,
// the clients that hold its places are hurried, those of the largest holders first.
extension Judge {
  /// A pool as it is for a source.
  private func room(
    _ pool: Pool, isKnown: Bool, _ clients: borrowing Clients, _ core: borrowing Core, now: Instant
  ) -> Shares.Room {
    Shares.Room(
      places: core.places(of: pool, clients).all, isKnown: isKnown,
      isCrowded: core.fullness(of: pool, clients) >= core.policy.shrinkAt
        || shares.wasCrowded(pool, now: now))
  }

  /// Whether a peer that has no slot yet may have one; says so in the log if not.
  mutating func mayEnter(
    _ peer: Peer, isKnown: Bool, isTrusted: Bool, _ clients: borrowing Clients,
    _ core: inout Core, now: Instant
  ) -> Bool {
    if isTrusted || peer.isNobody { return true }
    let room = room(.slots, isKnown: isKnown, clients, core, now: now)
    guard let scope = shares.excess(.slots, peer.address, room, core.policy) else { return true }
    var entry = JournalEntry(.share, at: now)
    entry.address = peer.address
    entry.port = peer.port
    entry.listener = peer.listener
    entry.subject = Pool.slots.subject(scope)
    entry.reply = PitText.crowded.code
    core.overShare(.slots, entry)
    return false
  }

  /// Whether a client may have one place more of a pool; says so in the log if not.
  mutating func mayTake(
    _ pool: Pool, _ i: ClientIndex, _ clients: borrowing Clients, _ core: inout Core, now: Instant
  ) -> Bool {
    guard clients.connections[i].isCounted else { return true }
    let room = room(pool, isKnown: clients.connections[i].tier == .known, clients, core, now: now)
    guard let scope = shares.excess(pool, clients.connections[i].address, room, core.policy) else {
      return true
    }
    var entry = clients.entry(.share, i, core, now: now)
    entry.subject = pool.subject(scope)
    entry.reply =
      switch pool {
      case .slots, .sessions: PitText.crowded.code
      case .links: OwnReply.tooManyLinks.code
      case .tlsPlaces, .handshakes: OwnReply.tlsUnavailable.code
      }
    core.overShare(pool, entry)
    return false
  }

  /// A client has a place more of a pool, or a place less.
  mutating func took(_ pool: Pool, _ connection: Connection) {
    if connection.isCounted { shares.take(pool, connection.address) }
  }
  mutating func gaveBack(_ pool: Pool, _ connection: Connection) {
    if connection.isCounted { shares.giveBack(pool, connection.address) }
  }

  /// Whether a pool runs out; it counts as crowded then for a while.
  mutating func noteStress(_ clients: borrowing Clients, _ core: borrowing Core, now: Instant)
    -> Bool
  {
    var isStressed = false
    for number in 0..<Pool.count {
      guard let pool = Pool(rawValue: UInt8(number)), core.isUnderStress(pool, clients) else {
        continue
      }
      shares.crowd(pool, now: now)
      isStressed = true
    }
    return isStressed
  }

  /// Whether a client has held a scarce place for too long without coming to anything. Counted from when it got its
  /// session, its downstream connection, or the reply to its last message, whichever was last: commands do not move it.
  func isOverdue(
    _ i: ClientIndex, _ clients: borrowing Clients, _ core: borrowing Core, now: Instant
  ) -> Bool {
    guard clients.connections[i].isCounted, core.isPressed(i, clients) else { return false }
    let session = clients.sessions[clients.connections[i].session]
    let pool: Pool = session.link.exists ? .links : .sessions
    let isKnown = clients.connections[i].tier == .known
    let isGreedy = shares.isGreedy(
      pool, clients.connections[i].address, room(pool, isKnown: isKnown, clients, core, now: now),
      core.policy)
    var allowed = core.policy.timeouts.messageUnderStress / (isGreedy ? 2 : 1)
    allowed += Int64(session.envelope.acceptedRecipients) * 1_000_000
    // Octets of a message that buy a second more.
    let octetsPerSecond: Int64 = 1_024
    switch session.phase {
    case .body, .swallow:
      allowed += Int64(clamping: session.passage.octets) / octetsPerSecond * 1_000_000
    case .spliced: allowed += Int64(clamping: session.bytesIn) / octetsPerSecond * 1_000_000
    default: break
    }
    return (now - session.progress).microseconds > allowed
  }

  // MARK: Places for TLS

  /// Whether a source may have a handshake now, or waits behind those that may: a handshake costs as much as some
  /// hundred commands.
  private mutating func hasCredit(
    _ connection: Connection, _ core: borrowing Core, now: Instant
  ) -> Bool {
    if connection.tier == .known { return true }
    if connection.tier == .bad { return false }
    let host = Source(host: connection.address)
    let key = BucketKey(host.address, length: Int(host.length), limit: LimitKind.handshakes)
    if case .allowed = buckets.take(key, 1, core.policy.handshakes, now: now) { return true }
    return false
  }

  /// Takes one of the places for TLS. They run out for the worst clients first: T3 may use half of them, and so may
  /// handshakes without credit, because one source could begin any number of these. Some are kept for known senders.
  /// Handshakes that are under way have places of their own, which are given back when they are done.
  ///
  /// - Returns: false if there is none for it.
  mutating func takeTLSPlace(
    _ i: ClientIndex, _ clients: inout Clients, _ core: inout Core, now: Instant
  ) -> Bool {
    let most: Double =
      switch clients.connections[i].tier {
      case .known: 1
      case .bad: 0.5
      case .clean, .suspicious: 1 - core.policy.reservedForKnown
      }
    guard mayTake(.tlsPlaces, i, clients, &core, now: now),
      mayTake(.handshakes, i, clients, &core, now: now)
    else { return false }
    let handshakes = core.limits.handshakes
    let hasRoom = clients.secured.hasRoom(most, handshakes: handshakes)
    let isInTurn = hasRoom && !hasCredit(clients.connections[i], core, now: now)
    let isFree =
      isInTurn ? clients.secured.hasRoom(min(most, 0.5), handshakes: handshakes) : hasRoom
    guard isFree, clients.secured.add(i, isInTurn: isInTurn) else {
      core.limitReached(i, .tlsSessions, clients, now: now)
      return false
    }
    clients.connections[i].flags.insert(.encrypted)
    took(.tlsPlaces, clients.connections[i])
    took(.handshakes, clients.connections[i])
    return true
  }

  /// A client's handshake is over.
  mutating func handshakeDone(_ i: ClientIndex, _ clients: borrowing Clients) {
    if clients.secured[i]?.isInHandshake == true { gaveBack(.handshakes, clients.connections[i]) }
  }

  /// Gives a client's place for TLS back, if it has one; nothing of it may be in flight.
  mutating func giveBackTLSPlace(_ i: ClientIndex, _ clients: inout Clients) {
    guard clients.connections[i].flags.contains(.encrypted) else { return }
    handshakeDone(i, clients)
    gaveBack(.tlsPlaces, clients.connections[i])
    clients.secured.remove(i)
  }
}

extension Connection {
  /// Whether a client's places are counted. The operator vouches for the others, or they are load balancers themselves.
  var isCounted: Bool { !flags.contains(.trusted) && !isNobody }
}

extension Core {
  /// How many places a pool has, and how many are free.
  fileprivate func places(of pool: Pool, _ clients: borrowing Clients) -> (all: Int, free: Int) {
    switch pool {
    case .slots: (limits.connections, places.clients.free)
    case .sessions: (limits.sessions, places.sessions.free)
    case .links: (limits.downstreamConnections, places.links.free)
    case .tlsPlaces: (clients.secured.capacity, clients.secured.capacity - clients.secured.count)
    case .handshakes: (limits.handshakes, limits.handshakes - clients.secured.handshakes)
    }
  }

  fileprivate func fullness(of pool: Pool, _ clients: borrowing Clients) -> Double {
    let (all, free) = places(of: pool, clients)
    return Double(all - free) / Double(max(all, 1))
  }

  /// Whether a pool runs out: of its places so many are taken that strangers hardly find one.
  fileprivate func isUnderStress(_ pool: Pool, _ clients: borrowing Clients) -> Bool {
    fullness(of: pool, clients) >= min(policy.shedAt, 1 - policy.reservedForKnown)
  }

  /// Whether a pool runs out in which a client holds a place.
  func isPressed(_ i: ClientIndex, _ clients: borrowing Clients) -> Bool {
    let s = clients.connections[i].session
    return isUnderStress(.slots, clients) || s.exists && isUnderStress(.sessions, clients)
      || s.exists && clients.sessions[s].link.exists && isUnderStress(.links, clients)
      || clients.connections[i].flags.contains(.encrypted) && isUnderStress(.tlsPlaces, clients)
      || clients.secured[i]?.isInHandshake == true && isUnderStress(.handshakes, clients)
  }

  /// How long a client may take for its next command as things are, and for its handshake, in microseconds.
  func commandTimeout(_ i: ClientIndex, _ clients: borrowing Clients) -> Int64 {
    isPressed(i, clients)
      ? min(policy.timeouts.commandUnderStress, policy.timeouts.command) : policy.timeouts.command
  }
  func handshakeTimeout(_ i: ClientIndex, _ clients: borrowing Clients) -> Int64 {
    isPressed(i, clients)
      ? min(policy.timeouts.commandUnderStress, policy.timeouts.handshake)
      : policy.timeouts.handshake
  }

  fileprivate mutating func overShare(_ pool: Pool, _ entry: borrowing JournalEntry) {
    switch pool {
    case .slots: counters.overShareSlots += 1
    case .sessions: counters.overShareSessions += 1
    case .links: counters.overShareLinks += 1
    case .tlsPlaces, .handshakes: counters.overShareTLS += 1
    }
    journal.append(entry)
  }

  /// A client is at a limit: the log says so.
  mutating func limitReached(
    _ i: ClientIndex, _ subject: Subject, _ clients: borrowing Clients, now: Instant
  ) {
    var entry = clients.entry(.limit, i, self, now: now)
    entry.subject = subject
    journal.append(entry)
  }
}

extension Pool {
  /// What a source has more than its share of.
  fileprivate func subject(_ scope: Shares.Scope) -> Subject {
    switch (self, scope) {
    case (.slots, .address): .slotsOfAddress
    case (.slots, .network): .slotsOfNetwork
    case (.sessions, .address): .sessionsOfAddress
    case (.sessions, .network): .sessionsOfNetwork
    case (.links, .address): .linksOfAddress
    case (.links, .network): .linksOfNetwork
    case (.tlsPlaces, .address): .tlsOfAddress
    case (.tlsPlaces, .network): .tlsOfNetwork
    case (.handshakes, .address): .handshakesOfAddress
    case (.handshakes, .network): .handshakesOfNetwork
    }
  }
}
