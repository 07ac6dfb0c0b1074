// SPDX-License-Identifier: Apache-2.0
//
// What one session may use up, and how long it is waited for. Limits of the whole process are `Limits`.

package import Flow

/// Log-ins that may fail within an hour, all at once or one by one.
package struct LoginLimits: Sendable, Equatable {
  /// Of an address (/32, /64); beyond them it is answered 454 4.7.0 and the downstream is not asked.
  package var addressFailures = 20 { didSet { address = Self.rate(addressFailures) } }
  /// Of a network (/24, /48); beyond them each waits as long as may be.
  package var networkFailures = 200 { didSet { network = Self.rate(networkFailures) } }
  /// Of a user name, wherever it is tried; the same.
  package var userFailures = 20 { didSet { user = Self.rate(userFailures) } }
  package private(set) var address = Self.rate(20)
  package private(set) var network = Self.rate(200)
  package private(set) var user = Self.rate(20)

  package init() {}

  private static func rate(_ count: Int) -> Rate {
    Rate(UInt64(max(count, 1)), per: .seconds(3_600)) ?? .unlimited
  }
}

/// Limits of one SMTP session, each with the reply a peer gets at it.
package struct SessionLimits: Sendable, Equatable {
  /// Octets in a command line, CRLF included: 512 (RFC 5321, 4.5.3.1.4) and room for ESMTP parameters.
  /// Over it: 500 5.5.2.
  package var commandBytes = 2_048
  /// Octets in a line of AUTH, or in an answer to a challenge, CRLF not counted: as many as mechanisms that are in use
  /// need (RFC 4954, 4). They lie in the session's input buffer, which is larger. Over it: 500 5.5.6.
  package static let loginBytes = 12_288
  /// Octets in a line of a message without its CRLF; 0 for no limit. RFC 5321 says 998, but honest
  /// software exceeds it, and cutting lines is how dots get smuggled: so refuse far above it, with 554 5.6.0.
  package var textLineBytes = 1_048_576
  /// Octets of a message; 0 for what the downstream says. Over it: 552 5.3.4.
  package var messageBytes: UInt64 = 0
  /// Recipients of a message. Over it: 452 4.5.3.
  package var recipients = 1_000
  /// Commands in a session. Over it: 421 4.7.0 and the end.
  package var commands = 5_000
  /// Commands without mail (NOOP, RSET, VRFY, HELO …) in a row. Over it: signal `command_flood`.
  package var idleCommands = 50
  /// Replies of 4xx and 5xx to commands in a session. Over it: 421 4.7.0 and the end.
  package var errors = 50
  /// Unknown commands in a session. Over it: 421 4.7.0 and the end.
  package var unknownCommands = 5
  /// Refused recipients in a session from which on the signal `bad_recipients` is seen.
  package var badRecipients = 3
  /// Errors in a session from which on the signal `errors` is seen.
  package var errorStreak = 5
  /// Failed log-ins in a session. At it: 421 4.7.0 and the end.
  package var authFailures = 5

  package init() {}
}

/// How long we wait for what, in microseconds. Client side: RFC 5321, 4.5.3.2 asks a server for 5 min.
package struct Timeouts: Sendable, Equatable {
  /// For the next command, whole, from a client.
  package var command: Int64 = 300_000_000
  /// The same once slots run out (postscreen and smtpd use 10 s under stress).
  package var commandUnderStress: Int64 = 10_000_000
  /// For a whole message once sessions or downstream connections run out, and a second more for each KiB of it; half
  /// of it for a source that holds more than it would get now. Counted from the reply to the last one.
  package var messageUnderStress: Int64 = 60_000_000
  /// For more of a message from a client.
  package var body: Int64 = 180_000_000
  /// For a client to take a reply.
  package var send: Int64 = 60_000_000
  /// For a whole session.
  package var session: Int64 = 7_200_000_000
  package var connect: Int64 = 30_000_000
  package var greeting: Int64 = 300_000_000
  package var reply: Int64 = 300_000_000
  package var data: Int64 = 120_000_000
  package var block: Int64 = 180_000_000
  package var endOfData: Int64 = 600_000_000
  /// For a TLS handshake, until its end.
  package var handshake: Int64 = 60_000_000
  /// How long a closed session may still be read from, so that its last reply is not lost to a reset.
  package var drain: Int64 = 2_000_000
  package init() {}
}
