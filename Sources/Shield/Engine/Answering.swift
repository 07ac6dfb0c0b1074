// SPDX-License-Identifier: Apache-2.0
import Policy
import Flow
import SMTP
import Structures
import Suspicion

// What a client gets: our own replies, the downstream's, and the last one.
extension Engine {
  // MARK: Sending

  /// Sends what the outbox holds, if nothing is being sent, and what is ready for the downstream.
  mutating func flush(_ i: ClientIndex, _ m: inout Moment) {
    let s = clients.connections[i].session
    let l = clients.sessions[s].link
    if l.exists && downstream.links[l].state == .busy { downstream.flush(l, core, &m) }
    guard clients.sessions[s].outbox.mayGo else { return }
    let region = clients.sessions[s].outbox.send(from: core.layout.outbox(s))
    m.append(.send(clients.slot(i), region))
  }

  /// Goes to the last phase: what the outbox holds goes out, and then it is over.
  mutating func beginLeaving(
    _ i: ClientIndex, to destination: Phase.Destination = .end, _ m: inout Moment
  ) {
    clients.sessions[clients.connections[i].session].enter(.leaving(destination))
    core.timers.set(i, at: m.now.after(microseconds: core.policy.timeouts.send))
    flush(i, &m)
  }

  // MARK: Our own replies

  /// Puts a reply of our own into the outbox.
  ///
  /// - Parameter isAtHand: it answers the command whose line is in the input buffer.
  mutating func say(_ i: ClientIndex, _ reply: OwnReply, isAtHand: Bool = false, now: Instant) {
    let s = clients.connections[i].session
    if reply.isOutage {
      noteDeferral(i, clients.sessions[s].verb, reply, isAtHand: isAtHand, now: now)
    }
    put(reply, s)
    clients.sessions[s].replied(reply.code)
    if reply.code >= 400 && reply.code < 500 { core.counters.tempfailedByUs += 1 }
    if reply.code >= 400 { countError(i, clients.sessions[s].verb, reply.code, now: now) }
  }

  private mutating func put(_ reply: OwnReply, _ s: SessionIndex) {
    let room = clients.sessions[s].outbox.free(in: core.layout.outbox(s))
    let name = reply == .clientListed ? listName(s) : []
    let written = core.arena.append(into: room) { out in reply.write(naming: name.span, into: &out)
    }
    clients.sessions[s].outbox.append(written)
  }

  /// The DNS list that a session's client is on.
  private func listName(_ s: SessionIndex) -> [UInt8] {
    core.policy.lists?.name(of: clients.matches[clients.sessions[s].owner]) ?? []
  }

  /// Answers the current command with a reply of our own and is done with it.
  mutating func answer(_ i: ClientIndex, _ reply: OwnReply, _ m: inout Moment) {
    let s = clients.connections[i].session
    say(i, reply, isAtHand: true, now: m.now)
    clients.sessions[s].tally(clients.sessions[s].verb, good: reply.code < 400)
    clients.sessions[s].finish()
    if reply.code >= 400 { endIfUsedUp(i, &m) }
  }

  /// Refuses the current command, and has the log say so.
  mutating func reject(_ i: ClientIndex, _ reply: OwnReply, _ m: inout Moment) {
    let verb = clients.sessions[clients.connections[i].session].verb
    noteReject(.reject, i, verb, reply, isAtHand: true, now: m.now)
    answer(i, reply, &m)
  }

  /// Says a last reply and ends the session once it is out.
  mutating func leave(_ i: ClientIndex, _ reply: OwnReply, _ m: inout Moment) {
    let s = clients.connections[i].session
    dropLink(of: i, &m)
    clients.sessions[s].outbox.hold(0)
    switch reply {
    case .tooManyCommands, .tooManyErrors: clients.sessions[s].ending = .refused
    default: if reply.code >= 500 { clients.sessions[s].ending = .refused }
    }
    // A client that does not take its replies has no room left for a last one.
    if clients.sessions[s].outbox.room >= 128 { say(i, reply, now: m.now) }
    beginLeaving(i, &m)
  }

  /// A fault in what a client sends, which nothing can be put right behind: the end.
  mutating func leaveForFault(_ i: ClientIndex, _ reply: OwnReply, _ m: inout Moment) {
    core.counters.protocolFaults += 1
    leave(i, reply, &m)
  }

  /// The reply to EHLO or HELO: what of `offers` it may name.
  mutating func sayHello(_ i: ClientIndex, _ offers: Capabilities, _ m: inout Moment) {
    let s = clients.connections[i].session
    clients.sessions[s].greeting.take(offers)
    let isExtended = clients.sessions[s].verb == .ehlo
    let room = clients.sessions[s].outbox.free(in: core.layout.outbox(s))
    let host = core.policy.hostnameBytes
    let written = core.arena.append(into: room) { out in
      if isExtended {
        _ = offers.writeEHLOReply(hostname: host.span, into: &out)
      } else {
        writeHELOReply(hostname: host.span, into: &out)
      }
    }
    clients.sessions[s].outbox.append(written)
    clients.sessions[s].replied(250)
    clients.sessions[s].tally(clients.sessions[s].verb, good: true)
    clients.sessions[s].finish()
  }

  // MARK: Limits

  /// Counts a refusal, if it is an error of the client. 4yz is none: something is wanting at the server or here
  /// (RFC 5321, 4.2.1). Nor is what was said in a group behind a MAIL that is refused, or behind recipients of whom
  /// none is left: it falls with those.
  private mutating func countError(_ i: ClientIndex, _ verb: Verb, _ code: UInt16, now: Instant) {
    let s = clients.connections[i].session
    let envelope = clients.sessions[s].envelope
    switch verb {
    case .mail where !envelope.hasMail: clients.sessions[s].envelope.mailRefused()
    case .rcpt where envelope.hasRefusedMail: return
    case .data where envelope.hasRefusedMail: return
    case .data where envelope.hasRefusedRecipient && envelope.acceptedRecipients == 0: return
    default: break
    }
    if code < 500 { return }
    clients.sessions[s].use.countError()
    if clients.sessions[s].use.errors >= UInt32(core.policy.session.errorStreak) {
      judge.note(.errors, i, &clients, &core, now: now)
    }
    switch judge.take(.errors, .errors, i, &clients, &core, now: now) {
    case .within, .slow: break  // slow: the signal it leaves lengthens every delay from here on
    case .tempfail, .refuse, .drop: clients.sessions[s].use.exceedRate()
    }
  }

  /// The limit at which a session is to end now, if there is one.
  func usedUp(_ i: ClientIndex, now: Instant) -> Subject? {
    clients.sessions[clients.connections[i].session].use.end(
      core.policy.session, age: clients.age(i, now: now), time: core.policy.timeouts.session,
      isDelivering: isDelivering(i))
  }

  /// Whether a transaction would be lost that has an accepted recipient, or may still have one: of a client that has
  /// proven who it is, many refused recipients are no harvest.
  private func isDelivering(_ i: ClientIndex) -> Bool {
    let s = clients.connections[i].session
    guard clients.sessions[s].envelope.hasMail else { return false }
    return clients.sessions[s].envelope.acceptedRecipients > 0
      || clients.sessions[s].login.isAuthenticated
      || !clients.connections[i].flags.isDisjoint(with: .vouched)
  }

  /// Ends a session that has used up what it may.
  ///
  /// - Returns: whether it has.
  @discardableResult
  mutating func endIfUsedUp(_ i: ClientIndex, _ m: inout Moment) -> Bool {
    guard clients.connections[i].state == .talking else { return false }
    if case .leaving = clients.sessions[clients.connections[i].session].phase { return false }
    guard let limit = usedUp(i, now: m.now) else { return false }
    core.limitReached(i, limit, clients, now: m.now)
    let reply: OwnReply =
      switch limit {
      case .commands: .tooManyCommands
      case .time: .sessionTooLong
      default: .tooManyErrors
      }
    leave(i, reply, &m)
    return true
  }

  // MARK: The downstream's replies

  /// Copies the reply that lies ready at a link, as the reader re-made it, into the client's outbox.
  ///
  /// - Parameters:
  ///   - verb: what it answers.
  ///   - isEndOfData: it answers a message, as against DATA itself.
  mutating func passReply(
    _ i: ClientIndex, _ l: LinkIndex, to verb: Verb, isEndOfData: Bool = false, now: Instant
  ) {
    let s = clients.connections[i].session
    let reply = downstream.reply(l, core)
    let code = downstream.links[l].input.code
    let room = clients.sessions[s].outbox.free(in: core.layout.outbox(s))
    // 354 and the reply to the message share the room of one command, and a last 421 may follow: where a
    // client does not take its replies and the downstream is wordy, code and class must be enough.
    if reply.count + Layout.outboxReserve <= room.count {
      core.arena.move(reply, to: room.offset)
      clients.sessions[s].outbox.append(reply.count)
    } else {
      let written = core.arena.append(into: room) { out in
        writeShortReply(code: code, into: &out)
      }
      clients.sessions[s].outbox.append(written)
    }
    clients.sessions[s].replied(code)
    // An intermediate reply finishes nothing: DATA and AUTH are counted by their final ones.
    if code >= 400 || code < 300 { clients.sessions[s].tally(verb, good: code < 400) }
    guard code >= 400 else { return }
    core.counters.rejectedDownstream += 1
    countError(i, verb, code, now: now)
    var entry = clients.entry(.reject, i, core, now: now)
    entry.reply = code
    entry.verb = verb
    entry.stage = verb == .data && isEndOfData ? .endOfData : .other
    entry.quoteFirstLine(core.arena.span(reply))
    core.journal.append(entry)
  }

  /// All commands that were with a downstream when it went, but the last, hear so. It is no error of theirs.
  ///
  /// - Returns: false if the client has taken so little that there is no room to tell it.
  mutating func answerOutstanding(_ i: ClientIndex, _ l: LinkIndex, now: Instant) -> Bool {
    let s = clients.connections[i].session
    if clients.sessions[s].outbox.room < 128 * Int(downstream.links[l].outstanding.count + 1) {
      return false
    }
    while let verb = downstream.nextUnanswered(l) {
      put(.downstreamLost, s)
      core.counters.tempfailedByUs += 1
      noteDeferral(i, verb, .downstreamLost, isAtHand: false, now: now)
      clients.sessions[s].tally(verb, good: false)
    }
    return true
  }

  // MARK: The log

  /// Mail is deferred because of the mail server: the log says so at once, and at the end.
  private mutating func noteDeferral(
    _ i: ClientIndex, _ verb: Verb, _ reply: OwnReply, isAtHand: Bool, now: Instant
  ) {
    clients.sessions[clients.connections[i].session].ending = .deferred
    noteReject(.reject, i, verb, reply, isAtHand: isAtHand, now: now)
  }

  /// The current command is understood, though it departs from the letter of the RFCs: that counts.
  ///
  /// - Parameter reply: what strict syntax answers.
  /// - Returns: whether it is to be answered so; in observe mode the log says that it would be.
  mutating func lapsed(_ i: ClientIndex, _ reply: OwnReply, now: Instant) -> Bool {
    judge.note(.looseSyntax, i, &clients, &core, now: now)
    return isRefused(i, reply, now: now)
  }

  /// Whether strict syntax is asked for, and refuses the current command; in observe mode the log says that it would.
  mutating func isRefused(_ i: ClientIndex, _ reply: OwnReply, now: Instant) -> Bool {
    core.policy.syntax == .strict && acts(i, reply, now: now)
  }

  /// Whether a recipient is refused because the client is on a DNS list; in observe mode the log says that it would be.
  mutating func isListed(_ i: ClientIndex, now: Instant) -> Bool {
    guard core.policy.refusesListed, !clients.matches[i].isEmpty,
      clients.connections[i].tier != .known, acts(i, .clientListed, now: now)
    else { return false }
    clients.sessions[clients.connections[i].session].ending = .refused
    return true
  }

  /// Whether what the policy refuses is refused in fact; in observe mode the log says that it would be.
  private mutating func acts(_ i: ClientIndex, _ reply: OwnReply, now: Instant) -> Bool {
    if core.policy.mode == .enforce { return true }
    let s = clients.connections[i].session
    clients.sessions[s].ending = .wouldRefuse
    noteReject(.wouldReject, i, clients.sessions[s].verb, reply, isAtHand: true, now: now)
    return false
  }

  /// Writes down that a command was refused with a reply of our own.
  ///
  /// - Parameter isAtHand: its line is the one in the input buffer; of an earlier one nothing is kept.
  private mutating func noteReject(
    _ event: Event, _ i: ClientIndex, _ verb: Verb, _ reply: OwnReply, isAtHand: Bool,
    now: Instant
  ) {
    let s = clients.connections[i].session
    var entry = clients.entry(event, i, core, now: now)
    entry.own = reply
    if reply == .clientListed { entry.matched = clients.matches[i] }
    entry.reply = reply.code
    entry.verb = verb
    let phase = clients.sessions[s].phase
    let isBehindDot = phase == .final || phase == .swallow
    entry.stage = verb == .data && isBehindDot ? .endOfData : .other
    if !isAtHand {
      if !isBehindDot { entry.text.recipientCount = 0 }
      core.journal.append(entry)
      return
    }
    // The command has not been looked into, and what is kept is the one before's.
    entry.takePath(of: verb, core.arena.span(clients.argument(s, core)))
    core.journal.append(entry)
  }
}

extension Clients {
  /// The current line, and its argument.
  func line(_ s: SessionIndex, _ core: borrowing Core) -> Region {
    sessions[s].inbox.line(in: core.layout.input(s))
  }
  func argument(_ s: SessionIndex, _ core: borrowing Core) -> Region {
    sessions[s].inbox.argument(in: core.layout.input(s))
  }

  /// The name a client greeted with, if it is one that can go on to the downstream; else empty.
  func heloName(_ s: SessionIndex, _ core: borrowing Core) -> Region {
    let name = core.layout.helo(s).prefix(Int(sessions[s].greeting.nameCount))
    return core.isName(name) ? name : name.prefix(0)
  }
}

extension Core {
  /// Whether a region holds what HELO and EHLO may be said with: printable, without spaces, at most 255 octets.
  func isName(_ name: Region) -> Bool {
    name.count > 0 && name.count <= 255 && isPrintable(name) && !hasSpace(name)
  }

  private func hasSpace(_ region: Region) -> Bool {
    let bytes = arena.span(region)
    for k in 0..<bytes.count where bytes[k] == 32 { return true }
    return false
  }
}

extension JournalEntry {
  /// Takes the address that a command names in place of what is kept of the one before.
  fileprivate mutating func takePath(of verb: Verb, _ argument: Span<UInt8>) {
    switch verb {
    case .mail:
      text.hasSender = false
      text.senderCount = 0
      text.recipientCount = 0
      if case .parsed(let mail) = MailArguments.parse(argument) {
        text.hasSender = true
        text.senderCount = copyPath(argument, mail.mailbox, into: &text.sender)
      }
    case .rcpt:
      text.recipientCount = 0
      if case .parsed(let rcpt) = RcptArguments.parse(argument, smtputf8: true) {
        text.recipientCount = copyPath(argument, rcpt.mailbox, into: &text.recipient)
      }
    default: break
    }
  }
}

/// Copies an address for the log, in its brackets.
private func copyPath(
  _ line: Span<UInt8>, _ mailbox: Range<Int>, into text: inout InlineArray<100, UInt8>
) -> UInt8 {
  let kept = min(mailbox.count, ClientText.each - 1)
  text[0] = UInt8(ascii: "<")
  for k in 0..<kept { text[1 + k] = line[mailbox.lowerBound + k] }
  if kept + 2 > ClientText.each { return UInt8(kept + 1) }
  text[1 + kept] = UInt8(ascii: ">")
  return UInt8(kept + 2)
}
