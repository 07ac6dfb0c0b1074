// SPDX-License-Identifier: Apache-2.0

// The one table of verbs: how each command is spelt and what its argument may be. Not how a command is answered or
// when it may come; the engine decides that. Whoever tells commands apart by their letters reads them from here.

/// What a line asks for, or what it really is when it is not SMTP.
package enum Verb: UInt8, Sendable, BitwiseCopyable, CaseIterable {
  case unknown
  // The commands, in the order of the rows of the table below.
  case ehlo, helo, lhlo, mail, rcpt, data, rset, noop, quit, vrfy, expn, help
  case auth, starttls, bdat, burl
  case xclient, xforward, etrn, atrn, turn
  case send, soml, saml
  /// The first word is a method of HTTP (RFC 9110, 9.3, and WebDAV's): a confused or forced client.
  case http
  /// Reads like "Name: value": the header of a message or of another protocol.
  case header
  /// Begins like a TLS record with a handshake (RFC 8446, 5.1).
  case tlsHello
  /// Begins like SOCKS 4 or 5 (RFC 1928, 3).
  case socks
  /// Control octets anywhere, or octets beyond ASCII where no command has them.
  case binary

  /// Whether this is another protocol and not a mistaken mail client.
  package var isForeign: Bool {
    switch self {
    case .http, .header, .tlsHello, .socks, .binary: true
    default: false
    }
  }
}

// MARK: The table

extension Verb {
  /// One command.
  private struct Row {
    let verb: Verb
    /// In upper case, 4...8 letters.
    let name: StaticString
    /// The name's letters, the last one lowest.
    let letters: UInt64
    /// What the argument begins with, or nothing.
    let path: StaticString
    /// Whether octets beyond ASCII in the argument are for the argument's own reader to judge: RFC 6531 allows them in
    /// paths and in VRFY and EXPN, and a host name with an umlaut deserves its 501.
    let takesEightBit: Bool

    init(
      _ verb: Verb, _ name: StaticString, path: StaticString = "", takesEightBit: Bool = false
    ) {
      self.verb = verb
      self.name = name
      self.path = path
      self.takesEightBit = takesEightBit
      var letters: UInt64 = 0
      for index in 0..<name.utf8CodeUnitCount { letters = letters << 8 | UInt64(name.octet(index)) }
      self.letters = letters
    }
  }

  /// The row of a command is at its raw value less one; the most frequent ones come first.
  private static let rows: InlineArray<24, Row> = [
    Row(.ehlo, "EHLO", takesEightBit: true),
    Row(.helo, "HELO", takesEightBit: true),
    Row(.lhlo, "LHLO", takesEightBit: true),
    Row(.mail, "MAIL", path: "FROM:", takesEightBit: true),
    Row(.rcpt, "RCPT", path: "TO:", takesEightBit: true),
    Row(.data, "DATA"),
    Row(.rset, "RSET"),
    Row(.noop, "NOOP"),
    Row(.quit, "QUIT"),
    Row(.vrfy, "VRFY", takesEightBit: true),
    Row(.expn, "EXPN", takesEightBit: true),
    Row(.help, "HELP"),
    Row(.auth, "AUTH"),
    Row(.starttls, "STARTTLS"),
    Row(.bdat, "BDAT"),
    Row(.burl, "BURL"),
    Row(.xclient, "XCLIENT"),
    Row(.xforward, "XFORWARD"),
    Row(.etrn, "ETRN"),
    Row(.atrn, "ATRN"),
    Row(.turn, "TURN"),
    Row(.send, "SEND"),
    Row(.soml, "SOML"),
    Row(.saml, "SAML"),
  ]

  /// All commands: what has a name.
  package static var commands: [Verb] { rows.indices.map { rows[$0].verb } }

  private var row: Int? {
    let index = Int(rawValue) - 1
    return Verb.rows.indices.contains(index) ? index : nil
  }

  /// The command that a line's first word is; nil if there is no such command.
  init?(_ keyword: Keyword) {
    guard let letters = UInt64(exactly: keyword.bits) else { return nil }
    for index in Verb.rows.indices where Verb.rows[index].letters == letters {
      self = Verb.rows[index].verb
      return
    }
    return nil
  }

  /// The command's name in upper case; nil for what is no command.
  package var name: StaticString? { row.map { Verb.rows[$0].name } }

  /// The first four letters of the name in upper case, the first one highest: they tell all commands apart. Nil for
  /// what is no command.
  package var fourLetters: UInt32? {
    guard let row else { return nil }
    let letters = Verb.rows[row].letters
    return UInt32(truncatingIfNeeded: (letters << UInt64(letters.leadingZeroBitCount & ~7)) >> 32)
  }

  /// What a command's argument must begin with; nil where it is the argument alone.
  var pathKeyword: StaticString? {
    guard let row, Verb.rows[row].path.utf8CodeUnitCount > 0 else { return nil }
    return Verb.rows[row].path
  }

  /// Whether octets beyond ASCII in a line do not make it `binary`.
  var takesEightBit: Bool {
    if let row { return Verb.rows[row].takesEightBit }
    return self == .http || self == .header
  }
}
