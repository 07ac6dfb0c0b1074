// SPDX-License-Identifier: Apache-2.0
import Flow
import Policy
import SMTP
import Structures
import Suspicion

// Mail: MAIL, RCPT, DATA, the message, RSET and AUTH, each checked here and carried to the downstream.
//
// Nothing is answered 2xx here that the downstream has not answered 2xx, and the message goes through
// the session's input buffer and no further: read, scan, forward, read again.
extension Engine {
  // MARK: Envelope

  mutating func mail(_ i: Int, now: Instant, into effects: inout EffectQueue) {
    let s = Int(connections[i].session)
    if !sessions[s].flags.contains(.greeted) {
      if lapsed(i, .heloFirst, now: now) {
        answer(i, .heloFirst, now: now, into: &effects)
        return
      }
      sessions[s].offered = offeredUnasked(i).keywords
    }
    if sessions[s].flags.contains(.mail) {
      answer(i, .nestedMail, now: now, into: &effects)
      return
    }
    if sessions[s].form == .malformed {
      answer(i, .mailSyntax, now: now, into: &effects)
      return
    }
    if refusesBlanks(i, now: now, into: &effects) { return }
    let arguments: MailArguments
    switch MailArguments.parse(arena.span(argument(s))) {
    case .fault(let fault):
      answer(i, fault.reply, now: now, into: &effects)
      return
    case .parsed(let parsed): arguments = parsed
    }
    if let lapse = arguments.lapse, lapsed(i, lapse.reply, now: now) {
      answer(i, lapse.reply, now: now, into: &effects)
      return
    }
    if isUnsupported(arguments.parameters, sessions[s].offered) {
      answer(i, .unknownParameter, now: now, into: &effects)
      return
    }
    // Held against our own limit alone. What is too much for the downstream it says itself: it may take more of this
    // client than it told others.
    let (size, most) = (arguments.parameters.size, policy.session.messageBytes)
    if most > 0 && size > most {
      answer(i, .messageTooLarge, now: now, into: &effects)
      return
    }
    if arguments.isSMTPUTF8 { sessions[s].flags.insert(.utf8) }
    sessions[s].senderCount = keep(arguments.mailbox, of: s, in: senderRegion(s))
    sessions[s].recipientCount = 0
    forward(i, now: now, into: &effects)
  }

  mutating func recipient(_ i: Int, now: Instant, into effects: inout EffectQueue) {
    let s = Int(connections[i].session)
    if sessions[s].flags.contains(.lost) {
      answer(i, .transactionLost, now: now, into: &effects)
      return
    }
    guard sessions[s].flags.contains(.mail) || isOutstanding(.mail, s) else {
      answer(i, .mailFirst, now: now, into: &effects)
      return
    }
    if sessions[s].form == .malformed {
      answer(i, .rcptSyntax, now: now, into: &effects)
      return
    }
    if refusesBlanks(i, now: now, into: &effects) { return }
    let limit = UInt32(clamping: policy.session.recipients)
    if limit > 0 && sessions[s].acceptedRecipients >= limit {
      answer(i, .tooManyRecipients, now: now, into: &effects)
      return
    }
    let arguments: RcptArguments
    let isUTF8 = sessions[s].flags.contains(.utf8)
    switch RcptArguments.parse(arena.span(argument(s)), smtputf8: isUTF8) {
    case .fault(let fault):
      answer(i, fault.reply, now: now, into: &effects)
      return
    case .parsed(let parsed): arguments = parsed
    }
    if let lapse = arguments.lapse, lapsed(i, lapse.reply, now: now) {
      answer(i, lapse.reply, now: now, into: &effects)
      return
    }
    if isUnsupported(arguments.parameters, sessions[s].offered) {
      answer(i, .unknownParameter, now: now, into: &effects)
      return
    }
    sessions[s].recipientCount = keep(arguments.mailbox, of: s, in: recipientRegion(s))
    forward(i, now: now, into: &effects)
  }

  /// Whether more white space behind the colon than there may be is refused, and was.
  private mutating func refusesBlanks(
    _ i: Int, now: Instant, into effects: inout EffectQueue
  ) -> Bool {
    guard sessions[Int(connections[i].session)].form == .tolerated,
      lapsed(i, .badPathSyntax, now: now)
    else { return false }
    answer(i, .badPathSyntax, now: now, into: &effects)
    return true
  }

  /// Whether such a command is with the downstream, its reply still to come.
  private func isOutstanding(_ verb: Verb, _ s: Int) -> Bool {
    let l = Int(sessions[s].link)
    return l >= 0 && links[l].state == .busy && links[l].outstanding.contains(verb)
  }

  /// Whether the client used a parameter it was not offered. Such a one is refused, never dropped: each
  /// changes what the message means. SIZE is ours to check, AUTH= is taken off.
  func isUnsupported(_ used: Parameters, _ offered: Capabilities.Keywords) -> Bool {
    let known = offered.parameters(role: .inbound).union(.oursToCheck)
    return !used.present.subtracting(known).isEmpty || used.body == .binaryMIME
  }

  /// Keeps an address for the log, in its brackets, whether it came in them or not.
  private mutating func keep(_ mailbox: Range<Int>, of s: Int, in place: Region) -> UInt8 {
    let kept = min(mailbox.count, ClientText.each - 1)
    arena[place.offset] = UInt8(ascii: "<")
    arena.move(
      Region(offset: argument(s).offset + mailbox.lowerBound, count: kept), to: place.offset + 1)
    if kept + 2 > ClientText.each { return UInt8(kept + 1) }
    arena[place.offset + 1 + kept] = UInt8(ascii: ">")
    return UInt8(kept + 2)
  }

  mutating func data(_ i: Int, now: Instant, into effects: inout EffectQueue) {
    let s = Int(connections[i].session)
    if sessions[s].inputStart + sessions[s].lineConsumed < sessions[s].inputEnd {
      // Message bytes ahead of 354: what reads them as commands is smuggled mail (class 22).
      counters.protocolFaults += 1
      leave(i, .dataTooEarly, now: now, into: &effects)
    } else if sessions[s].flags.contains(.lost) {
      answer(i, .transactionLost, now: now, into: &effects)
    } else if !sessions[s].flags.contains(.mail) && !isOutstanding(.mail, s) {
      answer(i, .mailFirst, now: now, into: &effects)
    } else if sessions[s].acceptedRecipients == 0 && !isOutstanding(.rcpt, s) {
      answer(i, .noValidRecipients, now: now, into: &effects)
    } else if sessions[s].lineCount > sessions[s].argumentStart {
      answer(i, .noArgument, now: now, into: &effects)
    } else {
      forward(i, now: now, into: &effects)
    }
  }

  mutating func reset(_ i: Int, now: Instant, into effects: inout EffectQueue) {
    if holdsLink(Int(connections[i].session)) {
      forward(i, now: now, into: &effects)
    } else {
      resetTransaction(i)
      answer(i, .ok, now: now, into: &effects)
    }
  }

  /// Whether a session would lose a transaction or a log-in with its downstream connection: there is one to keep
  /// alive then, so the downstream hears what is said for that.
  func holdsLink(_ s: Int) -> Bool {
    let l = Int(sessions[s].link)
    return l >= 0 && links[l].state == .ready && !sessions[s].flags.isDisjoint(with: .held)
  }

  /// The one place where a transaction's state ends, on whichever way it ended.
  mutating func resetTransaction(_ i: Int) {
    let s = Int(connections[i].session)
    sessions[s].flags.remove(.transaction)
    sessions[s].acceptedRecipients = 0
    sessions[s].recipientDelay = 0
    sessions[s].senderCount = 0
    sessions[s].recipientCount = 0
  }

  // MARK: Message

  /// The downstream said 354: the client's message may come.
  mutating func beginBody(_ i: Int, now: Instant, into effects: inout EffectQueue) {
    let s = Int(connections[i].session)
    sessions[s].inputStart = 0
    sessions[s].inputEnd = 0
    sessions[s].lines.reset()
    // For the whole message, whatever policy comes meanwhile.
    sessions[s].data = EndOfDataScanner(
      lineOctetsMax: policy.session.textLineBytes,
      lineEnds: policy.bareNewline == .normalize ? .normalize : .strict)
    sessions[s].rewriteStart = 0
    sessions[s].rewriteEnd = 0
    sessions[s].holdsCR = false
    sessions[s].deadlineMark = 0
    let theirs = links[Int(sessions[s].link)].offer.sizeMax
    sessions[s].sizeLimit = smallerLimit(policy.session.messageBytes, theirs)
    sessions[s].phase = .body
    flush(i, now: now, into: &effects)
    readBody(i, now: now, into: &effects)
  }

  /// Reads more of a message, as much as its source's byte rate has credit for.
  mutating func readBody(_ i: Int, now: Instant, into effects: inout EffectQueue) {
    let s = Int(connections[i].session)
    if sessions[s].flags.contains(.relaying) { return }
    sessions[s].flags.remove(.paused)
    if endIfUsedUp(i, now: now, into: &effects) { return }
    if isOverdue(i, now: now) {
      timedOut(i, now: now)
      leave(i, .timeout, now: now, into: &effects)
      return
    }
    // The deadline moves with each kilobyte, not with each byte: a trickle does not hold a downstream.
    let isDue = sessions[s].data.octets &- sessions[s].deadlineMark >= 1_024
    if sessions[s].flags.contains(.filling) {
      // Since DATA went downstream.
      setBodyDeadline(i, now: now)
      return
    }
    var room = bodyRoom(s)
    if let credit = credit(i, now: now), credit < room.count {
      if credit < 1 {
        pauseBody(i, now: now)
        return
      }
      room = room.prefix(credit)
    }
    if isDue || !wheel.isSet(i) { setBodyDeadline(i, now: now) }
    receive(i, into: room, into: &effects)
  }

  private mutating func setBodyDeadline(_ i: Int, now: Instant) {
    let s = Int(connections[i].session)
    sessions[s].deadlineMark = sessions[s].data.octets
    wheel.set(i, at: now.after(microseconds: policy.timeouts.body))
  }

  /// Where message bytes arrive.
  private func bodyRoom(_ s: Int) -> Region {
    // One byte in front is kept for a CR that was held back.
    return input(s).from(1)
  }

  /// Listens while DATA is with the downstream: who speaks before 354 must be found out, also where his bytes
  /// are still in the kernel, and after it they are the first of the message.
  mutating func listenForBody(_ i: Int, now: Instant, into effects: inout EffectQueue) {
    let s = Int(connections[i].session)
    if sessions[s].flags.contains(.filling) { return }
    let room = bodyRoom(s)
    // A source without credit for so little is charged for it and waits longer before the next piece.
    let most = max(credit(i, now: now) ?? room.count, 512)
    receive(i, into: room.prefix(min(most, room.count)), into: &effects)
  }

  /// How many bytes the source may send now; nil where no rule says.
  func credit(_ i: Int, now: Instant) -> Int? {
    guard policy.mode == .enforce, let rule = rateRule(i), let rate = rule.bytes,
      !connections[i].flags.contains(.trusted)
    else { return nil }
    let key = rule.key(for: connections[i].address, .bytes)
    // A quarter of the burst at a time: those who share a bucket take turns at it.
    let turn = max(rate.burst / 4, 2_048)
    return Int(clamping: min(buckets.peek(key, rate, now: now), turn))
  }

  mutating func pauseBody(_ i: Int, now: Instant) {
    let s = Int(connections[i].session)
    guard let rule = rateRule(i), let rate = rule.bytes else { return }
    // Wait for a piece worth reading, but never longer than a stall may last (half its ceiling).
    let key = rule.key(for: connections[i].address, .bytes)
    let piece = min(rate.burst, 2_048)
    let due = buckets.earliest(key, piece, rate, now: now)
    let latest = now.after(microseconds: policy.delays[.body].ceiling / 2)
    sessions[s].flags.insert(.paused)
    wheel.set(i, at: min(max(due, now.after(microseconds: 10_000)), latest))
  }

  /// Charges received bytes to the source's byte rate.
  mutating func spend(_ i: Int, _ count: Int, now: Instant) {
    guard let rule = rateRule(i), let rate = rule.bytes, !connections[i].flags.contains(.trusted)
    else { return }
    _ = buckets.charge(
      rule.key(for: connections[i].address, .bytes), UInt64(count), rate, now: now)
  }

  /// Message bytes have come.
  mutating func heardBody(_ i: Int, _ count: Int, now: Instant, into effects: inout EffectQueue) {
    let s = Int(connections[i].session)
    let region = input(s)
    if region.offset + Int(sessions[s].fillStart) != bodyRoom(s).offset {
      // Asked for before DATA: it was said before 354.
      counters.protocolFaults += 1
      leave(i, .dataTooEarly, now: now, into: &effects)
      return
    }
    var data = sessions[s].data
    if continuesTrace(data, region.from(1).prefix(count)) {
      leave(i, .foldedStart, now: now, into: &effects)
      return
    }
    let step = data.scan(
      arena.span(region.from(1).prefix(count)), isDiscarded: sessions[s].phase == .swallow)
    sessions[s].data = data
    let start = sessions[s].holdsCR ? 0 : 1
    if start == 0 { arena[region.offset] = carriageReturn }
    sessions[s].holdsCR = false
    switch step {
    case .body:
      // A CR at the end stays here until its LF has come: no bare CR ever goes downstream.
      sessions[s].holdsCR = data.endsInCR
      let end = 1 + count - (data.endsInCR ? 1 : 0)
      bodyPiece(i, start..<max(end, start), ends: false, now: now, into: &effects)
    case .rewrite(let from):
      note(.bareNewline, i, now: now)
      sessions[s].rewriteStart = Int32(1 + from)
      sessions[s].rewriteEnd = Int32(1 + count)
      bodyPiece(i, start..<(1 + from), ends: false, now: now, into: &effects)
    case .end(let length):
      sessions[s].inputStart = Int32(1 + length)
      sessions[s].inputEnd = Int32(1 + count)
      bodyPiece(i, start..<(1 + length), ends: true, now: now, into: &effects)
    case .fault(let fault, _): bodyFault(i, fault, now: now, into: &effects)
    }
  }

  /// A piece of message, ready to go on as it is.
  ///
  /// - Parameters:
  ///   - piece: where in the input region it is.
  ///   - ends: whether the message ends with it.
  private mutating func bodyPiece(
    _ i: Int, _ piece: Range<Int>, ends: Bool, now: Instant, into effects: inout EffectQueue
  ) {
    guard mayGoOn(i, ends: ends, now: now, into: &effects) else { return }
    let s = Int(connections[i].session)
    if piece.isEmpty {
      goOnWithBody(i, now: now, into: &effects)
      return
    }
    sessions[s].flags.insert(.relaying)
    sessions[s].relayStart = Int32(piece.lowerBound)
    sessions[s].relayEnd = Int32(piece.upperBound)
    sendBody(Int(sessions[s].link), s, now: now, into: &effects)
  }

  /// Whether the part of the message that was looked at goes downstream. If not, it and the rest are thrown away.
  ///
  /// - Parameter ends: whether the message ends with it.
  private mutating func mayGoOn(
    _ i: Int, ends: Bool, now: Instant, into effects: inout EffectQueue
  ) -> Bool {
    let s = Int(connections[i].session)
    if ends {
      sessions[s].flags.insert(.dotSeen)
      wheel.cancel(i)
    }
    let limit = sessions[s].sizeLimit
    if sessions[s].phase == .body && limit > 0 && sessions[s].data.size > limit {
      // Too large: the downstream gets no final dot, the client's bytes are read and thrown away.
      swallow(i, .messageTooLarge, now: now, into: &effects)
    }
    let l = Int(sessions[s].link)
    if sessions[s].phase == .body && (l < 0 || links[l].state != .body) {
      swallow(i, .downstreamLost, now: now, into: &effects)
    }
    if sessions[s].phase == .swallow {
      goOnSwallowing(i, now: now, into: &effects)
      return false
    }
    return true
  }

  /// The bytes of a message that were being forwarded are out.
  mutating func bodyForwarded(_ i: Int, now: Instant, into effects: inout EffectQueue) {
    let s = Int(connections[i].session)
    sessions[s].flags.remove(.relaying)
    if sessions[s].flags.contains(.dotSeen) {
      sessions[s].phase = .final
      effects.append(.watch(slot(client: i)))
      awaitFinalReply(Int(sessions[s].link), now: now)
    } else {
      goOnWithBody(i, now: now, into: &effects)
    }
  }

  private mutating func goOnWithBody(_ i: Int, now: Instant, into effects: inout EffectQueue) {
    let s = Int(connections[i].session)
    if sessions[s].rewriteStart < sessions[s].rewriteEnd {
      rewriteBody(i, now: now, into: &effects)
    } else {
      readBody(i, now: now, into: &effects)
    }
  }

  /// What came with bare LFs is rewritten into the link's own buffer, as much as that takes, and goes on from there.
  private mutating func rewriteBody(_ i: Int, now: Instant, into effects: inout EffectQueue) {
    let s = Int(connections[i].session)
    let l = Int(sessions[s].link)
    sessions[s].relayStart = 0
    sessions[s].relayEnd = 0
    if links[l].outEnd > 0 {
      // The trace header is still on its way: `bodyForwarded` comes when it is out.
      sessions[s].flags.insert(.relaying)
      return
    }
    let start = Int(sessions[s].rewriteStart)
    let source = input(s).prefix(Int(sessions[s].rewriteEnd)).from(start)
    var data = sessions[s].data
    var step = RewriteStep.body
    let written = arena.transform(from: source, into: linkOut(l)) { input, out in
      step = data.rewrite(input, into: &out)
    }
    sessions[s].data = data
    var ends = false
    switch step {
    case .body:
      sessions[s].rewriteStart = sessions[s].rewriteEnd
      sessions[s].holdsCR = data.endsInCR
    case .full(let consumed): sessions[s].rewriteStart += Int32(consumed)
    case .end(let consumed):
      // What follows are commands.
      ends = true
      sessions[s].inputStart = sessions[s].rewriteStart + Int32(consumed)
      sessions[s].inputEnd = sessions[s].rewriteEnd
      sessions[s].rewriteStart = sessions[s].rewriteEnd
    case .fault(let fault, _):
      bodyFault(i, fault, now: now, into: &effects)
      return
    }
    guard mayGoOn(i, ends: ends, now: now, into: &effects) else { return }
    guard written > 0 else {
      goOnWithBody(i, now: now, into: &effects)
      return
    }
    sessions[s].flags.insert(.relaying)
    links[l].outEnd = Int32(written)
    setLinkTimer(l, policy.timeouts.block, now: now)
    flushLink(l, into: &effects)
  }

  /// Whether the message goes on with the trace header that was put before it. What an access filter goes by must
  /// be ours alone.
  private func continuesTrace(_ data: EndOfDataScanner, _ piece: Region) -> Bool {
    downstream.terms.introduction == .received && data.beginsWithSpace(arena.span(piece))
  }

  private mutating func bodyFault(
    _ i: Int, _ fault: BodyFault, now: Instant, into effects: inout EffectQueue
  ) {
    counters.protocolFaults += 1
    switch fault {
    case .bareLF, .bareCR:
      note(.bareNewline, i, now: now)
      leave(i, .bareNewline, now: now, into: &effects)
    case .nul:
      note(.binary, i, now: now)
      leave(i, .nulInMessage, now: now, into: &effects)
    case .lineTooLong: leave(i, .textLineTooLong, now: now, into: &effects)
    }
  }

  /// From here on the message is read to its end and thrown away; then the client gets `verdict`.
  mutating func swallow(
    _ i: Int, _ verdict: OwnReply, now: Instant, into effects: inout EffectQueue
  ) {
    let s = Int(connections[i].session)
    sessions[s].phase = .swallow
    sessions[s].verdict = verdict
    dropLink(of: i, now: now, into: &effects)
  }

  /// Throws away more of a message, or, after its end, gives the verdict on it. Waits while a dying
  /// downstream connection may still be sending from the buffer: new bytes there could reach it.
  mutating func goOnSwallowing(_ i: Int, now: Instant, into effects: inout EffectQueue) {
    let s = Int(connections[i].session)
    guard connections[i].state == .talking, sessions[s].phase == .swallow,
      !sessions[s].flags.contains(.relaying)
    else { return }
    if sessions[s].rewriteStart < sessions[s].rewriteEnd {
      discardRest(i, now: now, into: &effects)
    } else if sessions[s].flags.contains(.dotSeen) {
      endSwallow(i, now: now, into: &effects)
    } else {
      readBody(i, now: now, into: &effects)
    }
  }

  /// Throws away what was waiting to be rewritten.
  private mutating func discardRest(_ i: Int, now: Instant, into effects: inout EffectQueue) {
    let s = Int(connections[i].session)
    let (start, end) = (sessions[s].rewriteStart, sessions[s].rewriteEnd)
    sessions[s].rewriteStart = end
    let rest = input(s).prefix(Int(end)).from(Int(start))
    var data = sessions[s].data
    let step = data.scan(arena.span(rest), isDiscarded: true)
    sessions[s].data = data
    switch step {
    case .body: readBody(i, now: now, into: &effects)
    case .end(let length):
      sessions[s].inputStart = start + Int32(length)
      sessions[s].inputEnd = end
      _ = mayGoOn(i, ends: true, now: now, into: &effects)
    case .fault(let fault, _): bodyFault(i, fault, now: now, into: &effects)
    case .rewrite: invariantFailed("what is thrown away was to be rewritten")
    }
  }

  private mutating func endSwallow(_ i: Int, now: Instant, into effects: inout EffectQueue) {
    let s = Int(connections[i].session)
    sessions[s].verb = .data
    if sessions[s].hasVerdict {
      sessions[s].hasVerdict = false
    } else {
      let verdict = sessions[s].verdict
      say(i, verdict, now: now)
      tally(s, sessions[s].verb, good: false)
    }
    resetTransaction(i)
    sessions[s].lineConsumed = 0
    sessions[s].phase = .command
    if sessions[s].lastReply == 421 {
      // The downstream's, in the middle of the message.
      goOn(i, after: 421, now: now, into: &effects)
      return
    }
    endIfUsedUp(i, now: now, into: &effects)
    loginLost(i, now: now, into: &effects)
    if connections[i].state == .talking { work(i, now: now, into: &effects) }
  }
}
