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

  mutating func mail(_ i: Int, now: Instant, into effects: inout EffectQueue) {
    let s = Int(connections[i].session)
    guard sessions[s].flags.contains(.greeted) else {
      answer(i, .heloFirst, now: now, into: &effects)
      return
    }
    if sessions[s].flags.contains(.mail) {
      answer(i, .nestedMail, now: now, into: &effects)
      return
    }
    sessions[s].flags.remove([.lost, .utf8])
    let path: Region
    do {
      let arguments = try MailArguments(arena.span(argument(s)))
      if let fault = unsupported(arguments.parameters, i) {
        answer(i, fault, now: now, into: &effects)
        return
      }
      let limit = offered(i).size
      if arguments.size > 0 && limit > 0 && arguments.size > limit {
        answer(i, .messageTooLarge, now: now, into: &effects)
        return
      }
      if arguments.parameters.contains(.smtputf8) { sessions[s].flags.insert(.utf8) }
      path = Region(
        offset: argument(s).offset + arguments.path.lowerBound, count: arguments.path.count)
    } catch {
      answer(i, error.reply, now: now, into: &effects)
      return
    }
    sessions[s].senderCount = keep(path, in: senderRegion(s))
    sessions[s].recipientCount = 0
    forward(i, now: now, into: &effects)
  }

  mutating func recipient(_ i: Int, now: Instant, into effects: inout EffectQueue) {
    let s = Int(connections[i].session)
    if sessions[s].flags.contains(.lost) {
      answer(i, .transactionLost, now: now, into: &effects)
      return
    }
    guard sessions[s].flags.contains(.mail) else {
      answer(i, .mailFirst, now: now, into: &effects)
      return
    }
    let limit = offered(i).recipientsMax
    if limit > 0 && sessions[s].acceptedRecipients >= limit {
      answer(i, .tooManyRecipients, now: now, into: &effects)
      return
    }
    let path: Region
    do {
      let arguments = try RcptArguments(
        arena.span(argument(s)), utf8: sessions[s].flags.contains(.utf8))
      if let fault = unsupported(arguments.parameters, i) {
        answer(i, fault, now: now, into: &effects)
        return
      }
      path = Region(
        offset: argument(s).offset + arguments.path.lowerBound, count: arguments.path.count)
    } catch {
      answer(i, error.reply, now: now, into: &effects)
      return
    }
    sessions[s].recipientCount = keep(path, in: recipientRegion(s))
    forward(i, now: now, into: &effects)
  }

  /// A parameter that the client used and was not offered is refused, never dropped: each changes what
  /// the message means.
  private func unsupported(_ used: ParameterSet, _ i: Int) -> OwnReply? {
    let offered = offered(i).keywords
    if used.contains(.body) && !offered.contains(.eightBitMIME) { return .unknownParameter }
    if used.contains(.smtputf8) && !offered.contains(.smtputf8) { return .unknownParameter }
    if !used.isDisjoint(with: [.ret, .envid, .notify, .orcpt]) && !offered.contains(.dsn) {
      return .unknownParameter
    }
    if used.contains(.size) && !offered.contains(.size) { return .unknownParameter }
    if !used.isDisjoint(with: [.requireTLS, .by, .holdFor, .holdUntil, .mtPriority]) {
      return .unknownParameter
    }
    return nil
  }

  private mutating func keep(_ path: Region, in place: Region) -> UInt8 {
    let count = min(path.count, ClientText.each)
    arena.move(path.prefix(count), to: place.offset)
    return UInt8(count)
  }

  mutating func data(_ i: Int, now: Instant, into effects: inout EffectQueue) {
    let s = Int(connections[i].session)
    if sessions[s].inputStart + sessions[s].lineConsumed < sessions[s].inputEnd {
      // Message bytes ahead of 354: what reads them as commands is smuggled mail (class 22).
      counters.protocolFaults += 1
      leave(i, .dataTooEarly, now: now, into: &effects)
    } else if sessions[s].flags.contains(.lost) {
      answer(i, .transactionLost, now: now, into: &effects)
    } else if !sessions[s].flags.contains(.mail) {
      answer(i, .mailFirst, now: now, into: &effects)
    } else if sessions[s].acceptedRecipients == 0 {
      answer(i, .noValidRecipients, now: now, into: &effects)
    } else if sessions[s].lineCount > sessions[s].argumentStart {
      answer(i, .noArgument, now: now, into: &effects)
    } else {
      forward(i, now: now, into: &effects)
    }
  }

  mutating func reset(_ i: Int, now: Instant, into effects: inout EffectQueue) {
    let s = Int(connections[i].session)
    let l = Int(sessions[s].link)
    if l >= 0 && links[l].state == .ready && sessions[s].flags.contains(.mail) {
      forward(i, now: now, into: &effects)
    } else {
      resetTransaction(i)
      answer(i, .ok, now: now, into: &effects)
    }
  }

  /// The one place where a transaction's state ends, on whichever way it ended.
  mutating func resetTransaction(_ i: Int) {
    let s = Int(connections[i].session)
    sessions[s].flags.remove([.mail, .lost, .utf8, .paused, .dotSeen, .normalizing])
    sessions[s].acceptedRecipients = 0
    sessions[s].recipientDelay = 0
    sessions[s].senderCount = 0
    sessions[s].recipientCount = 0
  }

  // MARK: AUTH (outbound)

  mutating func authenticate(_ i: Int, now: Instant, into effects: inout EffectQueue) {
    let s = Int(connections[i].session)
    if !sessions[s].flags.contains(.extended) {
      answer(i, .heloFirst, now: now, into: &effects)
    } else if sessions[s].flags.contains(.authenticated) || sessions[s].flags.contains(.mail) {
      answer(i, .badSequence, now: now, into: &effects)
    } else if !offered(i).keywords.contains(.auth) {
      answer(i, .notImplemented, now: now, into: &effects)
    } else {
      forward(i, now: now, into: &effects)
    }
  }

  /// The client's answer to a challenge goes to the downstream as it is. It is never logged.
  mutating func answerChallenge(_ i: Int, now: Instant, into effects: inout EffectQueue) {
    let s = Int(connections[i].session)
    if !isPrintable(line(s)) {
      leave(i, .badSyntaxClosing, now: now, into: &effects)
      return
    }
    sessions[s].argumentStart = 0
    forward(i, now: now, into: &effects)
  }

  // MARK: Message

  /// The downstream said 354: the client's message may come.
  mutating func beginBody(_ i: Int, now: Instant, into effects: inout EffectQueue) {
    let s = Int(connections[i].session)
    sessions[s].inputStart = 0
    sessions[s].inputEnd = 0
    sessions[s].lines = LineScanner(mode: policy.bareNewline == .normalize ? .normalize : .strict)
    sessions[s].data = EndOfDataScanner(lineLimit: policy.session.textLineBytes)
    sessions[s].deadlineMark = 0
    sessions[s].sizeLimit = offered(i).size
    if policy.bareNewline == .normalize { sessions[s].flags.insert(.normalizing) }
    sessions[s].phase = .body
    flush(i, now: now, into: &effects)
    readBody(i, now: now, into: &effects)
  }

  /// Reads more of a message, as much as its source's byte rate has credit for.
  mutating func readBody(_ i: Int, now: Instant, into effects: inout EffectQueue) {
    let s = Int(connections[i].session)
    if sessions[s].flags.contains(.filling) || sessions[s].flags.contains(.relaying) { return }
    sessions[s].flags.remove(.paused)
    var room = input(s)
    if sessions[s].flags.contains(.normalizing) {
      // The last third receives; the rest holds the normalised text, which is at most twice as long.
      let third = room.count / 3 - 8
      room = room.from(room.count - third)
    }
    if let credit = credit(i, now: now), credit < room.count {
      if credit < 1 {
        pauseBody(i, now: now)
        return
      }
      room = room.prefix(credit)
    }
    sessions[s].flags.insert(.filling)
    // The deadline moves with each kilobyte, not with each byte: a trickle does not hold a downstream.
    if !wheel.isSet(i) || sessions[s].data.octets &- sessions[s].deadlineMark >= 1_024 {
      sessions[s].deadlineMark = sessions[s].data.octets
      wheel.set(i, at: now + .microseconds(policy.timeouts.body))
    }
    effects.append(.fill(slot(client: i), room))
  }

  /// How many bytes the source may send now; nil where no rule says.
  private func credit(_ i: Int, now: Instant) -> Int? {
    guard policy.mode == .enforce, let rule = rateRule(i), let rate = rule.bytes,
      !connections[i].flags.contains(.trusted)
    else { return nil }
    let key = rule.key(for: connections[i].address, .bytes)
    return Int(clamping: buckets.peek(key, rate, now: now))
  }

  private mutating func pauseBody(_ i: Int, now: Instant) {
    let s = Int(connections[i].session)
    guard let rule = rateRule(i), let rate = rule.bytes else { return }
    // Wait for a piece worth reading, but never longer than a stall may last (half its ceiling).
    let key = rule.key(for: connections[i].address, .bytes)
    let piece = min(rate.burst, 2_048)
    let due = buckets.earliest(key, piece, rate, now: now)
    let latest = now + .microseconds(policy.delays[.body].ceiling / 2)
    sessions[s].flags.insert(.paused)
    note(.rateExcess, i, now: now)
    wheel.set(i, at: min(max(due, now + .milliseconds(10)), latest))
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
    if sessions[s].flags.contains(.normalizing) {
      normalizeBody(i, count, now: now, into: &effects)
      return
    }
    let bytes = region.prefix(count)
    var data = sessions[s].data
    let step = data.scan(arena.span(bytes))
    sessions[s].data = data
    switch step {
    case .body: bodyPiece(i, bytes, ends: nil, of: count, now: now, into: &effects)
    case .end(let length):
      bodyPiece(i, region.prefix(length), ends: length, of: count, now: now, into: &effects)
    case .fault(let kind, _): bodyFault(i, kind, now: now, into: &effects)
    }
  }

  /// A piece of message, ready to go on.
  ///
  /// - Parameters:
  ///   - ends: where in the input region the bytes after the end of the message begin, if it ended.
  private mutating func bodyPiece(
    _ i: Int, _ piece: Region, ends: Int?, of count: Int, now: Instant,
    into effects: inout EffectQueue
  ) {
    let s = Int(connections[i].session)
    if let ends {
      sessions[s].flags.insert(.dotSeen)
      sessions[s].inputStart = Int32(ends)
      sessions[s].inputEnd = Int32(count)
      wheel.cancel(i)
    }
    let limit = sessions[s].sizeLimit
    if sessions[s].phase == .body && limit > 0 && sessions[s].data.octets > limit {
      // Too large: the downstream gets no final dot, the client's bytes are read and thrown away.
      swallow(i, .messageTooLarge, now: now, into: &effects)
    }
    let l = Int(sessions[s].link)
    if sessions[s].phase == .body && (l < 0 || links[l].state != .body) {
      swallow(i, .downstreamLost, now: now, into: &effects)
    }
    if sessions[s].phase == .swallow {
      goOnSwallowing(i, now: now, into: &effects)
      return
    }
    sessions[s].flags.insert(.relaying)
    sessions[s].relayCount = Int32(piece.count)
    sendBody(l, piece, now: now, into: &effects)
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
      readBody(i, now: now, into: &effects)
    }
  }

  private mutating func bodyFault(
    _ i: Int, _ kind: DataFault, now: Instant, into effects: inout EffectQueue
  ) {
    counters.protocolFaults += 1
    switch kind {
    case .bareLF, .bareCR:
      note(.bareNewline, i, now: now)
      leave(i, .bareNewline, now: now, into: &effects)
    case .nul:
      note(.binary, i, now: now)
      leave(i, .nulInMessage, now: now, into: &effects)
    case .lineTooLong: leave(i, .textLineTooLong, now: now, into: &effects)
    }
  }

  /// Message bytes in normalising mode: received in the last third of the input region, written with
  /// every bare LF made CRLF into the first two.
  private mutating func normalizeBody(
    _ i: Int, _ count: Int, now: Instant, into effects: inout EffectQueue
  ) {
    let s = Int(connections[i].session)
    let region = input(s)
    let third = region.count / 3 - 8
    let source = Region(offset: region.offset + region.count - third, count: count)
    var kept = sessions[s].data
    var step = NormalizeStep.more(consumed: 0)
    let target = region.prefix(region.count - third)
    let written = arena.transform(from: source, into: target) { input, out in
      step = kept.normalize(input, into: &out)
    }
    sessions[s].data = kept
    let piece = region.prefix(written)
    switch step {
    case .more(let consumed):
      invariant(consumed == count, "normalised text did not fit twice its length")
      bodyPiece(i, piece, ends: nil, of: count, now: now, into: &effects)
    case .end(let consumed):
      // What follows the end of the message is moved to stand behind it.
      let rest = source.from(consumed)
      arena.move(rest, to: region.offset + written)
      bodyPiece(
        i, piece, ends: written, of: written + rest.count, now: now, into: &effects)
    case .fault(let kind, _): bodyFault(i, kind, now: now, into: &effects)
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
    if sessions[s].flags.contains(.dotSeen) {
      endSwallow(i, now: now, into: &effects)
    } else {
      readBody(i, now: now, into: &effects)
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
      tally(s, good: false)
    }
    resetTransaction(i)
    sessions[s].lineConsumed = 0
    sessions[s].phase = .command
    tooManyErrors(i, now: now, into: &effects)
    if connections[i].state == .talking { work(i, now: now, into: &effects) }
  }
}
