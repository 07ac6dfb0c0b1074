// SPDX-License-Identifier: Apache-2.0

/// One client of a test server: where in the dialogue it is, and what of it is not whole yet.
struct ServerSession: Sendable {
  enum Phase: Sendable {
    /// Free; whatever comes is ignored.
    case gone
    /// The first octets may be a PROXY header, or must be.
    case header
    case command
    case body
    /// A log-in's next line.
    case awaitingPlain, awaitingUser, awaitingPassword
    /// What comes is ignored: it has left, or the server neither reads nor answers.
    case over, stalled
  }

  var phase = Phase.gone
  /// The line, or the header, of which the end has not come.
  var line: [UInt8] = []
  var body = MessageReader()
  /// The message as it came, if it is kept.
  var message: [UInt8] = []
  var bodyBytes = 0
  var bodyFaultDone = false
  var greeted = false
  var hasSender = false
  var recipients = 0
  /// The lines of MAIL and RCPT, if messages are kept.
  var envelope: [String] = []
  var userIsRight = false
  /// Replies come one after the other: not before this moment, in microseconds.
  var repliedAt: Int64 = 0
  /// The peer that a PROXY header named.
  var proxied: String?

  mutating func forgetTransaction() {
    hasSender = false
    recipients = 0
    if !envelope.isEmpty { envelope.removeAll() }
  }

  mutating func beginMessage() {
    phase = .body
    body = MessageReader()
    if !message.isEmpty { message.removeAll(keepingCapacity: message.capacity < 1 << 20) }
    bodyBytes = 0
    bodyFaultDone = false
  }
}
