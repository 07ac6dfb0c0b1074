// SPDX-License-Identifier: Apache-2.0

import Structures

/// What a server offers in its EHLO reply: the downstream's, our own, or what we offer a client.
///
/// Not the session's state: whether TLS is on already, and so STARTTLS is not to be offered, is for the
/// caller to say by removing the keyword. Invariant: what `offered` returns is never more than this
/// build implements and the downstream offers, keyword by keyword (docs/protocol.md, Keywords); a
/// keyword not listed there does not exist here.
package struct Capabilities: Sendable, BitwiseCopyable {
  package struct Keywords: OptionSet, Sendable, BitwiseCopyable {
    package let rawValue: UInt32
    package init(rawValue: UInt32) { self.rawValue = rawValue }

    package static let pipelining = Keywords(rawValue: 1 << 0)
    package static let size = Keywords(rawValue: 1 << 1)
    package static let eightBitMIME = Keywords(rawValue: 1 << 2)
    package static let smtputf8 = Keywords(rawValue: 1 << 3)
    package static let dsn = Keywords(rawValue: 1 << 4)
    package static let enhancedStatusCodes = Keywords(rawValue: 1 << 5)
    package static let starttls = Keywords(rawValue: 1 << 6)
    package static let auth = Keywords(rawValue: 1 << 7)
    package static let requiretls = Keywords(rawValue: 1 << 8)
    package static let limits = Keywords(rawValue: 1 << 9)
    // Recognised so that it can be seen what the downstream has; never offered to a client.
    package static let chunking = Keywords(rawValue: 1 << 10)
    package static let binaryMIME = Keywords(rawValue: 1 << 11)
    package static let xclient = Keywords(rawValue: 1 << 12)
    package static let xforward = Keywords(rawValue: 1 << 13)
    package static let etrn = Keywords(rawValue: 1 << 14)
    package static let burl = Keywords(rawValue: 1 << 15)
    package static let deliverBy = Keywords(rawValue: 1 << 16)
    package static let futureRelease = Keywords(rawValue: 1 << 17)
    package static let mtPriority = Keywords(rawValue: 1 << 18)
    package static let vrfy = Keywords(rawValue: 1 << 19)
    package static let help = Keywords(rawValue: 1 << 20)

    /// All that Sluice carries.
    package static let carried: Keywords = [
      .pipelining, .size, .eightBitMIME, .smtputf8, .dsn, .enhancedStatusCodes, .auth, .limits,
    ]
    static let ours: Keywords = [.pipelining, .enhancedStatusCodes, .size, .starttls, .limits]
    static let shared: Keywords = [.eightBitMIME, .smtputf8, .dsn, .requiretls]
    static let offerable: Keywords = [
      .pipelining, .size, .eightBitMIME, .smtputf8, .dsn, .enhancedStatusCodes, .starttls, .auth,
      .requiretls, .limits,
    ]

    /// Which parameters a server that offers these, being the downstream, can be sent.
    package func parameters(role: Role) -> ParameterSet {
      var set = ParameterSet()
      if contains(.size) { set.insert(.size) }
      if contains(.eightBitMIME) { set.insert(.body) }
      if contains(.smtputf8) { set.insert(.smtputf8) }
      if contains(.dsn) { set.formUnion(.ofDSN) }
      if contains(.requiretls) { set.insert(.requiretls) }
      if contains(.auth) && role == .outbound { set.insert(.auth) }
      return set
    }
  }

  /// On which side of the MTA Sluice stands.
  package enum Role: UInt8, Sendable, BitwiseCopyable {
    /// Port 25, from the Internet: no AUTH at all.
    case inbound
    /// Submission and relay, from our own users.
    case outbound
  }

  package var keywords = Keywords()
  /// The biggest message taken; 0 for no fixed limit (RFC 1870, 4).
  package var sizeMax: UInt64 = 0
  /// RFC 9422, 3: recipients of a transaction, transactions of a session, recipient domains of a
  /// transaction; 0 where nothing is said.
  package var recipientsMax: UInt32 = 0
  package var mailsMax: UInt32 = 0
  package var recipientDomainsMax: UInt32 = 0
  /// What stands behind AUTH, of all its lines together.
  package private(set) var mechanisms = AuthMechanisms()

  /// Nothing at all, as after HELO.
  package init() {}

  /// Reads a reply to EHLO as `ReplyReader` re-made it. One that is no 2yz offers nothing, and AUTH without a
  /// mechanism is no offer.
  package init(ehloReply reply: Span<UInt8>) {
    reply.forEachKeywordLine { line in learn(reply, line) }
  }

  private mutating func learn(_ reply: Span<UInt8>, _ line: Range<Int>) {
    let wordEnd = reply.first(0x20, in: line) ?? line.upperBound
    let word = line.lowerBound..<wordEnd
    let rest = min(wordEnd + 1, line.upperBound)..<line.upperBound
    if reply.matches("ENHANCEDSTATUSCODES", in: word) {
      keywords.insert(.enhancedStatusCodes)
      return
    }
    if let names = reply.authNames(in: line) {
      mechanisms.add(reply, names)
      if !mechanisms.isEmpty { keywords.insert(.auth) }
      return
    }
    guard let keyword = Keyword(reply, in: word) else { return }
    switch keyword {
    case "PIPELINING": keywords.insert(.pipelining)
    case "8BITMIME": keywords.insert(.eightBitMIME)
    case "SMTPUTF8": keywords.insert(.smtputf8)
    case "DSN": keywords.insert(.dsn)
    case "STARTTLS": keywords.insert(.starttls)
    case "REQUIRETLS": keywords.insert(.requiretls)
    case "CHUNKING": keywords.insert(.chunking)
    case "BINARYMIME": keywords.insert(.binaryMIME)
    case "XCLIENT": keywords.insert(.xclient)
    case "XFORWARD": keywords.insert(.xforward)
    case "ETRN": keywords.insert(.etrn)
    case "BURL": keywords.insert(.burl)
    case "DELIVERBY": keywords.insert(.deliverBy)
    case "FUTURERELEASE": keywords.insert(.futureRelease)
    case "MT-PRIORITY": keywords.insert(.mtPriority)
    case "VRFY": keywords.insert(.vrfy)
    case "HELP": keywords.insert(.help)
    case "SIZE":
      keywords.insert(.size)
      sizeMax = reply.decimal(in: rest) ?? 0
    case "LIMITS":
      keywords.insert(.limits)
      learnLimits(reply, rest)
    default: break
    }
  }

  /// `NAME=value` words (RFC 9422, 4). A name we do not know or a value that is no number says nothing.
  private mutating func learnLimits(_ reply: Span<UInt8>, _ range: Range<Int>) {
    var start = range.lowerBound
    while start < range.upperBound {
      let end = reply.first(0x20, in: start..<range.upperBound) ?? range.upperBound
      if let equals = reply.first(UInt8(ascii: "="), in: start..<end),
        let number = reply.decimal(in: equals + 1..<end)
      {
        let value = UInt32(clamping: number)
        let name = start..<equals
        if reply.matches("RCPTMAX", in: name) { recipientsMax = value }
        if reply.matches("MAILMAX", in: name) { mailsMax = value }
        if reply.matches("RCPTDOMAINMAX", in: name) { recipientDomainsMax = value }
      }
      start = end + 1
    }
  }

  /// What to offer a client when this is what the downstream offers.
  ///
  /// - Parameter own: what this build implements and this listener allows. It may have REQUIRETLS only
  ///   if the inner link is verified TLS and the client's link is TLS, too: the promise covers every
  ///   hop (RFC 8689, 4).
  package func offered(by own: Capabilities, role: Role) -> Capabilities {
    var offer = Capabilities()
    // Ours alone: implemented here, whatever the downstream has.
    offer.keywords = own.keywords.intersection(.ours)
    // Ours only if the downstream can keep the promise.
    let both = own.keywords.intersection(keywords)
    offer.keywords.formUnion(both.intersection(.shared))
    // RFC 6531, 3.1: no SMTPUTF8 without 8BITMIME.
    if !offer.keywords.contains(.eightBitMIME) { offer.keywords.remove(.smtputf8) }
    if role == .outbound && both.contains(.auth) {
      offer.keywords.insert(.auth)
      offer.mechanisms = mechanisms
    }
    if offer.keywords.contains(.size) { offer.sizeMax = smallerLimit(own.sizeMax, sizeMax) }
    if offer.keywords.contains(.limits) {
      offer.recipientsMax = smallerLimit(own.recipientsMax, recipientsMax)
      offer.mailsMax = smallerLimit(own.mailsMax, mailsMax)
      offer.recipientDomainsMax = smallerLimit(own.recipientDomainsMax, recipientDomainsMax)
    }
    return offer
  }

  /// What two servers have in common, each limit the smaller one.
  package func common(_ other: Capabilities) -> Capabilities {
    var both = Capabilities()
    both.keywords = keywords.intersection(other.keywords)
    both.sizeMax = smallerLimit(sizeMax, other.sizeMax)
    both.recipientsMax = smallerLimit(recipientsMax, other.recipientsMax)
    both.mailsMax = smallerLimit(mailsMax, other.mailsMax)
    both.recipientDomainsMax = smallerLimit(recipientDomainsMax, other.recipientDomainsMax)
    both.mechanisms = mechanisms.common(other.mechanisms)
    if both.mechanisms.isEmpty { both.keywords.remove(.auth) }
    return both
  }

  /// Writes the 250 reply to EHLO that offers this, and nothing that may never be offered.
  ///
  /// - Returns: false, with nothing written, if it does not fit or the name has control octets.
  package func writeEHLOReply(hostname: Span<UInt8>, into out: inout OutputSpan<UInt8>) -> Bool {
    let start = out.count
    var separator = out.count + 3
    var written =
      out.appendLiteral("250-") && out.appendToken(hostname, in: 0..<hostname.count)
      && out.appendLineEnd()
    for bit in 0..<32 where written {
      let keyword = Keywords(rawValue: 1 << UInt32(bit))
      guard Keywords.offerable.isSuperset(of: keyword), keywords.contains(keyword) else { continue }
      separator = out.count + 3
      written =
        out.appendLiteral("250-") && writeKeyword(keyword, into: &out) && out.appendLineEnd()
    }
    if written {
      out[separator] = 0x20
    } else {
      out.removeLast(out.count - start)
    }
    return written
  }

  private func writeKeyword(_ keyword: Keywords, into out: inout OutputSpan<UInt8>) -> Bool {
    switch keyword {
    case .pipelining: return out.appendLiteral("PIPELINING")
    case .size: return out.appendLiteral("SIZE ") && out.appendDecimal(sizeMax)
    case .eightBitMIME: return out.appendLiteral("8BITMIME")
    case .smtputf8: return out.appendLiteral("SMTPUTF8")
    case .dsn: return out.appendLiteral("DSN")
    case .enhancedStatusCodes: return out.appendLiteral("ENHANCEDSTATUSCODES")
    case .starttls: return out.appendLiteral("STARTTLS")
    case .requiretls: return out.appendLiteral("REQUIRETLS")
    case .auth: return out.appendLiteral("AUTH ") && mechanisms.write(into: &out)
    case .limits:
      return out.appendLiteral("LIMITS") && writeLimit(" MAILMAX=", mailsMax, &out)
        && writeLimit(" RCPTMAX=", recipientsMax, &out)
        && writeLimit(" RCPTDOMAINMAX=", recipientDomainsMax, &out)
    default: return true
    }
  }

  private func writeLimit(
    _ name: StaticString, _ value: UInt32, _ out: inout OutputSpan<UInt8>
  ) -> Bool {
    value == 0 || (out.appendLiteral(name) && out.appendDecimal(UInt64(value)))
  }
}

/// The smaller of two limits of which 0 is none.
package func smallerLimit<Limit: FixedWidthInteger>(_ a: Limit, _ b: Limit) -> Limit {
  if a == 0 { return b }
  return b == 0 ? a : min(a, b)
}
