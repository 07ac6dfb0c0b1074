// SPDX-License-Identifier: Apache-2.0
import Flow
import Policy
import SMTP
import Structures
import Suspicion

// The dialogue with a talking client: one command at a time, in the order of arrival.
//
// What the client sent ahead stays in its input buffer, which is the bounded queue of pipelined
// commands; when it is full we stop reading and TCP slows the client. A command is finished before the
// next is looked at, so replies cannot pair with the wrong command.
extension Engine {
  // MARK: Input

  /// `count` bytes came into the input region of a talking client.
  mutating func heard(_ i: Int, _ count: Int, now: Instant, into effects: inout EffectQueue) {
    let s = Int(connections[i].session)
    sessions[s].flags.remove(.filling)
    sessions[s].bytesIn += UInt64(count)
    spend(i, count, now: now)
    switch sessions[s].phase {
    case .body, .swallow: heardBody(i, count, now: now, into: &effects)
    case .command, .challenge:
      take(s, count)
      work(i, now: now, into: &effects)
    case .forwarded where sessions[s].verb == .data, .holding where sessions[s].verb == .data:
      // Message bytes ahead of 354: what reads them as commands is smuggled mail (class 22).
      counters.protocolFaults += 1
      note(.pipelining, i, now: now)
      leave(i, .dataTooEarly, now: now, into: &effects)
    case .delaying, .opening, .forwarded, .holding, .final, .securing:
      // Read only to find out whether a client that closed its side had said more before.
      take(s, count)
      fill(i, now: now, into: &effects)
    case .spliced: spliceHeard(i, count, now: now, into: &effects)
    case .leaving: break
    }
  }

  /// `count` more bytes wait in the input region, where the receive put them. That is behind the others, or,
  /// after a DATA that was refused, where the message would have come.
  private mutating func take(_ s: Int, _ count: Int) {
    if sessions[s].inputStart == sessions[s].inputEnd {
      sessions[s].inputStart = sessions[s].fillStart
    }
    sessions[s].inputEnd = sessions[s].fillStart + Int32(count)
  }

  /// Asks for more input, where there is room for it.
  private mutating func fill(_ i: Int, now: Instant, into effects: inout EffectQueue) {
    let s = Int(connections[i].session)
    if !sessions[s].flags.isDisjoint(with: .inputBusy) { return }
    let region = input(s)
    if sessions[s].inputStart == sessions[s].inputEnd {
      sessions[s].inputStart = 0
      sessions[s].inputEnd = 0
    } else if sessions[s].inputStart > 0 && Int(sessions[s].inputEnd) == region.count {
      let left = Region(
        offset: region.offset + Int(sessions[s].inputStart),
        count: Int(sessions[s].inputEnd - sessions[s].inputStart))
      arena.move(left, to: region.offset)
      sessions[s].inputEnd = Int32(left.count)
      sessions[s].inputStart = 0
    }
    let room = region.from(Int(sessions[s].inputEnd))
    if room.count == 0 { return }
    receive(i, into: room, into: &effects)
  }

  /// Orders what the client says next into a part of its input region.
  mutating func receive(_ i: Int, into room: Region, into effects: inout EffectQueue) {
    let s = Int(connections[i].session)
    sessions[s].flags.insert(.filling)
    sessions[s].fillStart = Int32(room.offset - input(s).offset)
    effects.append(.fill(slot(client: i), room))
  }

  /// Deals with the commands in the input buffer until one must wait or none is whole.
  mutating func work(_ i: Int, now: Instant, into effects: inout EffectQueue) {
    while connections[i].state == .talking {
      let s = Int(connections[i].session)
      let isAhead = sessions[s].phase == .forwarded
      if isAhead {
        guard mayPipeline(s) else { break }
      } else if sessions[s].phase != .command && sessions[s].phase != .challenge {
        break
      }
      // Each command may be answered by a whole reply of the downstream: it must fit.
      if Layout.outboxBytes - Int(sessions[s].outEnd) < Layout.replyBytes {
        if !wheel.isSet(i) { wheel.set(i, at: now.after(microseconds: policy.timeouts.send)) }
        flush(i, now: now, into: &effects)
        return
      }
      // A command that others follow downstream is done with here: only its reply is still to come.
      let start = Int(sessions[s].inputStart) + (isAhead ? Int(sessions[s].lineConsumed) : 0)
      let region = Region(
        offset: input(s).offset + start, count: Int(sessions[s].inputEnd) - start)
      if sessions[s].flags.contains(.skipping) && !skipLine(s, region) { continue }
      var lines = sessions[s].lines
      let isAnswer = sessions[s].phase == .challenge
      var step = lines.next(
        in: arena.span(region), limit: isAnswer ? loginLineMost : commandLineMost)
      if step == .tooLong && !isAhead && !isAnswer && isLogin(i, region) {
        step = lines.next(in: arena.span(region), limit: loginLineMost)
      }
      if isAhead {
        guard case .line(let length, let consumed) = step,
          mayJoin(i, lineAt: start, length, consumed: consumed, now: now)
        else { break }
        sessions[s].inputStart = Int32(start)
      }
      sessions[s].lines = lines
      switch step {
      case .line(let length, let consumed):
        if consumed == length + 1 { note(.bareNewline, i, now: now) }
        wheel.cancel(i)
        sessions[s].lineCount = Int32(length)
        sessions[s].lineConsumed = Int32(consumed)
        if sessions[s].phase == .challenge {
          answerChallenge(i, now: now, into: &effects)
        } else {
          command(i, now: now, into: &effects)
        }
      case .needMore:
        flush(i, now: now, into: &effects)
        if sessions[s].flags.contains(.ended) {
          clientLeft(i, now: now, into: &effects)
        } else if isDraining && isBetweenMessages(i) {
          leave(i, .shuttingDown, now: now, into: &effects)
        } else {
          // The deadline is for the whole command: bytes that trickle in do not move it.
          if !wheel.isSet(i) { wheel.set(i, at: now.after(microseconds: commandTimeout(i))) }
          fill(i, now: now, into: &effects)
        }
        return
      case .tooLong:
        counters.protocolFaults += 1
        wheel.cancel(i)
        sessions[s].lineConsumed = 0
        sessions[s].flags.insert(.skipping)
        if isAnswer {
          sessions[s].lineCount = 0
          endChallenge(i, .loginTooLong, now: now, into: &effects)
        } else {
          sessions[s].verb = .unknown
          let isLogin = isLogin(i, region)
          answer(i, isLogin ? .loginTooLong : .commandTooLong, now: now, into: &effects)
        }
      case .bareLF, .bareCR:
        counters.protocolFaults += 1
        note(.bareNewline, i, now: now)
        leave(i, .bareNewline, now: now, into: &effects)
      case .nul:
        counters.protocolFaults += 1
        // The hello of TLS or SOCKS holds a NUL before anything that could be a line's end.
        if Command.foreignProtocol(at: arena.span(region)) == .tlsHello {
          note(.tlsHello, i, now: now)
        } else {
          note(.binary, i, now: now)
        }
        leave(i, .badSyntaxClosing, now: now, into: &effects)
      }
    }
    if connections[i].state == .talking { flush(i, now: now, into: &effects) }
  }

  /// The most octets of a command, its line end not counted.
  private var commandLineMost: Int { min(policy.session.commandBytes, limits.inputBytes) - 2 }

  /// The same for AUTH and for answers to its challenges, which a token or a ticket can make long.
  private var loginLineMost: Int {
    max(min(SessionLimits.loginBytes, limits.inputBytes - 2), commandLineMost)
  }

  /// Whether a line that is not whole yet begins as AUTH, where that may come.
  private func isLogin(_ i: Int, _ region: Region) -> Bool {
    let s = Int(connections[i].session)
    return beginsLogin(arena.span(region))
      && policy.role(ofListener: Int(connections[i].listener)) == .outbound
      && sessions[s].flags.contains(.extended) && !sessions[s].flags.contains(.authenticated)
      && sessions[s].offered.contains(.auth)
  }

  /// Whether commands may go downstream ahead of replies: the client was offered it and so were we.
  private func mayPipeline(_ s: Int) -> Bool {
    let l = Int(sessions[s].link)
    return l >= 0 && links[l].state == .busy && links[l].offer.keywords.contains(.pipelining)
      && sessions[s].flags.contains(.extended) && !sessions[s].flags.contains(.skipping)
  }

  /// Throws away the rest of a line that was too long.
  ///
  /// - Returns: whether its end was reached; if so the loop goes on with what stands behind it, and if not
  ///   the buffer is empty now.
  private mutating func skipLine(_ s: Int, _ region: Region) -> Bool {
    if region.count == 0 { return true }
    let end = lineEnd(in: region)
    let isWhole = end < region.count
    sessions[s].inputStart += Int32(isWhole ? end + 1 : end)
    if isWhole { sessions[s].flags.remove(.skipping) }
    sessions[s].lines.reset()
    return false
  }

  /// The place of the first LF in a region, or its length.
  private func lineEnd(in region: Region) -> Int {
    let bytes = arena.span(region)
    var end = 0
    while end < bytes.count && bytes[end] != lineFeed { end += 1 }
    return end
  }

  /// The bytes of the line being dealt with.
  func line(_ s: Int) -> Region {
    Region(
      offset: input(s).offset + Int(sessions[s].inputStart), count: Int(sessions[s].lineCount))
  }

  func argument(_ s: Int) -> Region { line(s).from(Int(sessions[s].argumentStart)) }

  /// Whether the client sent more than the line being dealt with.
  private func hasMore(_ s: Int) -> Bool {
    sessions[s].inputStart + sessions[s].lineConsumed < sessions[s].inputEnd
  }

  // MARK: A command

  private mutating func command(_ i: Int, now: Instant, into effects: inout EffectQueue) {
    let s = Int(connections[i].session)
    let command = Command(line: arena.span(line(s)))
    sessions[s].verb = policy.refusesLapses ? command.strictVerb : command.verb
    sessions[s].form = command.form
    sessions[s].argumentStart = Int32(command.argument.lowerBound)
    // Trailing white space is no part of the argument.
    sessions[s].lineCount = Int32(command.argument.upperBound)
    sessions[s].use.countCommand()
    if endIfUsedUp(i, now: now, into: &effects) { return }
    if sessions[s].verb != command.strictVerb {
      _ = lapsed(i, .unknownCommand, now: now)
    }
    // The tier may have changed since the last command: by words that crossed with the banner, by a reload.
    if inspect(i, now: now) || effectiveTier(i) == .bad {
      moveToTarpit(i, now: now, into: &effects)
      return
    }
    var least: Int64 = 0
    switch excess(i, now: now) {
    case .within: break
    case .slow(let wait): least = wait
    // A message that has a recipient is not lost for that.
    case .tempfail,
      .drop where sessions[s].acceptedRecipients > 0:
      rateRefused(
        i, sessions[s].verb == .rcpt ? .recipientRate : .messageRate, now: now, into: &effects)
      return
    case .refuse:
      rateRefused(i, .rateRefused, now: now, into: &effects)
      return
    case .drop:
      counters.refused += 1
      close(i, as: .dropped, now: now, into: &effects)
      return
    }
    if sessions[s].use.isOver(policy.session) && !connections[i].flags.contains(.trusted) {
      least = max(least, SessionUse.pause)
    }
    let stage = stage(of: sessions[s].verb)
    var wait = delay(stage, i, least: least, most: curveMost(stage, s), now: now)
    if stage == .mail { wait += delayAhead(i, after: wait, now: now) }
    if stage == .recipientAccepted { sessions[s].recipientDelay += wait }
    if wait > 0 {
      if wait >= Downstream.parkAfter { letGo(i, now: now, into: &effects) }
      sessions[s].phase = .delaying
      sessions[s].stage = stage
      wheel.set(i, at: now.after(microseconds: wait))
      flush(i, now: now, into: &effects)
      effects.append(.watch(slot(client: i)))
      return
    }
    execute(i, now: now, into: &effects)
  }

  /// What the curve may still ask for at a stage, in microseconds: recipients have an account of their own, and
  /// what was spent ahead is not asked for again.
  private mutating func curveMost(_ stage: Stage, _ s: Int) -> Int64 {
    switch stage {
    case .recipientAccepted:
      if sessions[s].flags.contains(.paidRecipient) {
        sessions[s].flags.remove(.paidRecipient)
        return 0
      }
      return policy.delays.recipientSum - sessions[s].recipientDelay
    case .data where sessions[s].flags.contains(.paidData):
      sessions[s].flags.remove(.paidData)
      return 0
    default: return .max
    }
  }

  /// The delays of the first recipient and of DATA, where they fit under MAIL's ceiling: they are spent before the
  /// downstream is opened, so that it is not kept waiting by us.
  private mutating func delayAhead(_ i: Int, after wait: Int64, now: Instant) -> Int64 {
    let s = Int(connections[i].session)
    let isGreeted = sessions[s].flags.contains(.greeted)
    guard isGreeted || !policy.refusesLapses, !sessions[s].flags.contains(.mail) else { return 0 }
    // What an earlier transaction left behind, if its downstream died, ends here.
    resetTransaction(i)
    var room = policy.delays[.mail].ceiling - wait
    var sum: Int64 = 0
    // Leaving HELO out saves no time.
    if !isGreeted && fits(.helo, i, room) {
      sum += delay(.helo, i, now: now)
      room -= sum
    }
    if fits(.data, i, room) {
      sessions[s].flags.insert(.paidData)
      let data = delay(.data, i, now: now)
      sum += data
      room -= data
    }
    if fits(.recipientAccepted, i, room) {
      sessions[s].flags.insert(.paidRecipient)
      let first = delay(.recipientAccepted, i, most: policy.delays.recipientSum, now: now)
      sessions[s].recipientDelay += first
      sum += first
    }
    return sum
  }

  /// Whether the curve asks for a delay at this stage, and for no more than there is room.
  private func fits(_ stage: Stage, _ i: Int, _ room: Int64) -> Bool {
    let score = policy.score(connections[i].signals)
    let due = policy.delays.delay(stage, tier: connections[i].tier, score: score, count: 1)
    return due > 0 && due <= room
  }

  /// Refuses a command that is over a rate.
  private mutating func rateRefused(
    _ i: Int, _ reply: OwnReply, now: Instant, into effects: inout EffectQueue
  ) {
    sessions[Int(connections[i].session)].ending = .refused
    reject(i, reply, now: now, into: &effects)
  }

  /// Refuses the command at hand, and has the log say so.
  mutating func reject(
    _ i: Int, _ reply: OwnReply, now: Instant, into effects: inout EffectQueue
  ) {
    let verb = sessions[Int(connections[i].session)].verb
    noteReject(.reject, i, verb, reply, isAtHand: true, now: now)
    answer(i, reply, now: now, into: &effects)
  }

  /// The command at hand is understood, though it departs from the letter of the RFCs: that counts.
  ///
  /// - Parameter reply: what strict syntax answers.
  /// - Returns: whether it is to be answered so; in observe mode the log says that it would be.
  mutating func lapsed(_ i: Int, _ reply: OwnReply, now: Instant) -> Bool {
    note(.looseSyntax, i, now: now)
    return isRefused(i, reply, now: now)
  }

  /// Whether strict syntax is asked for, and refuses the command at hand; in observe mode the log says that it would.
  mutating func isRefused(_ i: Int, _ reply: OwnReply, now: Instant) -> Bool {
    if policy.syntax == .strict && policy.mode == .observe {
      sessions[Int(connections[i].session)].ending = .wouldRefuse
      let verb = sessions[Int(connections[i].session)].verb
      noteReject(.wouldReject, i, verb, reply, isAtHand: true, now: now)
    }
    return policy.refusesLapses
  }

  /// Writes down that a command was refused with a reply of our own.
  ///
  /// - Parameter isAtHand: its line is the one in the input buffer; of an earlier one nothing is kept.
  mutating func noteReject(
    _ event: Event, _ i: Int, _ verb: Verb, _ reply: OwnReply, isAtHand: Bool,
    now: Instant
  ) {
    let s = Int(connections[i].session)
    var entry = entry(event, i, now: now)
    entry.own = reply
    entry.reply = reply.code
    entry.verb = verb
    let isBehindDot = sessions[s].phase == .final || sessions[s].phase == .swallow
    entry.stage = verb == .data && isBehindDot ? .endOfData : .other
    if !isAtHand {
      if !isBehindDot { entry.text.recipientCount = 0 }
      journal.append(entry)
      return
    }
    // The command has not been looked into, and what is kept is the one before's.
    let line = argument(s)
    switch verb {
    case .mail:
      entry.text.hasSender = false
      entry.text.senderCount = 0
      entry.text.recipientCount = 0
      if case .parsed(let mail) = MailArguments.parse(arena.span(line)) {
        entry.text.hasSender = true
        entry.text.senderCount = copyPath(line, mail.mailbox, into: &entry.text.sender)
      }
    case .rcpt:
      entry.text.recipientCount = 0
      if case .parsed(let rcpt) = RcptArguments.parse(arena.span(line), smtputf8: true) {
        entry.text.recipientCount = copyPath(line, rcpt.mailbox, into: &entry.text.recipient)
      }
    default: break
    }
    journal.append(entry)
  }

  /// Copies an address for the log, in its brackets.
  private func copyPath(
    _ line: Region, _ mailbox: Range<Int>, into text: inout InlineArray<100, UInt8>
  ) -> UInt8 {
    let bytes = arena.span(line)
    let kept = min(mailbox.count, ClientText.each - 1)
    text[0] = UInt8(ascii: "<")
    for k in 0..<kept { text[1 + k] = bytes[mailbox.lowerBound + k] }
    if kept + 2 > ClientText.each { return UInt8(kept + 1) }
    text[1 + kept] = UInt8(ascii: ">")
    return UInt8(kept + 2)
  }

  func stage(of verb: Verb) -> Stage {
    switch verb {
    case .ehlo, .helo: .helo
    case .mail: .mail
    case .rcpt: .recipientAccepted
    case .data: .data
    case .starttls: .startTLS
    default: .other
    }
  }

  /// Looks for signals in the command at hand.
  ///
  /// - Returns: whether the peer belongs into the tarpit now.
  private mutating func inspect(_ i: Int, now: Instant) -> Bool {
    let s = Int(connections[i].session)
    switch sessions[s].verb {
    case .ehlo, .helo:
      takeName(s)
      recognizePool(i, now: now)
      // RFC 2920, 3.1: EHLO must be the last command of a group, its answer says what may follow.
      var bad = hasMore(s) && note(.pipelining, i, now: now)
      if sessions[s].flags.contains(.greeted) { bad = countIdle(i, now: now) || bad }
      if let signal = heloSignal(i) { bad = note(signal, i, now: now) || bad }
      return bad
    case .http, .header: return note(.nonSMTP, i, now: now)
    case .tlsHello: return note(.tlsHello, i, now: now)
    case .binary, .socks: return note(.binary, i, now: now)
    case .unknown, .lhlo, .turn, .atrn, .send, .soml, .saml:
      return note(.unknownCommand, i, now: now)
    case .data where hasMore(s): return note(.pipelining, i, now: now)
    case .mail, .rcpt, .data, .auth, .bdat: break
    case .rset, .noop, .vrfy, .expn, .help, .starttls, .xclient, .xforward, .etrn, .burl:
      if countIdle(i, now: now) { return true }
    case .quit: return false
    }
    // Without EHLO there is no pipelining (RFC 2920, 3).
    if hasMore(s) && !sessions[s].flags.contains(.extended) {
      return note(.pipelining, i, now: now)
    }
    return false
  }

  /// Counts a command without mail.
  ///
  /// - Returns: whether the peer belongs into the tarpit for it.
  private mutating func countIdle(_ i: Int, now: Instant) -> Bool {
    let s = Int(connections[i].session)
    return sessions[s].use.countIdle(policy.session, now: now) && note(.commandFlood, i, now: now)
  }

  private func heloSignal(_ i: Int) -> Signal? {
    // What users' machines call themselves tells nothing: they are where their network puts them.
    if policy.role(ofListener: Int(connections[i].listener)) == .outbound { return nil }
    let s = Int(connections[i].session)
    let name = arena.span(argument(s))
    let address = connections[i].address
    // Our own names and addresses are the truth where we say them ourselves.
    let isOurs = address.isLoopback || policy.ownAddresses.contains(address)
    switch HeloForm(name) {
    case .fullyQualified:
      return isOwnName(name) && !isOurs ? .heloOwnName : nil
    case .localhost: return isOurs ? nil : .heloOwnName
    case .bareWord:
      if isOwnName(name) { return isOurs ? nil : .heloOwnName }
      return .heloBareWord
    case .addressLiteral(let literal):
      guard let literal else { return .heloInvalid }
      if literal == address { return nil }
      if policy.ownAddresses.contains(literal) { return isOurs ? nil : .heloOwnAddress }
      return .heloForeignLiteral
    case .bareAddress(let literal):
      return policy.ownAddresses.contains(literal) && !isOurs ? .heloOwnAddress : .heloBareAddress
    case .invalid: return .heloInvalid
    }
  }

  private func isOwnName(_ name: Span<UInt8>) -> Bool {
    var k = 0
    while k < policy.ownNameBytes.count {
      let own = policy.ownNameBytes[k]
      if equalsIgnoringCase(name, own.span) { return true }
      k += 1
    }
    return false
  }

  /// The message and recipient rates of the peer's rule.
  private mutating func excess(_ i: Int, now: Instant) -> Excess {
    // Enforce would have refused it or held it before it could use up anything.
    if policy.mode == .observe && (connections[i].tier == .bad || wouldBeTurnedAway(i)) {
      return .within
    }
    return switch sessions[Int(connections[i].session)].verb {
    case .mail: take(.messages, .messages, i, now: now)
    case .rcpt: take(.recipients, .recipients, i, now: now)
    default: .within
    }
  }

  /// Carries out the command at hand; its delay is over.
  mutating func execute(_ i: Int, now: Instant, into effects: inout EffectQueue) {
    let s = Int(connections[i].session)
    sessions[s].phase = .command
    let role = policy.role(ofListener: Int(connections[i].listener))
    switch sessions[s].verb {
    case .ehlo, .helo: hello(i, now: now, into: &effects)
    case .mail: mail(i, now: now, into: &effects)
    case .rcpt: recipient(i, now: now, into: &effects)
    case .data: data(i, now: now, into: &effects)
    case .rset: reset(i, now: now, into: &effects)
    case .noop where holdsLink(s): forward(i, now: now, into: &effects)
    case .noop: answer(i, .ok, now: now, into: &effects)
    case .vrfy: answer(i, .cannotVerify, now: now, into: &effects)
    case .expn: answer(i, .notImplemented, now: now, into: &effects)
    case .help:
      let offers = offeredUnasked(i).keywords
      answer(
        i, OwnReply.help(tls: offers.contains(.starttls), auth: offers.contains(.auth)), now: now,
        into: &effects)
    case .quit:
      tally(s, sessions[s].verb, good: true)
      sessions[s].inputStart += sessions[s].lineConsumed
      leave(i, .bye, now: now, into: &effects)
    case .auth where role == .outbound: authenticate(i, now: now, into: &effects)
    case .starttls: startTLS(i, now: now, into: &effects)
    case .auth, .bdat, .xclient, .xforward, .etrn, .atrn, .turn, .burl, .lhlo, .send,
      .soml, .saml:
      answer(i, .notImplemented, now: now, into: &effects)
    case .http, .header, .tlsHello, .socks:
      // Another protocol: nothing that follows can be mail.
      tally(s, sessions[s].verb, good: false)
      leave(i, .notSMTP, now: now, into: &effects)
    case .binary, .unknown:
      sessions[s].use.countUnknown()
      if !endIfUsedUp(i, now: now, into: &effects) {
        answer(i, .unknownCommand, now: now, into: &effects)
      }
    }
  }

  /// EHLO and HELO. In a session they are a reset (RFC 5321, 4.1.4), and a log-in outlives them (RFC 4954, 4): a
  /// downstream connection that is open stays, and hears the new name.
  private mutating func hello(_ i: Int, now: Instant, into effects: inout EffectQueue) {
    let s = Int(connections[i].session)
    let l = Int(sessions[s].link)
    // What is no name has its signal already (`heloSignal`), and is not passed on (`heloName`).
    let isRefused = !isName(argument(s)) && isRefused(i, .heloSyntax, now: now)
    if argument(s).count == 0 || isRefused {
      answer(i, .heloSyntax, now: now, into: &effects)
    } else if l >= 0 && links[l].state == .ready {
      forward(i, now: now, into: &effects)
    } else {
      greet(i, now: now, into: &effects)
    }
  }

  /// Greets a client whose EHLO or HELO no downstream connection has heard. Nothing is left of what was before.
  mutating func greet(_ i: Int, now: Instant, into effects: inout EffectQueue) {
    let s = Int(connections[i].session)
    dropLink(of: i, now: now, into: &effects)
    beginAnew(i)
    if sessions[s].verb == .ehlo && mustAskFirst(now: now) && downstream.offers.probe != .failed {
      forward(i, now: now, into: &effects)
    } else if sessions[s].verb == .ehlo {
      helloFromOthers(i, now: now, into: &effects)
    } else {
      sayHello(i, offeredUnasked(i), now: now, into: &effects)
    }
  }

  /// The client's own downstream connection has taken its second EHLO, and is offered this from here on.
  mutating func helloTaken(
    _ i: Int, _ offers: Capabilities, now: Instant, into effects: inout EffectQueue
  ) {
    beginAnew(i)
    sayHello(i, offered(i, of: offers), now: now, into: &effects)
  }

  private mutating func beginAnew(_ i: Int) {
    let s = Int(connections[i].session)
    resetTransaction(i)
    sessions[s].flags.subtract(.hello)
    if sessions[s].verb == .ehlo { sessions[s].flags.insert(.extended) }
  }

  /// The reply to EHLO or HELO: what of `offers` it may name.
  mutating func sayHello(
    _ i: Int, _ offers: Capabilities, now: Instant, into effects: inout EffectQueue
  ) {
    let s = Int(connections[i].session)
    sessions[s].flags.insert(.greeted)
    sessions[s].offered = offers.keywords
    let isExtended = sessions[s].verb == .ehlo
    let room = outbox(s).from(Int(sessions[s].outEnd))
    let host = policy.hostnameBytes
    let written = arena.append(into: room) { out in
      if isExtended {
        _ = offers.writeEHLOReply(hostname: host.span, into: &out)
      } else {
        writeHELOReply(hostname: host.span, into: &out)
      }
    }
    sessions[s].outEnd += Int32(written)
    sessions[s].lastReply = 250
    tally(s, sessions[s].verb, good: true)
    finish(i)
  }

  private func isName(_ name: Region) -> Bool {
    name.count > 0 && name.count <= 255 && isPrintable(name) && !hasSpace(name)
  }

  /// Keeps what a client greets with: for its reputation, the log, and the downstream.
  private mutating func takeName(_ s: Int) {
    let name = argument(s)
    guard isName(name) || !policy.refusesLapses && name.count > 0 else { return }
    // What is too long for a name is none, and no beginning of it is one.
    let kept = name.count <= HeloForm.octetsMax ? name : name.prefix(0)
    arena.move(kept, to: heloRegion(s).offset)
    sessions[s].heloCount = UInt8(kept.count)
  }

  /// The name a client greeted with, if it is one that can go on to the downstream; else empty.
  func heloName(_ s: Int) -> Region {
    let name = heloRegion(s).prefix(Int(sessions[s].heloCount))
    return isName(name) ? name : name.prefix(0)
  }

  func isPrintable(_ region: Region) -> Bool {
    let bytes = arena.span(region)
    for k in 0..<bytes.count where bytes[k] < 32 || bytes[k] >= 127 { return false }
    return true
  }

  private func hasSpace(_ region: Region) -> Bool {
    let bytes = arena.span(region)
    for k in 0..<bytes.count where bytes[k] == 32 { return true }
    return false
  }

  // MARK: Replies

  /// Answers the command at hand with a reply of our own and is done with it.
  mutating func answer(
    _ i: Int, _ reply: OwnReply, now: Instant, into effects: inout EffectQueue
  ) {
    let s = Int(connections[i].session)
    say(i, reply, isAtHand: true, now: now)
    tally(s, sessions[s].verb, good: reply.code < 400)
    finish(i)
    if reply.code >= 400 { endIfUsedUp(i, now: now, into: &effects) }
  }

  /// Puts a reply of our own into the outbox.
  ///
  /// - Parameter isAtHand: it answers the command whose line is in the input buffer.
  mutating func say(_ i: Int, _ reply: OwnReply, isAtHand: Bool = false, now: Instant) {
    let s = Int(connections[i].session)
    if reply.isOutage {
      noteDeferral(i, sessions[s].verb, reply, isAtHand: isAtHand, now: now)
    }
    let room = outbox(s).from(Int(sessions[s].outEnd))
    let written = arena.append(into: room) { out in reply.write(into: &out) }
    sessions[s].outEnd += Int32(written)
    sessions[s].lastReply = reply.code
    if reply.code >= 400 && reply.code < 500 { counters.tempfailedByUs += 1 }
    if reply.code >= 400 { countError(i, sessions[s].verb, reply.code, now: now) }
  }

  /// Mail is put off because of the server behind: the log says so at once, and at the end.
  mutating func noteDeferral(
    _ i: Int, _ verb: Verb, _ reply: OwnReply, isAtHand: Bool, now: Instant
  ) {
    sessions[Int(connections[i].session)].ending = .deferred
    noteReject(.reject, i, verb, reply, isAtHand: isAtHand, now: now)
  }

  /// Counts a refusal, if it is an error of the client. 4yz is none: something is wanting at the server or here
  /// (RFC 5321, 4.2.1). Nor is what was said in a group behind a MAIL that is refused, or behind recipients of whom
  /// none is left: it falls with those.
  mutating func countError(_ i: Int, _ verb: Verb, _ code: UInt16, now: Instant) {
    let s = Int(connections[i].session)
    let flags = sessions[s].flags
    switch verb {
    case .mail where !flags.contains(.mail): sessions[s].flags.insert(.refusedMail)
    case .rcpt where flags.contains(.refusedMail): return
    case .data where flags.contains(.refusedMail): return
    case .data where flags.contains(.refusedRecipient) && sessions[s].acceptedRecipients == 0:
      return
    default: break
    }
    if code < 500 { return }
    sessions[s].use.countError()
    if sessions[s].use.errors >= UInt32(policy.session.errorStreak) { note(.errors, i, now: now) }
    switch take(.errors, .errors, i, now: now) {
    case .within, .slow: break  // slow: the signal it leaves lengthens every delay from here on
    case .tempfail, .refuse, .drop: sessions[s].use.exceedRate()
    }
  }

  /// Whether a transaction would be lost that has an accepted recipient, or may still have one: of a client that has
  /// proven who it is, many refused recipients are no harvest.
  func isDelivering(_ i: Int) -> Bool {
    let s = Int(connections[i].session)
    guard sessions[s].flags.contains(.mail) else { return false }
    return sessions[s].acceptedRecipients > 0 || sessions[s].flags.contains(.authenticated)
      || !connections[i].flags.isDisjoint(with: .vouched)
  }

  /// The limit at which a session is to end now, if there is one.
  func usedUp(_ i: Int, now: Instant) -> Subject? {
    sessions[Int(connections[i].session)].use.end(
      policy.session, age: age(i, now: now), time: policy.timeouts.session,
      isDelivering: isDelivering(i))
  }

  /// Ends a session that has used up what it may.
  ///
  /// - Returns: whether it has.
  @discardableResult
  mutating func endIfUsedUp(_ i: Int, now: Instant, into effects: inout EffectQueue) -> Bool {
    guard connections[i].state == .talking else { return false }
    if sessions[Int(connections[i].session)].phase == .leaving { return false }
    guard let limit = usedUp(i, now: now) else { return false }
    limitReached(i, limit, now: now)
    let reply: OwnReply =
      switch limit {
      case .commands: .tooManyCommands
      case .time: .sessionTooLong
      default: .tooManyErrors
      }
    leave(i, reply, now: now, into: &effects)
    return true
  }

  mutating func limitReached(_ i: Int, _ subject: Subject, now: Instant) {
    var entry = entry(.limit, i, now: now)
    entry.subject = subject
    journal.append(entry)
  }

  mutating func tally(_ s: Int, _ verb: Verb, good: Bool) {
    func count(_ tally: inout Tally) {
      tally.all &+= 1
      if good { tally.good &+= 1 }
    }
    switch verb {
    case .ehlo, .helo: count(&sessions[s].tallies.helo)
    case .auth: count(&sessions[s].tallies.auth)
    case .mail: count(&sessions[s].tallies.mail)
    case .rcpt: count(&sessions[s].tallies.rcpt)
    case .data: count(&sessions[s].tallies.data)
    case .quit: count(&sessions[s].tallies.quit)
    case .unknown, .binary, .http, .header, .tlsHello, .socks: count(&sessions[s].tallies.unknown)
    default: count(&sessions[s].tallies.other)
    }
  }

  /// Is done with the command at hand: its line leaves the input buffer.
  mutating func finish(_ i: Int) {
    let s = Int(connections[i].session)
    sessions[s].inputStart += sessions[s].lineConsumed
    sessions[s].lineConsumed = 0
    sessions[s].lineCount = 0
    sessions[s].phase = .command
    switch sessions[s].verb {
    case .mail, .rcpt, .data: sessions[s].use.countMail()
    default: break
    }
  }

  /// Sends what the outbox holds, if nothing is being sent, and what is ready for the downstream.
  mutating func flush(_ i: Int, now: Instant, into effects: inout EffectQueue) {
    let s = Int(connections[i].session)
    let l = Int(sessions[s].link)
    if l >= 0 && links[l].state == .busy { flushLink(l, into: &effects) }
    let count = sessions[s].outEnd - sessions[s].outHeld - sessions[s].outStart
    guard !sessions[s].flags.contains(.sending), count > 0 else { return }
    sessions[s].flags.insert(.sending)
    let region = Region(
      offset: outbox(s).offset + Int(sessions[s].outStart), count: Int(count))
    effects.append(.send(slot(client: i), region))
  }

  /// Part of what was to be sent to a client went out.
  mutating func clientSent(
    _ i: Int, _ count: Int, now: Instant, into effects: inout EffectQueue
  ) {
    switch connections[i].state {
    case .banner: textSent(i, count, .banner, now: now, into: &effects)
    case .refusing: textSent(i, count, connections[i].text, now: now, into: &effects)
    case .talking:
      let s = Int(connections[i].session)
      sessions[s].flags.remove(.sending)
      sessions[s].outStart += Int32(count)
      sessions[s].bytesOut += UInt64(count)
      if sessions[s].outStart < sessions[s].outEnd {
        flush(i, now: now, into: &effects)
        // What is left may be a reply that waits for its time, and nothing else happens until then.
        return
      }
      sessions[s].outStart = 0
      sessions[s].outEnd = 0
      if sessions[s].phase == .securing {
        beginHandshake(i, now: now, into: &effects)
      } else if sessions[s].phase == .spliced {
        deliverSplice(i, Int(sessions[s].link), now: now, into: &effects)
      } else if sessions[s].phase == .leaving {
        if sessions[s].flags.contains(.toPit) {
          sessions[s].flags.remove(.toPit)
          moveToTarpit(i, now: now, into: &effects)
        } else {
          // After QUIT with nothing behind it there is nothing a reset could destroy.
          let isDone = sessions[s].verb == .quit && sessions[s].inputStart == sessions[s].inputEnd
          if isDone {
            close(i, now: now, into: &effects)
          } else {
            writeClosingLine(i, now: now)
            returnSession(i)
            beginDraining(i, now: now, into: &effects)
          }
        }
      } else {
        work(i, now: now, into: &effects)
        let l = Int(sessions[s].link)
        if l >= 0 && links[l].isPaused {
          wheel.cancel(i)
          readOn(l, now: now, into: &effects)
        }
      }
    case .free, .announced, .waiting, .idle, .dripping, .pit, .draining, .closing, .securing: break
    }
  }

  /// Says a last reply and ends the session once it is out.
  mutating func leave(
    _ i: Int, _ reply: OwnReply, now: Instant, into effects: inout EffectQueue
  ) {
    let s = Int(connections[i].session)
    dropLink(of: i, now: now, into: &effects)
    sessions[s].outHeld = 0
    switch reply {
    case .tooManyCommands, .tooManyErrors: sessions[s].ending = .refused
    default: if reply.code >= 500 { sessions[s].ending = .refused }
    }
    // A client that does not take its replies has no room left for a last one.
    if Layout.outboxBytes - Int(sessions[s].outEnd) >= 128 { say(i, reply, now: now) }
    sessions[s].phase = .leaving
    wheel.set(i, at: now.after(microseconds: policy.timeouts.send))
    flush(i, now: now, into: &effects)
  }

  // MARK: Endings

  /// The client has closed its sending side. What it said before is still answered.
  mutating func sessionEnded(_ i: Int, now: Instant, into effects: inout EffectQueue) {
    let s = Int(connections[i].session)
    let wasReading = sessions[s].flags.contains(.filling)
    sessions[s].flags.remove(.filling)
    sessions[s].flags.insert(.ended)
    switch sessions[s].phase {
    case .command, .challenge: clientLeft(i, now: now, into: &effects)
    case .body, .swallow: hungUp(i, now: now, into: &effects)
    case .delaying, .holding:
      if !wasReading {
        fill(i, now: now, into: &effects)
        // No room to look: the buffer is full of commands, so it is not leaving.
      } else if !hasWholeLineAhead(s) {
        hungUp(i, now: now, into: &effects)
      }
    case .opening, .forwarded, .final:
      if !wasReading { fill(i, now: now, into: &effects) }
    case .securing: hungUp(i, now: now, into: &effects)
    case .spliced where sessions[s].flags.contains(.relaying): break  // what it said goes out first
    case .spliced: finishSplice(i, now: now, into: &effects)
    case .leaving: break
    }
  }

  /// Whether the downstream's replies wait for the client to take its own.
  private func isPaused(_ s: Int) -> Bool {
    let l = Int(sessions[s].link)
    return l >= 0 && links[l].isPaused
  }

  private func hasWholeLineAhead(_ s: Int) -> Bool {
    let start = Int(sessions[s].inputStart + sessions[s].lineConsumed)
    let count = Int(sessions[s].inputEnd) - start
    let ahead = Region(offset: input(s).offset + start, count: max(count, 0))
    return lineEnd(in: ahead) < ahead.count
  }

  /// All a client said is answered and nothing more will come: the end, after what is still to be sent.
  private mutating func clientLeft(_ i: Int, now: Instant, into effects: inout EffectQueue) {
    let s = Int(connections[i].session)
    if sessions[s].outStart < sessions[s].outEnd {
      dropLink(of: i, now: now, into: &effects)
      sessions[s].phase = .leaving
      wheel.set(i, at: now.after(microseconds: policy.timeouts.send))
      flush(i, now: now, into: &effects)
    } else {
      hungUp(i, now: now, into: &effects)
    }
  }

  /// Whether a talking client could be told to go without hurting a transaction.
  func isBetweenMessages(_ i: Int) -> Bool {
    let s = Int(connections[i].session)
    return s >= 0 && sessions[s].phase == .command && !sessions[s].flags.contains(.mail)
      && sessions[s].outStart == sessions[s].outEnd
  }

  mutating func sessionTimer(_ i: Int, now: Instant, into effects: inout EffectQueue) {
    let s = Int(connections[i].session)
    switch sessions[s].phase {
    case .delaying:
      execute(i, now: now, into: &effects)
      if connections[i].state == .talking { work(i, now: now, into: &effects) }
    case .holding:
      releaseReply(i, now: now, into: &effects)
      guard connections[i].state == .talking else { break }
      let l = Int(sessions[s].link)
      if l >= 0 && links[l].state == .busy && sessions[s].phase == .forwarded {
        readOn(l, now: now, into: &effects)
      } else {
        work(i, now: now, into: &effects)
      }
    case .command, .challenge:
      timedOut(i, now: now)
      if sessions[s].outStart < sessions[s].outEnd {
        close(i, now: now, into: &effects)  // it does not even take its replies
      } else {
        leave(i, .timeout, now: now, into: &effects)
      }
    case .body, .swallow:
      if sessions[s].flags.contains(.paused) {
        readBody(i, now: now, into: &effects)
      } else if sessions[s].flags.contains(.relaying) {
        // Not the client dawdles but the downstream, and that has a clock of its own.
        wheel.set(i, at: now.after(microseconds: policy.timeouts.body))
      } else {
        timedOut(i, now: now)
        leave(i, .timeout, now: now, into: &effects)
      }
    case .leaving: close(i, now: now, into: &effects)
    case .spliced where sessions[s].flags.contains(.paused):
      readSplice(i, now: now, into: &effects)
    case .securing:
      timedOut(i, now: now)
      close(i, as: .tlsFailed, now: now, into: &effects)
    case .spliced:
      timedOut(i, now: now)
      close(i, now: now, into: &effects)
    case .opening where isPaused(s), .forwarded where isPaused(s):
      // It does not take its replies.
      timedOut(i, now: now)
      close(i, now: now, into: &effects)
    case .opening, .forwarded, .final: break  // the downstream's clock is running
    }
  }
}
