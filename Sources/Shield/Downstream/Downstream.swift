// SPDX-License-Identifier: Apache-2.0
import Policy
import SMTP
import Structures
import Suspicion

/// The mail server, and the connections to it.
///
/// Facts about a link go in, `LinkEvent`s come out: the session's owner acts on them. A link is ready only once it
/// knows its client, and a session that waits for a link is told when it ends. Commands are out one at a time, or in a
/// group where both sides pipeline, and replies are paired with them in order; a reply without a command, a malformed
/// reply or one of a wrong class ends the link (RFC 5321, 4.2; docs/reliability.md).
struct Downstream: ~Copyable {
  var links: Slab<Link>
  private(set) var server: Server
  var offers = KnownOffers()
  private var choice: ServerChoice
  /// Whether the last attempt to reach it worked; nil before the first.
  private(set) var isUp: Bool?
  private(set) var nextProbe = Instant.origin
  /// A probe is under way; there is never more than one.
  private var isProbing = false
  /// Until when an opportunistic downstream whose TLS does not work is used in clear text.
  private var clearUntil = Instant.origin
  /// What a clock on the wall said at instant 0, in microseconds since 1970: for trace headers alone.
  var wallClock: Int64 = 0
  /// Which worker's it is, for the log.
  private let worker: Int
  private let firstSlot: Int
  private let staysPut = StaysPut()

  /// How long to wait after a failed probe, in microseconds.
  private static let probeRetry: Int64 = 5_000_000
  private static let clearFor: Int64 = 300_000_000
  /// A delay of this length or more, in microseconds, is not spent with a downstream connection open, where
  /// that can be avoided: the shield would raise the concurrency that it is there to lower.
  static let parkAfter: Int64 = 1_000_000

  /// - Parameter servers: where mail goes; only one so far.
  init(_ servers: [Server], _ limits: Limits, worker: Int) {
    server = Self.only(servers)
    choice = ServerChoice(count: server.addresses.count)
    links = Slab(capacity: limits.downstreamConnections, repeating: Link())
    firstSlot = limits.connections
    self.worker = worker
  }

  private static func only(_ servers: [Server]) -> Server {
    invariant(servers.count == 1, "one downstream, and \(servers.count) were given")
    return servers[0]
  }

  /// How it is spoken to.
  var terms: DownstreamTerms { server.terms }

  /// Puts new terms in force. Where the addresses are others, the next probe looks at them at once.
  mutating func adopt(_ servers: [Server], now: Instant) {
    let before = server.addresses
    server = Self.only(servers)
    guard server.addresses != before else { return }
    choice = ServerChoice(count: server.addresses.count)
    nextProbe = now
  }

  func slot(_ l: LinkIndex) -> Slot {
    Slot(index: UInt32(firstSlot + l.number), generation: links[l].generation)
  }

  // MARK: Up or down

  /// Asks the downstream what it offers.
  mutating func probe(_ core: inout Core, _ m: inout Moment) {
    nextProbe = m.now.after(microseconds: terms.probeEvery)
    if core.isDraining || isProbing { return }
    let probe = open(for: .none, Acquaintance(), holder: nil, isKnown: true, &core, &m)
    isProbing = probe != nil
  }

  mutating func probeSoon(now: Instant) {
    nextProbe = min(nextProbe, now.after(microseconds: Self.probeRetry))
  }

  mutating func note(up: Bool, _ core: inout Core, now: Instant) {
    if isUp != up {
      if !(isUp == nil && up) {
        var entry = JournalEntry(up ? .downstreamUp : .downstreamDown, at: now)
        entry.worker = UInt16(truncatingIfNeeded: worker)
        core.journal.append(entry)
      }
      isUp = up
    }
    if !up { probeSoon(now: now) }
  }

  // MARK: TLS

  /// Whether a link is to be secured before mail goes over it.
  func wantsTLS(_ l: LinkIndex, now: Instant) -> Bool {
    if links[l].isSecured || links[l].staysClear || terms.tls == .off { return false }
    return terms.tls != .opportunistic || now >= clearUntil
  }

  /// Whether clear text does where a handshake fails.
  var mayStayClear: Bool { terms.tls == .opportunistic && !terms.beginsWithTLS }

  /// TLS does not work: in clear, then, for a while.
  mutating func avoidTLS(_ why: Subject, _ core: inout Core, now: Instant) {
    clearUntil = now.after(microseconds: Self.clearFor)
    var entry = JournalEntry(.downstreamClear, at: now)
    entry.subject = why
    core.journal.append(entry)
  }

  // MARK: Opening

  /// Opens a connection to the downstream.
  ///
  /// - Parameters:
  ///   - session: which it is for; none for a probe.
  ///   - client: what is known of its client.
  ///   - holder: the source for which it counts.
  ///   - isKnown: it is for a known sender; some places are kept for those.
  ///   - failed: the connection in whose place it is made, at the next address.
  /// - Returns: its index; nil if there is no room for one.
  mutating func open(
    for session: SessionIndex, _ client: Acquaintance, holder: Address?, isKnown: Bool,
    inPlaceOf failed: LinkIndex? = nil, _ core: inout Core, _ m: inout Moment
  ) -> LinkIndex? {
    let most = Double(core.limits.downstreamConnections)
    let reserved = isKnown ? 0 : Int(most * core.policy.reservedForKnown)
    guard core.places.links.free > reserved, let l = core.places.links.take() else { return nil }
    let server = failed.map { choice.next(after: Int(links[$0].server)) } ?? choice.first
    links[l] = Link(
      generation: links[l].generation, for: session, client, holder: holder, isForKnown: isKnown,
      server: server, addressesTried: failed.map { links[$0].addressesTried + 1 } ?? 0)
    core.counters.linksOpened += 1
    core.setTimer(l, connectTimeout(l, core), now: m.now)
    m.append(.connect(slot(l), server: server))
    return l
  }

  /// How long the current address may take: where others follow, a part of the time that there is for one.
  private func connectTimeout(_ l: LinkIndex, _ core: borrowing Core) -> Int64 {
    let whole = core.policy.timeouts.connect
    if Int(links[l].addressesTried) + 1 >= choice.count { return whole }
    return max(whole / Int64(choice.count), min(whole, 2_000_000))
  }

  /// Goes on to the next address where a connection could not be made.
  ///
  /// - Returns: the connection to it; nil if all were tried, or there is no room for another one.
  private mutating func openElsewhere(
    _ l: LinkIndex, _ core: inout Core, _ m: inout Moment
  ) -> LinkIndex? {
    choice.failed(Int(links[l].server))
    guard Int(links[l].addressesTried) + 1 < choice.count,
      let other = open(
        for: links[l].session, links[l].client, holder: links[l].holder,
        isKnown: links[l].isForKnown, inPlaceOf: l, &core, &m)
    else { return nil }
    links[l].replaced()
    abandon(l, &core, &m)
    return other
  }

  // MARK: Ending

  /// A link is of no use any more.
  mutating func fail(
    _ l: LinkIndex, _ why: Subject, _ core: inout Core, _ m: inout Moment
  ) -> LinkEvent {
    let state = links[l].state
    switch state {
    case .closing, .free: return .none
    case .quitting:
      close(l, &core, &m)
      return .none
    // Whichever way a handshake ends that need not have been.
    case .securing where mayStayClear:
      avoidTLS(why, &core, now: m.now)
      let session = links[l].session
      abandon(l, &core, &m)
      return .clear(session)
    case .connecting:
      if let other = openElsewhere(l, &core, &m) { return .moved(to: other) }
    default: break
    }
    return .lost(lose(l, why, &core, &m))
  }

  /// Ends a link that cannot go on, and says how it came to that.
  mutating func lose(
    _ l: LinkIndex, _ why: Subject, _ core: inout Core, _ m: inout Moment
  ) -> LinkLoss {
    let state = links[l].state
    let isOrderly = state == .spliced && why == .closed
    if !isOrderly { core.counters.linkFailures += 1 }
    let isAboutClient = links[l].session.exists && isRefusalOfClient(why, state)
    let loss = LinkLoss(
      session: links[l].session, state: state, why: cause(why, l), isOrderly: isOrderly)
    switch state {
    case .connecting, .greeting, .ehlo, .helo, .introducing, .starttls, .securing:
      if links[l].isProbe { offers.probeFailed(isRefusal: state != .connecting) }
      if isAboutClient { probeSoon(now: m.now) } else { note(up: false, &core, now: m.now) }
    default: break
    }
    abandon(l, &core, &m)
    return loss
  }

  /// Whether the downstream may have refused this client and none but it: then only a probe can say more.
  private func isRefusalOfClient(_ why: Subject, _ state: LinkState) -> Bool {
    switch (state, why) {
    case (.greeting, .greeting), (.greeting, .closed), (.ehlo, .heloRefused), (.ehlo, .closed),
      (.helo, .heloRefused), (.helo, .closed), (.introducing, .identityRefused),
      (.introducing, .closed):
      isUp == true
    default: false
    }
  }

  /// Why a downstream connection failed before its greeting was over, in words that name the likely cause: what
  /// it answers to a header that it does not expect, or how it waits for one that does not come.
  private func cause(_ why: Subject, _ l: LinkIndex) -> Subject {
    let isHeader = terms.introduction.isHeader
    switch (links[l].state, why) {
    case (.greeting, .silence) where !isHeader, (.greeting, .closed) where !isHeader:
      return .greetingMissing
    // Postfix, after 5 s.
    case (.greeting, .greeting) where !isHeader && links[l].input.code == 421:
      return .greetingMissing
    // A greeting that cannot be read says nothing of a header.
    case (.greeting, .closed), (.greeting, .unexpectedReply), (.ehlo, .closed),
      (.ehlo, .unexpectedReply), (.ehlo, .heloRefused), (.helo, .closed),
      (.helo, .unexpectedReply), (.helo, .heloRefused):
      // Once it has taken one, it is this client that it does not take.
      return isHeader && (!links[l].session.exists || isUp != true) ? .headerNotTaken : why
    default: return why
    }
  }

  /// Ends a link at once.
  mutating func close(_ l: LinkIndex, _ core: inout Core, _ m: inout Moment) {
    if links[l].state == .closing || links[l].state == .free { return }
    links[l].pin()
    links[l].enter(.closing)
    core.timers.cancel(l)
    m.append(.close(slot(l)))
  }

  /// Ends a link that its session goes on without.
  private mutating func abandon(_ l: LinkIndex, _ core: inout Core, _ m: inout Moment) {
    close(l, &core, &m)
    links[l].release()
  }

  /// Its slot is closed: the place is free.
  ///
  /// - Returns: for whom it counted, and the session that it had pinned.
  mutating func closed(
    _ l: LinkIndex, _ core: inout Core
  ) -> (holder: Address?, pinned: SessionIndex) {
    core.timers.cancel(l)
    let link = links[l]
    if link.isProbe { isProbing = false }
    links[l] = Link(generation: (link.generation + 1) & 0xFF_FFFF)
    core.places.links.release(l)
    return (link.holder, link.pinned)
  }
}

extension Core {
  mutating func setTimer(_ l: LinkIndex, _ timeout: Int64, now: Instant) {
    timers.set(l, at: now.after(microseconds: timeout))
  }
}
