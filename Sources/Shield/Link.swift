// SPDX-License-Identifier: Apache-2.0
import Flow
import SMTP
package import Policy
package import Structures
import Suspicion

/// What is known of the downstream.
struct Downstream: Sendable {
  /// How it is spoken to and where it is: the driver knows the addresses by their numbers.
  var server: Server
  /// Until when an opportunistic downstream whose TLS does not work is spoken to in clear.
  var clearUntil = Instant.origin
  static let clearFor: Int64 = 300_000_000
  var offers = KnownOffers()
  var servers: ServerChoice
  /// Whether the last attempt to reach it worked; nil before the first.
  var isUp: Bool?
  var nextProbe = Instant.origin
  /// A probe is under way; there is never more than one.
  var isProbing = false
  /// How long to wait after a failed probe.
  static let probeRetry: Int64 = 5_000_000
  /// A delay of this length or more, in microseconds, is not spent with a downstream connection open, where
  /// that can be avoided: the shield would raise the concurrency that it is there to lower.
  static let parkAfter: Int64 = 1_000_000

  init(_ server: Server) {
    self.server = server
    servers = ServerChoice(count: server.addresses.count)
  }

  var terms: DownstreamTerms { server.terms }
}

// A downstream connection from its opening until it is ready for its client, and its end; what goes over it between
// the two is in Relay.swift. Kept: it is ready only once it knows its client, and whoever waits on one that ends gets an
// answer.
extension Engine {
  package var isDownstreamUp: Bool? { downstream.isUp }
  /// The downstreams as they are now.
  package var servers: [Server] { [downstream.server] }

  // MARK: Opening

  /// Where the downstreams are and how they are spoken to from now on; one that has moved is probed at once.
  ///
  /// - Parameter servers: one, as yet. The driver must know its addresses before this is called.
  package mutating func adopt(_ servers: [Server], now: Instant) {
    invariant(servers.count == 1, "one downstream, and \(servers.count) were given")
    let hasMoved = servers[0].addresses != downstream.server.addresses
    downstream.server = servers[0]
    guard hasMoved else { return }
    downstream.servers = ServerChoice(count: servers[0].addresses.count)
    downstream.nextProbe = now
  }

  /// Opens a connection to the downstream.
  ///
  /// - Parameters:
  ///   - s: the session it is for; -1 for a probe.
  ///   - failed: the connection in whose place it is made, at the next address.
  /// - Returns: its number; nil if there is no room for one.
  mutating func openLink(
    for s: Int, inPlaceOf failed: Int? = nil, now: Instant, into effects: inout EffectQueue
  ) -> Int? {
    let isKnown = s >= 0 && connections[Int(sessions[s].owner)].tier == .known
    let reserved = Int(Double(limits.downstreamConnections) * policy.reservedForKnown)
    guard linkIndexes.free > (isKnown || s < 0 ? 0 : reserved), let l = linkIndexes.take() else {
      return nil
    }
    if s >= 0 { sessions[s].progress = now }
    let generation = links[l].generation
    links[l] = Link()
    links[l].generation = generation
    links[l].session = Int32(s)
    links[l].isProbe = s < 0
    if s >= 0, let holder = holder(Int(sessions[s].owner)) {
      links[l].holder = holder
      shares.take(.links, holder)
    }
    links[l].state = .connecting
    if let failed {
      links[l].server = UInt8(downstream.servers.next(after: Int(links[failed].server)))
      links[l].addressesTried = links[failed].addressesTried + 1
    } else {
      links[l].server = UInt8(downstream.servers.first)
    }
    counters.linksOpened += 1
    setLinkTimer(l, connectTimeout(l), now: now)
    effects.append(.connect(slot(link: l), server: Int(links[l].server)))
    return l
  }

  /// How long the address at hand may take: where others follow, a part of the time that there is for one.
  private func connectTimeout(_ l: Int) -> Int64 {
    let whole = policy.timeouts.connect
    if Int(links[l].addressesTried) + 1 >= downstream.servers.count { return whole }
    return max(whole / Int64(downstream.servers.count), min(whole, 2_000_000))
  }

  /// Goes on to the next address where a connection could not be made.
  ///
  /// - Returns: false if all were tried, or there is no room for another connection.
  private mutating func connectElsewhere(
    _ l: Int, now: Instant, into effects: inout EffectQueue
  ) -> Bool {
    downstream.servers.failed(Int(links[l].server))
    let s = Int(links[l].session)
    guard Int(links[l].addressesTried) + 1 < downstream.servers.count,
      let other = openLink(for: s, inPlaceOf: l, now: now, into: &effects)
    else { return false }
    noteFailure(l, .connect, now: now)
    if s >= 0 { sessions[s].link = Int32(other) }
    links[l].isProbe = false
    abandonLink(l, into: &effects)
    return true
  }

  private mutating func noteFailure(_ l: Int, _ why: Subject, now: Instant) {
    let s = Int(links[l].session)
    var failure =
      s >= 0
      ? entry(.downstreamFailed, Int(sessions[s].owner), now: now)
      : JournalEntry(.downstreamFailed, at: now)
    failure.subject = why
    failure.server = links[l].server
    journal.append(failure)
  }

  mutating func setLinkTimer(_ l: Int, _ timeout: Int64, now: Instant) {
    wheel.set(limits.connections + l, at: now.after(microseconds: timeout))
  }

  /// Asks the downstream what it offers, when it is time.
  mutating func keepProbing(now: Instant, into effects: inout EffectQueue) {
    guard now >= downstream.nextProbe else { return }
    downstream.nextProbe = now.after(microseconds: downstream.terms.probeEvery)
    if isDraining || downstream.isProbing { return }
    downstream.isProbing = openLink(for: -1, now: now, into: &effects) != nil
  }

  mutating func linkConnected(_ l: Int, now: Instant, into effects: inout EffectQueue) {
    guard links[l].state == .connecting else { return }
    writeProxyHeader(l)
    flushLink(l, into: &effects)
    if downstream.terms.beginsWithTLS {
      // The header goes in clear before the handshake, as with HAProxy.
      if links[l].outEnd == 0 {
        secureLink(l, now: now, into: &effects)
      } else {
        links[l].state = .securing
        setLinkTimer(l, policy.timeouts.connect, now: now)
      }
    } else {
      awaitGreeting(l, now: now, into: &effects)
    }
  }

  mutating func awaitGreeting(_ l: Int, now: Instant, into effects: inout EffectQueue) {
    links[l].state = .greeting
    setLinkTimer(l, policy.timeouts.greeting, now: now)
    effects.append(.fill(slot(link: l), linkIn(l)))
  }

  /// Says a command of ours to the downstream, whose state says what the reply is to.
  mutating func sayOnLink(
    _ l: Int, _ command: StaticString, now: Instant, into effects: inout EffectQueue
  ) {
    links[l].reader.reset()
    setLinkTimer(l, policy.timeouts.reply, now: now)
    write(l, into: &effects) { out in _ = writeCommand(command, Span(), into: &out) }
  }

  // MARK: Greeting

  mutating func greetDownstream(
    _ l: Int, extended: Bool, now: Instant, into effects: inout EffectQueue
  ) {
    links[l].state = extended ? .ehlo : .helo
    links[l].isExtended = extended
    links[l].reader.reset()
    setLinkTimer(l, policy.timeouts.reply, now: now)
    let s = Int(links[l].session)
    if s >= 0 && !isUnintroduced(l) {
      // The client's own name, checked to be one: the downstream's trace shows it. Of a client that gave none, or
      // something that is none, its address is true (RFC 5321, 4.1.4), and ours would be a lie.
      let name = heloName(s)
      let address = connections[Int(sessions[s].owner)].address
      let room = linkOut(l).from(Int(links[l].outEnd))
      let written = arena.transform(from: name, into: room) { bytes, out in
        _ = writeHello(extended ? "EHLO" : "HELO", bytes, from: address, into: &out)
      }
      links[l].outEnd += Int32(written)
      flushLink(l, into: &effects)
    } else {
      let host = policy.hostnameBytes
      write(l, into: &effects) { out in
        _ = writeCommand(extended ? "EHLO" : "HELO", host.span, into: &out)
      }
    }
  }

  /// Takes what the reply to EHLO (or HELO, without a word of it) offers as what this connection offers from now on.
  ///
  /// All clients are offered what probes are, so it is not for anybody to say in clear who is on the way to a
  /// downstream that must be spoken to under TLS, and what is offered to Sluice itself (before XCLIENT) is not theirs.
  mutating func learn(_ l: Int, _ offers: Capabilities) {
    links[l].offer = LinkOffer(offers)
    let mayBeTold =
      links[l].isSecured || downstream.terms.tls == .off || downstream.terms.tls == .opportunistic
    if mayBeTold && !isUnintroduced(l) {
      if links[l].isProbe {
        downstream.offers.probeHeard(offers)
      } else if links[l].state == .ehlo {
        downstream.offers.clientHeard(offers)
      }
    }
    let word: StaticString? =
      switch downstream.terms.introduction {
      case .xforward: "XFORWARD"
      case .xclient: "XCLIENT"
      case .none, .proxyV1, .proxyV2, .received: nil
      }
    let text = linkReply(l).prefix(Int(links[l].replyCount))
    if let word { links[l].listed = ClientAttributes(word, inEHLO: arena.span(text)) ?? [] }
  }

  mutating func linkReady(_ l: Int, now: Instant, into effects: inout EffectQueue) {
    // Every way here leads past `introduce`: mail in our own name would be an open relay.
    invariant(!isUnintroduced(l), "a downstream connection is ready that does not know its client")
    noteDownstream(up: true, now: now)
    links[l].state = .ready
    let s = Int(links[l].session)
    guard s >= 0 else {
      if downstream.terms.introduction == .xforward && links[l].listed.isEmpty {
        var entry = JournalEntry(.downstreamFailed, at: now)
        entry.subject = .identityNotOffered
        journal.append(entry)
      }
      if downstream.offers.all?.mechanisms.isCut == true {
        var entry = JournalEntry(.downstreamFailed, at: now)
        entry.subject = .mechanismsCut
        journal.append(entry)
      }
      quitLink(l, now: now, into: &effects)
      return
    }
    let i = Int(sessions[s].owner)
    guard sessions[s].phase == .opening else { return }
    if sessions[s].verb == .ehlo {
      ehloAnswered(i, l, now: now, into: &effects)
      return
    }
    if !connections[i].flags.contains(.passed) {
      connections[i].flags.insert(.passed)
      counters.passed += 1
      let isNew = connections[i].flags.isDisjoint(with: .vouched)
      journal.append(entry(isNew ? .passNew : .passOld, i, now: now))
    }
    if sessions[s].flags.contains(.parked) {
      if forwardDetails(l, now: now, into: &effects) { return }
      repeatMail(i, l, now: now, into: &effects)
      return
    }
    sendCommand(i, l, now: now, into: &effects)
    if connections[i].state == .talking { work(i, now: now, into: &effects) }
  }

  mutating func noteDownstream(up: Bool, now: Instant) {
    if downstream.isUp != up {
      if !(downstream.isUp == nil && up) {
        var entry = JournalEntry(up ? .downstreamUp : .downstreamDown, at: now)
        entry.worker = UInt16(truncatingIfNeeded: worker)
        journal.append(entry)
      }
      downstream.isUp = up
    }
    if !up { probeSoon(now: now) }
  }

  private mutating func probeSoon(now: Instant) {
    downstream.nextProbe = min(
      downstream.nextProbe, now.after(microseconds: Downstream.probeRetry))
  }

  /// The downstream does not want to be spoken to: it refuses at the greeting, at EHLO or what it is told of the client.
  ///
  /// If it takes probes and knows who the client is, it is this client that it refuses, and its words go on.
  mutating func linkRefused(
    _ l: Int, _ why: Subject, _ code: UInt16, now: Instant, into effects: inout EffectQueue
  ) {
    let s = Int(links[l].session)
    guard s >= 0, sessions[s].phase == .opening, code >= 400, knowsClient(l),
      downstream.offers.probe == .passed
    else {
      linkFailed(l, why, now: now, into: &effects)
      return
    }
    probeSoon(now: now)
    let i = Int(sessions[s].owner)
    links[l].repliedVerb = nil
    passReply(i, l, now: now)
    loseTransaction(s)
    dropLink(of: i, now: now, into: &effects)
    finish(i)
    goOn(i, after: code, now: now, into: &effects)
  }

  /// Whether what is answered on a link that is not ready yet may be about its client.
  private func knowsClient(_ l: Int) -> Bool {
    switch links[l].state {
    case .greeting: downstream.terms.introduction.isHeader
    case .ehlo, .helo: !isUnintroduced(l)
    case .introducing: downstream.terms.introduction == .xclient
    default: false
    }
  }

  /// Whether the downstream may have refused this client and none but it: then only a probe can say more.
  private func isRefusalOfClient(_ why: Subject, _ state: LinkState) -> Bool {
    switch (state, why) {
    case (.greeting, .greeting), (.greeting, .closed), (.ehlo, .heloRefused), (.ehlo, .closed),
      (.helo, .heloRefused), (.helo, .closed), (.introducing, .identityRefused),
      (.introducing, .closed):
      downstream.isUp == true
    default: false
    }
  }

  // MARK: Failure

  mutating func linkTimer(_ l: Int, now: Instant, into effects: inout EffectQueue) {
    switch links[l].state {
    case .free, .closing: break
    case .quitting, .ready: closeLink(l, into: &effects)
    case .connecting, .greeting, .ehlo, .helo, .introducing, .starttls, .securing, .busy, .body,
      .final, .spliced:
      linkFailed(
        l, links[l].state == .connecting ? .connect : .silence, now: now, into: &effects)
    }
  }

  /// A downstream connection is of no use any more: the client at it gets an honest answer.
  mutating func linkFailed(
    _ l: Int, _ why: Subject, now: Instant, into effects: inout EffectQueue
  ) {
    let state = links[l].state
    if state == .closing || state == .free { return }
    let s = Int(links[l].session)
    if state == .quitting {
      closeLink(l, into: &effects)
      return
    }
    // Whichever way a handshake ends that need not have been.
    if state == .securing && mayStayClear {
      linkNotSecured(l, why, now: now, into: &effects)
      return
    }
    if state == .connecting && connectElsewhere(l, now: now, into: &effects) { return }
    // What passes unread may end when it likes.
    let isOrderly = state == .spliced && why == .closed
    if !isOrderly { counters.linkFailures += 1 }
    let isAboutClient = s >= 0 && isRefusalOfClient(why, state)
    let why = cause(why, l)
    switch state {
    case .connecting, .greeting, .ehlo, .helo, .introducing, .starttls, .securing:
      if links[l].isProbe { downstream.offers.probeFailed(isRefusal: state != .connecting) }
      if isAboutClient { probeSoon(now: now) } else { noteDownstream(up: false, now: now) }
    default: break
    }
    if !isOrderly && (state != .ready || s >= 0 && sessions[s].flags.contains(.mail)) {
      noteFailure(l, why, now: now)
    }
    closeLink(l, into: &effects)
    guard s >= 0 else { return }
    let i = Int(sessions[s].owner)
    links[l].session = -1
    sessions[s].link = -1
    sessions[s].flags.remove(.exchange)
    switch sessions[s].phase {
    case .opening where sessions[s].verb == .ehlo: helloFromOthers(i, now: now, into: &effects)
    case .opening: answer(i, .downstreamUnavailable, now: now, into: &effects)
    case .forwarded:
      // A reply that has begun is not followed by another one.
      guard !links[l].hasPassedPiece, answerOutstanding(i, l, now: now) else {
        close(i, now: now, into: &effects)
        return
      }
      transactionLost(i, now: now, into: &effects)
    case .holding:
      // The reply was there before the downstream went: the client is owed that one.
      wheel.cancel(i)
      passReply(i, l, now: now)
      if links[l].outstanding.isEmpty {
        finish(i)
        loseTransaction(s)
      } else if answerOutstanding(i, l, now: now) {
        transactionLost(i, now: now, into: &effects)
      } else {
        close(i, now: now, into: &effects)
        return
      }
    case .challenge:
      // It owes us an answer that nobody will read: nothing said now could pair with it.
      leave(i, .authenticationLost, now: now, into: &effects)
    case .body:
      swallow(i, .downstreamLost, now: now, into: &effects)
      goOnSwallowing(i, now: now, into: &effects)
    case .final:
      // It may have taken the message: 451 can make a duplicate, never a loss.
      say(i, .downstreamLost, now: now)
      tally(s, .data, good: false)
      resetTransaction(i)
      sessions[s].phase = .command
    case .command, .delaying:
      loseTransaction(s)
      loginLost(i, now: now, into: &effects)
      return
    case .spliced: spliceLost(i, now: now, into: &effects)
    case .swallow, .leaving, .securing: break
    }
    loginLost(i, now: now, into: &effects)
    if connections[i].state == .talking { work(i, now: now, into: &effects) }
  }

  /// All commands that were with a downstream when it went, but the last, hear so. It is no error of theirs.
  ///
  /// - Returns: false if the client has taken so little that there is no room to tell it.
  mutating func answerOutstanding(_ i: Int, _ l: Int, now: Instant) -> Bool {
    let s = Int(connections[i].session)
    let room = Layout.outboxBytes - Int(sessions[s].outEnd)
    if room < 128 * Int(links[l].outstanding.count + 1) { return false }
    while links[l].outstanding.count > 1 {
      let verb = links[l].outstanding.removeFirst() ?? sessions[s].verb
      let room = outbox(s).from(Int(sessions[s].outEnd))
      let written = arena.append(into: room) { out in OwnReply.downstreamLost.write(into: &out) }
      sessions[s].outEnd += Int32(written)
      counters.tempfailedByUs += 1
      noteDeferral(i, verb, .downstreamLost, isAtHand: false, now: now)
      tally(s, verb, good: false)
    }
    return true
  }

  /// The transaction's downstream is gone: what still belongs to it gets 451.
  mutating func loseTransaction(_ s: Int) {
    if sessions[s].flags.contains(.mail) {
      sessions[s].flags.remove(.mail)
      sessions[s].flags.remove(.parked)
      sessions[s].flags.insert(.lost)
    }
  }

  /// A log-in was with the downstream connection that is gone. On a new one its mail would be a stranger's
  /// and be refused for good: the client is told to come again and log in.
  mutating func loginLost(_ i: Int, now: Instant, into effects: inout EffectQueue) {
    guard connections[i].state == .talking else { return }
    let s = Int(connections[i].session)
    guard sessions[s].flags.contains(.authenticated), sessions[s].link < 0 else { return }
    switch sessions[s].phase {
    case .command, .delaying: leave(i, .authenticationLost, now: now, into: &effects)
    case .opening, .forwarded, .holding, .challenge, .body, .swallow, .final, .leaving, .securing,
      .spliced:
      break
    }
  }

  /// The command at hand cannot be carried out because its transaction's downstream is gone.
  mutating func transactionLost(
    _ i: Int, now: Instant, into effects: inout EffectQueue
  ) {
    let s = Int(connections[i].session)
    switch sessions[s].verb {
    case .rset:
      resetTransaction(i)
      answer(i, .ok, now: now, into: &effects)
    case .ehlo, .helo: greet(i, now: now, into: &effects)
    default:
      loseTransaction(s)
      answer(i, .downstreamLost, now: now, into: &effects)
    }
  }

  /// Ends a link at once.
  mutating func closeLink(_ l: Int, into effects: inout EffectQueue) {
    if links[l].state == .closing || links[l].state == .free { return }
    let s = Int(links[l].session)
    if s >= 0 && sessions[s].flags.contains(.relaying) { links[l].pinned = Int32(s) }
    links[l].state = .closing
    wheel.cancel(limits.connections + l)
    effects.append(.close(slot(link: l)))
  }

  /// Ends a link that its session goes on without.
  mutating func abandonLink(_ l: Int, into effects: inout EffectQueue) {
    closeLink(l, into: &effects)
    links[l].session = -1
  }

  /// Ends a link politely.
  mutating func quitLink(_ l: Int, now: Instant, into effects: inout EffectQueue) {
    links[l].state = .quitting
    setLinkTimer(l, 5_000_000, now: now)
    write(l, into: &effects) { out in _ = writeCommand("QUIT", Span(), into: &out) }
  }

  /// Lets go of a client's downstream connection: politely between commands, without a final dot in a
  /// message, and not at all while the outcome of a whole message is still open.
  mutating func dropLink(of i: Int, now: Instant, into effects: inout EffectQueue) {
    let s = Int(connections[i].session)
    guard s >= 0, sessions[s].link >= 0 else { return }
    let l = Int(sessions[s].link)
    sessions[s].link = -1
    let isInChallenge = sessions[s].flags.contains(.authenticating)
    sessions[s].flags.remove(.exchange)
    switch links[l].state {
    case .ready where isInChallenge: closeLink(l, into: &effects)  // QUIT would be its answer
    case .final: links[l].orphanOf = sessionID(i)
    case .ready: quitLink(l, now: now, into: &effects)
    case .free, .closing, .quitting: break
    case .connecting, .greeting, .ehlo, .helo, .introducing, .starttls, .securing, .busy, .body,
      .spliced:
      closeLink(l, into: &effects)
    }
    links[l].session = -1
  }
}
