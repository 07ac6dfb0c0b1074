// SPDX-License-Identifier: Apache-2.0

/// Reads the server's replies octet by octet. It keeps no text: only the code, and three keywords of EHLO's reply.
struct ReplyReader: Sendable, BitwiseCopyable {
  /// What a reply to EHLO offers.
  struct Offers: OptionSet, Sendable, BitwiseCopyable {
    let rawValue: UInt8
    static let auth = Offers(rawValue: 1)
    static let pipelining = Offers(rawValue: 2)
    static let startTLS = Offers(rawValue: 4)
    /// No offer: the reply goes on behind the line being read. Kept here to save an octet.
    fileprivate static let goesOn = Offers(rawValue: 8)
  }

  private var keyword: UInt32 = 0
  /// The code of the last complete reply, or of the one being read.
  private(set) var code: UInt16 = 0
  /// How far the line is read. Beyond code and keyword it does not move.
  private var column: UInt8 = 0
  private(set) var offers = Offers()

  private static let columns: UInt8 = 8

  /// Whether nothing of a line is read yet.
  var isBetweenLines: Bool { column == 0 }

  /// Whether an octet makes no difference: behind the code and the keyword only the end of the line does.
  @inline(__always)
  func ignores(_ byte: UInt8) -> Bool { column >= Self.columns && byte != UInt8(ascii: "\n") }

  /// - Parameter isHello: whether the reply is one to EHLO or HELO, and may offer something.
  /// - Returns: whether a reply is complete with this octet.
  @inline(__always)
  mutating func take(_ byte: UInt8, isHello: Bool) -> Bool {
    if byte == UInt8(ascii: "\n") {
      if isHello { noteKeyword() }
      column = 0
      keyword = 0
      return offers.remove(.goesOn) == nil
    }
    if column < 3 {
      code = (column == 0 ? 0 : code &* 10) &+ UInt16(byte &- 48)
    } else if column == 3 {
      if byte == UInt8(ascii: "-") { offers.insert(.goesOn) } else { offers.remove(.goesOn) }
    } else if column < Self.columns {
      keyword = keyword << 8 | UInt32(byte)
    }
    if column < Self.columns { column += 1 }
    return false
  }

  private mutating func noteKeyword() {
    switch keyword {
    case 0x4155_5448: offers.insert(.auth)
    case 0x5049_5045: offers.insert(.pipelining)
    case 0x5354_4152: offers.insert(.startTLS)
    default: break
    }
  }

  /// Forgets what was offered in clear text, and what is left of a line.
  mutating func startOver() {
    offers = []
    column = 0
    keyword = 0
  }
}
