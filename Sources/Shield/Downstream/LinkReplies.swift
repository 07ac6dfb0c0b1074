// SPDX-License-Identifier: Apache-2.0
import Policy
import SMTP
import Structures
import Suspicion

// What a link receives, and its way from the greeting until it is ready.
extension Downstream {
  // MARK: Opening

  /// The connection stands.
  mutating func connected(
    _ l: LinkIndex, _ facts: TLSFacts?, _ core: inout Core, _ m: inout Moment
  ) {
    guard links[l].state == .connecting else { return }
    writeProxyHeader(l, facts, &core)
    flush(l, core, &m)
    guard terms.beginsWithTLS else {
      awaitGreeting(l, &core, &m)
      return
    }
    // The header goes in clear before the handshake, as with HAProxy.
    if links[l].output.isEmpty {
      secure(l, &core, &m)
    } else {
      links[l].enter(.securing)
      core.setTimer(l, core.policy.timeouts.connect, now: m.now)
    }
  }

  private mutating func awaitGreeting(_ l: LinkIndex, _ core: inout Core, _ m: inout Moment) {
    links[l].enter(.greeting)
    core.setTimer(l, core.policy.timeouts.greeting, now: m.now)
    m.append(.fill(slot(l), core.layout.linkIn(l)))
  }

  private mutating func secure(_ l: LinkIndex, _ core: inout Core, _ m: inout Moment) {
    links[l].enter(.securing)
    core.setTimer(l, core.policy.timeouts.handshake, now: m.now)
    m.append(.secure(slot(l), .connect))
  }

  /// A handshake has succeeded.
  mutating func secured(_ l: LinkIndex, _ core: inout Core, _ m: inout Moment) {
    guard links[l].state == .securing else { return }
    links[l].secured()
    core.counters.linksSecured += 1
    // What it said before is forgotten (RFC 3207, 4.2); what it offered there was never kept.
    links[l].input.forget()
    if terms.beginsWithTLS {
      awaitGreeting(l, &core, &m)
    } else {
      greet(l, isExtended: true, &core, &m)
      m.append(.fill(slot(l), core.layout.linkIn(l)))
    }
  }

  /// A handshake has failed.
  mutating func notSecured(
    _ l: LinkIndex, _ why: Subject, _ core: inout Core, _ m: inout Moment
  ) -> LinkEvent {
    links[l].state == .securing ? fail(l, why, &core, &m) : .none
  }

  /// Says EHLO or HELO. The client's own name, checked to be one: the downstream's trace shows it. Of a client that gave
  /// none, or something that is none, its address is true (RFC 5321, 4.1.4), and ours would be a lie.
  private mutating func greet(
    _ l: LinkIndex, isExtended: Bool, _ core: inout Core, _ m: inout Moment
  ) {
    links[l].greeted(isExtended: isExtended)
    core.setTimer(l, core.policy.timeouts.reply, now: m.now)
    let word: StaticString = isExtended ? "EHLO" : "HELO"
    if links[l].session.exists && !isUnintroduced(l) {
      let client = links[l].client
      let written = core.arena.transform(from: client.helo, into: room(l, core)) { name, out in
        _ = writeHello(word, name, from: client.details.ends.address, into: &out)
      }
      links[l].output.append(written)
      flush(l, core, &m)
    } else {
      let host = core.policy.hostnameBytes
      write(l, &core, &m) { out in _ = writeCommand(word, host.span, into: &out) }
    }
  }

  // MARK: Hearing

  /// `count` bytes came into a link's input region.
  ///
  /// - Returns: what that comes to; nil if replies are to be read (`next`).
  mutating func heard(
    _ l: LinkIndex, _ count: Int, _ core: inout Core, _ m: inout Moment
  ) -> LinkEvent? {
    switch links[l].state {
    case .free, .closing, .connecting, .securing: return LinkEvent.none
    // A goodbye between two commands, or words without a command: either way it is done with.
    case .ready: return fail(l, .unexpectedReply, &core, &m)
    case .quitting:
      close(l, &core, &m)
      return LinkEvent.none
    case .spliced:
      links[l].input.filled(count)
      return .passing
    case .greeting, .ehlo, .helo, .introducing, .starttls, .busy, .body, .final:
      links[l].input.filled(count)
      return nil
    }
  }

  /// The text of the current reply, as the reader re-made it.
  func reply(_ l: LinkIndex, _ core: borrowing Core) -> Region {
    core.layout.linkReply(l).prefix(Int(links[l].input.replyCount))
  }

  /// Reads the next reply that has come. Between two of them its client may have something to do: it calls again.
  mutating func next(_ l: LinkIndex, _ core: inout Core, _ m: inout Moment) -> LinkEvent {
    links[l].input.resume()
    let state = links[l].state
    if links[l].input.replyCount > 0 && state != .body && state != .final {
      links[l].input.expectNext()
    }
    let use = use(ofReplyAt: l)
    let kept = core.layout.linkReply(l)
    // A piece of a challenge leaves room in the outbox for a last word.
    let target = use == .login ? kept.prefix(Layout.challengeBytes) : kept
    switch links[l].input.read(
      from: core.layout.linkIn(l), into: target, for: use, &core.arena)
    {
    case .needMore:
      m.append(.fill(slot(l), core.layout.linkIn(l)))
      return .readAll
    case .full:
      // It answers what it has not heard the end of.
      if links[l].output.unsaid > 0 { return fail(l, .unexpectedReply, &core, &m) }
      links[l].passedPiece()
      return .piece
    case .fault: return fail(l, .malformedReply, &core, &m)
    case .complete where links[l].input.unread > 0 && links[l].outstanding.count <= 1:
      return fail(l, .unexpectedReply, &core, &m)
    case .complete: break
    }
    let isLast = links[l].outstanding.count <= 1
    if isLast {
      core.timers.cancel(l)
    } else {
      core.setTimer(l, core.policy.timeouts.reply, now: m.now)
    }
    let event = replied(l, links[l].input.code, &core, &m)
    switch links[l].state {
    case .free, .closing, .securing: break
    // Always listening: a link that dies between two commands is noticed at once.
    default: if isLast { m.append(.fill(slot(l), core.layout.linkIn(l))) }
    }
    return event
  }

  /// What the current reply is for, from its first octet to its last.
  private func use(ofReplyAt l: LinkIndex) -> ReplyUse {
    let link = links[l]
    if link.state == .ehlo { return .ourselves }
    if !link.session.exists { return .client }
    switch link.state {
    case .busy where link.atHand == .ehlo: return .ourselves
    case .busy where link.atHand == .auth && !link.isCancelling: return .login
    case .busy, .body, .final: return link.client.details.isUTF8 ? .clientUTF8 : .client
    default: return .client
    }
  }

  private mutating func replied(
    _ l: LinkIndex, _ code: UInt16, _ core: inout Core, _ m: inout Moment
  ) -> LinkEvent {
    switch links[l].state {
    case .greeting:
      if !code.isWelcome { return refused(l, .greeting, code, &core, &m) }
      greet(l, isExtended: true, &core, &m)
      return .none
    case .ehlo:
      if code.isWelcome { return heloTaken(l, isExtended: true, &core, &m) }
      if code >= 500 && code != 521 && mayFallBack {
        greet(l, isExtended: false, &core, &m)
        return .none
      }
      return refused(l, .heloRefused, code, &core, &m)
    case .helo:
      if code.isWelcome { return heloTaken(l, isExtended: false, &core, &m) }
      return refused(l, .heloRefused, code, &core, &m)
    case .starttls:
      if code.isWelcome {
        secure(l, &core, &m)
      } else if terms.tls == .opportunistic {
        // In clear, then. What it offers was not kept, so it is asked again.
        links[l].refusedTLS()
        greet(l, isExtended: true, &core, &m)
      } else {
        return fail(l, .noTLS, &core, &m)
      }
      return .none
    case .introducing: return introduced(l, code, &core, &m)
    case .busy: return commandReplied(l, code, &core, &m)
    case .body: return code >= 400 ? .refusedEarly(code) : fail(l, .early, &core, &m)
    case .final: return finalReplied(l, code, &core, &m)
    case .free, .connecting, .securing, .ready, .spliced, .quitting, .closing: return .none
    }
  }

  // MARK: Greeting

  /// EHLO or HELO was taken. STARTTLS comes before anything else, if there is to be TLS, and then the client's name.
  private mutating func heloTaken(
    _ l: LinkIndex, isExtended: Bool, _ core: inout Core, _ m: inout Moment
  ) -> LinkEvent {
    let offers = isExtended ? readOffers(l, core) : Capabilities()
    if wantsTLS(l, now: m.now) {
      if offers.keywords.contains(.starttls) {
        links[l].enter(.starttls)
        say(l, "STARTTLS", &core, &m)
        return .none
      }
      if terms.tls != .opportunistic { return fail(l, .noTLS, &core, &m) }
    }
    learn(l, offers, core)
    if isExtended && isUnintroduced(l) {
      // Without it the downstream would take the client for Sluice, whom it may trust.
      guard links[l].client.listed.contains(.address) else {
        return fail(l, .identityNotOffered, &core, &m)
      }
      links[l].client.beginLines()
      _ = sayClientLine(l, "XCLIENT", &core, &m)
      return .none
    }
    return ready(l, &core, &m)
  }

  /// What the current reply to EHLO offers.
  func readOffers(_ l: LinkIndex, _ core: borrowing Core) -> Capabilities {
    Capabilities(ehloReply: core.arena.span(reply(l, core)))
  }

  /// Takes the offers in the reply to EHLO (none after HELO) as what this connection offers from now on.
  ///
  /// All clients are offered what probes were offered. Where the downstream must be spoken to under TLS, an attacker on
  /// the way could say it in clear, so that does not count; nor does what is offered to Sluice itself, before XCLIENT.
  mutating func learn(_ l: LinkIndex, _ offers: Capabilities, _ core: borrowing Core) {
    links[l].offer = LinkOffer(offers)
    let mayBeTold = links[l].isSecured || terms.tls == .off || terms.tls == .opportunistic
    if mayBeTold && !isUnintroduced(l) {
      if links[l].isProbe {
        self.offers.probeHeard(offers)
      } else if links[l].state == .ehlo {
        self.offers.clientHeard(offers)
      }
    }
    let word: StaticString? =
      switch terms.introduction {
      case .xforward: "XFORWARD"
      case .xclient: "XCLIENT"
      case .none, .proxyV1, .proxyV2, .received: nil
      }
    if let word {
      let text = core.arena.span(reply(l, core))
      links[l].client.learn(ClientAttributes(word, inEHLO: text) ?? [])
    }
  }

  /// The downstream's answer to a line about the client.
  private mutating func introduced(
    _ l: LinkIndex, _ code: UInt16, _ core: inout Core, _ m: inout Moment
  ) -> LinkEvent {
    let isXCLIENT = terms.introduction == .xclient
    // 220 to XCLIENT, 250 to XFORWARD; by its first digit (RFC 5321, 4.3.2), save a goodbye.
    guard code.isWelcome else { return refused(l, .identityRefused, code, &core, &m) }
    if sayClientLine(l, isXCLIENT ? "XCLIENT" : "XFORWARD", &core, &m) { return .none }
    links[l].client.introduced()
    if isXCLIENT {
      // XCLIENT_README: the session begins anew, with EHLO, this time in the client's name.
      greet(l, isExtended: true, &core, &m)
      return .none
    }
    return ready(l, &core, &m)
  }

  private mutating func ready(
    _ l: LinkIndex, _ core: inout Core, _ m: inout Moment
  ) -> LinkEvent {
    // Every way here leads past the introduction: mail in our own name would be an open relay.
    invariant(!isUnintroduced(l), "a downstream connection is ready that does not know its client")
    note(up: true, &core, now: m.now)
    links[l].enter(.ready)
    if links[l].session.exists { return .ready }
    if terms.introduction == .xforward && links[l].client.listed.isEmpty {
      core.noteDownstream(.identityNotOffered, now: m.now)
    }
    if offers.all?.mechanisms.isCut == true { core.noteDownstream(.mechanismsCut, now: m.now) }
    quit(l, &core, &m)
    return .none
  }

  /// The downstream rejects the connection: at the greeting, at EHLO or at the introduction of the client.
  ///
  /// If it takes probes and knows who the client is, it is this client that it refuses, and its words go on.
  private mutating func refused(
    _ l: LinkIndex, _ why: Subject, _ code: UInt16, _ core: inout Core, _ m: inout Moment
  ) -> LinkEvent {
    guard links[l].session.exists, code >= 400, knowsClient(l), offers.probe == .passed else {
      return fail(l, why, &core, &m)
    }
    probeSoon(now: m.now)
    return .refused(code)
  }

  // MARK: Commands

  private mutating func commandReplied(
    _ l: LinkIndex, _ code: UInt16, _ core: inout Core, _ m: inout Moment
  ) -> LinkEvent {
    let verb = links[l].outstanding.first ?? links[l].atHand
    let isGoOn = code.isGoOn(to: verb)
    guard code >= 400 || !links[l].isCancelling && (code.isSuccess(of: verb) || isGoOn) else {
      return fail(l, .wrongClass, &core, &m)
    }
    if links[l].output.unsaid > 0 {
      return code >= 400 ? .refusedLine(code) : fail(l, .unexpectedReply, &core, &m)
    }
    // It cannot have seen the DATA that is not all sent: what followed would stand among our commands.
    let isAllSent = !links[l].output.isSending && links[l].output.isEmpty
    guard !isGoOn || verb != .data || isAllSent else {
      return fail(l, .unexpectedReply, &core, &m)
    }
    _ = links[l].outstanding.removeFirst()
    links[l].repliedVerb = verb
    let isLast = links[l].outstanding.isEmpty
    if isLast { links[l].enter(.ready) }
    return .replied(verb, code, isLast: isLast)
  }

  private mutating func finalReplied(
    _ l: LinkIndex, _ code: UInt16, _ core: inout Core, _ m: inout Moment
  ) -> LinkEvent {
    links[l].enter(.ready)
    guard links[l].session.exists else {
      // The client did not wait for this answer: it will send the message again.
      if code < 300 {
        core.counters.possibleDuplicates += 1
        var entry = JournalEntry(.possibleDuplicate, at: m.now)
        entry.session = links[l].orphanOf
        core.journal.append(entry)
      }
      quit(l, &core, &m)
      return .none
    }
    return code.isTaken || code >= 400 ? .finished(code) : fail(l, .wrongClass, &core, &m)
  }

  /// The downstream asks for the message.
  mutating func beginBody(_ l: LinkIndex) { links[l].enter(.body) }

  /// What follows the current reply is a message's, or passes: that reply is done with.
  mutating func replyPassed(_ l: LinkIndex) { links[l].input.expectNext() }

  /// From here on octets pass both ways.
  mutating func splice(_ l: LinkIndex, _ core: inout Core) {
    links[l].enter(.spliced)
    links[l].input.passed()
    core.timers.cancel(l)
  }

  // MARK: Sending

  /// Part of what a link was sending is out.
  mutating func sent(
    _ l: LinkIndex, _ count: Int, _ core: inout Core, _ m: inout Moment
  ) -> LinkEvent {
    let state = links[l].state
    let isPassing = (state == .body || state == .spliced) && links[l].session.exists
    if isPassing && links[l].output.isSendingPiece {
      links[l].output.sentPiece(count)
    } else {
      if !links[l].output.sent(count) {
        flush(l, core, &m)
        return .none
      }
      if links[l].output.unsaid > 0 && links[l].session.exists && state == .busy {
        return .hasRoom
      }
      // The PROXY header is out.
      if state == .securing {
        secure(l, &core, &m)
        return .none
      }
      guard isPassing, links[l].output.isForwarding else { return .none }
    }
    // Behind the trace header, or behind what was rewritten.
    if links[l].output.isForwarded {
      links[l].output.forwarded()
      return .forwarded
    }
    sendPiece(l, &core, &m)
    return .none
  }

  /// The time of a link is up.
  mutating func timer(_ l: LinkIndex, _ core: inout Core, _ m: inout Moment) -> LinkEvent {
    switch links[l].state {
    case .free, .closing: return .none
    case .quitting, .ready:
      close(l, &core, &m)
      return .none
    case .connecting: return fail(l, .connect, &core, &m)
    case .greeting, .ehlo, .helo, .introducing, .starttls, .securing, .busy, .body, .final,
      .spliced:
      return fail(l, .silence, &core, &m)
    }
  }
}

extension Core {
  /// Something about the downstream that no client has to do with.
  mutating func noteDownstream(_ subject: Subject, now: Instant) {
    var entry = JournalEntry(.downstreamFailed, at: now)
    entry.subject = subject
    journal.append(entry)
  }
}

/// What reply codes mean. Their first digit does (RFC 5321, 4.3.2), unless the code is known to be another command's:
/// 211 and 214 (HELP), 220 (a greeting, STARTTLS), 221 (QUIT) and 235 (AUTH). Such a one shows that replies and commands
/// have come apart, and 2yz to the end of a message must be about that message.
extension UInt16 {
  /// Whether a command was carried out.
  fileprivate func isSuccess(of verb: Verb) -> Bool {
    switch self {
    case 220: verb == .starttls
    case 235: verb == .auth
    case 211, 214, 221: false
    // DATA itself is never carried out: its message is.
    default: self / 100 == 2 && verb != .data
    }
  }

  /// Whether a greeting, or the answer to a command of ours, is a welcome: by its first digit, save a goodbye.
  fileprivate var isWelcome: Bool { self / 100 == 2 && self != 221 }

  /// Whether it asks for what follows: the message, or an answer to a challenge (334 and 354 are known).
  func isGoOn(to verb: Verb) -> Bool {
    switch verb {
    case .data: self / 100 == 3 && self != 334
    case .auth: self / 100 == 3 && self != 354
    default: false
    }
  }

  /// Whether the end of a message was answered with success: as at MAIL and RCPT.
  var isTaken: Bool { isSuccess(of: .mail) }
}
