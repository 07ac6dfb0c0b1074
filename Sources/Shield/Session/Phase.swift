// SPDX-License-Identifier: Apache-2.0
import Suspicion

/// Where a session stands in its dialogue.
enum Phase: BitwiseCopyable, Sendable, Equatable {
  /// The client's turn.
  case command
  /// The current command goes on as soon as it is the session's turn.
  case due(Due)
  /// A command is held back until the delay of its stage is over, before anything is done about it.
  case delaying(Stage)
  /// A command waits for a downstream connection.
  case opening
  /// A command is with the downstream.
  case forwarded
  /// A finished reply is held back for the delay of a stage.
  case holding(Stage)
  /// The client's turn to answer an AUTH challenge.
  case challenge
  /// Message bytes.
  case body
  /// Message bytes that are not wanted any more; the reply waits for their end.
  case swallow
  /// The end of the message is with the downstream.
  case final
  /// The last reply is going out; then the end, or the tarpit.
  case leaving(Destination)
  /// 220 to STARTTLS is going out, or the handshake is under way.
  case securing
  /// Octets pass both ways.
  case spliced

  /// What is to be done about the current command.
  enum Due: UInt8, BitwiseCopyable, Sendable {
    /// All of it: its delay is over.
    case execute
    /// It goes to the downstream: the connection that was opened for it failed.
    case forward
    /// EHLO or HELO is answered anew: the connection that had heard it is gone.
    case greet
  }

  enum Destination: UInt8, BitwiseCopyable, Sendable { case end, tarpit }

  /// The rows of the table of transitions: a phase without its payload.
  private enum Row {
    case command, due, delaying, opening, forwarded, holding, challenge, body, swallow, final,
      leaving, securing, spliced
  }

  private var row: Row {
    switch self {
    case .command: .command
    case .due: .due
    case .delaying: .delaying
    case .opening: .opening
    case .forwarded: .forwarded
    case .holding: .holding
    case .challenge: .challenge
    case .body: .body
    case .swallow: .swallow
    case .final: .final
    case .leaving: .leaving
    case .securing: .securing
    case .spliced: .spliced
    }
  }

  /// Whether a session may go from one phase to another. From everywhere it may leave.
  func mayBecome(_ next: Phase) -> Bool {
    switch (row, next.row) {
    case (_, .leaving): true
    case (let a, let b) where a == b: true
    case (.command, .due), (.command, .delaying), (.command, .opening), (.command, .forwarded),
      (.command, .securing):
      true
    case (.due, .command), (.due, .opening), (.due, .forwarded), (.due, .securing): true
    case (.delaying, .due): true
    case (.opening, .command), (.opening, .due), (.opening, .forwarded): true
    // DATA by 354, AUTH by 334, STARTTLS by 220.
    case (.forwarded, .command), (.forwarded, .due), (.forwarded, .opening), (.forwarded, .holding),
      (.forwarded, .body), (.forwarded, .challenge), (.forwarded, .spliced):
      true
    case (.holding, .command), (.holding, .forwarded), (.holding, .due): true
    case (.challenge, .forwarded), (.challenge, .command), (.challenge, .opening): true
    case (.body, .swallow), (.body, .final): true
    case (.swallow, .command), (.final, .command): true
    case (.securing, .command): true
    default: false
    }
  }
}
