// SPDX-License-Identifier: Apache-2.0
import Policy
import SMTP
import Structures
import Suspicion

/// What a line in the tarpit was, packed into 4 bits of `Connection.owed`. 0 means nothing.
enum PitCommand: UInt32, CaseIterable {
  case helo = 1
  case ehlo, mail, recipient, data, quit, harmless, starttls, unknown

  /// By the four letters of the word.
  init(_ word: PitWord) {
    self =
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
}

/// What came of a timer in the tarpit.
enum PitStep {
  /// A byte was sent, and another one follows.
  case goesOn
  /// The text is another one by now: what follows would belong to nothing that was said.
  case cutOff
  /// The text is out.
  case said
}

// The tarpit: T3 peers, held by bytes.
//
// A peer here owns no session and no buffer. It gets ready texts one byte at a time, evenly spread
// over the delay of the stage, so that the last byte comes when the delay ends. It is refused every
// recipient with 450, and nothing that it sends reaches the downstream. Only the first four letters of each
// of its lines are read.
extension Clients {
  /// Begins to drip a text.
  mutating func drip(_ text: PitText, _ i: ClientIndex, _ core: inout Core, _ m: inout Moment) {
    connections[i].state = .dripping
    connections[i].text = text
    connections[i].position = 0
    core.timers.set(i, atTick: core.line(text).due(0, after: core.timers.tickAtOrBefore(m.now)))
    m.append(.watch(slot(i)))
  }

  /// Sends the next byte of each peer whose time has come, as long as one is to follow and the peer's time is
  /// not up: what nearly every timer of a tarpit is for.
  ///
  /// - Parameters:
  ///   - first: the first slot whose time has come.
  ///   - most: for how many ticks a peer may be there.
  /// - Returns: false if for the first one there is more to decide.
  // Inlined it has too few registers: four instructions more a drip.
  @inline(never)
  mutating func drip(
    from first: Int, tick: Int64, most: UInt32, _ core: inout Core, _ m: inout Moment
  ) -> Bool {
    let before = m.dripCount
    var n = first
    while n < capacity, !m.isFullOfDrips {
      guard connections[n].isDripping,
        UInt32(truncatingIfNeeded: tick) &- connections[n].accepted < most
      else { break }
      let line = core.texts[number: connections[n].textNumber]
      let position = connections[n].nextStep
      let next = position &+ 1
      guard next < line.count else { break }
      m.append(
        Drip(
          Slot(index: UInt32(truncatingIfNeeded: n), generation: connections[n].generation),
          core.arena[Int(line.offset &+ position)]))
      connections[n].takeStep()
      n = core.timers.renew(n, atTick: line.due(next, after: tick))
    }
    let sent = m.dripCount - before
    core.counters.drips &+= UInt64(sent)
    core.counters.bytesOut &+= UInt64(sent)
    return sent > 0
  }

  /// Sends one byte of a peer whose time has come, perhaps its text's last.
  mutating func dripOne(_ i: ClientIndex, _ core: inout Core, _ m: inout Moment) -> PitStep {
    if connections[i].position == Connection.noRest { return .cutOff }
    let line = core.line(connections[i].text)
    let position = Int(connections[i].position)
    if position < Int(line.count) {
      m.append(Drip(slot(i), core.arena[Int(line.offset) + position]))
      core.counters.drips += 1
      core.counters.bytesOut += 1
      connections[i].position += 1
    }
    if position + 1 < Int(line.count) {
      let tick = core.timers.tickAtOrBefore(m.now)
      core.timers.set(i, atTick: line.due(UInt32(position) + 1, after: tick))
      return .goesOn
    }
    return .said
  }

  // MARK: Words

  /// Notes which replies the lines in `bytes` are owed. Of each line its first four letters are kept until
  /// its end comes, so that it makes no difference how the bytes are split.
  ///
  /// - Returns: false if there are more lines than can be kept.
  mutating func owe(_ i: ClientIndex, _ bytes: Span<UInt8>, _ owed: inout UInt32) -> Bool {
    for k in 0..<bytes.count {
      let byte = bytes[k]
      if byte == UInt8(ascii: "\n") {
        if owed >> 28 != 0 { return false }
        let used = UInt32(32 - owed.leadingZeroBitCount)
        owed |= PitCommand(connections[i].word).rawValue << ((used + 3) / 4 * 4)
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

  /// The next command that a peer is owed a reply to; nil if there is none.
  mutating func nextOwed(_ i: ClientIndex) -> PitCommand? {
    let next = PitCommand(rawValue: connections[i].owed & 15)
    connections[i].owed >>= 4
    return next
  }

  // MARK: Other texts

  /// The texts have changed. A client in the middle of one goes on in the new text if it begins as the old one did.
  /// Otherwise it is cut off when the next byte is due, because the rest would not fit what it has got.
  mutating func changeTexts(from old: Texts, _ core: borrowing Core) {
    for n in 0..<capacity {
      let i = ClientIndex(n)
      let state = connections[i].state
      guard state == .dripping || state == .banner || state == .refusing else { continue }
      let text = state == .banner ? PitText.banner : connections[i].text
      let (new, old) = (core.line(text), old[text])
      let goesOn: Bool
      if state == .dripping {
        // A client that may not be offered STARTTLS may be in the middle of a text that offers it now.
        goesOn =
          core.begins(new, as: old, upTo: Int(connections[i].position))
          && (text != .ehlo || core.policy.offersTLS(connections[i]) == core.policy.offersTLS)
      } else {
        // The send in flight has all that is left of the old one; only what it does not take would be read here.
        goesOn = new.count == old.count && core.begins(new, as: old, upTo: Int(old.count) - 1)
      }
      if !goesOn { connections[i].position = Connection.noRest }
    }
  }
}

extension Core {
  /// Whether two texts are the same up to `count`, and the first goes on there.
  fileprivate func begins(_ new: PitLine, as old: PitLine, upTo count: Int) -> Bool {
    if count >= Int(new.count) || count > Int(old.count) { return false }
    for k in 0..<count where arena[Int(new.offset) + k] != arena[Int(old.offset) + k] {
      return false
    }
    return true
  }
}

extension Policy {
  /// How a client may come to TLS.
  func tls(of connection: Connection) -> ListenerTLS { tls(ofListener: Int(connection.listener)) }

  /// Whether STARTTLS may be said now.
  func offersTLS(_ connection: Connection) -> Bool {
    tls(of: connection) == .starttls && !connection.flags.contains(.encrypted)
  }

  /// Whether a log-in may be offered: not where others can read it, unless the operator asks for it.
  func offersAuth(_ connection: Connection) -> Bool {
    authOnClear || connection.flags.contains(.encrypted)
  }

  func role(of connection: Connection) -> Role { role(ofListener: Int(connection.listener)) }
}
