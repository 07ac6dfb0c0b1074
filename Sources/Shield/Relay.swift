// SPDX-License-Identifier: Apache-2.0
import Flow
import Policy
import SMTP
import Structures
import Suspicion

// The downstream side. Commands are out one at a time, or in a group where both sides pipeline, and replies are
// paired with them in order; a reply without a command, a malformed reply or one of a wrong class ends the
// connection, and the client hears 451 for each command that was out (reliability rules, 19 to 21).
extension Engine {
  // MARK: Forwarding

  /// Sends the command at hand to the downstream, which is opened if need be.
  mutating func forward(_ i: Int, now: Instant, into effects: inout EffectQueue) {
    let s = Int(connections[i].session)
    let l = Int(sessions[s].link)
    if l >= 0 && (links[l].state == .ready || links[l].state == .busy) {
      sendCommand(i, l, now: now, into: &effects)
      return
    }
    if l < 0 && sessions[s].flags.contains(.authenticated) {
      // On another connection it would be a stranger.
      leave(i, .authenticationLost, now: now, into: &effects)
      return
    }
    if l < 0 && connections[i].isNobody {
      // The downstream would take it for the balancer, whom it may trust.
      if sessions[s].verb == .ehlo {
        // A health check, as a rule: no mail is refused yet.
        helloFromOthers(i, now: now, into: &effects)
        return
      }
      refuseHeader(.clientUnnamed, peer(i), now: now)
      answer(i, .clientUnnamed, now: now, into: &effects)
      return
    }
    let verb = sessions[s].verb
    let mayOpen =
      l < 0
      && (verb == .mail || verb == .auth || verb == .starttls || verb == .ehlo
        || sessions[s].flags.contains(.parked))
    if mayOpen && !mayTake(.links, i, now: now) {
      answer(i, .tooManyLinks, now: now, into: &effects)
      return
    }
    guard mayOpen, let opened = openLink(for: s, now: now, into: &effects) else {
      if mayOpen { limitReached(i, .links, now: now) }
      if verb == .ehlo {
        helloFromOthers(i, now: now, into: &effects)
      } else if mayOpen {
        answer(i, .noDownstreamRoom, now: now, into: &effects)
      } else {
        transactionLost(i, now: now, into: &effects)
      }
      return
    }
    sessions[s].link = Int32(opened)
    sessions[s].phase = .opening
    flush(i, now: now, into: &effects)
    effects.append(.watch(slot(client: i)))
  }

  // MARK: Sending

  mutating func flushLink(_ l: Int, into effects: inout EffectQueue) {
    guard !links[l].sending, links[l].outStart < links[l].outEnd else { return }
    links[l].sending = true
    let region = Region(
      offset: linkOut(l).offset + Int(links[l].outStart),
      count: Int(links[l].outEnd - links[l].outStart))
    effects.append(.send(slot(link: l), region))
  }

  /// Puts octets into a link's own buffer. All callers write what they have checked.
  mutating func write(
    _ l: Int, into effects: inout EffectQueue, _ body: (inout OutputSpan<UInt8>) -> Void
  ) {
    let room = linkOut(l).from(Int(links[l].outEnd))
    links[l].outEnd += Int32(arena.append(into: room, body))
    flushLink(l, into: &effects)
  }

  /// Re-makes the command at hand from its checked parts and sends it.
  mutating func sendCommand(
    _ i: Int, _ l: Int, now: Instant, into effects: inout EffectQueue
  ) {
    let s = Int(connections[i].session)
    if sessions[s].verb == .mail && forwardDetails(l, now: now, into: &effects) {
      sessions[s].phase = .opening
      effects.append(.watch(slot(client: i)))
      return
    }
    let verb = sessions[s].verb
    if verb == .auth && sessions[s].flags.isDisjoint(with: .exchange)
      && !links[l].offer.keywords.contains(.auth)
    {
      offeredLess(i, .loginNotNow, now: now, into: &effects)
      return
    }
    if verb == .starttls && !links[l].offer.keywords.contains(.starttls) {
      offeredLess(i, .tlsUnavailable, now: now, into: &effects)
      return
    }
    links[l].state = .busy
    sessions[s].phase = .forwarded
    if verb == .auth {
      sayLogin(i, l, now: now, into: &effects)
      return
    }
    let utf8 = sessions[s].flags.contains(.utf8)
    let isHello = verb == .ehlo || verb == .helo
    let isExtended = links[l].isExtended
    // AUTH= is a claim about the sender that only a trusted peer may make (RFC 4954, 5): taken off.
    let passing = links[l].offer.keywords.parameters(role: .inbound)
    var isUnsupported = false
    let room = linkOut(l).from(Int(links[l].outEnd))
    let words = isHello ? heloName(s) : argument(s)
    let address = connections[i].address
    let written = arena.transform(from: words, into: room) { bytes, out in
      switch verb {
      // In the words that this downstream knows, whichever the client's are.
      case .ehlo, .helo:
        _ = writeHello(isExtended ? "EHLO" : "HELO", bytes, from: address, into: &out)
      case .mail:
        if case .parsed(let arguments) = MailArguments.parse(bytes) {
          // The client was told more than its own connection was offered. BODY=7BIT says nothing.
          var needed = arguments.parameters.present.subtracting(.oursToCheck)
          if arguments.parameters.body == .sevenBit { needed.remove(.body) }
          isUnsupported = !needed.isSubset(of: passing)
          if !isUnsupported {
            _ = writeMail(arguments, from: bytes, passing: passing, into: &out)
          }
        }
      case .rcpt:
        if case .parsed(let arguments) = RcptArguments.parse(bytes, smtputf8: utf8) {
          isUnsupported = !arguments.parameters.present.isSubset(of: passing)
          if !isUnsupported {
            _ = writeRcpt(arguments, from: bytes, passing: passing, into: &out)
          }
        }
      case .data: _ = writeCommand("DATA", Span(), into: &out)
      case .rset: _ = writeCommand("RSET", Span(), into: &out)
      case .noop: _ = writeCommand("NOOP", Span(), into: &out)
      case .starttls: _ = writeCommand("STARTTLS", Span(), into: &out)
      default: break
      }
    }
    if written == 0 {
      // It passed every check and yet cannot be said: too long for the downstream.
      guard links[l].outstanding.isEmpty else {
        linkFailed(l, .closed, now: now, into: &effects)
        return
      }
      links[l].state = .ready
      if isUnsupported {
        offeredLess(i, .parameterNotNow, now: now, into: &effects)
      } else {
        answer(i, .commandTooLong, now: now, into: &effects)
      }
      return
    }
    if verb == .mail { keepMail(s, room.prefix(written)) }
    links[l].outEnd += Int32(written)
    links[l].outstanding.append(verb)
    if verb == .rcpt { keepRecipient(l, s) }
    setLinkTimer(l, verb == .data ? policy.timeouts.data : policy.timeouts.reply, now: now)
    if verb == .data {
      listenForBody(i, now: now, into: &effects)
    } else if links[l].outstanding.count == 1 {
      effects.append(.watch(slot(client: i)))
    }
    // It goes out with `flush`, together with the commands that join it.
  }

  // MARK: Letting go

  /// Keeps MAIL as the downstream hears it, so that it can be said again on another connection.
  private mutating func keepMail(_ s: Int, _ line: Region) {
    sessions[s].mailCount = 0
    if line.count > Layout.mailBytes { return }
    arena.move(line, to: mailRegion(s).offset)
    sessions[s].mailCount = Int32(line.count)
  }

  /// Lets the downstream connection go for as long as the client waits for us, if nothing is lost by it: the
  /// downstream has no recipient of this client yet, owes no reply, and knows nothing of a log-in.
  mutating func letGo(_ i: Int, now: Instant, into effects: inout EffectQueue) {
    let s = Int(connections[i].session)
    let l = Int(sessions[s].link)
    let flags = sessions[s].flags
    guard l >= 0, links[l].state == .ready, !flags.contains(.authenticated),
      sessions[s].acceptedRecipients == 0
    else { return }
    if flags.contains(.mail) {
      if sessions[s].mailCount == 0 { return }
      sessions[s].flags.insert(.parked)
    }
    dropLink(of: i, now: now, into: &effects)
  }

  /// Says MAIL again, on a new connection; the recipient at hand follows when it is accepted.
  mutating func repeatMail(
    _ i: Int, _ l: Int, now: Instant, into effects: inout EffectQueue
  ) {
    let s = Int(connections[i].session)
    links[l].state = .busy
    links[l].outstanding.append(.mail)
    setLinkTimer(l, policy.timeouts.reply, now: now)
    let line = mailRegion(s).prefix(Int(sessions[s].mailCount))
    arena.move(line, to: linkOut(l).offset + Int(links[l].outEnd))
    links[l].outEnd += Int32(line.count)
    flushLink(l, into: &effects)
  }

  /// MAIL was said again, for the recipient at hand.
  private mutating func mailRepeated(
    _ i: Int, _ l: Int, _ code: UInt16, now: Instant, into effects: inout EffectQueue
  ) {
    let s = Int(connections[i].session)
    sessions[s].flags.remove(.parked)
    if code < 300 {
      sendCommand(i, l, now: now, into: &effects)
    } else {
      // What it took before it refuses now: the recipient hears so.
      links[l].repliedVerb = nil
      passReply(i, l, now: now)
      loseTransaction(s)
      finish(i)
      endIfUsedUp(i, now: now, into: &effects)
    }
    if connections[i].state == .talking { work(i, now: now, into: &effects) }
  }

  // MARK: Recipients

  /// Keeps the path of a recipient until its reply has come: the log names the one that was refused.
  private mutating func keepRecipient(_ l: Int, _ s: Int) {
    let place = linkPath(l, links[l].recipientsTold)
    links[l].recipientsTold &+= 1
    arena[place.offset] = sessions[s].recipientCount
    arena.move(
      recipientRegion(s).prefix(Int(sessions[s].recipientCount)), to: place.offset + 1)
  }

  private mutating func recallRecipient(_ l: Int, _ s: Int) {
    let place = linkPath(l, links[l].recipientsAnswered)
    links[l].recipientsAnswered &+= 1
    sessions[s].recipientCount = arena[place.offset]
    arena.move(
      Region(offset: place.offset + 1, count: Int(sessions[s].recipientCount)),
      to: recipientRegion(s).offset)
  }

  /// Whether the next command in a session's input may go downstream ahead of the replies to those before it.
  ///
  /// Only what needs nothing from us but to be carried: recipients, and DATA as the last of its group
  /// (RFC 2920, 3.1), neither delayed nor limited nor wrong in any way. All else waits for its turn, so that our
  /// own replies, waits and refusals stand in their order.
  func mayJoin(_ i: Int, lineAt start: Int, _ length: Int, consumed: Int, now: Instant) -> Bool {
    let s = Int(connections[i].session)
    let l = Int(sessions[s].link)
    let outstanding = links[l].outstanding
    let tier = connections[i].tier
    guard outstanding.last == .mail || outstanding.last == .rcpt,
      outstanding.count < OutstandingCommands.most,
      length + 64 <= Layout.linkOutBytes - Int(links[l].outEnd),
      sessions[s].use.commands < UInt32(policy.session.commands),
      usedUp(i, now: now) == nil, !sessions[s].use.isOver(policy.session), tier != .bad
    else { return false }
    let region = Region(offset: input(s).offset + start, count: length)
    let command = Command(line: arena.span(region))
    // Behind a MAIL that was refused the answer is our own: it waits for those that are still to come.
    // What departs from the letter is not carried only, but noted and re-made: each has its turn.
    guard command.form != .malformed, command.form != .tolerated,
      command.verb == command.strictVerb,
      sessions[s].flags.contains(.mail) || outstanding.contains(.mail)
    else { return false }
    let stage: Stage
    switch command.verb {
    case .rcpt:
      stage = .recipientAccepted
      // Who may still be refused recipients, slowly, has one at a time: the downstream does not wait for the rest.
      if effectiveTier(i) != .known
        && (outstanding.contains(.rcpt) || sessions[s].badRecipients > 0)
      {
        return false
      }
      let isUTF8 = sessions[s].flags.contains(.utf8)
      let argument = region.prefix(command.argument.upperBound).from(command.argument.lowerBound)
      guard
        case .parsed(let arguments) = RcptArguments.parse(arena.span(argument), smtputf8: isUTF8),
        arguments.lapse == nil, !isUnsupported(arguments.parameters, sessions[s].offered),
        arguments.parameters.present.isSubset(
          of: links[l].offer.keywords.parameters(role: .inbound))
      else { return false }
      let limit = UInt32(clamping: policy.session.recipients)
      let sent = sessions[s].acceptedRecipients + outstanding.number(of: .rcpt)
      if limit > 0 && sent >= limit { return false }
    case .data:
      stage = .data
      guard command.argument.isEmpty, start + consumed == Int(sessions[s].inputEnd),
        sessions[s].acceptedRecipients > 0 || outstanding.contains(.rcpt)
      else { return false }
    default: return false
    }
    if let rule = rateRule(i), !connections[i].flags.contains(.trusted),
      rule.rate(.recipients) != nil || rule.rate(.messages) != nil
    {
      return false
    }
    return policy.delays.delay(
      stage, tier: tier, score: policy.score(connections[i].signals), count: 1) == 0
  }

  /// Forwards message bytes straight from the session's input region, once the trace header is out.
  mutating func sendBody(_ l: Int, _ s: Int, now: Instant, into effects: inout EffectQueue) {
    if links[l].outEnd > 0 { return }
    links[l].sending = true
    setLinkTimer(l, policy.timeouts.block, now: now)
    let piece = input(s).prefix(Int(sessions[s].relayEnd)).from(Int(sessions[s].relayStart))
    effects.append(.send(slot(link: l), piece))
  }

  mutating func linkSent(
    _ l: Int, _ count: Int, now: Instant, into effects: inout EffectQueue
  ) {
    links[l].sending = false
    let s = Int(links[l].session)
    let isPassing = links[l].state == .body || links[l].state == .spliced
    if isPassing, links[l].outEnd == 0, s >= 0, sessions[s].flags.contains(.relaying) {
      let i = Int(sessions[s].owner)
      sessions[s].relayStart += Int32(count)
      if sessions[s].relayStart < sessions[s].relayEnd {
        sendBody(l, s, now: now, into: &effects)
      } else if links[l].state == .spliced {
        spliceForwarded(i, now: now, into: &effects)
      } else {
        bodyForwarded(i, now: now, into: &effects)
      }
      return
    }
    links[l].outStart += Int32(count)
    if links[l].outStart < links[l].outEnd {
      flushLink(l, into: &effects)
    } else {
      links[l].outStart = 0
      links[l].outEnd = 0
      if links[l].unsaid > 0 { sayMore(l, into: &effects) }
      // The PROXY header is out.
      if links[l].state == .securing {
        secureLink(l, now: now, into: &effects)
      } else if links[l].state == .body, s >= 0, sessions[s].flags.contains(.relaying) {
        // Behind the trace header, or behind what was rewritten.
        if sessions[s].relayStart < sessions[s].relayEnd {
          sendBody(l, s, now: now, into: &effects)
        } else {
          bodyForwarded(Int(sessions[s].owner), now: now, into: &effects)
        }
      }
    }
  }

  mutating func awaitFinalReply(_ l: Int, now: Instant) {
    links[l].state = .final
    // The reader was made ready at 354: a reply of which half has come already is read on.
    links[l].replyCount = 0
    setLinkTimer(l, policy.timeouts.endOfData, now: now)
  }

  // MARK: Replies

  mutating func linkHeard(
    _ l: Int, _ count: Int, now: Instant, into effects: inout EffectQueue
  ) {
    switch links[l].state {
    case .free, .closing, .connecting, .securing: return
    case .ready:
      // A goodbye between two commands, or words nobody asked for: either way it is done with.
      linkFailed(l, .unexpectedReply, now: now, into: &effects)
      return
    case .quitting:
      closeLink(l, into: &effects)
      return
    case .spliced:
      links[l].inEnd = Int32(count)
      let s = Int(links[l].session)
      if s >= 0 { deliverSplice(Int(sessions[s].owner), l, now: now, into: &effects) }
      return
    case .greeting, .ehlo, .helo, .introducing, .starttls, .busy, .body, .final: break
    }
    links[l].inStart = 0
    links[l].inEnd = Int32(count)
    readReplies(l, now: now, into: &effects)
  }

  /// Goes on with the replies that waited for the client or for a delay. The downstream's time begins anew.
  mutating func readOn(_ l: Int, now: Instant, into effects: inout EffectQueue) {
    setLinkTimer(l, policy.timeouts.reply, now: now)
    readReplies(l, now: now, into: &effects)
  }

  /// Takes the replies that have come, one for each command that is out, as far as they may be taken: one that
  /// is held back holds those behind it, and so does a client that does not take its own.
  private mutating func readReplies(_ l: Int, now: Instant, into effects: inout EffectQueue) {
    while true {
      let s = Int(links[l].session)
      links[l].isPaused = false
      if links[l].state == .busy && s >= 0 {
        if sessions[s].phase == .holding { return }
        if Layout.outboxBytes - Int(sessions[s].outEnd) < Layout.replyBytes {
          awaitClient(l, s, now: now, into: &effects)
          return
        }
      }
      if links[l].replyCount > 0 && links[l].state != .body && links[l].state != .final {
        links[l].reader.reset()
        links[l].replyCount = 0
      }
      let unread = Int(links[l].inEnd - links[l].inStart)
      let source = linkIn(l).from(Int(links[l].inStart)).prefix(unread)
      let use = use(ofReplyAt: l)
      // A piece of a challenge leaves room in the outbox for a last word.
      let target = use == .login ? linkReply(l).prefix(Layout.challengeBytes) : linkReply(l)
      var reader = links[l].reader
      var consumed = 0
      var step = ReplyStep.needMore
      arena.exchange(from: source, into: target) { bytes, text in
        step = reader.read(bytes, consumed: &consumed, into: &text, for: use)
      }
      links[l].reader = reader
      links[l].inStart += Int32(consumed)
      switch step {
      case .needMore:
        effects.append(.fill(slot(link: l), linkIn(l)))
        if links[l].state == .busy && s >= 0 {
          flush(Int(sessions[s].owner), now: now, into: &effects)
        }
        return
      case .full:
        guard links[l].unsaid == 0 else {
          // It answers what it has not heard the end of.
          linkFailed(l, .unexpectedReply, now: now, into: &effects)
          return
        }
        passPiece(l, s)
        continue
      case .fault:
        linkFailed(l, .malformedReply, now: now, into: &effects)
        return
      case .complete where consumed < unread && links[l].outstanding.count <= 1:
        linkFailed(l, .unexpectedReply, now: now, into: &effects)
        return
      case .complete: break
      }
      links[l].replyCount = Int32(reader.length)
      let isLast = links[l].outstanding.count <= 1
      if isLast {
        wheel.cancel(limits.connections + l)
      } else {
        setLinkTimer(l, policy.timeouts.reply, now: now)
      }
      replied(l, reader.code, now: now, into: &effects)
      switch links[l].state {
      case .free, .closing, .securing: return
      default: break
      }
      if isLast {
        // Always listening: a link that dies between two commands is noticed at once.
        effects.append(.fill(slot(link: l), linkIn(l)))
        return
      }
    }
  }

  /// What the reply at hand is for, from its first octet to its last.
  private func use(ofReplyAt l: Int) -> ReplyUse {
    if links[l].state == .ehlo { return .ourselves }
    let s = Int(links[l].session)
    guard s >= 0 else { return .client }
    switch links[l].state {
    case .busy where sessions[s].verb == .ehlo: return .ourselves
    case .busy where sessions[s].verb == .auth && !sessions[s].flags.contains(.cancelling):
      return .login
    case .busy, .body, .final: return sessions[s].flags.contains(.utf8) ? .clientUTF8 : .client
    default: return .client
    }
  }

  /// Hands a piece of a challenge to the client, for which there is room. From here on that reply has begun.
  private mutating func passPiece(_ l: Int, _ s: Int) {
    let piece = linkReply(l).prefix(links[l].reader.length)
    arena.move(piece, to: outbox(s).offset + Int(sessions[s].outEnd))
    sessions[s].outEnd += Int32(piece.count)
    links[l].reader.taken()
    links[l].hasPassedPiece = true
  }

  /// Replies wait until the client has taken those before them. The downstream's clock stands meanwhile, and the
  /// client's runs.
  private mutating func awaitClient(
    _ l: Int, _ s: Int, now: Instant, into effects: inout EffectQueue
  ) {
    let i = Int(sessions[s].owner)
    links[l].isPaused = true
    wheel.cancel(limits.connections + l)
    wheel.set(i, at: now.after(microseconds: policy.timeouts.send))
    flush(i, now: now, into: &effects)
  }

  private mutating func replied(
    _ l: Int, _ code: UInt16, now: Instant, into effects: inout EffectQueue
  ) {
    switch links[l].state {
    case .greeting:
      if isWelcome(code) {
        greetDownstream(l, extended: true, now: now, into: &effects)
      } else {
        linkRefused(l, .greeting, code, now: now, into: &effects)
      }
    case .ehlo:
      if isWelcome(code) {
        let text = linkReply(l).prefix(Int(links[l].replyCount))
        let offers = Capabilities(ehloReply: arena.span(text))
        if securesFirst(l, offers, now: now, into: &effects) { return }
        learn(l, offers)
        if introduce(l, now: now, into: &effects) { return }
        linkReady(l, now: now, into: &effects)
      } else if code >= 500 && code != 521 && mayFallBack(l) {
        greetDownstream(l, extended: false, now: now, into: &effects)
      } else {
        linkRefused(l, .heloRefused, code, now: now, into: &effects)
      }
    case .helo:
      if isWelcome(code) {
        if securesFirst(l, Capabilities(), now: now, into: &effects) { return }
        learn(l, Capabilities())
        linkReady(l, now: now, into: &effects)
      } else {
        linkRefused(l, .heloRefused, code, now: now, into: &effects)
      }
    case .starttls:
      if isWelcome(code) {
        secureLink(l, now: now, into: &effects)
      } else if downstream.terms.tls == .opportunistic {
        // In clear, then. What it offers was not kept, so it is asked again.
        links[l].staysClear = true
        greetDownstream(l, extended: true, now: now, into: &effects)
      } else {
        linkFailed(l, .noTLS, now: now, into: &effects)
      }
    case .introducing: introduced(l, code, now: now, into: &effects)
    case .busy: commandReplied(l, code, now: now, into: &effects)
    case .body: spokeEarly(l, code, now: now, into: &effects)
    case .final: finalReplied(l, code, now: now, into: &effects)
    case .free, .connecting, .securing, .ready, .spliced, .quitting, .closing: break
    }
  }

  /// Copies the downstream's reply, as the reader re-made it, into the client's outbox.
  mutating func passReply(_ i: Int, _ l: Int, now: Instant) {
    let s = Int(connections[i].session)
    let verb = links[l].repliedVerb ?? sessions[s].verb
    let reply = linkReply(l).prefix(Int(links[l].replyCount))
    let room = Layout.outboxBytes - Int(sessions[s].outEnd)
    // 354 and the reply to the message share the room of one command, and a last 421 may follow: where a
    // client does not take its replies and the downstream is wordy, code and class must be enough.
    if reply.count + Layout.outboxReserve <= room {
      arena.move(reply, to: outbox(s).offset + Int(sessions[s].outEnd))
      sessions[s].outEnd += Int32(reply.count)
    } else {
      let code = links[l].reader.code
      let written = arena.append(into: outbox(s).from(Int(sessions[s].outEnd))) { out in
        writeShortReply(code: code, into: &out)
      }
      sessions[s].outEnd += Int32(written)
    }
    let code = links[l].reader.code
    sessions[s].lastReply = code
    // An intermediate reply finishes nothing: DATA and AUTH are counted by their final ones.
    if code >= 400 || code < 300 { tally(s, verb, good: code < 400) }
    if code >= 400 {
      counters.rejectedDownstream += 1
      countError(i, verb, code, now: now)
      var entry = entry(.reject, i, now: now)
      entry.reply = code
      entry.verb = verb
      // Of a message, as against DATA itself, the end is refused.
      entry.stage = verb == .data && links[l].repliedVerb == nil ? .endOfData : .other
      entry.quoteFirstLine(arena.span(reply))
      journal.append(entry)
    }
  }

  private mutating func commandReplied(
    _ l: Int, _ code: UInt16, now: Instant, into effects: inout EffectQueue
  ) {
    let s = Int(links[l].session)
    let i = Int(sessions[s].owner)
    let verb = links[l].outstanding.first ?? sessions[s].verb
    let isCancelled = verb == .auth && sessions[s].flags.contains(.cancelling)
    guard code >= 400 || !isCancelled && (isSuccess(code, of: verb) || isGoOn(code, of: verb))
    else {
      linkFailed(l, .wrongClass, now: now, into: &effects)
      return
    }
    if links[l].unsaid > 0 {
      refusedEarly(i, l, code, now: now, into: &effects)
      return
    }
    // It cannot have seen the DATA that is not all sent: what followed would stand among our commands.
    guard !isGoOn(code, of: verb) || verb != .data || !links[l].sending && links[l].outEnd == 0
    else {
      linkFailed(l, .unexpectedReply, now: now, into: &effects)
      return
    }
    links[l].repliedVerb = links[l].outstanding.removeFirst()
    let isLast = links[l].outstanding.isEmpty
    if verb == .rcpt { recallRecipient(l, s) }
    if isLast { links[l].state = .ready }
    if code == 421 {
      goodbyeFromDownstream(i, l, now: now, into: &effects)
      return
    }
    if sessions[s].phase == .opening {
      mailRepeated(i, l, code, now: now, into: &effects)
      return
    }
    var wait: Int64 = 0
    switch verb {
    case .mail:
      if code < 300 {
        sessions[s].flags.insert(.mail)
        sessions[s].flags.remove(.refusedMail)
      }
    case .rcpt:
      if code < 300 {
        sessions[s].acceptedRecipients += 1
        sessions[s].flags.remove(.refusedRecipient)
        counters.recipients += 1
      } else {
        sessions[s].flags.insert(.refusedRecipient)
        wait = recipientRejected(i, code, now: now)
      }
    case .data:
      if code < 400 {
        links[l].state = .body
        writeTrace(l, now: now, into: &effects)
        passReply(i, l, now: now)
        links[l].reader.reset()
        links[l].replyCount = 0
        finish(i)
        beginBody(i, now: now, into: &effects)
        return
      }
    case .starttls where code < 300:
      beginSplice(i, l, now: now, into: &effects)
      return
    // One that is refused changes nothing (RFC 5321, 4.1.4): its reply goes on.
    case .ehlo where code < 300, .helo where code < 300:
      var offers = Capabilities()
      if links[l].isExtended {
        let text = linkReply(l).prefix(Int(links[l].replyCount))
        offers = Capabilities(ehloReply: arena.span(text))
      }
      learn(l, offers)
      helloTaken(i, offers, now: now, into: &effects)
      work(i, now: now, into: &effects)
      return
    // Refused at DATA: the recipients stay with the downstream until RSET or MAIL, as here.
    case .rset: resetTransaction(i)
    case .auth where sessions[s].flags.contains(.cancelling):
      sessions[s].flags.remove(.exchange)
      answer(i, sessions[s].verdict, now: now, into: &effects)
      if connections[i].state == .talking { work(i, now: now, into: &effects) }
      return
    case .auth:
      sessions[s].flags.remove(.authenticating)
      links[l].hasPassedPiece = false
      if isGoOn(code, of: .auth) {
        sessions[s].flags.insert(.authenticating)
        passReply(i, l, now: now)
        finish(i)
        sessions[s].verb = .auth
        sessions[s].phase = .challenge
        work(i, now: now, into: &effects)
        return
      }
      if code < 300 {
        sessions[s].flags.insert(.authenticated)
        forgetForm(i, now: now)
      } else if code == 535 {
        // 454 and 538 say nothing of the password: an outage must not lock out who knows it.
        wait = delay(.authFailure, i, count: loginFailed(i, now: now), now: now)
      }
    default: break
    }
    // With more replies to come, those first: the next command finds it bad then.
    if policy.mode == .enforce && connections[i].tier == .bad && isLast {
      moveToTarpit(i, now: now, into: &effects)
      return
    }
    if wait > 0 {
      // We let it wait, not it us: its clock stands until `readOn`.
      wheel.cancel(limits.connections + l)
      sessions[s].phase = .holding
      sessions[s].stage = verb == .auth ? .authFailure : .recipientRejected
      if verb == .rcpt && isLast && wait >= Downstream.parkAfter {
        holdAlone(i, l, now: now, into: &effects)
      }
      wheel.set(i, at: now.after(microseconds: wait))
      flush(i, now: now, into: &effects)
      effects.append(.watch(slot(client: i)))
      return
    }
    releaseReply(i, now: now, into: &effects)
    if verb == .starttls && downstream.terms.tls != .off && !links[l].isSecured {
      // In clear because the handshake was to be the client's. Mail goes over one that is opened for it.
      dropLink(of: i, now: now, into: &effects)
    }
    if isLast && connections[i].state == .talking { work(i, now: now, into: &effects) }
  }

  /// Lets the downstream go while the client waits for its reply, which lies in the outbox until then.
  private mutating func holdAlone(_ i: Int, _ l: Int, now: Instant, into effects: inout EffectQueue)
  {
    let s = Int(connections[i].session)
    letGo(i, now: now, into: &effects)
    guard sessions[s].link < 0 else { return }
    let before = sessions[s].outEnd
    passReply(i, l, now: now)
    sessions[s].outHeld = sessions[s].outEnd - before
  }

  /// Whether a reply says that a command was carried out. Its first digit does (RFC 5321, 4.3.2), unless the code is
  /// known to be another command's: 211 and 214 (HELP), 220 (a greeting, STARTTLS), 221 (QUIT) and 235 (AUTH).
  /// Such a one shows that replies and commands have come apart, and 2yz to the end of a message must be about that
  /// message.
  private func isSuccess(_ code: UInt16, of verb: Verb) -> Bool {
    switch code {
    case 220: verb == .starttls
    case 235: verb == .auth
    case 211, 214, 221: false
    // DATA itself is never carried out: its message is.
    default: code / 100 == 2 && verb != .data
    }
  }

  /// Whether a greeting, or the answer to EHLO, HELO or STARTTLS of ours, is a welcome: by its first digit, save a
  /// goodbye.
  private func isWelcome(_ code: UInt16) -> Bool { code / 100 == 2 && code != 221 }

  /// Whether a reply asks for what follows: the message, or an answer to a challenge (as above; 334 and 354 are
  /// known).
  private func isGoOn(_ code: UInt16, of verb: Verb) -> Bool {
    switch verb {
    case .data: code / 100 == 3 && code != 334
    case .auth: code / 100 == 3 && code != 354
    default: false
    }
  }

  /// Whether the end of a message was answered with success: as at MAIL and RCPT.
  private func isTaken(_ code: UInt16) -> Bool { isSuccess(code, of: .mail) }

  /// A recipient was refused: counts it, and says how long its reply is held.
  private mutating func recipientRejected(_ i: Int, _ code: UInt16, now: Instant) -> Int64 {
    let s = Int(connections[i].session)
    // 503: it stands behind a MAIL that was refused, which says nothing about the recipient.
    guard code >= 500 && code != 503 else { return 0 }
    sessions[s].badRecipients += 1
    if sessions[s].badRecipients >= UInt32(policy.session.badRecipients) {
      note(.badRecipients, i, now: now)
    }
    return delay(.recipientRejected, i, count: Int(sessions[s].badRecipients), now: now)
  }

  /// Gives the client the reply that lies ready at its link.
  mutating func releaseReply(_ i: Int, now: Instant, into effects: inout EffectQueue) {
    let s = Int(connections[i].session)
    let l = Int(sessions[s].link)
    if sessions[s].outHeld > 0 {
      sessions[s].outHeld = 0
      finish(i)
      endIfUsedUp(i, now: now, into: &effects)
      return
    }
    guard l >= 0, links[l].replyCount > 0 else {
      answer(i, .downstreamLost, now: now, into: &effects)
      return
    }
    passReply(i, l, now: now)
    if links[l].outstanding.isEmpty {
      finish(i)
    } else {
      sessions[s].phase = .forwarded
    }
    if sessions[s].authFailures >= UInt32(policy.session.authFailures) {
      limitReached(i, .authFailures, now: now)
      leave(i, .tooManyErrors, now: now, into: &effects)
      return
    }
    endIfUsedUp(i, now: now, into: &effects)
  }

  /// The downstream says 421: its reply goes on, and then nothing else can work here.
  private mutating func goodbyeFromDownstream(
    _ i: Int, _ l: Int, now: Instant, into effects: inout EffectQueue
  ) {
    passReply(i, l, now: now)
    resetTransaction(i)
    goOn(i, after: 421, now: now, into: &effects)
  }

  private mutating func spokeEarly(
    _ l: Int, _ code: UInt16, now: Instant, into effects: inout EffectQueue
  ) {
    let s = Int(links[l].session)
    let i = Int(sessions[s].owner)
    guard code >= 400 else {
      linkFailed(l, .early, now: now, into: &effects)
      return
    }
    // It refuses the message before its end. Its words go into the outbox now, because the link is of no
    // more use, and out to the client at the end of the message, when the client listens.
    sessions[s].verb = .data
    links[l].repliedVerb = nil
    passReply(i, l, now: now)
    sessions[s].hasVerdict = true
    swallow(i, .downstreamLost, now: now, into: &effects)
    goOnSwallowing(i, now: now, into: &effects)
  }

  private mutating func finalReplied(
    _ l: Int, _ code: UInt16, now: Instant, into effects: inout EffectQueue
  ) {
    links[l].state = .ready
    let s = Int(links[l].session)
    guard s >= 0 else {
      // The client did not wait for this answer: it will send the message again.
      if code < 300 {
        counters.possibleDuplicates += 1
        var entry = JournalEntry(.possibleDuplicate, at: now)
        entry.session = links[l].orphanOf
        journal.append(entry)
      }
      quitLink(l, now: now, into: &effects)
      return
    }
    let i = Int(sessions[s].owner)
    guard isTaken(code) || code >= 400 else {
      linkFailed(l, .wrongClass, now: now, into: &effects)
      return
    }
    sessions[s].verb = .data
    links[l].repliedVerb = nil
    if isTaken(code) {
      counters.messages += 1
      counters.messageBytes += sessions[s].data.size
      sessions[s].progress = now
      sessions[s].messages += 1
      var accepted = entry(.accepted, i, now: now)
      accepted.recipients = sessions[s].acceptedRecipients
      // The last one said, which is kept, may be one that was refused.
      if sessions[s].flags.contains(.refusedRecipient) { accepted.text.recipientCount = 0 }
      // It holds the number under which the server's own log goes on.
      accepted.quoteFirstLine(arena.span(linkReply(l).prefix(Int(links[l].replyCount))))
      journal.append(accepted)
      earnedTrust(i, now: now)
    }
    passReply(i, l, now: now)
    resetTransaction(i)
    sessions[s].phase = .command
    goOn(i, after: code, now: now, into: &effects)
  }

  /// The client has a reply of the downstream, and goes on, unless that was the last one.
  mutating func goOn(
    _ i: Int, after code: UInt16, now: Instant, into effects: inout EffectQueue
  ) {
    if code == 421 {
      dropLink(of: i, now: now, into: &effects)
      sessions[Int(connections[i].session)].phase = .leaving
      wheel.set(i, at: now.after(microseconds: policy.timeouts.send))
      flush(i, now: now, into: &effects)
      return
    }
    endIfUsedUp(i, now: now, into: &effects)
    if connections[i].state == .talking { work(i, now: now, into: &effects) }
  }
}
