// SPDX-License-Identifier: Apache-2.0
import Structures

// Postfix's XCLIENT and XFORWARD (XCLIENT_README, XFORWARD_README): the client's address and name told to a
// downstream inside SMTP. Not when they are said: that is the engine's. Kept: no line has more than 512
// octets, only attributes that the server listed are in one, and each value is xtext (RFC 3461, 4).

/// What can be said about a client.
package struct ClientAttributes: OptionSet, BitwiseCopyable, Sendable, Equatable {
  package let rawValue: UInt16
  package init(rawValue: UInt16) { self.rawValue = rawValue }

  // In the order in which they are said. HELO, the long one, first; ADDR and NAME last, because Postfix
  // checks again whether the client may use XCLIENT when it knows them, and rejects what comes after.
  package static let helo = ClientAttributes(rawValue: 1)
  package static let proto = ClientAttributes(rawValue: 2)
  package static let login = ClientAttributes(rawValue: 4)
  package static let ident = ClientAttributes(rawValue: 8)
  package static let source = ClientAttributes(rawValue: 16)
  package static let destinationAddress = ClientAttributes(rawValue: 32)
  package static let destinationPort = ClientAttributes(rawValue: 64)
  package static let port = ClientAttributes(rawValue: 128)
  package static let name = ClientAttributes(rawValue: 256)
  package static let address = ClientAttributes(rawValue: 512)

  static let places = 0..<10

  var word: StaticString {
    switch self {
    case .helo: "HELO"
    case .proto: "PROTO"
    case .login: "LOGIN"
    case .ident: "IDENT"
    case .source: "SOURCE"
    case .destinationAddress: "DESTADDR"
    case .destinationPort: "DESTPORT"
    case .port: "PORT"
    case .name: "NAME"
    default: "ADDR"
    }
  }

  /// Reads the words behind XCLIENT or XFORWARD in a reply to EHLO; words we do not know are passed over.
  ///
  /// - Parameter reply: as `ReplyReader` re-made it.
  /// - Returns: nil if the keyword is not offered.
  package init?(_ keyword: StaticString, inEHLO reply: Span<UInt8>) {
    var found: ClientAttributes?
    var start = 0
    while start < reply.count {
      let end = reply.first(carriageReturn, in: start..<reply.count) ?? reply.count
      var words = min(start + 4, end)..<end
      if ClientAttributes.take(&words, of: reply).map({ reply.matches(keyword, in: $0) }) == true {
        var listed = ClientAttributes()
        while let word = ClientAttributes.take(&words, of: reply) {
          for place in ClientAttributes.places {
            let attribute = ClientAttributes(rawValue: 1 << UInt16(place))
            if reply.matches(attribute.word, in: word) { listed.insert(attribute) }
          }
        }
        found = listed
      }
      start = (reply.first(lineFeed, in: end..<reply.count) ?? reply.count - 1) + 1
    }
    guard let found else { return nil }
    self = found
  }

  private static func take(_ words: inout Range<Int>, of text: Span<UInt8>) -> Range<Int>? {
    var start = words.lowerBound
    while start < words.upperBound && text[start] == 0x20 { start += 1 }
    if start == words.upperBound { return nil }
    let end = text.first(0x20, in: start..<words.upperBound) ?? words.upperBound
    words = end..<words.upperBound
    return start..<end
  }
}

/// What is known of a client.
package struct ClientDetails: BitwiseCopyable, Sendable {
  package var ends: ClientEnds
  /// Whether it said EHLO.
  package var isExtended = false
  /// Whether its side is TLS, and whether it logged in: `ESMTPSA` and its like.
  package var isTLS = false
  package var isAuthenticated = false
  package var isUTF8 = false
  /// The session's id; 0 where there is none.
  package var session: UInt64 = 0

  package init(_ ends: ClientEnds) { self.ends = ends }

  /// The word of the protocol for a trace (RFC 3848, and RFC 6531, 4.3).
  package var protocolWord: StaticString {
    if !isExtended { return "SMTP" }
    switch (isUTF8, isTLS, isAuthenticated) {
    case (false, false, false): return "ESMTP"
    case (false, false, true): return "ESMTPA"
    case (false, true, false): return "ESMTPS"
    case (false, true, true): return "ESMTPSA"
    case (true, false, false): return "UTF8SMTP"
    case (true, false, true): return "UTF8SMTPA"
    case (true, true, false): return "UTF8SMTPS"
    case (true, true, true): return "UTF8SMTPSA"
    }
  }
}

/// Octets of an XCLIENT or XFORWARD line at most, line end included.
package let clientLineMax = 512

/// Appends the `number`th of the lines by which a downstream is told about a client.
///
/// - Parameters:
///   - word: `XCLIENT` or `XFORWARD`.
///   - listed: what the server takes.
///   - helo: the client's name; empty for none. One too long for a line is [UNAVAILABLE].
/// - Returns: false, with nothing appended, if there are no more lines or it does not fit.
package func writeClientLine(
  _ word: StaticString, _ number: Int, of listed: ClientAttributes, _ details: ClientDetails,
  helo: Span<UInt8>, into out: inout OutputSpan<UInt8>
) -> Bool {
  let start = out.count
  let head = word.utf8CodeUnitCount + 2
  let most = clientLineMax - head
  var line = 0
  var used = head
  for place in ClientAttributes.places {
    let attribute = ClientAttributes(rawValue: 1 << UInt16(place))
    guard listed.contains(attribute) else { continue }
    let before = out.count
    // Written to see how long it is, and taken back if it belongs to another line.
    guard
      before > start || out.appendLiteral(word),
      out.appendLiteral(" "), out.appendLiteral(attribute.word), out.appendLiteral("="),
      writeValue(attribute, details, helo, most: most, &out)
    else {
      out.removeLast(out.count - start)
      return false
    }
    let part = out.count - before - (before > start ? 0 : word.utf8CodeUnitCount)
    if used + part > clientLineMax {
      line += 1
      used = head
    }
    used += part
    if line != number { out.removeLast(out.count - before) }
    if line > number { break }
  }
  guard out.count > start, out.appendLineEnd() else {
    out.removeLast(out.count - start)
    return false
  }
  return true
}

private func writeValue(
  _ attribute: ClientAttributes, _ details: ClientDetails, _ helo: Span<UInt8>, most: Int,
  _ out: inout OutputSpan<UInt8>
) -> Bool {
  let ends = details.ends
  switch attribute {
  case .address: return writeAddress(ends.address, &out)
  // Port 0 is the probe's.
  case .port where ends.port > 0: return out.appendDecimal(UInt64(ends.port))
  case .destinationAddress:
    guard let server = ends.server else { break }
    return writeAddress(server, &out)
  case .destinationPort: return out.appendDecimal(UInt64(ends.serverPort))
  case .proto: return out.appendLiteral(details.isExtended ? "ESMTP" : "SMTP")
  case .ident where details.session != 0: return out.appendHexadecimal(details.session)
  case .source: return out.appendLiteral("REMOTE")
  case .helo where helo.count > 0:
    let room = most - 2 - attribute.word.utf8CodeUnitCount
    if writeXText(helo, most: min(room, out.freeCapacity), &out) { return true }
  // We have not looked up the client's name, and log-ins are between client and downstream.
  default: break
  }
  return out.appendLiteral("[UNAVAILABLE]")
}

private func writeAddress(_ address: Address, _ out: inout OutputSpan<UInt8>) -> Bool {
  (address.isIPv4 || out.appendLiteral("IPV6:")) && out.appendAddress(address)
}

/// Appends octets as xtext (RFC 3461, 4): what is not printable, and `+` and `=`, as `+` and two digits.
private func writeXText(_ text: Span<UInt8>, most: Int, _ out: inout OutputSpan<UInt8>) -> Bool {
  let start = out.count
  for k in 0..<text.count {
    let byte = text[k]
    let isPlain =
      (0x21...0x7E).contains(byte) && byte != UInt8(ascii: "+") && byte != UInt8(ascii: "=")
    guard out.count - start + (isPlain ? 1 : 3) <= most else {
      out.removeLast(out.count - start)
      return false
    }
    if isPlain {
      out.append(byte)
    } else {
      out.append(UInt8(ascii: "+"))
      appendDigit(byte >> 4, &out)
      appendDigit(byte & 15, &out)
    }
  }
  return true
}

/// In upper case, as RFC 3461 wants it.
private func appendDigit(_ value: UInt8, _ out: inout OutputSpan<UInt8>) {
  out.append(value < 10 ? 48 + value : 55 + value)
}
