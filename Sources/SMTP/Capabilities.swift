// SPDX-License-Identifier: Apache-2.0

/// EHLO keywords that Sluice knows, whether it carries them or strips them.
package struct Keywords: OptionSet, BitwiseCopyable, Hashable, Sendable {
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
  package static let chunking = Keywords(rawValue: 1 << 8)
  package static let limits = Keywords(rawValue: 1 << 9)
  package static let xclient = Keywords(rawValue: 1 << 10)
  package static let xforward = Keywords(rawValue: 1 << 11)
  package static let requireTLS = Keywords(rawValue: 1 << 12)
}

/// What a server offers in its EHLO reply (RFC 5321, 4.1.1.1).
///
/// What a client is offered is the intersection of what the downstream offers and what this build
/// carries, by an allow-list: a keyword that nobody here implements never gets through.
package struct Capabilities: BitwiseCopyable, Sendable {
  package var keywords = Keywords()
  /// Octets of a message at most (RFC 1870); 0 for no stated limit.
  package var size: UInt64 = 0
  /// Recipients of a message and messages of a session at most (RFC 9422); 0 for no stated limit.
  package var recipientsMax: UInt32 = 0
  package var messagesMax: UInt32 = 0
  /// The AUTH mechanisms as the server wrote them, up to 120 octets.
  package private(set) var mechanisms = InlineArray<120, UInt8>(repeating: 0)
  package private(set) var mechanismsCount = 0

  package init() {}

  /// All that Sluice carries.
  package static var carried: Capabilities {
    var own = Capabilities()
    own.keywords = [
      .pipelining, .size, .eightBitMIME, .smtputf8, .dsn, .enhancedStatusCodes, .auth, .limits,
    ]
    return own
  }

  /// Reads a complete 250 reply, as `ReplyReader` made it: lines of `250-` or `250 ` and CRLF. The first
  /// line is the greeting. Unknown keywords are passed over.
  package init(ehloReply text: Span<UInt8>) {
    var start = 0
    var isFirst = true
    while start < text.count {
      var end = start
      while end < text.count && text[end] != 13 { end += 1 }
      if !isFirst && end > start + 4 { read(text.extracting((start + 4)..<end)) }
      isFirst = false
      start = end + 2
    }
  }

  private mutating func read(_ line: Span<UInt8>) {
    var k = 0
    // Some old servers write AUTH=LOGIN for the sake of older clients.
    while k < line.count && !Command.isSpace(line[k]) && line[k] != UInt8(ascii: "=") { k += 1 }
    let word = line.extracting(0..<k)
    let rest = line.extracting(min(k + 1, line.count)..<line.count)
    if Self.matches(word, "PIPELINING") { keywords.insert(.pipelining) }
    if Self.matches(word, "8BITMIME") { keywords.insert(.eightBitMIME) }
    if Self.matches(word, "SMTPUTF8") { keywords.insert(.smtputf8) }
    if Self.matches(word, "DSN") { keywords.insert(.dsn) }
    if Self.matches(word, "ENHANCEDSTATUSCODES") { keywords.insert(.enhancedStatusCodes) }
    if Self.matches(word, "STARTTLS") { keywords.insert(.starttls) }
    if Self.matches(word, "CHUNKING") { keywords.insert(.chunking) }
    if Self.matches(word, "XCLIENT") { keywords.insert(.xclient) }
    if Self.matches(word, "XFORWARD") { keywords.insert(.xforward) }
    if Self.matches(word, "REQUIRETLS") { keywords.insert(.requireTLS) }
    if Self.matches(word, "SIZE") {
      keywords.insert(.size)
      size = Self.number(rest) ?? 0
    }
    if Self.matches(word, "LIMITS") {
      keywords.insert(.limits)
      readLimits(rest)
    }
    if Self.matches(word, "AUTH") && line.count > k && Command.isSpace(line[k]) {
      keywords.insert(.auth)
      mechanismsCount = min(rest.count, 120)
      for p in 0..<mechanismsCount { mechanisms[p] = rest[p] }
    }
  }

  private mutating func readLimits(_ rest: Span<UInt8>) {
    var start = 0
    while start < rest.count {
      var end = start
      var equals = -1
      while end < rest.count && !Command.isSpace(rest[end]) {
        if rest[end] == UInt8(ascii: "=") && equals < 0 { equals = end }
        end += 1
      }
      if equals > start, let value = Self.number(rest.extracting((equals + 1)..<end)) {
        let name = rest.extracting(start..<equals)
        if Self.matches(name, "RCPTMAX") { recipientsMax = UInt32(clamping: value) }
        if Self.matches(name, "MAILMAX") { messagesMax = UInt32(clamping: value) }
      }
      start = end + 1
    }
  }

  static func matches(_ word: Span<UInt8>, _ name: StaticString) -> Bool {
    guard word.count == name.utf8CodeUnitCount else { return false }
    return name.withUTF8Buffer { buffer in
      for k in 0..<word.count {
        let upper = Command.isLetter(word[k]) ? word[k] & 0xDF : word[k]
        if upper != buffer[k] { return false }
      }
      return true
    }
  }

  /// A decimal number, or nil for anything else, an overflow included.
  static func number(_ digits: Span<UInt8>) -> UInt64? {
    guard digits.count > 0 else { return nil }
    var value: UInt64 = 0
    for k in 0..<digits.count {
      guard digits[k] >= 48 && digits[k] <= 57 else { return nil }
      let (shifted, over) = value.multipliedReportingOverflow(by: 10)
      let (sum, carry) = shifted.addingReportingOverflow(UInt64(digits[k] - 48))
      if over || carry { return nil }
      value = sum
    }
    return value
  }

  /// What a client is offered by a server that carries `own` in front of one that offers this.
  ///
  /// PIPELINING is ours alone. The others are the downstream's where we carry them. AUTH goes through
  /// only where `withAuth` says so, STARTTLS never: it belongs to one hop.
  package func offered(by own: Capabilities, withAuth: Bool) -> Capabilities {
    var offer = Capabilities()
    let passed: Keywords = [.eightBitMIME, .smtputf8, .dsn, .enhancedStatusCodes, .size]
    offer.keywords = keywords.intersection(passed).intersection(own.keywords)
    // SMTPUTF8 without 8BITMIME is not to be had (RFC 6531, 3.1, item 8).
    if !offer.keywords.contains(.eightBitMIME) { offer.keywords.remove(.smtputf8) }
    offer.keywords.formUnion(own.keywords.intersection([.pipelining, .limits]))
    func least(_ a: UInt64, _ b: UInt64) -> UInt64 { a == 0 ? b : b == 0 ? a : min(a, b) }
    offer.size = least(size, own.size)
    if offer.size > 0 { offer.keywords.insert(.size) }
    offer.recipientsMax = UInt32(
      clamping: least(UInt64(recipientsMax), UInt64(own.recipientsMax)))
    offer.messagesMax = UInt32(clamping: least(UInt64(messagesMax), UInt64(own.messagesMax)))
    if offer.recipientsMax == 0 && offer.messagesMax == 0 { offer.keywords.remove(.limits) }
    if withAuth && keywords.contains(.auth) && own.keywords.contains(.auth) {
      offer.keywords.insert(.auth)
      offer.mechanisms = mechanisms
      offer.mechanismsCount = mechanismsCount
    }
    return offer
  }

  /// Appends the reply to EHLO.
  package func writeEHLOReply(hostname: Span<UInt8>, into out: inout OutputSpan<UInt8>) {
    append("250-", to: &out)
    append(hostname, to: &out)
    append("\r\n", to: &out)
    if keywords.contains(.pipelining) { append("250-PIPELINING\r\n", to: &out) }
    if keywords.contains(.size) {
      append("250-SIZE", to: &out)
      if size > 0 {
        append(" ", to: &out)
        append(number: size, to: &out)
      }
      append("\r\n", to: &out)
    }
    if keywords.contains(.auth) {
      append("250-AUTH ", to: &out)
      for k in 0..<mechanismsCount { out.append(mechanisms[k]) }
      append("\r\n", to: &out)
    }
    if keywords.contains(.eightBitMIME) { append("250-8BITMIME\r\n", to: &out) }
    if keywords.contains(.smtputf8) { append("250-SMTPUTF8\r\n", to: &out) }
    if keywords.contains(.dsn) { append("250-DSN\r\n", to: &out) }
    if keywords.contains(.limits) {
      append("250-LIMITS", to: &out)
      if recipientsMax > 0 {
        append(" RCPTMAX=", to: &out)
        append(number: UInt64(recipientsMax), to: &out)
      }
      if messagesMax > 0 {
        append(" MAILMAX=", to: &out)
        append(number: UInt64(messagesMax), to: &out)
      }
      append("\r\n", to: &out)
    }
    if keywords.contains(.enhancedStatusCodes) { append("250-ENHANCEDSTATUSCODES\r\n", to: &out) }
    append("250 HELP\r\n", to: &out)
  }
}

/// Appends the reply to HELO.
package func writeHELOReply(hostname: Span<UInt8>, into out: inout OutputSpan<UInt8>) {
  append("250 ", to: &out)
  append(hostname, to: &out)
  append("\r\n", to: &out)
}
