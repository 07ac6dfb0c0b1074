// SPDX-License-Identifier: Apache-2.0
import SMTP
import Structures

/// What a fact about a link means for its session.
enum LinkEvent {
  /// Nothing that concerns the session.
  case none
  /// It may be used.
  case ready
  /// A reply to a command is there.
  case replied(Verb, UInt16, isLast: Bool)
  /// The reply to a message is there.
  case finished(UInt16)
  /// The downstream refuses this client, before anything was asked of it.
  case refused(UInt16)
  /// It refuses the message before its end.
  case refusedEarly(UInt16)
  /// It refuses a line before its end.
  case refusedLine(UInt16)
  /// The beginning of a challenge is there, but not its end.
  case piece
  /// All that has come is read.
  case readAll
  /// There is room for the rest of a line.
  case hasRoom
  /// Message bytes, or bytes that pass, are out.
  case forwarded
  /// Bytes have come that pass as they are.
  case passing
  /// Another address is tried, by another connection.
  case moved(to: LinkIndex)
  /// TLS does not work: this session goes on in clear, by another connection.
  case clear(SessionIndex)
  /// It is of no use any more.
  case lost(LinkLoss)
}

/// How a link came to its end.
struct LinkLoss: BitwiseCopyable {
  /// The session it served, or none.
  let session: SessionIndex
  let state: LinkState
  let why: Subject
  /// What passes unread may end when it likes.
  let isOrderly: Bool
}

/// What came of a command that was to go downstream.
enum LinkSent {
  /// It goes out with the next flush; this is its line.
  case sent(Region)
  /// The downstream is told of the client before.
  case introducing
  /// The connection was offered less than the client was told: the command is deferred with this.
  case offersLess(OwnReply)
  /// It passed every check and yet cannot be said: too long for the downstream.
  case tooLong
  /// It would be answered before it is said, or cannot be told apart from what is with the downstream.
  case lost(LinkLoss)
}

/// What of a log-in is said to the downstream.
enum LoginWord: UInt8, BitwiseCopyable {
  case auth, answer, cancel
}
