// SPDX-License-Identifier: Apache-2.0
import SMTP
import Structures

/// The commands that are with a downstream, in the order in which its replies will come (RFC 2920, 3.1): 4 bits
/// each, 15 at most.
struct OutstandingCommands: BitwiseCopyable, Sendable {
  private var bits: UInt64 = 0
  private(set) var count: UInt8 = 0
  static let most: UInt8 = 15

  /// Those that may be one of several. What stands alone is the session's current command.
  private static func code(_ verb: Verb) -> UInt64 {
    switch verb {
    case .mail: 1
    case .rcpt: 2
    case .data: 3
    default: 0
    }
  }

  private func verb(at place: UInt8) -> Verb? {
    switch bits >> (4 * UInt64(place)) & 15 {
    case 1: .mail
    case 2: .rcpt
    case 3: .data
    default: nil
    }
  }

  var isEmpty: Bool { count == 0 }

  mutating func append(_ verb: Verb) {
    invariant(count < Self.most, "more than \(Self.most) commands with a downstream")
    bits |= Self.code(verb) << (4 * UInt64(count))
    count += 1
  }

  /// Takes the oldest; nil where it is the current command.
  mutating func removeFirst() -> Verb? {
    let first = verb(at: 0)
    bits >>= 4
    count -= 1
    return first
  }

  /// The oldest; nil where it is the current command.
  var first: Verb? { verb(at: 0) }

  /// The newest, if it is one that others may follow.
  var last: Verb? { count == 0 ? nil : verb(at: count - 1) }

  func contains(_ wanted: Verb) -> Bool { number(of: wanted) > 0 }

  func number(of wanted: Verb) -> UInt32 {
    var found: UInt32 = 0
    for place in 0..<count where verb(at: place) == wanted { found += 1 }
    return found
  }
}
