// SPDX-License-Identifier: Apache-2.0
import Structures

/// The secret under which HELO domains and user names are remembered (`SourceNames`), and the file that holds it.
///
/// Not a password: anyone who knows it can tell whether a name is among those that are remembered. Kept: the same file
/// gives the same key, after a restart and on another machine.
package struct NameKey: Sendable, Equatable {
  package let high: UInt64
  package let low: UInt64

  static let hint = "make one with: openssl rand -hex 16"

  /// - Parameter content: 32 hexadecimal digits, and white space around them.
  init(_ content: [UInt8]) throws(BadValue) {
    let space: Set<UInt8> = [9, 10, 13, 32]
    var digits = content[...]
    while let last = digits.last, space.contains(last) { digits.removeLast() }
    while let first = digits.first, space.contains(first) { digits.removeFirst() }
    guard digits.count == 32 else {
      throw BadValue(
        reason: "a key has 32 hexadecimal digits, but this file has \(digits.count) characters",
        hint: NameKey.hint)
    }
    let text = String(decoding: digits, as: UTF8.self)
    guard let high = UInt64(text.prefix(16), radix: 16),
      let low = UInt64(text.suffix(16), radix: 16)
    else {
      throw BadValue(
        reason: "a key has only hexadecimal digits, but this file has other characters",
        hint: NameKey.hint)
    }
    guard high != 0 || low != 0 else {
      throw BadValue(reason: "a key of zeros is not secret", hint: NameKey.hint)
    }
    self.high = high
    self.low = low
  }
}
