// SPDX-License-Identifier: Apache-2.0
import Personas
import Structures

/// What it says.
private enum Text {
  static let tooMany = Array("421 4.3.2 too many connections\r\n".utf8)
  static let banner = Array("220 inner.example ESMTP\r\n".utf8)
  static let queued = Array("250 2.0.0 Ok: queued\r\n".utf8)
  static let noRecipients = Array("554 5.5.1 no valid recipients\r\n".utf8)
  static let unknown = Array("500 5.5.1 what?\r\n".utf8)
  static let ehlo = Array(
    "250-inner.example\r\n250-PIPELINING\r\n250-SIZE 52428800\r\n250-8BITMIME\r\n250 ENHANCEDSTATUSCODES\r\n"
      .utf8)
  static let helo = Array("250 inner.example\r\n".utf8)
  static let senderOk = Array("250 2.1.0 Ok\r\n".utf8)
  static let noUser = Array("550 5.1.1 User unknown\r\n".utf8)
  static let recipientOk = Array("250 2.1.5 Ok\r\n".utf8)
  static let goOn = Array("354 End data with <CR><LF>.<CR><LF>\r\n".utf8)
  static let ok = Array("250 2.0.0 Ok\r\n".utf8)
  static let bye = Array("221 2.0.0 Bye\r\n".utf8)
}

/// The mail server of a simulated world: takes what exists, refuses `nobody…`, and takes its time.
///
/// Not a judge of syntax (that is `ScriptedDownstream`): it counts what it accepted, which is what the shield's
/// acknowledgements are compared with.
struct MailServer {
  /// What it says, and when at the earliest, in microseconds.
  struct Reply {
    var text: [UInt8]
    var at: Int64
    /// It hangs up afterwards.
    var ends = false
  }

  private struct Session: BitwiseCopyable {
    var isOpen = false
    var inBody = false
    /// How much of CRLF.CRLF was seen; a message may end at its very beginning.
    var end: UInt8 = 2
    var word: UInt32 = 0
    var column: UInt16 = 0
    var isUnknown = false
    var recipients: UInt16 = 0
    /// Replies come one after the other.
    var repliedAt: Int64 = 0
  }

  private let setup: Scenario.Downstream
  private var sessions: [Session] = []
  private var random: SeededGenerator
  private(set) var open = 0
  private(set) var messages = 0
  /// Recipients that it was told, good and bad.
  private(set) var recipients = 0
  /// When it is done with the messages that it has.
  private var busyUntil: Int64 = 0

  init(_ setup: Scenario.Downstream, seed: UInt64) {
    self.setup = setup
    random = SeededGenerator(seed: seed)
  }

  private mutating func seconds(_ distribution: Distribution) -> Int64 {
    Int64(distribution.value(at: Double(random.next() >> 11) * 0x1p-53) * 1_000_000)
  }

  func isAway(_ now: Int64) -> Bool {
    setup.outages.contains {
      now >= Int64($0.at * 1_000_000) && now < Int64(($0.at + $0.lasting) * 1_000_000)
    }
  }

  /// Whether a new connection is one of those that break at some moment, and how many bytes it lives.
  mutating func doom() -> Int? {
    guard setup.breaks > 0, Double(random.next() >> 11) * 0x1p-53 < setup.breaks else { return nil }
    return Int(random.next() % 3_000) + 1
  }

  /// Somebody connects under this number, which is free.
  mutating func connected(_ id: Int, now: Int64) -> Reply {
    while sessions.count <= id { sessions.append(Session()) }
    sessions[id] = Session()
    sessions[id].isOpen = true
    open += 1
    if open > setup.connections {
      return Reply(text: Text.tooMany, at: now, ends: true)
    }
    return Reply(text: Text.banner, at: now + seconds(setup.reply))
  }

  mutating func gone(_ id: Int) {
    guard id < sessions.count, sessions[id].isOpen else { return }
    sessions[id].isOpen = false
    open -= 1
  }

  /// Octets came; its replies are appended.
  mutating func heard(
    _ id: Int, _ shield: borrowing Arena, _ region: Region, now: Int64,
    into replies: inout [Reply]
  ) {
    guard sessions[id].isOpen else { return }
    let bytes = shield.span(region)
    var session = sessions[id]
    var k = 0
    while k < bytes.count {
      // Inside a line the end of a message, five octets, is still to come whole; an octet behind "." undoes all of it
      // that may have begun. So most of a message is passed by in steps of five.
      if session.inBody && session.end == 0 {
        while k &+ 4 < bytes.count && bytes[k &+ 4] > 46 { k &+= 5 }
        while k < bytes.count && bytes[k] > 46 { k &+= 1 }
      }
      if k == bytes.count { break }
      let byte = bytes[k]
      k += 1
      if session.inBody {
        // CR LF . CR LF, from 2 on because the message begins after a line end.
        switch (session.end, byte) {
        case (_, 13) where session.end != 3: session.end = 1
        case (1, 10): session.end = 2
        case (2, 46): session.end = 3
        case (3, 13): session.end = 4
        case (4, 10):
          session.inBody = false
          session.column = 0
          session.word = 0
          let work = setup.capacity > 0 ? Int64(1_000_000 / setup.capacity) : 0
          busyUntil = max(busyUntil, now) + work
          let accepted = session.recipients > 0
          if accepted { messages += 1 }
          session.repliedAt = max(session.repliedAt, max(now, busyUntil) + seconds(setup.dot))
          replies.append(
            Reply(
              text: accepted ? Text.queued : Text.noRecipients,
              at: session.repliedAt))
          session.recipients = 0
        default: session.end = 0
        }
      } else if byte == 10 {
        sessions[id] = session
        let reply = answer(id, now: now)
        session = sessions[id]
        replies.append(reply)
        session.column = 0
        session.word = 0
        session.isUnknown = false
        if reply.ends { break }
      } else {
        if session.column < 4 { session.word = session.word << 8 | UInt32(byte & 0xDF) }
        // "RCPT TO:<no": nobody is known by such a name.
        if session.column == 9 { session.isUnknown = byte == UInt8(ascii: "n") }
        if session.column == 10 && byte != UInt8(ascii: "o") { session.isUnknown = false }
        session.column &+= 1
      }
    }
    sessions[id] = session
  }

  private mutating func answer(_ id: Int, now: Int64) -> Reply {
    var text = Text.unknown
    var ends = false
    switch sessions[id].word {
    case 0x4548_4C4F:
      text =
        Text.ehlo
    case 0x4845_4C4F: text = Text.helo
    case 0x4D41_494C:
      sessions[id].recipients = 0
      text = Text.senderOk
    case 0x5243_5054:
      recipients += 1
      if sessions[id].isUnknown {
        text = Text.noUser
      } else {
        sessions[id].recipients &+= 1
        text = Text.recipientOk
      }
    case 0x4441_5441:
      if sessions[id].recipients > 0 {
        sessions[id].inBody = true
        sessions[id].end = 2
        text = Text.goOn
      } else {
        text = Text.noRecipients
      }
    case 0x5253_4554:
      sessions[id].recipients = 0
      text = Text.ok
    case 0x4E4F_4F50: text = Text.ok
    case 0x5155_4954:
      text = Text.bye
      ends = true
    default: break
    }
    sessions[id].repliedAt = max(sessions[id].repliedAt, now + seconds(setup.reply))
    return Reply(text: text, at: sessions[id].repliedAt, ends: ends)
  }
}
