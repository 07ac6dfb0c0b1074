// SPDX-License-Identifier: Apache-2.0
import Policy
import Flow
import SMTP
import Structures
import Suspicion

/// All clients: the connections, held or talking, the sessions of those that talk, and what is known of those under TLS.
struct Clients: ~Copyable {
  var connections: Slab<Connection>
  var sessions: Slab<Session>
  var secured: SecuredTable
  var matches = ListMatches()
  /// Upper bits of every session id, so that ids of two workers or two runs differ.
  private let salt: UInt64
  private let staysPut = StaysPut()

  init(_ limits: Limits, salt: UInt64) {
    connections = Slab(capacity: limits.connections, repeating: Connection())
    sessions = Slab(capacity: limits.sessions, repeating: Session())
    secured = SecuredTable(capacity: limits.tlsSessions)
    self.salt = salt
  }

  /// How many connections there may be.
  var capacity: Int { connections.capacity }

  // MARK: Connections

  func slot(_ i: ClientIndex) -> Slot {
    Slot(index: UInt32(i.number), generation: connections[i].generation)
  }

  /// Who is there.
  func peer(_ i: ClientIndex) -> Peer {
    Peer(
      address: connections[i].address, port: connections[i].port,
      listener: connections[i].listener)
  }

  /// Makes a slot's record one of a peer that has just come.
  mutating func install(_ peer: Peer, in i: ClientIndex, now: Instant) {
    let generation = connections[i].generation
    connections[i] = Connection()
    connections[i].generation = generation
    connections[i].state = .waiting
    connections[i].address = peer.address
    connections[i].port = peer.port
    connections[i].listener = peer.listener
    connections[i].isNobody = peer.isNobody
    matches.forget(i)
    connections[i].accepted = UInt32(truncatingIfNeeded: now.microseconds / 10_000)
  }

  /// A connection's slot is free.
  mutating func clear(_ i: ClientIndex) {
    let generation = (connections[i].generation + 1) & 0xFF_FFFF
    connections[i] = Connection()
    connections[i].generation = generation
  }

  /// How long a connection has been there, in microseconds. Ticks come round after 497 days; a session
  /// does not.
  func age(_ i: ClientIndex, now: Instant) -> Int64 {
    let tick = UInt32(truncatingIfNeeded: now.microseconds / 10_000)
    return Int64(tick &- connections[i].accepted) * 10_000
  }

  /// The id under which client, log and `explain` know a session: made, not stored.
  func sessionID(_ i: ClientIndex) -> UInt64 {
    salt | UInt64(connections[i].generation) << 24 | UInt64(i.number)
  }

  // MARK: Sessions

  /// Gives a connection a session.
  mutating func lease(_ s: SessionIndex, to i: ClientIndex, _ core: borrowing Core, now: Instant) {
    sessions[s] = Session(
      of: i, lineEnds: core.policy.bareNewline == .normalize ? .normalize : .strict, now: now)
    connections[i].session = s
  }

  /// Takes a session from its connection. While an operation may be in flight on its memory it stays pinned, until the
  /// slots concerned are closed: a late receive must never land in the next tenant's buffer, and a late send must never
  /// carry the next tenant's bytes.
  ///
  /// - Returns: the session, if it had one.
  mutating func unlease(_ i: ClientIndex) -> (session: SessionIndex, isFree: Bool)? {
    let s = connections[i].session
    guard s.exists, sessions[s].owner.exists else { return nil }
    let isInFlight = sessions[s].inbox.isFilling || sessions[s].outbox.isSending
    sessions[s].disown(pins: (isInFlight ? 1 : 0) + (sessions[s].isRelaying ? 1 : 0))
    if !isInFlight { connections[i].session = .none }
    return (s, !sessions[s].isPinned)
  }

  // MARK: The ledger

  /// An entry about a client, with what is known of it.
  func entry(
    _ event: Event, _ i: ClientIndex, _ core: borrowing Core, now: Instant
  ) -> JournalEntry {
    let connection = connections[i]
    var entry = JournalEntry(event, at: now)
    entry.session = sessionID(i)
    entry.address = connection.address
    entry.port = connection.port
    entry.listener = connection.listener
    entry.tier = connection.tier
    entry.signals = connection.signals
    entry.score = core.policy.score(connection.signals)
    entry.accessRule =
      core.policy.access.lookup(connection.address).map { UInt32($0.rule) + 1 } ?? 0
    entry.rateRule = core.policy.rates.lookup(connection.address).map { $0.rule + 1 } ?? 0
    entry.held = age(i, now: now)
    entry.delayed = Int64(connection.delayed) * 10_000
    entry.observed = core.policy.mode == .observe
    entry.text.encrypted = connection.flags.contains(.encrypted)
    let s = connection.session
    if s.exists {
      describe(s, in: &entry, core)
      return entry
    }
    switch connection.state {
    case .idle:
      entry.bytesOut = UInt64(core.text(.banner).count)
      entry.reply = PitText.banner.code
    case .banner: entry.bytesOut = UInt64(connection.position)
    // It has heard all of it.
    case .pit, .draining: entry.reply = connection.text.code
    default: break
    }
    return entry
  }

  private func describe(
    _ s: SessionIndex, in entry: inout JournalEntry, _ core: borrowing Core
  ) {
    let session = sessions[s]
    let layout = core.layout
    entry.bytesIn = session.bytesIn
    entry.bytesOut = session.bytesOut
    entry.messages = session.messages
    entry.reply = session.lastReply
    entry.tallies = session.tallies
    entry.verb = session.verb
    entry.text.extended = session.greeting.isExtended
    entry.text.authenticated = session.login.isAuthenticated
    entry.text.hasSender = session.envelope.hasMail
    entry.text.heloCount = copy(
      layout.helo(s), session.greeting.nameCount, into: &entry.text.helo, core)
    entry.text.senderCount = copy(
      layout.sender(s), session.envelope.senderCount, into: &entry.text.sender, core)
    entry.text.recipientCount = copy(
      layout.recipient(s), session.envelope.recipientCount, into: &entry.text.recipient, core)
  }

  private func copy(
    _ region: Region, _ count: UInt8, into text: inout InlineArray<100, UInt8>,
    _ core: borrowing Core
  ) -> UInt8 {
    let bytes = core.arena.span(region.prefix(min(Int(count), ClientText.each)))
    for k in 0..<bytes.count { text[k] = bytes[k] }
    return UInt8(bytes.count)
  }
}
