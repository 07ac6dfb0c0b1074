// SPDX-License-Identifier: Apache-2.0
import Structures

/// Where in an exchange of AUTH the user's name is told.
package enum LoginMechanism: UInt8, Sendable, BitwiseCopyable {
  /// None whose name we read.
  case other
  /// RFC 4616: authorization identity, NUL, name, NUL, password in one answer.
  case plain
  /// Name and password in an answer each (draft-murchison-sasl-login).
  case login

  /// - Parameter word: the mechanism, behind AUTH, in any case.
  package init(_ word: Span<UInt8>) {
    if word.matches("PLAIN", in: 0..<word.count) {
      self = .plain
    } else if word.matches("LOGIN", in: 0..<word.count) {
      self = .login
    } else {
      self = .other
    }
  }
}

/// The argument of AUTH (RFC 4954, 4 and 8): a mechanism, and behind one space what it begins with, if it does.
///
/// Not what any of it means: the downstream judges that. It holds octets of the grammar alone, so that where we find a
/// name the downstream finds the same one.
package struct LoginArgument: Equatable, Sendable {
  package let mechanism: Range<Int>
  /// In base64, or `=` for an empty one; nil for none.
  package let response: Range<Int>?

  /// - Returns: nil for what is not of this form.
  package init?(_ argument: Span<UInt8>) {
    let end = argument.first(0x20, in: 0..<argument.count) ?? argument.count
    // RFC 4422, 3.1: sasl-mech = 1*20mech-char.
    guard 1...20 ~= end else { return nil }
    for k in 0..<end {
      let octet = argument[k]
      guard isAlphanumeric(octet) || octet == UInt8(ascii: "-") || octet == UInt8(ascii: "_") else {
        return nil
      }
    }
    mechanism = 0..<end
    if end == argument.count {
      response = nil
      return
    }
    let rest = end + 1..<argument.count
    let isEmptyResponse = rest.count == 1 && argument[rest.lowerBound] == UInt8(ascii: "=")
    guard isEmptyResponse || !rest.isEmpty && isBase64(argument, in: rest) else { return nil }
    response = rest
  }
}

/// Whether a line, perhaps not whole yet, begins as AUTH with an argument.
package func beginsLogin(_ line: Span<UInt8>) -> Bool {
  line.count > 5 && line.matches("AUTH ", in: 0..<5)
}

/// Whether an answer to a challenge is one (RFC 4954, 4): base64, which may be empty, or `*`, which ends the exchange.
package func isLoginAnswer(_ line: Span<UInt8>) -> Bool {
  line.count == 1 && line[0] == UInt8(ascii: "*") || isBase64(line, in: 0..<line.count)
}

/// Octets of base64's alphabet (RFC 4648, 4) and behind them padding, of which nothing is asked but that it is not too
/// much: how many octets there must be is the decoder's to say.
private func isBase64(_ bytes: Span<UInt8>, in range: Range<Int>) -> Bool {
  var padding = 0
  for k in range {
    if bytes[k] == UInt8(ascii: "=") {
      padding += 1
    } else if padding > 0 || base64Value(bytes[k]) == nil {
      return false
    }
  }
  return padding == 0 || padding <= 2 && padding < range.count
}

private func base64Value(_ octet: UInt8) -> UInt8? {
  switch octet {
  case UInt8(ascii: "A")...UInt8(ascii: "Z"): octet - UInt8(ascii: "A")
  case UInt8(ascii: "a")...UInt8(ascii: "z"): octet - UInt8(ascii: "a") + 26
  case UInt8(ascii: "0")...UInt8(ascii: "9"): octet - UInt8(ascii: "0") + 52
  case UInt8(ascii: "+"): 62
  case UInt8(ascii: "/"): 63
  default: nil
  }
}

/// The name in an answer of the client, decoded (RFC 4648, 4), in lower case; nothing of it stays anywhere.
///
/// - Parameters:
///   - answer: base64, as the client said it.
///   - body: is given the name, or the first 255 octets of a longer one (RFC 4616, 2, has no longer ones); not
///     called where there is none.
/// - Returns: what `body` gives.
package func withLoginName<Value>(
  _ mechanism: LoginMechanism, _ answer: Span<UInt8>, _ body: (Span<UInt8>) -> Value
) -> Value? {
  if mechanism == .other { return nil }
  var name = InlineArray<255, UInt8>(repeating: 0)
  var count = 0
  var bits: UInt32 = 0
  var held = 0
  // Of PLAIN the name is the second field. However long the first is, it is found.
  var isName = mechanism == .login
  for k in 0..<answer.count {
    guard let value = base64Value(answer[k]) else {
      if answer[k] == UInt8(ascii: "=") { break }
      return nil
    }
    bits = bits << 6 | UInt32(value)
    held += 6
    if held < 8 { continue }
    held -= 8
    var octet = UInt8(truncatingIfNeeded: bits >> UInt32(held))
    if mechanism == .plain && octet == 0 {
      if isName { break }
      isName = true
    } else if isName && count < name.count {
      if octet >= 65 && octet <= 90 { octet |= 0x20 }
      name[count] = octet
      count += 1
    }
  }
  return count == 0 ? nil : body(name.span.extracting(0..<count))
}
