// SPDX-License-Identifier: Apache-2.0

/// The ESMTP parameters of MAIL and RCPT that have a name here.
package struct ParameterSet: OptionSet, BitwiseCopyable, Hashable, Sendable {
  package let rawValue: UInt32
  package init(rawValue: UInt32) { self.rawValue = rawValue }
  package static let size = ParameterSet(rawValue: 1 << 0)
  package static let body = ParameterSet(rawValue: 1 << 1)
  package static let smtputf8 = ParameterSet(rawValue: 1 << 2)
  package static let ret = ParameterSet(rawValue: 1 << 3)
  package static let envid = ParameterSet(rawValue: 1 << 4)
  package static let auth = ParameterSet(rawValue: 1 << 5)
  package static let notify = ParameterSet(rawValue: 1 << 6)
  package static let orcpt = ParameterSet(rawValue: 1 << 7)
  package static let requireTLS = ParameterSet(rawValue: 1 << 8)
  package static let by = ParameterSet(rawValue: 1 << 9)
  package static let holdFor = ParameterSet(rawValue: 1 << 10)
  package static let holdUntil = ParameterSet(rawValue: 1 << 11)
  package static let mtPriority = ParameterSet(rawValue: 1 << 12)

  /// What goes on to the downstream. AUTH= is a claim about the sender that only a trusted peer may
  /// make (RFC 4954, 5), so it is taken off.
  package static let carried: ParameterSet = [
    .size, .body, .smtputf8, .ret, .envid, .notify, .orcpt,
  ]
  static let ofMail: ParameterSet = [
    .size, .body, .smtputf8, .ret, .envid, .auth, .requireTLS, .by, .holdFor, .holdUntil,
    .mtPriority,
  ]
  static let ofRcpt: ParameterSet = [.notify, .orcpt]
}

/// What is wrong with the argument of MAIL or RCPT.
package enum ArgumentFault: Error, Equatable, Sendable {
  case mailSyntax, rcptSyntax, senderAddress, recipientAddress, parameterSyntax, unknownParameter
  case duplicateParameter, tooManyParameters, needsSMTPUTF8, sizeTooLarge

  package var reply: OwnReply {
    switch self {
    case .mailSyntax: .mailSyntax
    case .rcptSyntax: .rcptSyntax
    case .senderAddress: .badSenderAddress
    case .recipientAddress: .badRecipientAddress
    case .parameterSyntax, .duplicateParameter, .tooManyParameters: .badParameter
    case .unknownParameter: .unknownParameter
    case .needsSMTPUTF8: .needsSMTPUTF8
    case .sizeTooLarge: .messageTooLarge
    }
  }
}

/// A path and its parameters (RFC 5321, 4.1.2), by their places in the argument.
package struct PathArguments: Sendable {
  /// The path with its angle brackets.
  package fileprivate(set) var path: Range<Int> = 0..<0
  package fileprivate(set) var parameters = ParameterSet()
  /// The value of SIZE; 0 where there is none.
  package fileprivate(set) var size: UInt64 = 0
  /// Where each parameter stands, value included.
  fileprivate var places = InlineArray<10, Place>(repeating: Place())
  fileprivate var count = 0
  fileprivate var hasHighOctets = false

  fileprivate struct Place: BitwiseCopyable {
    var start: UInt16 = 0
    var end: UInt16 = 0
    var kind = ParameterSet()
  }

  /// Octets of a path with its brackets at most. RFC 5321 (4.5.3.1.3) asks for 256; UTF-8 and variable
  /// envelope return paths need more.
  package static let pathMax = 1_024

  /// - Parameters:
  ///   - keyword: `FROM:` or `TO:`.
  ///   - allowed: which parameters belong to the command.
  ///   - utf8: whether 8-bit paths are allowed whatever the parameters say (for RCPT).
  fileprivate init(
    _ bytes: Span<UInt8>, keyword: StaticString, allowed: ParameterSet, utf8: Bool,
    syntax: ArgumentFault, address: ArgumentFault
  ) throws(ArgumentFault) {
    let head = keyword.utf8CodeUnitCount
    guard bytes.count > head,
      Capabilities.matches(bytes.extracting(0..<head), keyword)
    else { throw syntax }
    var k = head
    // A space after the colon is wrong, and common in honest software.
    if k < bytes.count && bytes[k] == 32 { k += 1 }
    guard k < bytes.count, bytes[k] == UInt8(ascii: "<") else { throw syntax }
    let end = try Self.endOfPath(bytes, from: k, fault: address)
    path = k..<end
    for p in k..<end where bytes[p] > 127 { hasHighOctets = true }
    k = end
    while k < bytes.count {
      guard bytes[k] == 32 else { throw syntax }
      while k < bytes.count && bytes[k] == 32 { k += 1 }
      if k == bytes.count { break }
      try readParameter(bytes, from: &k, allowed: allowed)
    }
    if hasHighOctets {
      guard utf8 || parameters.contains(.smtputf8) else { throw .needsSMTPUTF8 }
      guard Self.isUTF8(bytes.extracting(path)) else { throw address }
    }
  }

  /// The place behind the path's closing bracket. A bracket within quotes or behind a backslash is text.
  private static func endOfPath(
    _ bytes: Span<UInt8>, from start: Int, fault: ArgumentFault
  ) throws(ArgumentFault) -> Int {
    var k = start + 1
    var quoted = false
    while k < bytes.count {
      if k - start >= pathMax { throw fault }
      let byte = bytes[k]
      if byte < 32 || byte == 127 { throw fault }
      if byte == UInt8(ascii: "\\") {
        guard k + 1 < bytes.count, bytes[k + 1] >= 32, bytes[k + 1] < 127 else { throw fault }
        k += 2
        continue
      }
      if byte == UInt8(ascii: "\"") {
        quoted.toggle()
      } else if !quoted {
        if byte == UInt8(ascii: ">") { return k + 1 }
        if byte == UInt8(ascii: "<") || byte == 32 { throw fault }
      }
      k += 1
    }
    throw fault
  }

  private mutating func readParameter(
    _ bytes: Span<UInt8>, from k: inout Int, allowed: ParameterSet
  ) throws(ArgumentFault) {
    let start = k
    while k < bytes.count && bytes[k] != 32 && bytes[k] != UInt8(ascii: "=") {
      let byte = bytes[k]
      let fine =
        Command.isLetter(byte) || (byte >= 48 && byte <= 57)
        || (byte == UInt8(ascii: "-") && k > start)
      if !fine { throw .parameterSyntax }
      k += 1
    }
    let name = bytes.extracting(start..<k)
    if name.count == 0 { throw .parameterSyntax }
    var value = k..<k
    if k < bytes.count && bytes[k] == UInt8(ascii: "=") {
      let first = k + 1
      k = first
      while k < bytes.count && bytes[k] != 32 {
        // esmtp-value: anything printable but "=" (RFC 5321, 4.1.2); UTF-8 by RFC 6531, 3.3.
        if bytes[k] < 33 || bytes[k] == UInt8(ascii: "=") || bytes[k] == 127 {
          throw .parameterSyntax
        }
        if bytes[k] > 127 { hasHighOctets = true }
        k += 1
      }
      value = first..<k
      if value.isEmpty { throw .parameterSyntax }
    }
    guard let kind = Self.kind(of: name), allowed.contains(kind) else { throw .unknownParameter }
    if parameters.contains(kind) { throw .duplicateParameter }
    if count == 10 { throw .tooManyParameters }
    let text = bytes.extracting(value)
    switch kind {
    case .size:
      guard text.count <= 20 else { throw .sizeTooLarge }
      guard let number = Capabilities.number(text) else {
        var digits = text.count > 0
        for p in 0..<text.count where text[p] < 48 || text[p] > 57 { digits = false }
        throw digits ? .sizeTooLarge : .parameterSyntax
      }
      size = number
    case .body:
      guard Capabilities.matches(text, "7BIT") || Capabilities.matches(text, "8BITMIME") else {
        throw .unknownParameter
      }
    case .smtputf8: if !value.isEmpty { throw .parameterSyntax }
    case .ret:
      guard Capabilities.matches(text, "FULL") || Capabilities.matches(text, "HDRS") else {
        throw .parameterSyntax
      }
    case .envid, .notify, .orcpt, .auth: if value.isEmpty { throw .parameterSyntax }
    default: break
    }
    parameters.insert(kind)
    places[count] = Place(start: UInt16(start), end: UInt16(k), kind: kind)
    count += 1
  }

  private static func kind(of name: Span<UInt8>) -> ParameterSet? {
    if Capabilities.matches(name, "SIZE") { return .size }
    if Capabilities.matches(name, "BODY") { return .body }
    if Capabilities.matches(name, "SMTPUTF8") { return .smtputf8 }
    if Capabilities.matches(name, "RET") { return .ret }
    if Capabilities.matches(name, "ENVID") { return .envid }
    if Capabilities.matches(name, "AUTH") { return .auth }
    if Capabilities.matches(name, "NOTIFY") { return .notify }
    if Capabilities.matches(name, "ORCPT") { return .orcpt }
    if Capabilities.matches(name, "REQUIRETLS") { return .requireTLS }
    if Capabilities.matches(name, "BY") { return .by }
    if Capabilities.matches(name, "HOLDFOR") { return .holdFor }
    if Capabilities.matches(name, "HOLDUNTIL") { return .holdUntil }
    if Capabilities.matches(name, "MT-PRIORITY") { return .mtPriority }
    return nil
  }

  /// Whether octets are well-formed UTF-8 (RFC 3629): no overlong form, no surrogate, nothing cut off.
  private static func isUTF8(_ bytes: Span<UInt8>) -> Bool {
    var k = 0
    while k < bytes.count {
      let lead = bytes[k]
      if lead < 0x80 {
        k += 1
        continue
      }
      let more =
        lead >= 0xC2 && lead <= 0xDF ? 1 : lead & 0xF0 == 0xE0 ? 2 : lead >= 0xF0 && lead <= 0xF4 ? 3 : 0
      guard more > 0, k + more < bytes.count else { return false }
      for p in 1...more where bytes[k + p] & 0xC0 != 0x80 { return false }
      let second = bytes[k + 1]
      if lead == 0xE0 && second < 0xA0 || lead == 0xED && second > 0x9F { return false }
      if lead == 0xF0 && second < 0x90 || lead == 0xF4 && second > 0x8F { return false }
      k += more + 1
    }
    return true
  }

  /// Appends the command with its path as it came and the parameters that are allowed through. Appends
  /// nothing if it does not fit.
  fileprivate func write(
    _ command: StaticString, _ bytes: Span<UInt8>, allowing allowed: ParameterSet,
    into out: inout OutputSpan<UInt8>
  ) {
    var needed = command.utf8CodeUnitCount + path.count + 2
    for k in 0..<count where allowed.contains(places[k].kind) {
      needed += 1 + Int(places[k].end - places[k].start)
    }
    guard needed <= out.freeCapacity else { return }
    append(command, to: &out)
    append(bytes.extracting(path), to: &out)
    for k in 0..<count where allowed.contains(places[k].kind) {
      out.append(32)
      append(bytes.extracting(Int(places[k].start)..<Int(places[k].end)), to: &out)
    }
    append("\r\n", to: &out)
  }
}

/// The argument of MAIL: reverse path and parameters.
package struct MailArguments: Sendable {
  private let arguments: PathArguments

  package init(_ bytes: Span<UInt8>) throws(ArgumentFault) {
    arguments = try PathArguments(
      bytes, keyword: "FROM:", allowed: .ofMail, utf8: false, syntax: .mailSyntax,
      address: .senderAddress)
  }

  package var path: Range<Int> { arguments.path }
  package var parameters: ParameterSet { arguments.parameters }
  package var size: UInt64 { arguments.size }

  /// Appends the command for the downstream.
  package func write(
    _ bytes: Span<UInt8>, allowing allowed: ParameterSet, into out: inout OutputSpan<UInt8>
  ) {
    arguments.write("MAIL FROM:", bytes, allowing: allowed, into: &out)
  }
}

/// The argument of RCPT: forward path and parameters.
package struct RcptArguments: Sendable {
  private let arguments: PathArguments

  /// - Parameter utf8: whether MAIL had SMTPUTF8.
  package init(_ bytes: Span<UInt8>, utf8: Bool) throws(ArgumentFault) {
    arguments = try PathArguments(
      bytes, keyword: "TO:", allowed: .ofRcpt, utf8: utf8, syntax: .rcptSyntax,
      address: .recipientAddress)
    // A null forward path is no recipient.
    if arguments.path.count == 2 { throw .recipientAddress }
  }

  package var path: Range<Int> { arguments.path }
  package var parameters: ParameterSet { arguments.parameters }

  /// Appends the command for the downstream.
  package func write(
    _ bytes: Span<UInt8>, allowing allowed: ParameterSet, into out: inout OutputSpan<UInt8>
  ) {
    arguments.write("RCPT TO:", bytes, allowing: allowed, into: &out)
  }
}
