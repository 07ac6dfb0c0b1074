// SPDX-License-Identifier: Apache-2.0
import Flow
import SMTP
import Structures
import Suspicion

// Mail: MAIL, RCPT, DATA, the message, RSET and AUTH, each checked here and carried to the downstream.
//
// Nothing is answered 2xx here that the downstream has not answered 2xx, and the message goes through
// the session's input buffer and no further: read, scan, forward, read again.
extension Engine {
  // MARK: Envelope

  mutating func mail(_ i: ClientIndex, _ m: inout Moment) {
    let s = connections[i].session
    if !sessions[s].flags.contains(.greeted) {
      if lapsed(i, .heloFirst, now: m.now) {
        answer(i, .heloFirst, &m)
        return
      }
      sessions[s].offered = offeredUnasked(i).keywords
    }
    if sessions[s].flags.contains(.mail) {
      answer(i, .nestedMail, &m)
      return
    }
    if sessions[s].form == .malformed {
      answer(i, .mailSyntax, &m)
      return
    }
    if refusesBlanks(i, &m) { return }
    let arguments: MailArguments
    switch MailArguments.parse(arena.span(argument(s))) {
    case .fault(let fault):
      answer(i, fault.reply, &m)
      return
    case .parsed(let parsed): arguments = parsed
    }
    if let lapse = arguments.lapse, lapsed(i, lapse.reply, now: m.now) {
      answer(i, lapse.reply, &m)
      return
    }
    if isUnsupported(arguments.parameters, sessions[s].offered) {
      answer(i, .unknownParameter, &m)
      return
    }
    // Held against our own limit alone. What is too much for the downstream it says itself: it may take more of this
    // client than it told others.
    let (size, most) = (arguments.parameters.size, policy.session.messageBytes)
    if most > 0 && size > most {
      answer(i, .messageTooLarge, &m)
      return
    }
    if arguments.isSMTPUTF8 { sessions[s].flags.insert(.utf8) }
    sessions[s].senderCount = keep(arguments.mailbox, of: s, in: senderRegion(s))
    sessions[s].recipientCount = 0
    forward(i, &m)
  }

  mutating func recipient(_ i: ClientIndex, _ m: inout Moment) {
    let s = connections[i].session
    if sessions[s].flags.contains(.lost) {
      answer(i, .transactionLost, &m)
      return
    }
    guard sessions[s].flags.contains(.mail) || isOutstanding(.mail, s) else {
      answer(i, .mailFirst, &m)
      return
    }
    if sessions[s].form == .malformed {
      answer(i, .rcptSyntax, &m)
      return
    }
    if refusesBlanks(i, &m) { return }
    let limit = UInt32(clamping: policy.session.recipients)
    if limit > 0 && sessions[s].acceptedRecipients >= limit {
      answer(i, .tooManyRecipients, &m)
      return
    }
    let arguments: RcptArguments
    let isUTF8 = sessions[s].flags.contains(.utf8)
    switch RcptArguments.parse(arena.span(argument(s)), smtputf8: isUTF8) {
    case .fault(let fault):
      answer(i, fault.reply, &m)
      return
    case .parsed(let parsed): arguments = parsed
    }
    if let lapse = arguments.lapse, lapsed(i, lapse.reply, now: m.now) {
      answer(i, lapse.reply, &m)
      return
    }
    if isUnsupported(arguments.parameters, sessions[s].offered) {
      answer(i, .unknownParameter, &m)
      return
    }
    sessions[s].recipientCount = keep(arguments.mailbox, of: s, in: recipientRegion(s))
    forward(i, &m)
  }

  /// Whether more white space behind the colon than there may be is refused, and was.
  private mutating func refusesBlanks(
    _ i: ClientIndex, _ m: inout Moment
  ) -> Bool {
    guard sessions[connections[i].session].form == .tolerated,
      lapsed(i, .badPathSyntax, now: m.now)
    else { return false }
    answer(i, .badPathSyntax, &m)
    return true
  }

  /// Whether such a command is with the downstream, its reply still to come.
  private func isOutstanding(_ verb: Verb, _ s: SessionIndex) -> Bool {
    let l = sessions[s].link
    return l.exists && links[l].state == .busy && links[l].outstanding.contains(verb)
  }

  /// Whether the client used a parameter it was not offered. Such a one is refused, never dropped: each
  /// changes what the message means. SIZE is ours to check, AUTH= is taken off.
  func isUnsupported(_ used: Parameters, _ offered: Capabilities.Keywords) -> Bool {
    let known = offered.parameters(role: .inbound).union(.oursToCheck)
    return !used.present.subtracting(known).isEmpty || used.body == .binaryMIME
  }

  /// Keeps an address for the log, in its brackets, whether it came in them or not.
  private mutating func keep(_ mailbox: Range<Int>, of s: SessionIndex, in place: Region) -> UInt8 {
    let kept = min(mailbox.count, ClientText.each - 1)
    arena[place.offset] = UInt8(ascii: "<")
    arena.move(
      Region(offset: argument(s).offset + mailbox.lowerBound, count: kept), to: place.offset + 1)
    if kept + 2 > ClientText.each { return UInt8(kept + 1) }
    arena[place.offset + 1 + kept] = UInt8(ascii: ">")
    return UInt8(kept + 2)
  }

  mutating func data(_ i: ClientIndex, _ m: inout Moment) {
    let s = connections[i].session
    if sessions[s].inputStart + sessions[s].lineConsumed < sessions[s].inputEnd {
      // Message bytes ahead of 354: what reads them as commands is smuggled mail (class 22).
      counters.protocolFaults += 1
      leave(i, .dataTooEarly, &m)
    } else if sessions[s].flags.contains(.lost) {
      answer(i, .transactionLost, &m)
    } else if !sessions[s].flags.contains(.mail) && !isOutstanding(.mail, s) {
      answer(i, .mailFirst, &m)
    } else if sessions[s].acceptedRecipients == 0 && !isOutstanding(.rcpt, s) {
      answer(i, .noValidRecipients, &m)
    } else if sessions[s].lineCount > sessions[s].argumentStart {
      answer(i, .noArgument, &m)
    } else {
      forward(i, &m)
    }
  }

  mutating func reset(_ i: ClientIndex, _ m: inout Moment) {
    if holdsLink(connections[i].session) {
      forward(i, &m)
    } else {
      resetTransaction(i)
      answer(i, .ok, &m)
    }
  }

  /// Whether a session would lose a transaction or a log-in with its downstream connection: there is one to keep
  /// alive then, so the downstream hears what is said for that.
  func holdsLink(_ s: SessionIndex) -> Bool {
    let l = sessions[s].link
    return l.exists && links[l].state == .ready && !sessions[s].flags.isDisjoint(with: .held)
  }

  /// The one place where a transaction's state ends, on whichever way it ended.
  mutating func resetTransaction(_ i: ClientIndex) {
    let s = connections[i].session
    sessions[s].flags.remove(.transaction)
    sessions[s].acceptedRecipients = 0
    sessions[s].recipientDelay = 0
    sessions[s].senderCount = 0
    sessions[s].recipientCount = 0
  }

  // MARK: Message

  /// The downstream said 354: the client's message may come.
  mutating func beginBody(_ i: ClientIndex, _ m: inout Moment) {
    let s = connections[i].session
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
    let theirs = links[sessions[s].link].offer.sizeMax
    sessions[s].sizeLimit = smallerLimit(policy.session.messageBytes, theirs)
    sessions[s].phase = .body
    flush(i, &m)
    readBody(i, &m)
  }

  /// Reads more of a message, as much as its source's byte rate has credit for.
  mutating func readBody(_ i: ClientIndex, _ m: inout Moment) {
    let s = connections[i].session
    if sessions[s].flags.contains(.relaying) { return }
    sessions[s].flags.remove(.paused)
    if endIfUsedUp(i, &m) { return }
    if isOverdue(i, now: m.now) {
      timedOut(i, now: m.now)
      leave(i, .timeout, &m)
      return
    }
    // The deadline moves with each kilobyte, not with each byte: a trickle does not hold a downstream.
    let isDue = sessions[s].data.octets &- sessions[s].deadlineMark >= 1_024
    if sessions[s].flags.contains(.filling) {
      // Since DATA went downstream.
      setBodyDeadline(i, now: m.now)
      return
    }
    var room = bodyRoom(s)
    if let credit = credit(i, now: m.now), credit < room.count {
      if credit < 1 {
        pauseBody(i, now: m.now)
        return
      }
      room = room.prefix(credit)
    }
    if isDue || !timers.isSet(i) { setBodyDeadline(i, now: m.now) }
    receive(i, into: room, &m)
  }

  private mutating func setBodyDeadline(_ i: ClientIndex, now: Instant) {
    let s = connections[i].session
    sessions[s].deadlineMark = sessions[s].data.octets
    timers.set(i, at: now.after(microseconds: policy.timeouts.body))
  }

  /// Where message bytes arrive.
  private func bodyRoom(_ s: SessionIndex) -> Region {
    // One byte in front is kept for a CR that was held back.
    return input(s).from(1)
  }

  /// Listens while DATA is with the downstream: who speaks before 354 must be found out, also where his bytes
  /// are still in the kernel, and after it they are the first of the message.
  mutating func listenForBody(_ i: ClientIndex, _ m: inout Moment) {
    let s = connections[i].session
    if sessions[s].flags.contains(.filling) { return }
    let room = bodyRoom(s)
    // A source without credit for so little is charged for it and waits longer before the next piece.
    let most = max(credit(i, now: m.now) ?? room.count, 512)
    receive(i, into: room.prefix(min(most, room.count)), &m)
  }

  /// How many bytes the source may send now; nil where no rule says.
  func credit(_ i: ClientIndex, now: Instant) -> Int? {
    guard policy.mode == .enforce, let rule = rateRule(i), let rate = rule.bytes,
      !connections[i].flags.contains(.trusted)
    else { return nil }
    let key = rule.key(for: connections[i].address, .bytes)
    // A quarter of the burst at a time: those who share a bucket take turns at it.
    let turn = max(rate.burst / 4, 2_048)
    return Int(clamping: min(buckets.peek(key, rate, now: now), turn))
  }

  mutating func pauseBody(_ i: ClientIndex, now: Instant) {
    let s = connections[i].session
    guard let rule = rateRule(i), let rate = rule.bytes else { return }
    // Wait for a piece worth reading, but never longer than a stall may last (half its ceiling).
    let key = rule.key(for: connections[i].address, .bytes)
    let piece = min(rate.burst, 2_048)
    let due = buckets.earliest(key, piece, rate, now: now)
    let latest = now.after(microseconds: policy.delays[.body].ceiling / 2)
    sessions[s].flags.insert(.paused)
    timers.set(i, at: min(max(due, now.after(microseconds: 10_000)), latest))
  }

  /// Charges received bytes to the source's byte rate.
  mutating func spend(_ i: ClientIndex, _ count: Int, now: Instant) {
    guard let rule = rateRule(i), let rate = rule.bytes, !connections[i].flags.contains(.trusted)
    else { return }
    _ = buckets.charge(
      rule.key(for: connections[i].address, .bytes), UInt64(count), rate, now: now)
  }

  /// Message bytes have come.
  mutating func heardBody(_ i: ClientIndex, _ count: Int, _ m: inout Moment) {
    let s = connections[i].session
    let region = input(s)
    if region.offset + Int(sessions[s].fillStart) != bodyRoom(s).offset {
      // Asked for before DATA: it was said before 354.
      counters.protocolFaults += 1
      leave(i, .dataTooEarly, &m)
      return
    }
    var data = sessions[s].data
    if continuesTrace(data, region.from(1).prefix(count)) {
      leave(i, .foldedStart, &m)
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
      bodyPiece(i, start..<max(end, start), ends: false, &m)
    case .rewrite(let from):
      note(.bareNewline, i, now: m.now)
      sessions[s].rewriteStart = Int32(1 + from)
      sessions[s].rewriteEnd = Int32(1 + count)
      bodyPiece(i, start..<(1 + from), ends: false, &m)
    case .end(let length):
      sessions[s].inputStart = Int32(1 + length)
      sessions[s].inputEnd = Int32(1 + count)
      bodyPiece(i, start..<(1 + length), ends: true, &m)
    case .fault(let fault, _): bodyFault(i, fault, &m)
    }
  }

  /// A piece of message, ready to go on as it is.
  ///
  /// - Parameters:
  ///   - piece: where in the input region it is.
  ///   - ends: whether the message ends with it.
  private mutating func bodyPiece(
    _ i: ClientIndex, _ piece: Range<Int>, ends: Bool, _ m: inout Moment
  ) {
    guard mayGoOn(i, ends: ends, &m) else { return }
    let s = connections[i].session
    if piece.isEmpty {
      goOnWithBody(i, &m)
      return
    }
    sessions[s].flags.insert(.relaying)
    sessions[s].relayStart = Int32(piece.lowerBound)
    sessions[s].relayEnd = Int32(piece.upperBound)
    sendBody(sessions[s].link, s, &m)
  }

  /// Whether the part of the message that was looked at goes downstream. If not, it and the rest are thrown away.
  ///
  /// - Parameter ends: whether the message ends with it.
  private mutating func mayGoOn(
    _ i: ClientIndex, ends: Bool, _ m: inout Moment
  ) -> Bool {
    let s = connections[i].session
    if ends {
      sessions[s].flags.insert(.dotSeen)
      timers.cancel(i)
    }
    let limit = sessions[s].sizeLimit
    if sessions[s].phase == .body && limit > 0 && sessions[s].data.size > limit {
      // Too large: the downstream gets no final dot, the client's bytes are read and thrown away.
      swallow(i, .messageTooLarge, &m)
    }
    let l = sessions[s].link
    if sessions[s].phase == .body && (!l.exists || links[l].state != .body) {
      swallow(i, .downstreamLost, &m)
    }
    if sessions[s].phase == .swallow {
      goOnSwallowing(i, &m)
      return false
    }
    return true
  }

  /// The bytes of a message that were being forwarded are out.
  mutating func bodyForwarded(_ i: ClientIndex, _ m: inout Moment) {
    let s = connections[i].session
    sessions[s].flags.remove(.relaying)
    if sessions[s].flags.contains(.dotSeen) {
      sessions[s].phase = .final
      m.append(.watch(slot(client: i)))
      awaitFinalReply(sessions[s].link, now: m.now)
    } else {
      goOnWithBody(i, &m)
    }
  }

  private mutating func goOnWithBody(_ i: ClientIndex, _ m: inout Moment) {
    let s = connections[i].session
    if sessions[s].rewriteStart < sessions[s].rewriteEnd {
      rewriteBody(i, &m)
    } else {
      readBody(i, &m)
    }
  }

  /// What came with bare LFs is rewritten into the link's own buffer, as much as that takes, and goes on from there.
  private mutating func rewriteBody(_ i: ClientIndex, _ m: inout Moment) {
    let s = connections[i].session
    let l = sessions[s].link
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
      bodyFault(i, fault, &m)
      return
    }
    guard mayGoOn(i, ends: ends, &m) else { return }
    guard written > 0 else {
      goOnWithBody(i, &m)
      return
    }
    sessions[s].flags.insert(.relaying)
    links[l].outEnd = Int32(written)
    setLinkTimer(l, policy.timeouts.block, now: m.now)
    flushLink(l, &m)
  }

  /// Whether the message goes on with the trace header that was put before it. What an access filter goes by must
  /// be ours alone.
  private func continuesTrace(_ data: EndOfDataScanner, _ piece: Region) -> Bool {
    downstream.identity == .received && data.beginsWithSpace(arena.span(piece))
  }

  private mutating func bodyFault(
    _ i: ClientIndex, _ fault: BodyFault, _ m: inout Moment
  ) {
    counters.protocolFaults += 1
    switch fault {
    case .bareLF, .bareCR:
      note(.bareNewline, i, now: m.now)
      leave(i, .bareNewline, &m)
    case .nul:
      note(.binary, i, now: m.now)
      leave(i, .nulInMessage, &m)
    case .lineTooLong: leave(i, .textLineTooLong, &m)
    }
  }

  /// From here on the message is read to its end and thrown away; then the client gets `verdict`.
  mutating func swallow(
    _ i: ClientIndex, _ verdict: OwnReply, _ m: inout Moment
  ) {
    let s = connections[i].session
    sessions[s].phase = .swallow
    sessions[s].verdict = verdict
    dropLink(of: i, &m)
  }

  /// Throws away more of a message, or, after its end, gives the verdict on it. Waits while a dying
  /// downstream connection may still be sending from the buffer: new bytes there could reach it.
  mutating func goOnSwallowing(_ i: ClientIndex, _ m: inout Moment) {
    let s = connections[i].session
    guard connections[i].state == .talking, sessions[s].phase == .swallow,
      !sessions[s].flags.contains(.relaying)
    else { return }
    if sessions[s].rewriteStart < sessions[s].rewriteEnd {
      discardRest(i, &m)
    } else if sessions[s].flags.contains(.dotSeen) {
      endSwallow(i, &m)
    } else {
      readBody(i, &m)
    }
  }

  /// Throws away what was waiting to be rewritten.
  private mutating func discardRest(_ i: ClientIndex, _ m: inout Moment) {
    let s = connections[i].session
    let (start, end) = (sessions[s].rewriteStart, sessions[s].rewriteEnd)
    sessions[s].rewriteStart = end
    let rest = input(s).prefix(Int(end)).from(Int(start))
    var data = sessions[s].data
    let step = data.scan(arena.span(rest), isDiscarded: true)
    sessions[s].data = data
    switch step {
    case .body: readBody(i, &m)
    case .end(let length):
      sessions[s].inputStart = start + Int32(length)
      sessions[s].inputEnd = end
      _ = mayGoOn(i, ends: true, &m)
    case .fault(let fault, _): bodyFault(i, fault, &m)
    case .rewrite: invariantFailed("what is thrown away was to be rewritten")
    }
  }

  private mutating func endSwallow(_ i: ClientIndex, _ m: inout Moment) {
    let s = connections[i].session
    sessions[s].verb = .data
    if sessions[s].hasVerdict {
      sessions[s].hasVerdict = false
    } else {
      let verdict = sessions[s].verdict
      say(i, verdict, now: m.now)
      tally(s, sessions[s].verb, good: false)
    }
    resetTransaction(i)
    sessions[s].lineConsumed = 0
    sessions[s].phase = .command
    if sessions[s].lastReply == 421 {
      // The downstream's, in the middle of the message.
      goOn(i, after: 421, &m)
      return
    }
    endIfUsedUp(i, &m)
    loginLost(i, &m)
    if connections[i].state == .talking { work(i, &m) }
  }
}
