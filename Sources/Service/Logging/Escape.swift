// SPDX-License-Identifier: Apache-2.0

/// Bytes of a client, fit for a log: nothing in them can start a line, move a cursor or pass for our words.
///
/// Not reversible for long input. Kept: the result is printable ASCII, and equal results of at most `limit`
/// bytes come from equal bytes.
///
/// - Parameters:
///   - bytes: as they came; `\r`, `\n`, `\t` and the backslash are written with a backslash, everything
///     else outside of printable ASCII as `\xNN`.
///   - limit: bytes shown; what follows becomes `...`. postscreen shows 100.
package func escape(_ bytes: some Sequence<UInt8>, limit: Int = 100) -> String {
  let digits = Array("0123456789abcdef".utf8)
  var text: [UInt8] = []
  text.reserveCapacity(limit + 3)
  var shown = 0
  for byte in bytes {
    if shown == limit {
      text += Array("...".utf8)
      break
    }
    shown += 1
    switch byte {
    case UInt8(ascii: "\r"): text += [92, UInt8(ascii: "r")]
    case UInt8(ascii: "\n"): text += [92, UInt8(ascii: "n")]
    case UInt8(ascii: "\t"): text += [92, UInt8(ascii: "t")]
    case UInt8(ascii: "\\"): text += [92, 92]
    case 0x20...0x7E: text.append(byte)
    default:
      text += [92, UInt8(ascii: "x"), digits[Int(byte >> 4)], digits[Int(byte & 15)]]
    }
  }
  return String(decoding: text, as: UTF8.self)
}

/// The same for bytes that lie in a buffer.
package func escape(_ bytes: Span<UInt8>, limit: Int = 100) -> String {
  var copy: [UInt8] = []
  for i in 0..<min(bytes.count, limit + 1) { copy.append(bytes[i]) }
  return escape(copy, limit: limit)
}
