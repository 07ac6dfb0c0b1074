// SPDX-License-Identifier: Apache-2.0

// What the tests of this module have in common: making bytes, and random streams that are mean to
// line-oriented parsers. Everything random comes from a seed that the failure message names.

import Structures

@testable import SMTP

func bytes(_ text: String) -> [UInt8] { Array(text.utf8) }

/// Bytes written as text, control octets escaped, for messages.
func shown(_ bytes: [UInt8]) -> String {
  bytes.map {
    (0x20..<0x7F).contains($0) ? String(UnicodeScalar($0)) : "\\x" + String($0, radix: 16)
  }
  .joined()
}

/// What a writer put out, or nil if it refused; a refusing writer must leave nothing behind.
func written(room: Int = 4_096, _ write: (inout OutputSpan<UInt8>) -> Bool) -> String? {
  var good = false
  let out = [UInt8](capacity: room) { out in
    out.append(0x21)
    good = write(&out)
  }
  if !good { precondition(out.count == 1, "a refused line left octets behind") }
  return good ? String(decoding: out.dropFirst(), as: UTF8.self) : nil
}

extension SeededGenerator {
  mutating func number(_ range: Range<Int>) -> Int { Int.random(in: range, using: &self) }

  /// Up to six places to cut a stream of this length.
  mutating func cuts(_ length: Int) -> [Int] {
    (0..<number(0..<7)).map { _ in number(0..<length + 1) }
  }

  /// A stream of tokens, mostly those that line ends and ends of data are made of.
  mutating func stream(tokens: Int) -> [UInt8] {
    let mean = ["\r\n", "\r\n", "\r\n", ".", ".", "\r\n.", "a", "\t", "\n", "\r", "\0", "..", "é"]
    // Most streams leave the faults out, or hardly one would get far.
    let choices = number(0..<3) == 0 ? mean.count : 8
    var out: [UInt8] = []
    for _ in 0..<tokens {
      if number(0..<5) == 0 {
        out += [UInt8](repeating: 0x61, count: number(0..<70))
      } else {
        out += bytes(mean[number(0..<choices)])
      }
    }
    return out
  }
}

/// All places to cut a stream once, and one octet at a time.
func allCuts(_ length: Int) -> [[Int]] {
  (0..<max(length, 1)).map { [$0] } + [Array(0..<length)]
}
