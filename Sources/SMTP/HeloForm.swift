// SPDX-License-Identifier: Apache-2.0
package import Structures

/// What the argument of HELO or EHLO looks like (RFC 5321, 4.1.1.1 and 4.1.3). A form is no verdict.
package enum HeloForm: Equatable, Sendable {
  /// A name of at least two labels.
  case fullyQualified
  case localhost
  case bareWord
  /// `[192.0.2.1]` or `[IPv6:2001:db8::1]`; nil if what is in the brackets is no address.
  case addressLiteral(Address?)
  /// An address without brackets.
  case bareAddress(Address)
  case invalid

  package init(_ name: Span<UInt8>) {
    guard name.count > 0, name.count <= 255 else {
      self = .invalid
      return
    }
    if name[0] == UInt8(ascii: "[") {
      guard name.count > 2, name[name.count - 1] == UInt8(ascii: "]") else {
        self = .addressLiteral(nil)
        return
      }
      self = .addressLiteral(Self.literal(name.extracting(1..<(name.count - 1))))
      return
    }
    // An address is rare and a name is not: only what is made of digits, dots and colons is tried.
    if Self.mayBeAddress(name) {
      if let address = Self.address(name) {
        self = .bareAddress(address)
      } else {
        self = .invalid
      }
      return
    }
    var labels = 0
    var length = 0
    for k in 0...name.count {
      let byte = k < name.count ? name[k] : UInt8(ascii: ".")
      if byte == UInt8(ascii: ".") {
        // One trailing dot is a root and harmless; any other empty label is none.
        if length == 0 {
          if k == name.count && labels > 0 { break }
          self = .invalid
          return
        }
        if length > 63 || name[k - 1] == UInt8(ascii: "-") {
          self = .invalid
          return
        }
        labels += 1
        length = 0
        continue
      }
      let isFine =
        Command.isLetter(byte) || (byte >= 48 && byte <= 57)
        // Underscores are common in the names of honest Windows hosts.
        || byte == UInt8(ascii: "_") || (byte == UInt8(ascii: "-") && length > 0)
      if !isFine {
        self = .invalid
        return
      }
      length += 1
    }
    if Self.isLocalhost(name) {
      self = .localhost
    } else {
      self = labels >= 2 ? .fullyQualified : .bareWord
    }
  }

  private static func isLocalhost(_ name: Span<UInt8>) -> Bool {
    let plain: [9 of UInt8] = [108, 111, 99, 97, 108, 104, 111, 115, 116]
    if equalsIgnoringCase(name, plain.span) { return true }
    return name.count > 10 && name[9] == UInt8(ascii: ".")
      && equalsIgnoringCase(name.extracting(0..<9), plain.span)
  }

  private static func mayBeAddress(_ name: Span<UInt8>) -> Bool {
    var hasColon = false
    var onlyDigits = true
    for k in 0..<name.count {
      let byte = name[k]
      if byte == UInt8(ascii: ":") { hasColon = true }
      if !(byte >= 48 && byte <= 57 || byte == UInt8(ascii: ".")) { onlyDigits = false }
    }
    return hasColon || onlyDigits
  }

  private static func literal(_ bytes: Span<UInt8>) -> Address? {
    let tag: [5 of UInt8] = [73, 80, 118, 54, 58]  // "IPv6:"
    if bytes.count > 5 && equalsIgnoringCase(bytes.extracting(0..<5), tag.span) {
      return address(bytes.extracting(5..<bytes.count))
    }
    return address(bytes)
  }

  /// Through text: an address in HELO is rare, and the reader for people's addresses knows all forms.
  private static func address(_ bytes: Span<UInt8>) -> Address? {
    guard bytes.count <= 45 else { return nil }
    var text = ""
    for k in 0..<bytes.count { text.unicodeScalars.append(Unicode.Scalar(bytes[k])) }
    return Address(text)
  }
}

/// The part of a fully qualified name that says whose it is: the last two labels, or three where the
/// last has two letters and the one before at most three (co.uk, com.br). A guess, good enough for a
/// record that can only shorten delays; the public suffix list would be the whole truth.
package func heloDomain(of name: Span<UInt8>) -> Range<Int> {
  var end = name.count
  if end > 0 && name[end - 1] == UInt8(ascii: ".") { end -= 1 }
  var dots: (Int, Int, Int) = (-1, -1, -1)  // the last, the one before, the one before that
  var found = 0
  var k = end - 1
  while k >= 0 && found < 3 {
    if name[k] == UInt8(ascii: ".") {
      if found == 0 { dots.0 = k } else if found == 1 { dots.1 = k } else { dots.2 = k }
      found += 1
    }
    k -= 1
  }
  if found < 2 { return 0..<end }
  let last = end - dots.0 - 1
  let second = dots.0 - dots.1 - 1
  if last == 2 && second <= 3 {
    return (found == 3 ? dots.2 + 1 : 0)..<end
  }
  return (dots.1 + 1)..<end
}
