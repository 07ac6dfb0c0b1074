// SPDX-License-Identifier: Apache-2.0

/// How far a line has come to be one of the commands that have a reply of their own in the tarpit, by its
/// first four letters, which tell all of them apart. 6 bits: nothing is kept of a line but this.
struct PitWord: BitwiseCopyable, Equatable, Sendable {
  /// 0: nothing yet. 1 + 4 · command + letters - 1: so many letters of a command. 63: none of them.
  private(set) var code: UInt8

  static let none = PitWord(code: 0)
  private static let other: UInt8 = 63

  init(code: UInt8) { self.code = code }

  /// The commands, each by four letters. Two that begin alike stand one behind the other.
  private static func letters(_ command: UInt8) -> UInt32 {
    switch command {
    case 0: 0x48_45_4C_4F  // HELO
    case 1: 0x45_48_4C_4F  // EHLO
    case 2: 0x4D_41_49_4C  // MAIL
    case 3: 0x52_43_50_54  // RCPT
    case 4: 0x52_53_45_54  // RSET
    case 5: 0x44_41_54_41  // DATA
    case 6: 0x51_55_49_54  // QUIT
    case 7: 0x4E_4F_4F_50  // NOOP
    default: 0x53_54_41_52  // STAR
    }
  }
  private static let commands: UInt8 = 9

  private static func letter(_ command: UInt8, _ place: UInt8) -> UInt8 {
    UInt8(truncatingIfNeeded: letters(command) >> UInt32(24 - 8 * place))
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
    while command < Self.commands && Self.letter(command, count) != letter {
      let next = command + 1
      if code > 0
        && (next == Self.commands || count > 1
          || Self.letter(next, 0) != Self.letter(command, 0))
      {
        code = Self.other
        return
      }
      command = next
    }
    code = command == Self.commands ? Self.other : 1 + 4 * command + count
  }

  /// The four letters of the command it turned out to be, or nil.
  var command: UInt32? {
    code > 0 && code != Self.other && (code - 1) % 4 == 3 ? Self.letters((code - 1) / 4) : nil
  }
}
