// SPDX-License-Identifier: Apache-2.0

/// What a client says next. `Words.write` makes octets of it.
public enum Line: Sendable, Equatable, BitwiseCopyable {
  /// With a bare word instead of a name; EHLO instead of HELO.
  case helo(bare: Bool, extended: Bool)
  case startTLS, auth, mail, null, data, rset, quit
  case rcpt(unknown: Bool)
  /// MAIL, this many RCPT, and DATA in one write.
  case group(recipients: UInt8)
  /// The same behind an EHLO, before anything was offered.
  case rush(bare: Bool, recipients: UInt8)
  /// A message of about this many octets, with its final dot.
  case body(octets: Int32)
  /// Another protocol's first words.
  case foreign
  /// One octet of a command that never ends.
  case trickle
}

/// How a connection ended, seen from the client.
public enum Ending: UInt8, Sendable, CaseIterable, BitwiseCopyable {
  case none
  /// A message at least was accepted, none refused.
  case delivered
  /// Refused for now, for good.
  case deferred, rejected
  /// The client lost patience.
  case impatient
  /// The server closed the connection before the client was done; it broke; it never came to stand.
  case cutOff, broken, refusedAtConnect
  /// The client got what it came for, or could not get it (no AUTH).
  case done, pointless

  /// The word in reports.
  public var name: String {
    switch self {
    case .none: "still there"
    case .delivered: "delivered"
    case .deferred: "deferred (4xx)"
    case .rejected: "rejected (5xx)"
    case .impatient: "left"
    case .cutOff: "cut off"
    case .broken: "broken"
    case .refusedAtConnect: "not let in"
    case .done: "done"
    case .pointless: "found nothing"
    }
  }
}
