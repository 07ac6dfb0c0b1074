// SPDX-License-Identifier: Apache-2.0

/// Reads a PROXY protocol header (version 1 or 2) into the text `address:port`. Naive on purpose: it is what the shield's
/// writer is tried with, so it shares nothing with it.
enum ProxyText {
  enum Reading: Equatable {
    case more
    /// These octets begin no header.
    case none
    case bad
    case header(octets: Int, peer: String)
  }

  private static let signature: [UInt8] = [13, 10, 13, 10, 0, 13, 10, 81, 85, 73, 84, 10]

  static func read(_ bytes: [UInt8]) -> Reading {
    let word = Array("PROXY ".utf8)
    if signature.starts(with: bytes.prefix(12)) {
      return bytes.count < 16 ? .more : binary(bytes)
    }
    guard word.starts(with: bytes.prefix(6)) else { return .none }
    guard let end = bytes.firstIndex(of: 10) else { return bytes.count > 107 ? .bad : .more }
    let words = String(decoding: bytes[..<end], as: UTF8.self).split { $0 == " " || $0 == "\r" }
    let peer =
      words.count == 6 ? "\(words[2]):\(words[4])" : words.dropFirst().joined(separator: " ")
    return .header(octets: end + 1, peer: peer)
  }

  private static func binary(_ bytes: [UInt8]) -> Reading {
    func number(_ at: Int) -> Int { Int(bytes[at]) << 8 | Int(bytes[at + 1]) }
    let length = number(14)
    if bytes.count < 16 + length { return .more }
    var peer = "UNKNOWN"
    if bytes[12] == 0x20 {
      peer = "LOCAL"
    } else if bytes[13] == 0x11 && length >= 12 {
      peer = bytes[16..<20].map { String($0) }.joined(separator: ".") + ":\(number(24))"
    } else if bytes[13] == 0x21 && length >= 36 {
      let groups = stride(from: 16, to: 32, by: 2).map { String(number($0), radix: 16) }
      peer = "[\(groups.joined(separator: ":"))]:\(number(48))"
    }
    return .header(octets: 16 + length, peer: peer)
  }
}
