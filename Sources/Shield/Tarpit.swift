// SPDX-License-Identifier: Apache-2.0
import SMTP
import Structures
import Suspicion

// The tarpit: T3 peers, held by bytes.
//
// A peer here owns no session and no buffer. It hears ready texts one byte at a time, evenly spread
// over the delay of the stage, so that the last byte comes when the delay ends. It is refused every
// recipient with 450, and nothing of it ever reaches the downstream. Of each line it says, the first
// four letters are looked at.
extension Engine {
  /// What a line in the tarpit was, packed into 4 bits of `owed`. 0 means nothing.
  enum Heard: UInt32, CaseIterable {
    case helo = 1
    case ehlo, mail, recipient, data, quit, harmless, starttls, unknown
  }

  /// Puts a connection into the tarpit and begins to drip `text`, spread over the delay of its stage.
  ///
  /// - Parameter owed: the replies that come after it. None where the kernel may still write into the session's
  ///   input: the peer is cut off when it speaks (`Engine.filled`).
  mutating func enterTarpit(
    _ i: Int, _ text: PitText, owed: UInt32 = 0, now: Instant, into effects: inout EffectQueue
  ) {
    if !connections[i].flags.contains(.countedBad) {
      let held = open.increment(badKey(connections[i].address))
      if held != nil { connections[i].flags.insert(.countedBad) }
      // A bot with many sessions gets a few of them held and the rest told to go: slots are for many
      // sources, and one source must not fill them.
      if (held ?? .max) > UInt32(policy.badSessionsPerSource) {
        noteShed(i, for: .badSessions, now: now)
        refuse(i, .crowded, as: .shed, now: now, into: &effects)
        return
      }
      counters.tarpitted += 1
      effects.append(.narrow(slot(client: i)))
      var entry = entry(.tarpit, i, now: now)
      entry.stage = stage(of: text)
      entry.micros = policy.delays[entry.stage].bad
      journal.append(entry)
      connections[i].delayed = UInt16(clamping: age(i, now: now) / 10_000)
    }
    dropLink(of: i, now: now, into: &effects)
    returnSession(i)
    connections[i].owed = owed
    drip(i, text, now: now, into: &effects)
  }

  /// Begins to drip a text.
  private mutating func drip(
    _ i: Int, _ text: PitText, now: Instant, into effects: inout EffectQueue
  ) {
    connections[i].state = .dripping
    connections[i].text = text
    connections[i].position = 0
    wheel.set(
      i, atTick: line(text).due(0, after: wheel.tickAtOrBefore(now)))
    effects.append(.watch(slot(client: i)))
  }

  /// Sends the next byte of each peer whose time has come, as long as one is to follow and the peer's time is
  /// not up: what nearly every timer of a tarpit is for.
  ///
  /// - Parameter first: the first whose time has come.
  /// - Returns: false if for the first one there is more to decide.
  mutating func drip(
    from first: Int, tick: Int64, most: UInt32, into effects: inout EffectQueue
  ) -> Bool {
    let before = effects.dripCount
    var i = first
    while i < connections.capacity, !effects.isFullOfDrips {
      guard connections[i].isDripping,
        UInt32(truncatingIfNeeded: tick) &- connections[i].accepted < most
      else { break }
      let line = lines[connections[i].textNumber]
      let position = connections[i].nextStep
      let next = position &+ 1
      guard next < line.count else { break }
      effects.append(
        Drip(
          Slot(index: UInt32(truncatingIfNeeded: i), generation: connections[i].generation),
          arena[Int(line.offset &+ position)]))
      connections[i].takeStep()
      i = wheel.renew(i, atTick: line.due(next, after: tick))
    }
    let sent = effects.dripCount - before
    counters.drips &+= UInt64(sent)
    counters.bytesOut &+= UInt64(sent)
    return sent > 0
  }

  mutating func tarpitTimer(_ i: Int, now: Instant, into effects: inout EffectQueue) {
    let held = age(i, now: now)
    let most = tarpitTime
    if held >= most {
      let isShort = held < policy.badSession
      if isShort { noteShed(i, for: .slots, now: now) }
      shed(i, as: isShort ? .shed : .tarpit, now: now, into: &effects)
      return
    }
    guard connections[i].state == .dripping else {
      timedOut(i, now: now)
      refuse(i, .timeout, now: now, into: &effects)
      return
    }
    if connections[i].position == Connection.noRest {
      shed(i, as: .tarpit, now: now, into: &effects)
      return
    }
    let line = line(connections[i].text)
    let position = Int(connections[i].position)
    if position < Int(line.count) {
      effects.append(Drip(slot(client: i), arena[Int(line.offset) + position]))
      counters.drips += 1
      counters.bytesOut += 1
      connections[i].position += 1
    }
    if position + 1 < Int(line.count) {
      wheel.set(i, atTick: line.due(UInt32(position) + 1, after: wheel.tickAtOrBefore(now)))
    } else if connections[i].flags.contains(.last) {
      beginDraining(i, now: now, into: &effects)
    } else if connections[i].text == .starttls {
      secureInPit(i, now: now, into: &effects)
    } else {
      answerNext(i, now: now, into: &effects)
    }
  }

  /// Tells a peer in the tarpit to go. Within a reply there is no room for another one: then it is cut off.
  ///
  /// - Parameter ending: `.shed`, or `.tarpit` if its time is up.
  mutating func shed(
    _ i: Int, as ending: Verdict, now: Instant, into effects: inout EffectQueue
  ) {
    if connections[i].state == .dripping && connections[i].position > 0 {
      if ending == .shed { counters.shed += 1 }
      close(i, as: ending, now: now, into: &effects)
    } else {
      refuse(i, .shed, as: ending, now: now, into: &effects)
    }
  }

  /// The texts are others now. Who is in the middle of one goes on in the new one if that begins as the old one did;
  /// everybody else is cut off when the next byte is due, because the rest would belong to nothing that was said.
  mutating func changeTexts(from old: InlineArray<16, PitLine>) {
    for i in 0..<connections.capacity {
      let state = connections[i].state
      guard state == .dripping || state == .banner || state == .refusing else { continue }
      let text = state == .banner ? PitText.banner : connections[i].text
      let (new, old) = (line(text), old[Int(text.rawValue)])
      let goesOn: Bool
      if state == .dripping {
        // Who may not be offered STARTTLS may have begun a text that has it now.
        goesOn =
          begins(new, as: old, upTo: Int(connections[i].position))
          && (text != .ehlo || offersTLS(i) == policy.offersTLS)
      } else {
        // The send in flight has all that is left of the old one; only what it does not take would be read here.
        goesOn = new.count == old.count && begins(new, as: old, upTo: Int(old.count) - 1)
      }
      if !goesOn { connections[i].position = Connection.noRest }
    }
  }

  /// Whether two texts are the same up to `count`, and the first goes on there.
  private func begins(_ new: PitLine, as old: PitLine, upTo count: Int) -> Bool {
    if count >= Int(new.count) || count > Int(old.count) { return false }
    for k in 0..<count where arena[Int(new.offset) + k] != arena[Int(old.offset) + k] {
      return false
    }
    return true
  }

  /// Drips the reply to the next line it is owed one for, or listens.
  private mutating func answerNext(_ i: Int, now: Instant, into effects: inout EffectQueue) {
    let next = Heard(rawValue: connections[i].owed & 15)
    connections[i].owed >>= 4
    guard let next else {
      listenInPit(i, now: now, into: &effects)
      return
    }
    if next == .quit { connections[i].flags.insert(.last) }
    drip(i, answer(i, to: next, now: now), now: now, into: &effects)
  }

  /// It is the peer's turn.
  mutating func listenInPit(_ i: Int, now: Instant, into effects: inout EffectQueue) {
    connections[i].state = .pit
    // The deadline is for the whole line: letters that trickle in do not move it.
    if !wheel.isSet(i) { wheel.set(i, at: now.after(microseconds: commandTimeout(i))) }
    effects.append(.listen(slot(client: i)))
  }

  /// 220 to STARTTLS is out: the stutter goes on in TLS.
  private mutating func secureInPit(_ i: Int, now: Instant, into effects: inout EffectQueue) {
    if connections[i].owed != 0 || connections[i].word != .none {
      // Said in clear behind STARTTLS.
      counters.protocolFaults += 1
      close(i, now: now, into: &effects)
      return
    }
    connections[i].state = .securing
    beginHandshake(i, now: now, into: &effects)
  }

  /// What is said to a command. STARTTLS takes one of the places for TLS.
  private mutating func answer(_ i: Int, to heard: Heard, now: Instant) -> PitText {
    switch heard {
    case .helo: .helo
    // One text for all: to whom STARTTLS may not be offered (RFC 3207, 4.2) it is the short form.
    case .ehlo: offersTLS(i) == policy.offersTLS ? .ehlo : .helo
    case .mail: .mail
    case .recipient: .recipient
    case .data: .data
    case .quit: .quit
    case .harmless: .done
    case .starttls: offersTLS(i) && takeTLSPlace(i, now: now) ? .starttls : .unknown
    case .unknown: .unknown
    }
  }

  /// Over which stage's delay a text is spread.
  func stage(of text: PitText) -> Stage {
    switch text {
    case .banner: .banner
    case .helo, .ehlo: .helo
    case .mail: .mail
    case .recipient: .recipientRejected
    case .data: .data
    case .starttls: .startTLS
    case .done, .unknown, .quit, .tooMany, .timeout, .shed, .rejected, .busy, .crowded: .other
    }
  }

  /// Bytes from a peer in the tarpit, in its turn.
  mutating func heardInPit(
    _ i: Int, _ bytes: Span<UInt8>, now: Instant, into effects: inout EffectQueue
  ) {
    var owed = connections[i].owed
    guard owe(i, bytes, &owed) else {
      connections[i].flags.insert(.last)
      connections[i].owed = 0
      drip(i, .tooMany, now: now, into: &effects)
      return
    }
    connections[i].owed = owed
    answerNext(i, now: now, into: &effects)
  }

  /// Notes which replies the lines in `bytes` are owed. Of each line its first four letters are kept until
  /// its end comes, so that it makes no difference how the bytes are split.
  ///
  /// - Returns: false if there are more lines than can be kept.
  mutating func owe(_ i: Int, _ bytes: Span<UInt8>, _ owed: inout UInt32) -> Bool {
    for k in 0..<bytes.count {
      let byte = bytes[k]
      if byte == UInt8(ascii: "\n") {
        if owed >> 28 != 0 { return false }
        let used = UInt32(32 - owed.leadingZeroBitCount)
        owed |= heard(connections[i].word).rawValue << ((used + 3) / 4 * 4)
        connections[i].word = .none
        connections[i].flags.remove(.pastWord)
      } else if !connections[i].flags.contains(.pastWord) {
        let upper = byte & 0xDF
        if upper >= 65 && upper <= 90 {
          connections[i].word.take(upper)
        } else {
          connections[i].flags.insert(.pastWord)
        }
      }
    }
    return true
  }

  private func heard(_ word: PitWord) -> Heard {
    switch word.command {
    case .ehlo: .ehlo
    case .helo: .helo
    case .mail: .mail
    case .rcpt: .recipient
    case .data: .data
    case .quit: .quit
    case .rset, .noop: .harmless
    case .starttls: .starttls
    default: .unknown
    }
  }

  /// Moves a talking client into the tarpit: the command at hand and those behind it are answered there.
  mutating func moveToTarpit(_ i: Int, now: Instant, into effects: inout EffectQueue) {
    let s = Int(connections[i].session)
    if sessions[s].flags.contains(.sending) || sessions[s].outEnd > sessions[s].outStart {
      // Replies already given go out first, or the dialogue would lose one.
      sessions[s].flags.insert(.toPit)
      sessions[s].phase = .leaving
      wheel.set(i, at: now.after(microseconds: policy.timeouts.send))
      flush(i, now: now, into: &effects)
      return
    }
    // A copy of at most what `owed` can keep: the session's buffer is given back below.
    let region = input(s)
    let start = Int(sessions[s].inputStart)
    let count = min(Int(sessions[s].inputEnd) - start, 512)
    connections[i].word = .none
    connections[i].flags.remove(.pastWord)
    var kept = InlineArray<512, UInt8>(repeating: 0)
    for k in 0..<count { kept[k] = arena[region.offset + start + k] }
    var owed: UInt32 = 0
    let fits = owe(i, kept.span.extracting(0..<count), &owed)
    guard fits else {
      connections[i].flags.insert(.last)
      enterTarpit(i, .tooMany, now: now, into: &effects)
      return
    }
    let first = Heard(rawValue: owed & 15) ?? .unknown
    if first == .quit { connections[i].flags.insert(.last) }
    enterTarpit(i, answer(i, to: first, now: now), owed: owed >> 4, now: now, into: &effects)
  }
}
