// SPDX-License-Identifier: Apache-2.0

/// What a command line asks for, or what it is instead of a command.
package enum Verb: UInt8, BitwiseCopyable, Sendable, CaseIterable {
  case ehlo, helo, mail, rcpt, data, rset, noop, quit, vrfy, expn, help
  case auth, starttls, bdat, lhlo, xclient, xforward, etrn, atrn, turn, burl
  /// SEND, SOML, SAML (RFC 821), obsolete.
  case send
  case unknown
  /// A request line of HTTP.
  case http
  /// "Name: value".
  case header
  /// The first bytes of a TLS record (RFC 8446, 5.1).
  case tlsHello
  /// The first byte of SOCKS 4 or 5.
  case socks
  /// Control or 8-bit octets.
  case binary
}

/// One command line, taken apart: which verb, and where its argument is.
///
/// Works on the line's octets and never makes a String. It does not judge arguments; the types for MAIL,
/// RCPT and HELO do that.
package struct Command: BitwiseCopyable, Sendable, Equatable {
  package let verb: Verb
  private let start: Int32
  private let end: Int32

  /// Without the white space around it.
  package var argument: Range<Int> { Int(start)..<Int(end) }

  /// - Parameter line: without its line end.
  package init(_ line: Span<UInt8>) {
    var verb = Command.leading(line)
    var k = 0
    while k < line.count && Command.isLetter(line[k]) { k += 1 }
    if verb.rawValue <= Verb.send.rawValue || verb == .unknown {
      for p in 0..<line.count where line[p] < 32 || line[p] > 126 {
        // 8-bit octets are legal in the paths of MAIL and RCPT alone (RFC 6531).
        if line[p] > 127 && (verb == .mail || verb == .rcpt) { continue }
        if line[p] == 9 && p >= k { continue }
        verb = .binary
        break
      }
    }
    var end = line.count
    while end > k && Command.isSpace(line[end - 1]) { end -= 1 }
    while k < end && Command.isSpace(line[k]) { k += 1 }
    self.verb = verb
    self.start = Int32(k)
    self.end = Int32(end)
  }

  /// What a line begins with, from as much of it as there is. Enough for the tarpit and for early talkers.
  package static func leading(_ bytes: Span<UInt8>) -> Verb {
    guard bytes.count > 0 else { return .unknown }
    switch bytes[0] {
    case 0x16: return bytes.count > 1 && bytes[1] == 3 ? .tlsHello : .binary
    case 0x04, 0x05: return .socks
    case 0...31, 127...255: return .binary
    default: break
    }
    var k = 0
    var word: UInt64 = 0
    while k < bytes.count && isLetter(bytes[k]) {
      if k < 8 { word = word << 8 | UInt64(bytes[k] & 0xDF) }
      k += 1
    }
    let ends = k == bytes.count || isSpace(bytes[k]) || bytes[k] == 13 || bytes[k] == 10
    if k > 0 && k <= 8 && ends, let verb = known(word) { return verb }
    // "Name:" or "Some-Name:" with something that is not SMTP in front of the colon.
    var p = 0
    while p < bytes.count && (isLetter(bytes[p]) || bytes[p] == UInt8(ascii: "-")) { p += 1 }
    if p > 1 && p < bytes.count && bytes[p] == UInt8(ascii: ":") { return .header }
    return .unknown
  }

  private static func known(_ word: UInt64) -> Verb? {
    switch word {
    case code("EHLO"): .ehlo
    case code("HELO"): .helo
    case code("MAIL"): .mail
    case code("RCPT"): .rcpt
    case code("DATA"): .data
    case code("RSET"): .rset
    case code("NOOP"): .noop
    case code("QUIT"): .quit
    case code("VRFY"): .vrfy
    case code("EXPN"): .expn
    case code("HELP"): .help
    case code("AUTH"): .auth
    case code("STARTTLS"): .starttls
    case code("BDAT"): .bdat
    case code("LHLO"): .lhlo
    case code("XCLIENT"): .xclient
    case code("XFORWARD"): .xforward
    case code("ETRN"): .etrn
    case code("ATRN"): .atrn
    case code("TURN"): .turn
    case code("BURL"): .burl
    case code("SEND"), code("SOML"), code("SAML"): .send
    case code("GET"), code("POST"), code("HEAD"), code("PUT"), code("CONNECT"), code("OPTIONS"),
      code("DELETE"), code("PATCH"), code("TRACE"):
      .http
    default: nil
    }
  }

  @inline(__always)
  private static func code(_ name: StaticString) -> UInt64 {
    name.withUTF8Buffer { $0.reduce(UInt64(0)) { $0 << 8 | UInt64($1) } }
  }

  @inline(__always)
  static func isLetter(_ byte: UInt8) -> Bool { byte & 0xDF >= 65 && byte & 0xDF <= 90 }
  @inline(__always)
  static func isSpace(_ byte: UInt8) -> Bool { byte == 32 || byte == 9 }
}

/// Whether two names are the same without regard to ASCII case.
package func equalsIgnoringCase(_ a: Span<UInt8>, _ b: Span<UInt8>) -> Bool {
  guard a.count == b.count else { return false }
  for k in 0..<a.count {
    if a[k] == b[k] { continue }
    guard Command.isLetter(a[k]), a[k] & 0xDF == b[k] & 0xDF else { return false }
  }
  return true
}
