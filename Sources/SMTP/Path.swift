// SPDX-License-Identifier: Apache-2.0

/// Where an address ends, and whether it needs SMTPUTF8.
///
/// A scanner of `<...>`, not an address object: an address is passed on verbatim or refused, never
/// completed, unquoted or rewritten. What may be missing or doubled are its brackets, and what stands between
/// them and the address is white space: nothing of that changes which address is meant. Invariant: one pass, no
/// recursion, no octet outside the given range is read, and what is accepted has exactly one reading of where it
/// ends.
struct Path {
  /// The most octets of a path we take, brackets included. RFC 5321, 4.5.3.1.3 says 256; addresses of
  /// mailing lists that encode a recipient (VERP, SRS, BATV) and SMTPUTF8 ones are found beyond it, so
  /// there is room, and a limit far below any buffer of ours.
  static let octetsMax = 1_024

  /// Which paths without a domain RFC 5321 allows (4.1.1.2, 4.1.1.3).
  enum Role: UInt8 {
    /// `<>`.
    case reverse
    /// `<postmaster>`, in any case.
    case forward
  }

  enum Fault {
    /// Does not begin with `<`, or nothing ends it.
    case noBrackets
    case badAddress
  }

  /// The address without its brackets; empty for `<>`.
  let mailbox: Range<Int>
  /// Where the path ends.
  let end: Int
  let hasEightBit: Bool
  /// How it departs from RFC 5321; nil if it does not, or in a way that cannot be misread.
  let lapse: Fault?

  /// Reads the path at the front of `bytes`.
  static func scan(_ bytes: Span<UInt8>, role: Role) -> (path: Path?, fault: Fault) {
    var cursor = PathCursor(at: 0, end: min(bytes.count, octetsMax))
    let brackets = cursor.skipBrackets(bytes, UInt8(ascii: "<"))
    var lapse: Fault? = brackets == 0 ? .noBrackets : brackets == 1 ? nil : .badAddress
    if brackets > 0 && cursor.skipBlanks(bytes) { lapse = lapse ?? .badAddress }
    let start = cursor.index
    if !(role == .reverse && brackets > 0 && cursor.peek(bytes) == UInt8(ascii: ">")) {
      guard cursor.skipSourceRoute(bytes) else {
        return (nil, brackets == 0 ? .noBrackets : .badAddress)
      }
      let local = cursor.index
      guard let isBare = cursor.skipMailbox(bytes) else {
        return (nil, brackets == 0 ? .noBrackets : cursor.fault(in: bytes))
      }
      if isBare {
        let name = local..<cursor.index
        // A route in front of a bare name has never meant anything, and without brackets `SIZE=10` is no name.
        guard local == start, brackets > 0 || bytes.first(UInt8(ascii: "="), in: name) == nil
        else { return (nil, brackets == 0 ? .noBrackets : .badAddress) }
        // Whose name it is, is for the server to say (Postfix: `myorigin`).
        if role == .reverse || !bytes.matches("postmaster", in: name) {
          lapse = lapse ?? .badAddress
        }
      }
    }
    let mailbox = start..<cursor.index
    if brackets == 0 {
      guard cursor.index == bytes.count || bytes.isBlank(at: cursor.index, in: 0..<bytes.count)
      else { return (nil, .noBrackets) }
    } else {
      if cursor.skipBlanks(bytes) { lapse = lapse ?? .badAddress }
      guard cursor.peek(bytes) != nil else { return (nil, cursor.fault(in: bytes)) }
      guard cursor.skipBrackets(bytes, UInt8(ascii: ">")) == brackets else {
        return (nil, .badAddress)
      }
    }
    return (
      Path(
        mailbox: mailbox, end: cursor.index, hasEightBit: bytes.hasEightBit(in: mailbox),
        lapse: lapse), .badAddress
    )
  }
}

/// A position inside a path, and the steps over its parts; each step leaves the position behind its
/// part, or where the part went wrong.
private struct PathCursor {
  var index: Int
  let end: Int

  init(at index: Int, end: Int) {
    self.index = index
    self.end = end
  }

  /// Running out of bytes is a missing bracket; running into `octetsMax` is a bad address.
  func fault(in bytes: Span<UInt8>) -> Path.Fault {
    index >= end && end == bytes.count ? .noBrackets : .badAddress
  }

  func peek(_ bytes: Span<UInt8>) -> UInt8? { index < end ? bytes[index] : nil }

  /// Brackets of one kind, two at most: some clients put them around an address that has its own.
  ///
  /// - Returns: how many there were.
  mutating func skipBrackets(_ bytes: Span<UInt8>, _ bracket: UInt8) -> Int {
    let start = index
    while index < start + 2, peek(bytes) == bracket { index += 1 }
    return index - start
  }

  /// - Returns: whether there were any.
  mutating func skipBlanks(_ bytes: Span<UInt8>) -> Bool {
    let start = index
    index = bytes.skippingBlanks(in: start..<max(end, start))
    return index > start
  }

  /// A local part, and the domain behind it.
  ///
  /// - Returns: whether there is no domain; nil where neither can be read.
  mutating func skipMailbox(_ bytes: Span<UInt8>) -> Bool? {
    guard skipLocalPart(bytes) else { return nil }
    guard peek(bytes) == UInt8(ascii: "@") else { return true }
    index += 1
    return skipDomain(bytes) ? false : nil
  }

  /// `@one,@two:` in front of the mailbox (RFC 5321, 4.1.2 A-d-l; obsolete, kept verbatim).
  mutating func skipSourceRoute(_ bytes: Span<UInt8>) -> Bool {
    guard peek(bytes) == UInt8(ascii: "@") else { return true }
    while true {
      index += 1
      guard skipDomain(bytes) else { return false }
      switch peek(bytes) {
      case UInt8(ascii: ":"):
        index += 1
        return true
      case UInt8(ascii: ","):
        index += 1
        guard peek(bytes) == UInt8(ascii: "@") else { return false }
      default:
        return false
      }
    }
  }

  /// Words of atext, dots and quoted strings.
  ///
  /// Wider than RFC 5321's Local-part in two ways that cannot be misread: dots may stand anywhere
  /// (found in real addresses; the downstream decides), and quoted words may be mixed with plain ones
  /// at dots (RFC 5322's obs-local-part). An unquoted backslash is refused: readers differ on it.
  mutating func skipLocalPart(_ bytes: Span<UInt8>) -> Bool {
    let start = index
    var atWordStart = true
    while let byte = peek(bytes) {
      if byte == UInt8(ascii: "\"") {
        guard atWordStart, skipQuotedString(bytes) else { return false }
        // Behind a quoted word only a dot or the end of the local part may stand.
        switch peek(bytes) {
        case UInt8(ascii: "."), UInt8(ascii: "@"), UInt8(ascii: ">"), 0x20, 0x09, nil: break
        default: return false
        }
        atWordStart = false
      } else if byte == UInt8(ascii: ".") {
        atWordStart = true
        index += 1
      } else if isAtext(byte) {
        atWordStart = false
        index += 1
      } else {
        break
      }
    }
    return index > start
  }

  /// `"..."` with backslash escapes (RFC 5321, 4.1.2 Quoted-string).
  private mutating func skipQuotedString(_ bytes: Span<UInt8>) -> Bool {
    index += 1
    while let byte = peek(bytes) {
      index += 1
      if byte == UInt8(ascii: "\"") { return true }
      if byte == UInt8(ascii: "\\") {
        guard let escaped = peek(bytes), escaped >= 0x20, escaped < 0x7F else { return false }
        index += 1
      } else if byte < 0x20 || byte == 0x7F {
        return false
      }
    }
    return false
  }

  /// A domain or an address literal. Underscores, which some hosts have, and one trailing dot pass:
  /// they cannot be misread, and whether such a domain exists is the downstream's to say.
  mutating func skipDomain(_ bytes: Span<UInt8>) -> Bool {
    if peek(bytes) == UInt8(ascii: "[") { return skipLiteral(bytes) }
    let start = index
    var atLabelStart = true
    while let byte = peek(bytes) {
      if byte == UInt8(ascii: ".") {
        if atLabelStart { return false }
        atLabelStart = true
      } else if isAlphanumeric(byte) || byte == UInt8(ascii: "-") || byte == UInt8(ascii: "_")
        || byte >= 0x80
      {
        atLabelStart = false
      } else {
        break
      }
      index += 1
    }
    return index > start
  }

  /// `[...]` (RFC 5321, 4.1.3), its content left to whoever routes by it.
  private mutating func skipLiteral(_ bytes: Span<UInt8>) -> Bool {
    index += 1
    let start = index
    while let byte = peek(bytes) {
      if byte == UInt8(ascii: "]") {
        guard index > start else { return false }
        index += 1
        return true
      }
      guard byte > 0x20, byte < 0x7F, byte != UInt8(ascii: "["), byte != UInt8(ascii: "\\"),
        byte != UInt8(ascii: "<"), byte != UInt8(ascii: ">")
      else { return false }
      index += 1
    }
    return false
  }
}

/// RFC 5322, 3.2.3 atext, with RFC 6531's octets beyond ASCII.
private func isAtext(_ byte: UInt8) -> Bool {
  switch byte {
  case 0x21, 0x23...0x27, 0x2A, 0x2B, 0x2D, 0x2F...0x39, 0x3D, 0x3F, 0x41...0x5A, 0x5E...0x7E: true
  default: byte >= 0x80
  }
}
