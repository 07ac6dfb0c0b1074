// SPDX-License-Identifier: Apache-2.0

/// One command line, taken apart as far as its verb.
///
/// Not the meaning of its argument: `MailArguments`, `RcptArguments` and `HeloForm` read that. Invariant:
/// unless the verb is foreign, the argument holds no control octet but TAB, begins and ends with something
/// other than white space, and lies inside the line.
package struct Command: Equatable, Sendable {
  /// How well the line keeps to the letter of RFC 5321, 4.1.1.
  package enum Form: UInt8, Sendable, BitwiseCopyable {
    case strict
    /// Understood, with a space too many: after the colon of `FROM:`, or after the verb.
    case loose
    /// Understood, with more white space after the colon than one space.
    case tolerated
    /// MAIL without `FROM:` or RCPT without `TO:`; answer 501 5.5.4.
    case malformed
  }

  package let verb: Verb
  /// The verb for a server that takes no white space but a space, and none before the verb: the same, or no command.
  package let strictVerb: Verb
  /// Where in the line the argument is; for MAIL and RCPT what follows `FROM:` and `TO:`.
  package let argument: Range<Int>
  package let form: Form

  private init(
    _ verb: Verb, _ argument: Range<Int>, _ form: Form = .strict, strictly strictVerb: Verb? = nil
  ) {
    self.verb = verb
    self.strictVerb = strictVerb ?? verb
    self.argument = argument
    self.form = form
  }

  /// Reads one line without its line end.
  package init(line: Span<UInt8>) {
    if let foreign = Command.foreignProtocol(at: line) {
      self.init(foreign, 0..<line.count)
      return
    }
    let whole = line.withoutTrailingSpace(0..<line.count)
    let end = whole.upperBound
    let odd = line.firstUnprintable(in: whole)
    let hasTab = odd < end && line.first(0x09, in: odd..<end) != nil
    if odd < end, line.hasControl(in: odd..<end, butTab: true) {
      self.init(.binary, 0..<line.count)
      return
    }
    let wordStart = line.skippingBlanks(in: whole)
    let word = wordStart..<line.firstBlank(in: wordStart..<end)
    let start = line.skippingBlanks(in: word.upperBound..<end)
    let argument = start..<end
    let verb = Command.verb(in: line, word)
    if odd < end && line.hasEightBit(in: odd..<end)
      && (line.hasEightBit(in: min(odd, start)..<start) || !verb.takesEightBit)
    {
      self.init(.binary, 0..<line.count)
      return
    }
    var strictVerb = verb
    if hasTab || wordStart > 0 {
      strictVerb = hasTab ? .binary : .unknown
      // Only SMTP is worth it: what is folded or has TAB in another protocol proves nothing.
      if verb.isForeign || verb == .unknown {
        self.init(strictVerb, hasTab ? 0..<line.count : wordStart..<end)
        return
      }
    }
    let form: Form = start - word.upperBound > 1 ? .loose : .strict
    if let keyword = verb.pathKeyword {
      self = Command.path(verb, keyword, line, argument, form, strictly: strictVerb)
    } else if verb == .http || verb == .header {
      self.init(verb, 0..<end)
    } else {
      self.init(verb, argument, form, strictly: strictVerb)
    }
  }

  /// Another protocol's first bytes, told from the raw input: such bytes often hold a NUL and so
  /// never become a line.
  package static func foreignProtocol(at bytes: Span<UInt8>) -> Verb? {
    guard bytes.count >= 2 else { return nil }
    switch (bytes[0], bytes[1]) {
    case (0x16, 0x03): return .tlsHello
    // SOCKS 4: CONNECT or BIND. SOCKS 5: a count of methods, of which there are never many.
    case (0x04, 1...2), (0x05, 1...9): return .socks
    default: return nil
    }
  }

  /// MAIL and RCPT: takes the keyword off the argument, and white space that does not belong there.
  private static func path(
    _ verb: Verb, _ keyword: StaticString, _ line: Span<UInt8>, _ argument: Range<Int>,
    _ form: Form,
    strictly strictVerb: Verb
  ) -> Command {
    let length = keyword.utf8CodeUnitCount
    guard argument.count >= length,
      line.matches(keyword, in: argument.lowerBound..<argument.lowerBound + length)
    else { return Command(verb, argument, .malformed, strictly: strictVerb) }
    let colon = argument.lowerBound + length
    let start = line.skippingBlanks(in: colon..<argument.upperBound)
    let form: Form =
      switch start - colon {
      case 0: form
      case 1: .loose
      // With TAB or space before it the line is no command to a server that takes the letter alone.
      case _ where strictVerb != verb: .loose
      default: .tolerated
      }
    return Command(verb, start..<argument.upperBound, form, strictly: strictVerb)
  }

  private static func verb(in line: Span<UInt8>, _ word: Range<Int>) -> Verb {
    guard let keyword = Keyword(line, in: word) else {
      return isHeaderName(line, word) ? .header : .unknown
    }
    return Verb(keyword) ?? (isMethod(keyword) ? .http : .unknown)
  }

  /// Whether a word is a method of HTTP (RFC 9110, 9.3; RFC 9113, 3.4 for PRI) or of WebDAV (RFC 4918, RFC 5323).
  private static func isMethod(_ word: Keyword) -> Bool {
    switch word {
    case "GET", "PUT", "PRI", "POST", "HEAD", "COPY", "MOVE", "LOCK", "CONNECT", "OPTIONS",
      "DELETE",
      "PATCH", "TRACE", "PROPFIND", "PROPPATCH", "MKCOL", "UNLOCK", "SEARCH", "REPORT":
      true
    default: false
    }
  }

  /// A field name (RFC 5322, 2.2, narrowed to what is used) up to a colon inside the first word.
  private static func isHeaderName(_ line: Span<UInt8>, _ word: Range<Int>) -> Bool {
    for i in word {
      if line[i] == UInt8(ascii: ":") { return i > word.lowerBound }
      guard isAlphanumeric(line[i]) || line[i] == UInt8(ascii: "-") || line[i] == UInt8(ascii: "_")
      else { return false }
    }
    return false
  }
}
