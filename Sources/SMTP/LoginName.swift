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

/// The name in an answer of the client, decoded (RFC 4648, 4), in lower case; nothing of it stays anywhere.
///
/// - Parameters:
///   - answer: base64, as the client said it; above 512 octets nothing is read.
///   - body: is given the name; not called where there is none.
/// - Returns: what `body` gives.
package func withLoginName<Value>(
  _ mechanism: LoginMechanism, _ answer: Span<UInt8>, _ body: (Span<UInt8>) -> Value
) -> Value? {
  if mechanism == .other || answer.count > 512 { return nil }
  var text = InlineArray<384, UInt8>(repeating: 0)
  var count = 0
  var bits: UInt32 = 0
  var held = 0
  for k in 0..<answer.count {
    let octet = answer[k]
    let value: UInt8
    switch octet {
    case UInt8(ascii: "A")...UInt8(ascii: "Z"): value = octet - UInt8(ascii: "A")
    case UInt8(ascii: "a")...UInt8(ascii: "z"): value = octet - UInt8(ascii: "a") + 26
    case UInt8(ascii: "0")...UInt8(ascii: "9"): value = octet - UInt8(ascii: "0") + 52
    case UInt8(ascii: "+"): value = 62
    case UInt8(ascii: "/"): value = 63
    case UInt8(ascii: "="): continue
    default: return nil
    }
    bits = bits << 6 | UInt32(value)
    held += 6
    if held >= 8 {
      held -= 8
      text[count] = UInt8(truncatingIfNeeded: bits >> UInt32(held))
      count += 1
    }
  }
  var start = 0
  var end = count
  if mechanism == .plain {
    while start < count && text[start] != 0 { start += 1 }
    start += 1
    end = min(start, count)
    while end < count && text[end] != 0 { end += 1 }
  }
  guard start < end else { return nil }
  for k in start..<end where text[k] >= 65 && text[k] <= 90 { text[k] |= 0x20 }
  return body(text.span.extracting(start..<end))
}
