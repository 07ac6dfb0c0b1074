// SPDX-License-Identifier: Apache-2.0
import Policy
import SMTP
import Structures
import Suspicion

// What comes of links, for the sessions that have them.
extension Engine {
  /// Acts on what came of something that happened to a link.
  mutating func apply(_ event: LinkEvent, _ l: LinkIndex, _ m: inout Moment) {
    switch event {
    case .none: return
    case .moved(let other):
      noteFailure(l, downstream.links[other].session, .connect, now: m.now)
      if let holder = downstream.links[other].holder { judge.shares.take(.links, holder) }
      let s = downstream.links[other].session
      if s.exists { clients.sessions[s].attach(other, now: m.now) }
      return
    case .lost(let loss):
      linkLost(l, loss, &m)
      return
    case .clear(let s):
      guard s.exists else { return }
      clients.sessions[s].detach()
      guard clients.sessions[s].phase == .opening else { return }
      clients.sessions[s].enter(.due(.forward))
      wake(clients.sessions[s].owner)
      return
    default: break
    }
    let s = downstream.links[l].session
    guard s.exists else { return }
    let i = clients.sessions[s].owner
    switch event {
    case .none, .moved, .lost, .clear: break
    case .ready: linkReady(i, l, &m)
    case .replied(let verb, let code, let isLast):
      commandReplied(i, l, verb, code, isLast: isLast, &m)
    case .finished(let code): messageReplied(i, l, code, &m)
    case .refused(let code): clientRefused(i, l, code, &m)
    case .refusedEarly: messageRefusedEarly(i, l, &m)
    case .refusedLine(let code):
      // The client gets the reply. The connection cannot be used again: the rest of the line could be a command there.
      passReply(i, l, to: clients.sessions[s].verb, now: m.now)
      dropLink(of: i, &m)
      clients.sessions[s].finish()
      goOn(i, after: code, &m)
    case .piece: passPiece(s, l)
    // A session that goes on is flushed then.
    case .readAll:
      if downstream.links[l].state == .busy && !clients.sessions[s].isWoken { flush(i, &m) }
    case .hasRoom: downstream.sayMore(clients.argument(s, core), l, &core, &m)
    case .forwarded:
      if downstream.links[l].state == .spliced {
        spliceForwarded(i, &m)
      } else {
        bodyForwarded(i, &m)
      }
    case .passing: deliverSplice(i, l, &m)
    }
  }

  /// Takes the replies that have come, one for each command that is out, as far as they may be taken: one that
  /// is held back holds those behind it, and so does a client that does not take its own.
  mutating func readReplies(_ l: LinkIndex, _ m: inout Moment) {
    while true {
      let s = downstream.links[l].session
      if downstream.links[l].state == .busy && s.exists {
        downstream.links[l].input.resume()
        if case .holding = clients.sessions[s].phase { return }
        if clients.sessions[s].outbox.room < Layout.replyBytes {
          awaitClient(l, s, &m)
          return
        }
      }
      let isLast = downstream.links[l].outstanding.count <= 1
      let event = downstream.next(l, &core, &m)
      apply(event, l, &m)
      if case .piece = event { continue }
      guard case .replied = event, !isLast else { return }
      switch downstream.links[l].state {
      case .free, .closing, .securing: return
      default: break
      }
    }
  }

  /// Goes on with the replies that waited for the client or for a delay. The downstream's time begins anew.
  mutating func readOn(_ l: LinkIndex, _ m: inout Moment) {
    core.setTimer(l, core.policy.timeouts.reply, now: m.now)
    readReplies(l, &m)
  }

  /// Replies wait until the client has taken those before them. The downstream's clock stands meanwhile, and the
  /// client's runs.
  private mutating func awaitClient(_ l: LinkIndex, _ s: SessionIndex, _ m: inout Moment) {
    let i = clients.sessions[s].owner
    downstream.links[l].input.pause()
    core.timers.cancel(l)
    core.timers.set(i, at: m.now.after(microseconds: core.policy.timeouts.send))
    flush(i, &m)
  }

  /// Hands a piece of a challenge to the client, for which there is room. From here on that reply has begun.
  private mutating func passPiece(_ s: SessionIndex, _ l: LinkIndex) {
    let piece = core.layout.linkReply(l).prefix(downstream.links[l].input.pieceCount)
    core.arena.move(piece, to: clients.sessions[s].outbox.free(in: core.layout.outbox(s)).offset)
    clients.sessions[s].outbox.append(piece.count)
    downstream.links[l].input.pieceTaken()
  }

  // MARK: Ready

  private mutating func linkReady(_ i: ClientIndex, _ l: LinkIndex, _ m: inout Moment) {
    let s = clients.connections[i].session
    guard clients.sessions[s].phase == .opening else { return }
    if clients.sessions[s].verb == .ehlo {
      // The connection is not kept: after EHLO a client may be silent for minutes.
      let offers = downstream.readOffers(l, core)
      dropLink(of: i, &m)
      sayHello(i, offered(i, of: offers), &m)
      wake(i)
      return
    }
    if !clients.connections[i].flags.contains(.passed) {
      clients.connections[i].flags.insert(.passed)
      core.counters.passed += 1
      let isNew = clients.connections[i].flags.isDisjoint(with: .vouched)
      core.journal.append(clients.entry(isNew ? .passNew : .passOld, i, core, now: m.now))
    }
    if clients.sessions[s].envelope.isParked {
      // MAIL again, on this connection; the current recipient follows when it is accepted.
      let line = core.layout.mail(s).prefix(Int(clients.sessions[s].envelope.mailCount))
      _ = downstream.repeatMail(line, of: acquaintance(i), l, &core, &m)
      return
    }
    sendCommand(i, l, &m)
    wake(i)
  }

  /// The downstream refuses this client, and its words go on.
  private mutating func clientRefused(
    _ i: ClientIndex, _ l: LinkIndex, _ code: UInt16, _ m: inout Moment
  ) {
    let s = clients.connections[i].session
    passReply(i, l, to: clients.sessions[s].verb, now: m.now)
    clients.sessions[s].envelope.lose()
    dropLink(of: i, &m)
    clients.sessions[s].finish()
    goOn(i, after: code, &m)
  }

  // MARK: Commands

  private mutating func commandReplied(
    _ i: ClientIndex, _ l: LinkIndex, _ verb: Verb, _ code: UInt16, isLast: Bool,
    _ m: inout Moment
  ) {
    let s = clients.connections[i].session
    if verb == .rcpt {
      let path = downstream.recallRecipient(l, core)
      clients.sessions[s].envelope.keepRecipient(UInt8(path.count))
      core.arena.move(path, to: core.layout.recipient(s).offset)
    }
    if code == 421 {
      // Its reply goes on, and then nothing else can work here.
      passReply(i, l, to: verb, now: m.now)
      endTransaction(i)
      goOn(i, after: 421, &m)
      return
    }
    if clients.sessions[s].phase == .opening {
      mailRepeated(i, l, code, &m)
      return
    }
    guard let wait = take(verb, code, i, l, &m) else { return }
    // With more replies to come, those first: the next command finds it bad then.
    if core.policy.mode == .enforce && clients.connections[i].tier == .bad && isLast {
      moveToTarpit(i, &m)
      return
    }
    if wait > 0 {
      hold(i, l, for: wait, verb, isLast: isLast, &m)
      return
    }
    releaseReply(i, &m)
    if verb == .starttls && downstream.terms.tls != .off && !downstream.links[l].isSecured {
      // In clear because the handshake was to be the client's. Mail goes over one that is opened for it.
      dropLink(of: i, &m)
    }
    if isLast { wake(i) }
  }

  /// What a reply means for the session.
  ///
  /// - Returns: how long it is held, in microseconds; nil if it has been dealt with.
  private mutating func take(
    _ verb: Verb, _ code: UInt16, _ i: ClientIndex, _ l: LinkIndex, _ m: inout Moment
  ) -> Int64? {
    let s = clients.connections[i].session
    switch verb {
    case .mail: if code < 300 { clients.sessions[s].envelope.mailAccepted() }
    case .rcpt where code < 300:
      clients.sessions[s].envelope.recipientAccepted()
      core.counters.recipients += 1
    case .rcpt:
      clients.sessions[s].envelope.recipientRefused()
      return recipientRejected(i, code, now: m.now)
    case .data where code < 400:
      downstream.beginBody(l)
      if downstream.terms.introduction == .received {
        downstream.writeTrace(l, acquaintance(i), &core, &m)
      }
      passReply(i, l, to: .data, now: m.now)
      downstream.replyPassed(l)
      clients.sessions[s].finish(to: .body)
      beginBody(i, l, &m)
      return nil
    case .starttls where code < 300:
      beginSplice(i, l, &m)
      return nil
    // One that is refused changes nothing (RFC 5321, 4.1.4): its reply goes on.
    case .ehlo where code < 300, .helo where code < 300:
      let offers =
        downstream.links[l].isExtended ? downstream.readOffers(l, core) : Capabilities()
      downstream.learn(l, offers, core)
      beginAnew(i)
      sayHello(i, offered(i, of: offers), &m)
      wake(i)
      return nil
    // Refused at DATA: the recipients stay with the downstream until RSET or MAIL, as here.
    case .rset: endTransaction(i)
    case .auth: return takeLogin(code, i, l, &m)
    default: break
    }
    return 0
  }

  private mutating func takeLogin(
    _ code: UInt16, _ i: ClientIndex, _ l: LinkIndex, _ m: inout Moment
  ) -> Int64? {
    let s = clients.connections[i].session
    let wasCancelled = clients.sessions[s].login.exchange == .cancelling
    clients.sessions[s].login.endExchange()
    if wasCancelled {
      answer(i, clients.sessions[s].owed, &m)
      wake(i)
      return nil
    }
    downstream.links[l].passedReply()
    if code.isGoOn(to: .auth) {
      clients.sessions[s].login.challenged()
      passReply(i, l, to: .auth, now: m.now)
      clients.sessions[s].finish(to: .challenge)
      clients.sessions[s].resume(.auth)
      wake(i)
      return nil
    }
    if code < 300 {
      clients.sessions[s].login.succeeded()
      judge.forgetForm(i, &clients, core, now: m.now)
    } else if code == 535 {
      // 454 and 538 say nothing about the password: an outage must not lock out a user who knows it.
      let count = judge.loginFailed(i, &clients, &core, now: m.now)
      return judge.delay(.authFailure, i, count: count, &clients, &core, now: m.now)
    }
    return 0
  }

  /// A recipient was refused: counts it, and says how long its reply is held.
  private mutating func recipientRejected(
    _ i: ClientIndex, _ code: UInt16, now: Instant
  ) -> Int64 {
    // 503: it stands behind a MAIL that was refused, which says nothing about the recipient.
    guard code >= 500 && code != 503 else { return 0 }
    let s = clients.connections[i].session
    clients.sessions[s].countBadRecipient()
    let count = clients.sessions[s].badRecipients
    if count >= UInt32(core.policy.session.badRecipients) {
      judge.note(.badRecipients, i, &clients, &core, now: now)
    }
    return judge.delay(
      .recipientRejected, i, count: Int(count), &clients, &core, now: now)
  }

  /// MAIL was said again, for the current recipient.
  private mutating func mailRepeated(
    _ i: ClientIndex, _ l: LinkIndex, _ code: UInt16, _ m: inout Moment
  ) {
    let s = clients.connections[i].session
    clients.sessions[s].envelope.unpark()
    if code < 300 {
      sendCommand(i, l, &m)
    } else {
      // The downstream accepted MAIL before and refuses it now: RCPT gets that reply.
      passReply(i, l, to: clients.sessions[s].verb, now: m.now)
      clients.sessions[s].envelope.lose()
      clients.sessions[s].finish()
      endIfUsedUp(i, &m)
    }
    wake(i)
  }

  // MARK: Held replies

  /// Holds a reply back. We let the downstream wait, not it us: its clock stands until `readOn`.
  private mutating func hold(
    _ i: ClientIndex, _ l: LinkIndex, for wait: Int64, _ verb: Verb, isLast: Bool,
    _ m: inout Moment
  ) {
    let s = clients.connections[i].session
    core.timers.cancel(l)
    clients.sessions[s].enter(.holding(verb == .auth ? .authFailure : .recipientRejected))
    if verb == .rcpt && isLast && wait >= Downstream.parkAfter { holdAlone(i, l, &m) }
    core.timers.set(i, at: m.now.after(microseconds: wait))
    flush(i, &m)
    m.append(.watch(clients.slot(i)))
  }

  /// Lets the downstream go while the client waits for its reply, which lies in the outbox until then.
  private mutating func holdAlone(_ i: ClientIndex, _ l: LinkIndex, _ m: inout Moment) {
    let s = clients.connections[i].session
    letGo(i, &m)
    guard !clients.sessions[s].link.exists else { return }
    let before = clients.sessions[s].outbox.room
    passReply(i, l, to: .rcpt, now: m.now)
    clients.sessions[s].outbox.hold(before - clients.sessions[s].outbox.room)
  }

  /// Gives the client the reply that lies ready at its link, or in its outbox.
  mutating func releaseReply(_ i: ClientIndex, _ m: inout Moment) {
    let s = clients.connections[i].session
    let l = clients.sessions[s].link
    if clients.sessions[s].outbox.holdsReply {
      clients.sessions[s].outbox.hold(0)
      clients.sessions[s].finish()
      endIfUsedUp(i, &m)
      return
    }
    guard l.exists, downstream.links[l].input.replyCount > 0 else {
      answer(i, .downstreamLost, &m)
      return
    }
    passReply(i, l, to: downstream.links[l].repliedVerb, now: m.now)
    if downstream.links[l].outstanding.isEmpty {
      clients.sessions[s].finish()
    } else {
      clients.sessions[s].enter(.forwarded)
    }
    if clients.sessions[s].login.failures >= UInt32(core.policy.session.authFailures) {
      core.limitReached(i, .authFailures, clients, now: m.now)
      leave(i, .tooManyErrors, &m)
      return
    }
    endIfUsedUp(i, &m)
  }

  // MARK: Messages

  /// It refuses the message before its end. Its words go into the outbox now, because the link is of no
  /// more use, and out to the client at the end of the message, when the client listens.
  private mutating func messageRefusedEarly(
    _ i: ClientIndex, _ l: LinkIndex, _ m: inout Moment
  ) {
    let s = clients.connections[i].session
    clients.sessions[s].resume(.data)
    passReply(i, l, to: .data, isEndOfData: true, now: m.now)
    clients.sessions[s].keepVerdict()
    swallow(i, .downstreamLost, &m)
    goOnSwallowing(i, &m)
  }

  private mutating func messageReplied(
    _ i: ClientIndex, _ l: LinkIndex, _ code: UInt16, _ m: inout Moment
  ) {
    let s = clients.connections[i].session
    clients.sessions[s].resume(.data)
    if code.isTaken {
      core.counters.messages += 1
      core.counters.messageBytes += clients.sessions[s].passage.size
      clients.sessions[s].messageAccepted(now: m.now)
      var accepted = clients.entry(.accepted, i, core, now: m.now)
      accepted.recipients = clients.sessions[s].envelope.acceptedRecipients
      // The last one said, which is kept, may be one that was refused.
      if clients.sessions[s].envelope.hasRefusedRecipient { accepted.text.recipientCount = 0 }
      // It holds the number under which the server's own log goes on.
      accepted.quoteFirstLine(core.arena.span(downstream.reply(l, core)))
      core.journal.append(accepted)
      judge.earnedTrust(i, &clients, core, now: m.now)
    }
    passReply(i, l, to: .data, isEndOfData: true, now: m.now)
    endTransaction(i)
    clients.sessions[s].enter(.command)
    goOn(i, after: code, &m)
  }
}
