// SPDX-License-Identifier: Apache-2.0
import Policy
import Flow
import SMTP
import Structures
import Suspicion

// The current command on its way to the downstream, which is opened if need be.
extension Engine {
  /// Sends the current command to the downstream.
  mutating func forward(_ i: ClientIndex, _ m: inout Moment) {
    let s = clients.connections[i].session
    let l = clients.sessions[s].link
    if l.exists {
      if downstream.links[l].state == .ready || downstream.links[l].state == .busy {
        sendCommand(i, l, &m)
      } else {
        transactionLost(i, &m)
      }
      return
    }
    if clients.sessions[s].login.isAuthenticated {
      // On another connection it would be a stranger.
      leave(i, .authenticationLost, &m)
    } else if clients.connections[i].isNobody {
      forwardForNobody(i, &m)
    } else {
      switch clients.sessions[s].verb {
      case .mail, .auth, .starttls, .ehlo: openLink(i, &m)
      default:
        if clients.sessions[s].envelope.isParked { openLink(i, &m) } else { transactionLost(i, &m) }
      }
    }
  }

  /// The downstream would take it for the balancer, whom it may trust.
  private mutating func forwardForNobody(_ i: ClientIndex, _ m: inout Moment) {
    if clients.sessions[clients.connections[i].session].verb == .ehlo {
      // A health check, as a rule: no mail is refused yet.
      helloFromOthers(i, &m)
    } else {
      refuseHeader(.clientUnnamed, clients.peer(i), now: m.now)
      answer(i, .clientUnnamed, &m)
    }
  }

  private mutating func openLink(_ i: ClientIndex, _ m: inout Moment) {
    let s = clients.connections[i].session
    guard judge.mayTake(.links, i, clients, &core, now: m.now) else {
      answer(i, .tooManyLinks, &m)
      return
    }
    let holder = clients.connections[i].isCounted ? clients.connections[i].address : nil
    guard
      let opened = downstream.open(
        for: s, acquaintance(i), holder: holder, isKnown: clients.connections[i].tier == .known,
        &core, &m)
    else {
      core.limitReached(i, .links, clients, now: m.now)
      if clients.sessions[s].verb == .ehlo {
        helloFromOthers(i, &m)
      } else {
        answer(i, .noDownstreamRoom, &m)
      }
      return
    }
    if let holder { judge.shares.take(.links, holder) }
    clients.sessions[s].attach(opened, now: m.now)
    clients.sessions[s].enter(.opening)
    flush(i, &m)
    m.append(.watch(clients.slot(i)))
  }

  /// What a link may say of a client.
  func acquaintance(_ i: ClientIndex) -> Acquaintance {
    let connection = clients.connections[i]
    var ends = ClientEnds(address: connection.address, port: connection.port)
    let listener = Int(connection.listener)
    if listener < core.policy.listeners.count {
      let terms = core.policy.listeners[listener]
      ends = ClientEnds(
        address: ends.address, port: ends.port, server: terms.isWildcard ? nil : terms.address,
        serverPort: terms.port)
    }
    let s = connection.session
    var details = ClientDetails(ends)
    details.isExtended = clients.sessions[s].greeting.isExtended
    details.isTLS = connection.flags.contains(.encrypted)
    details.isAuthenticated = clients.sessions[s].login.isAuthenticated
    details.isUTF8 = clients.sessions[s].envelope.isUTF8
    details.session = clients.sessionID(i)
    var client = Acquaintance()
    client.details = details
    client.helo = clients.heloName(s, core)
    client.handshakes = clients.sessions[s].verb == .starttls
    return client
  }

  // MARK: Sending

  /// Re-makes the current command from its checked parts and sends it. It goes out with `flush`, together with the
  /// commands that join it.
  mutating func sendCommand(_ i: ClientIndex, _ l: LinkIndex, _ m: inout Moment) {
    let s = clients.connections[i].session
    let verb = clients.sessions[s].verb
    let exchange = clients.sessions[s].login.exchange
    if verb == .auth && exchange == .none && !downstream.links[l].offer.keywords.contains(.auth) {
      offeredLess(i, .loginNotNow, &m)
      return
    }
    let isFirst = downstream.links[l].outstanding.isEmpty
    switch say(verb, i, l, &m) {
    case .introducing:
      clients.sessions[s].enter(.opening)
      m.append(.watch(clients.slot(i)))
    case .offersLess(let reply): offeredLess(i, reply, &m)
    case .tooLong: answer(i, .commandTooLong, &m)
    case .lost(let loss):
      clients.sessions[s].enter(.forwarded)
      linkLost(l, loss, &m)
    case .sent(let line):
      clients.sessions[s].enter(.forwarded)
      if verb == .mail { keepMail(s, line) }
      if verb == .rcpt {
        let count = Int(clients.sessions[s].envelope.recipientCount)
        downstream.keepRecipient(core.layout.recipient(s).prefix(count), l, &core)
      }
      if verb == .data {
        listenForBody(i, &m)
      } else if isFirst {
        m.append(.watch(clients.slot(i)))
      }
    }
  }

  /// Sends the current command, or a part of a log-in.
  private mutating func say(
    _ verb: Verb, _ i: ClientIndex, _ l: LinkIndex, _ m: inout Moment
  ) -> LinkSent {
    let s = clients.connections[i].session
    let argument = clients.argument(s, core)
    switch verb {
    case .auth:
      let word: LoginWord =
        switch clients.sessions[s].login.exchange {
        case .none: .auth
        case .going: .answer
        case .cancelling: .cancel
        }
      return downstream.sayLogin(word, argument, l, &core, &m)
    case .ehlo, .helo:
      let client = acquaintance(i)
      return downstream.send(
        verb, client.helo, of: client, isUTF8: client.details.isUTF8, l, &core, &m)
    default:
      let isTold = verb == .mail && downstream.terms.introduction == .xforward
      return downstream.send(
        verb, argument, of: isTold ? acquaintance(i) : nil,
        isUTF8: clients.sessions[s].envelope.isUTF8, l, &core, &m)
    }
  }

  /// Keeps MAIL as the downstream gets it, so that it can be sent again on another connection.
  private mutating func keepMail(_ s: SessionIndex, _ line: Region) {
    if line.count > Layout.mailBytes {
      clients.sessions[s].envelope.keepMail(0)
      return
    }
    core.arena.move(line, to: core.layout.mail(s).offset)
    clients.sessions[s].envelope.keepMail(line.count)
  }

  /// The client uses an extension that Sluice offered and its own downstream connection does not: it is deferred, never
  /// rejected.
  private mutating func offeredLess(_ i: ClientIndex, _ reply: OwnReply, _ m: inout Moment) {
    if downstream.offers.differs(now: m.now) {
      core.journal.append(clients.entry(.downstreamUnlike, i, core, now: m.now))
    }
    if reply.isOutage {
      answer(i, reply, &m)
    } else {
      reject(i, reply, &m)
    }
  }

  // MARK: Letting go

  /// Lets the downstream connection go for as long as the client waits for us, if nothing is lost by it: the
  /// downstream has no recipient of this client yet, owes no reply, and knows nothing of a log-in.
  mutating func letGo(_ i: ClientIndex, _ m: inout Moment) {
    let s = clients.connections[i].session
    let l = clients.sessions[s].link
    guard l.exists, downstream.links[l].state == .ready, !clients.sessions[s].login.isAuthenticated,
      clients.sessions[s].envelope.acceptedRecipients == 0, clients.sessions[s].envelope.park()
    else { return }
    dropLink(of: i, &m)
  }

  // MARK: Groups

  /// Whether commands may go downstream ahead of replies: the client was offered it and so were we.
  func mayPipeline(_ s: SessionIndex) -> Bool {
    let l = clients.sessions[s].link
    return l.exists && downstream.links[l].state == .busy
      && downstream.links[l].offer.keywords.contains(.pipelining)
      && clients.sessions[s].greeting.isExtended && !clients.sessions[s].inbox.isSkipping
  }

  /// Whether the next command in a session's input may go downstream ahead of the replies to those before it.
  ///
  /// Only what needs nothing from us but to be carried: recipients, and DATA as the last of its group
  /// (RFC 2920, 3.1), neither delayed nor limited nor wrong in any way. All else waits for its turn, so that our
  /// own replies, waits and refusals stand in their order.
  ///
  /// - Parameters:
  ///   - line: where it is, without its line end.
  ///   - isAll: nothing stands behind it.
  func mayJoin(_ i: ClientIndex, _ line: Region, isAll: Bool, now: Instant) -> Bool {
    let s = clients.connections[i].session
    let l = clients.sessions[s].link
    let outstanding = downstream.links[l].outstanding
    let use = clients.sessions[s].use
    let limits = core.policy.session
    guard outstanding.last == .mail || outstanding.last == .rcpt,
      outstanding.count < OutstandingCommands.most,
      line.count + 64 <= Layout.linkOutBytes - downstream.links[l].output.count,
      use.commands < UInt32(limits.commands), usedUp(i, now: now) == nil, !use.isOver(limits),
      clients.connections[i].tier != .bad
    else { return false }
    let command = Command(line: core.arena.span(line))
    // Behind a MAIL that was refused the answer is our own: it waits for those that are still to come.
    // What departs from the letter is not carried only, but noted and re-made: each has its turn.
    guard command.form != .malformed, command.form != .tolerated,
      command.verb == command.strictVerb,
      clients.sessions[s].envelope.hasMail || outstanding.contains(.mail)
    else { return false }
    switch command.verb {
    case .rcpt:
      let argument = line.prefix(command.argument.upperBound).from(command.argument.lowerBound)
      guard mayJoin(i, recipient: argument, outstanding) else { return false }
    case .data:
      guard command.argument.isEmpty, isAll,
        clients.sessions[s].envelope.acceptedRecipients > 0 || outstanding.contains(.rcpt)
      else { return false }
    default: return false
    }
    if let rule = clients.rateRule(i, core), !clients.connections[i].flags.contains(.trusted),
      rule.rate(.recipients) != nil || rule.rate(.messages) != nil
    {
      return false
    }
    let score = core.policy.score(clients.connections[i].signals)
    return core.policy.delays.delay(
      command.verb.stage, tier: clients.connections[i].tier, score: score, count: 1) == 0
  }

  private func mayJoin(
    _ i: ClientIndex, recipient: Region, _ outstanding: OutstandingCommands
  ) -> Bool {
    let s = clients.connections[i].session
    // A client whose recipients may still be refused, slowly, has one at a time: the downstream does not wait for the
    // rest.
    if core.policy.effectiveTier(clients.connections[i]) != .known
      && (outstanding.contains(.rcpt) || clients.sessions[s].badRecipients > 0)
    {
      return false
    }
    let isUTF8 = clients.sessions[s].envelope.isUTF8
    let offer = downstream.links[clients.sessions[s].link].offer.keywords
    guard
      case .parsed(let arguments) = RcptArguments.parse(
        core.arena.span(recipient), smtputf8: isUTF8),
      arguments.lapse == nil,
      !arguments.parameters.isUnsupported(by: clients.sessions[s].greeting.offered),
      arguments.parameters.present.isSubset(of: offer.parameters(role: .inbound))
    else { return false }
    let limit = UInt32(clamping: core.policy.session.recipients)
    let sent = clients.sessions[s].envelope.acceptedRecipients + outstanding.number(of: .rcpt)
    return limit == 0 || sent < limit
  }
}

extension Parameters {
  /// Whether the client used a parameter it was not offered. Such a one is refused, never dropped: each
  /// changes what the message means. SIZE is ours to check, AUTH= is taken off.
  func isUnsupported(by offered: Capabilities.Keywords) -> Bool {
    let known = offered.parameters(role: .inbound).union(.oursToCheck)
    return !present.subtracting(known).isEmpty || body == .binaryMIME
  }
}
