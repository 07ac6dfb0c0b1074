// SPDX-License-Identifier: Apache-2.0
import SMTP

/// How far a line has come to be one of the commands that have a reply of their own in the tarpit, by its
/// first four letters, which tell all of them apart. 6 bits: nothing is kept of a line but this.
struct PitWord: BitwiseCopyable, Equatable, Sendable {
  /// 0: nothing yet. 1 + 4 · command + letters - 1: so many letters of a command. 63: none of them.
  private(set) var code: UInt8

  static let none = PitWord(code: 0)
  private static let other: UInt8 = 63

  init(code: UInt8) { self.code = code }

  /// The commands. Two that begin alike stand one behind the other.
  static let commands: InlineArray<9, Verb> = [
    .helo, .ehlo, .mail, .rcpt, .rset, .data, .quit, .noop, .starttls,
  ]

  private static func letter(_ command: UInt8, _ place: UInt8) -> UInt8 {
    let letters = commands[Int(command)].fourLetters ?? 0
    return UInt8(truncatingIfNeeded: letters >> UInt32(24 - 8 * place))
  }

  /// Takes the next letter, in upper case. Those after the fourth make no difference.
  mutating func take(_ letter: UInt8) {
    if code == Self.other { return }
    var command: UInt8 = 0
    var count: UInt8 = 0
    if code > 0 {
      command = (code - 1) / 4
      count = (code - 1) % 4 + 1
      if count == 4 { return }
    }
    // A command with the same letters so far may be meant, and stands behind.
    while command < Self.commands.count && Self.letter(command, count) != letter {
      let next = command + 1
      if code > 0
        && (next == Self.commands.count || count > 1
          || Self.letter(next, 0) != Self.letter(command, 0))
      {
        code = Self.other
        return
      }
      command = next
    }
    code = command == Self.commands.count ? Self.other : 1 + 4 * command + count
  }

  /// The command it turned out to be, or nil.
  var command: Verb? {
    code > 0 && code != Self.other && (code - 1) % 4 == 3
      ? Self.commands[Int(code - 1) / 4] : nil
  }
}
