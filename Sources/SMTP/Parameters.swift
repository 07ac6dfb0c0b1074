// SPDX-License-Identifier: Apache-2.0

import Structures

/// Which ESMTP parameters there are, of those we know.
package struct ParameterSet: OptionSet, Sendable, BitwiseCopyable {
  package let rawValue: UInt16
  package init(rawValue: UInt16) { self.rawValue = rawValue }

  /// RFC 1870.
  package static let size = ParameterSet(rawValue: 1 << 0)
  /// RFC 6152 and RFC 3030.
  package static let body = ParameterSet(rawValue: 1 << 1)
  /// RFC 6531.
  package static let smtputf8 = ParameterSet(rawValue: 1 << 2)
  /// RFC 3461: RET, ENVID (MAIL), NOTIFY, ORCPT (RCPT).
  package static let ret = ParameterSet(rawValue: 1 << 3)
  package static let envid = ParameterSet(rawValue: 1 << 4)
  package static let notify = ParameterSet(rawValue: 1 << 5)
  package static let orcpt = ParameterSet(rawValue: 1 << 6)
  /// RFC 4954.
  package static let auth = ParameterSet(rawValue: 1 << 7)
  /// RFC 8689.
  package static let requiretls = ParameterSet(rawValue: 1 << 8)
  /// RFC 2852.
  package static let by = ParameterSet(rawValue: 1 << 9)
  /// RFC 4865.
  package static let holdfor = ParameterSet(rawValue: 1 << 10)
  package static let holduntil = ParameterSet(rawValue: 1 << 11)
  /// RFC 6710.
  package static let mtPriority = ParameterSet(rawValue: 1 << 12)

  static let ofMail: ParameterSet = [
    .size, .body, .smtputf8, .ret, .envid, .auth, .requiretls, .by, .holdfor, .holduntil,
    .mtPriority,
  ]
  static let ofRcpt: ParameterSet = [.notify, .orcpt]
  static let ofDSN: ParameterSet = [.ret, .envid, .notify, .orcpt]
  /// Those whose value is xtext (RFC 3461, 4), free in what it says.
  static let ofXText: ParameterSet = [.envid, .orcpt, .auth]
  /// SIZE is held against our own limit, and AUTH= is taken off: neither needs the downstream's leave.
  package static let oursToCheck: ParameterSet = [.size, .auth]

  /// Nil for a keyword that nobody taught us.
  init?(_ keyword: Keyword) {
    switch keyword {
    case "SIZE": self = .size
    case "BODY": self = .body
    case "SMTPUTF8": self = .smtputf8
    case "RET": self = .ret
    case "ENVID": self = .envid
    case "NOTIFY": self = .notify
    case "ORCPT": self = .orcpt
    case "AUTH": self = .auth
    case "REQUIRETLS": self = .requiretls
    case "BY": self = .by
    case "HOLDFOR": self = .holdfor
    case "HOLDUNTIL": self = .holduntil
    case "MT-PRIORITY": self = .mtPriority
    default: return nil
    }
  }
}

/// What BODY= says (RFC 6152, 3; RFC 3030, 3).
package enum BodyKind: UInt8, Sendable, BitwiseCopyable {
  case unspecified, sevenBit, eightBitMIME, binaryMIME
}

/// Why the argument of MAIL or RCPT was not taken.
package enum ArgumentFault: UInt8, Sendable, BitwiseCopyable, CaseIterable {
  /// No `<...>`, or something other than a space behind it.
  case syntax
  case badSender
  case badRecipient
  case badParameter
  case duplicateParameter
  case tooManyParameters
  case unknownParameter
  /// SIZE= names more octets than a 64-bit number can say.
  case size
  case needsSMTPUTF8

  /// The reply this fault deserves.
  package var reply: OwnReply {
    switch self {
    case .syntax: .badPathSyntax
    case .badSender: .badSenderAddress
    case .badRecipient: .badRecipientAddress
    case .badParameter, .duplicateParameter, .tooManyParameters: .badParameter
    case .unknownParameter: .unknownParameter
    case .size: .messageTooLarge
    case .needsSMTPUTF8: .needsSMTPUTF8
    }
  }
}

/// The ESMTP parameters of one MAIL or RCPT: what was said, and where in the argument it stands.
///
/// Not a dictionary: ten slots of eight octets, in the order given. Invariant: every slot's ranges
/// lie in the argument they were read from, each known keyword appears at most once, and no keyword
/// or value holds a control octet.
package struct Parameters: Sendable, BitwiseCopyable {
  /// More than MAIL has ever been given at once (SIZE, BODY, SMTPUTF8, RET, ENVID, AUTH, REQUIRETLS).
  package static let slotsMax = 10

  private struct Slot: BitwiseCopyable {
    var keyword: UInt16 = 0
    var keywordEnd: UInt16 = 0
    var valueEnd: UInt16 = 0
    var kind: UInt16 = 0
  }

  private var slots = InlineArray<10, Slot>(repeating: Slot())
  package private(set) var count = 0
  package private(set) var present = ParameterSet()
  package private(set) var body: BodyKind = .unspecified
  /// The value of SIZE=; 0 if absent or unknown to the client (RFC 1870, 5).
  package private(set) var size: UInt64 = 0
  private(set) var hasEightBit = false
  /// How the first of them that does so departs from its RFC, while it is clear what was meant.
  private(set) var lapse: ArgumentFault?

  init() {}

  package func kind(_ slot: Int) -> ParameterSet {
    ParameterSet(rawValue: checked(slot).kind)
  }

  package func keyword(_ slot: Int) -> Range<Int> {
    Int(checked(slot).keyword)..<Int(checked(slot).keywordEnd)
  }

  /// Empty for a parameter without a value.
  package func value(_ slot: Int) -> Range<Int> {
    let slot = checked(slot)
    // One octet of "=" lies between the two; without a value both ends are the same.
    return min(Int(slot.keywordEnd) + 1, Int(slot.valueEnd))..<Int(slot.valueEnd)
  }

  private func checked(_ slot: Int) -> Slot {
    invariant(slot >= 0 && slot < count, "parameter slot \(slot) of \(count)")
    return slots[slot]
  }

  /// Reads all of `range`, which begins behind the path.
  mutating func read(_ bytes: Span<UInt8>, _ range: Range<Int>, of known: ParameterSet)
    -> ArgumentFault?
  {
    // Slots count in 16 bits; no line of ours is a quarter as long.
    guard range.upperBound <= Int(UInt16.max) else { return .syntax }
    var i = range.lowerBound
    while i < range.upperBound {
      let start = bytes.skippingBlanks(in: i..<range.upperBound)
      guard start > i else { return .syntax }
      if start == range.upperBound { break }
      let end = bytes.firstBlank(in: start..<range.upperBound)
      if let fault = take(bytes, start..<end, of: known) { return fault }
      i = end
    }
    return nil
  }

  /// One `keyword` or `keyword=value` (RFC 5321, 4.1.2 esmtp-param).
  private mutating func take(_ bytes: Span<UInt8>, _ word: Range<Int>, of known: ParameterSet)
    -> ArgumentFault?
  {
    let keywordEnd = bytes.first(UInt8(ascii: "="), in: word) ?? word.upperBound
    let name = word.lowerBound..<keywordEnd
    guard isKeyword(bytes, name) else { return .syntax }
    var value = min(keywordEnd + 1, word.upperBound)..<word.upperBound
    let hasValue = keywordEnd < word.upperBound
    if hasValue {
      guard !value.isEmpty else { return .badParameter }
      for i in value {
        guard bytes[i] > 0x20, bytes[i] != 0x7F else { return .badParameter }
        if bytes[i] >= 0x80 { hasEightBit = true }
      }
    }
    guard let keyword = Keyword(bytes, in: name), let kind = ParameterSet(keyword),
      known.contains(kind)
    else { return .unknownParameter }
    if bytes.first(UInt8(ascii: "="), in: value) != nil {
      // xtext should have it as +3D (RFC 3461, 4); that makes two readings of nothing.
      guard ParameterSet.ofXText.contains(kind) else { return .badParameter }
      lapse = lapse ?? .badParameter
    }
    if kind == .notify {
      while value.count > 1, bytes[value.upperBound - 1] == UInt8(ascii: ",") {
        value = value.lowerBound..<value.upperBound - 1
        lapse = lapse ?? .badParameter
      }
    }
    if present.contains(kind) {
      // The same again asks for nothing else.
      guard repeats(kind, bytes, value) else { return .duplicateParameter }
      lapse = lapse ?? .duplicateParameter
      return nil
    }
    guard count < Parameters.slotsMax else { return .tooManyParameters }
    if let fault = judge(kind, bytes, value, hasValue) { return fault }
    present.insert(kind)
    slots[count] = Slot(
      keyword: UInt16(name.lowerBound), keywordEnd: UInt16(keywordEnd),
      valueEnd: UInt16(value.upperBound), kind: kind.rawValue)
    count += 1
    return nil
  }

  /// Whether a parameter whose case is nothing is there with this value.
  private func repeats(_ kind: ParameterSet, _ bytes: Span<UInt8>, _ value: Range<Int>) -> Bool {
    if ParameterSet.ofXText.contains(kind) { return false }
    for slot in 0..<count where self.kind(slot) == kind {
      return equalsIgnoringCase(bytes.extracting(self.value(slot)), bytes.extracting(value))
    }
    return false
  }

  private func isKeyword(_ bytes: Span<UInt8>, _ name: Range<Int>) -> Bool {
    guard !name.isEmpty, isAlphanumeric(bytes[name.lowerBound]) else { return false }
    for i in name {
      guard isAlphanumeric(bytes[i]) || bytes[i] == UInt8(ascii: "-") else { return false }
    }
    return true
  }

  /// Whether the value is one that this parameter can have. xtext is not decoded: we pass it on.
  private mutating func judge(
    _ kind: ParameterSet, _ bytes: Span<UInt8>, _ value: Range<Int>, _ hasValue: Bool
  ) -> ArgumentFault? {
    switch kind {
    case .smtputf8, .requiretls:
      return hasValue ? .badParameter : nil
    case .size:
      guard let octets = bytes.decimal(in: value) else { return .badParameter }
      if octets == .max { return .size }
      size = octets
    case .body:
      if bytes.matches("7BIT", in: value) {
        body = .sevenBit
      } else if bytes.matches("8BITMIME", in: value) {
        body = .eightBitMIME
      } else if bytes.matches("BINARYMIME", in: value) {
        body = .binaryMIME
      } else {
        return .badParameter
      }
    case .ret:
      let good = bytes.matches("FULL", in: value) || bytes.matches("HDRS", in: value)
      return good ? nil : .badParameter
    case .notify:
      return isNotify(bytes, value) ? nil : .badParameter
    default:
      return hasValue ? nil : .badParameter
    }
    return nil
  }

  /// NEVER alone, or any of SUCCESS, FAILURE and DELAY (RFC 3461, 4.1).
  private func isNotify(_ bytes: Span<UInt8>, _ value: Range<Int>) -> Bool {
    if bytes.matches("NEVER", in: value) { return true }
    var start = value.lowerBound
    while true {
      let end = bytes.first(UInt8(ascii: ","), in: start..<value.upperBound) ?? value.upperBound
      let word = start..<end
      guard
        bytes.matches("SUCCESS", in: word) || bytes.matches("FAILURE", in: word)
          || bytes.matches("DELAY", in: word)
      else { return false }
      if end == value.upperBound { return true }
      start = end + 1
    }
  }
}
