// SPDX-License-Identifier: Apache-2.0

package import Structures

// The arguments of MAIL and RCPT (RFC 5321, 4.1.1.2 and 4.1.1.3), and the lines re-made from them for
// the downstream. Not the envelope itself, which the session keeps. Postel's rule as far as it goes without
// harm: what departs from the RFCs and can be understood in one way alone is parsed, with what is wrong about it
// (`lapse`), and the line that is re-made is to the letter again. Invariant: every octet of a line written here is
// ours or was checked by a parser and again by `appendToken`; all ranges are relative to the argument bytes that
// were parsed.

/// What came of reading an argument.
package enum Parsed<Value: BitwiseCopyable & Sendable>: Sendable {
  case parsed(Value)
  case fault(ArgumentFault)
}

/// The argument of MAIL, behind `FROM:`.
package struct MailArguments: Sendable, BitwiseCopyable {
  /// The address without its brackets; empty for `<>`.
  package var mailbox: Range<Int> { mailboxStart..<mailboxEnd }
  package let parameters: Parameters
  /// What is wrong with it to the letter of the RFCs, while there is no doubt what was meant.
  package let lapse: ArgumentFault?
  // Range is not BitwiseCopyable in Swift 6.3; its ends are.
  private let mailboxStart: Int
  private let mailboxEnd: Int

  /// Whether the path is `<>`: a bounce, which may not be bounced in turn.
  package var isNullPath: Bool { mailbox.isEmpty }

  package var isSMTPUTF8: Bool { parameters.present.contains(.smtputf8) }

  /// Reads the bytes behind `FROM:`, white space around them already gone (`Command.argument`).
  package static func parse(_ argument: Span<UInt8>) -> Parsed<MailArguments> {
    let (found, fault) = Path.scan(argument, role: .reverse)
    guard let path = found else { return .fault(fault == .noBrackets ? .syntax : .badSender) }
    var parameters = Parameters()
    if let fault = parameters.read(argument, path.end..<argument.count, of: .ofMail) {
      return .fault(fault)
    }
    let isUTF8 = parameters.present.contains(.smtputf8)
    let (lapse, octets) = octets(of: argument, path, parameters, smtputf8: isUTF8)
    if octets { return .fault(isUTF8 ? .badSender : .needsSMTPUTF8) }
    let ofPath = path.lapse.map { $0 == .noBrackets ? ArgumentFault.syntax : .badSender }
    return .parsed(
      MailArguments(
        parameters: parameters, lapse: ofPath ?? parameters.lapse ?? lapse,
        mailboxStart: path.mailbox.lowerBound, mailboxEnd: path.mailbox.upperBound))
  }
}

/// The argument of RCPT, behind `TO:`.
package struct RcptArguments: Sendable, BitwiseCopyable {
  /// The address without its brackets.
  package var mailbox: Range<Int> { mailboxStart..<mailboxEnd }
  package let parameters: Parameters
  /// What is wrong with it to the letter of the RFCs, while there is no doubt what was meant.
  package let lapse: ArgumentFault?
  private let mailboxStart: Int
  private let mailboxEnd: Int

  /// Reads the bytes behind `TO:`, white space around them already gone (`Command.argument`).
  ///
  /// - Parameter smtputf8: whether MAIL had SMTPUTF8, which covers its recipients (RFC 6531, 3.4).
  package static func parse(_ argument: Span<UInt8>, smtputf8: Bool) -> Parsed<RcptArguments> {
    let (found, fault) = Path.scan(argument, role: .forward)
    guard let path = found else { return .fault(fault == .noBrackets ? .syntax : .badRecipient) }
    var parameters = Parameters()
    if let fault = parameters.read(argument, path.end..<argument.count, of: .ofRcpt) {
      return .fault(fault)
    }
    let (lapse, octets) = octets(of: argument, path, parameters, smtputf8: smtputf8)
    if octets { return .fault(smtputf8 ? .badRecipient : .needsSMTPUTF8) }
    let ofPath = path.lapse.map { $0 == .noBrackets ? ArgumentFault.syntax : .badRecipient }
    return .parsed(
      RcptArguments(
        parameters: parameters, lapse: ofPath ?? parameters.lapse ?? lapse,
        mailboxStart: path.mailbox.lowerBound, mailboxEnd: path.mailbox.upperBound))
  }
}

/// What is to be said of octets beyond ASCII in an argument: UTF-8 without SMTPUTF8 is a lapse, for servers take it
/// (Postfix: `smtputf8_autodetect_classes`); what is not even UTF-8 has no reading that two servers share.
private func octets(
  of argument: Span<UInt8>, _ path: Path, _ parameters: Parameters, smtputf8: Bool
) -> (lapse: ArgumentFault?, areBad: Bool) {
  guard path.hasEightBit || parameters.hasEightBit else { return (nil, false) }
  return (smtputf8 ? nil : .needsSMTPUTF8, !argument.isUTF8(in: 0..<argument.count))
}

/// Writes the MAIL line for the downstream.
///
/// - Parameters:
///   - argument: the bytes that `arguments` was parsed from.
///   - allowed: the parameters to pass on; the others are dropped, so a parameter that changes what
///     was asked for must have been refused before (docs/protocol.md, Keywords).
/// - Returns: false, with nothing written, if the line does not fit or would hold a control octet.
package func writeMail(
  _ arguments: MailArguments, from argument: Span<UInt8>, passing allowed: ParameterSet,
  into out: inout OutputSpan<UInt8>
) -> Bool {
  writePath("MAIL FROM:", argument, arguments.mailbox, arguments.parameters, allowed, &out)
}

/// Writes the RCPT line for the downstream; see `writeMail`.
package func writeRcpt(
  _ arguments: RcptArguments, from argument: Span<UInt8>, passing allowed: ParameterSet,
  into out: inout OutputSpan<UInt8>
) -> Bool {
  writePath("RCPT TO:", argument, arguments.mailbox, arguments.parameters, allowed, &out)
}

/// Writes a line of one of our own words and, behind a space, a token: `EHLO mx.example.org`.
///
/// - Returns: false, with nothing written, if the line does not fit or would hold a control octet.
package func writeCommand(
  _ word: StaticString, _ token: Span<UInt8>, into out: inout OutputSpan<UInt8>
) -> Bool {
  let start = out.count
  var written = out.appendLiteral(word)
  if token.count > 0 {
    written = written && out.appendLiteral(" ") && out.appendToken(token, in: 0..<token.count)
  }
  written = written && out.appendLineEnd()
  if !written { out.removeLast(out.count - start) }
  return written
}

/// Writes EHLO or HELO in a client's name; without one with its address in place of it (RFC 5321, 4.1.3).
///
/// - Returns: false, with nothing written, if the line does not fit.
package func writeHello(
  _ word: StaticString, _ name: Span<UInt8>, from address: Address,
  into out: inout OutputSpan<UInt8>
) -> Bool {
  if name.count > 0 { return writeCommand(word, name, into: &out) }
  let start = out.count
  let written =
    out.appendLiteral(word) && out.appendLiteral(address.isIPv4 ? " [" : " [IPv6:")
    && out.appendAddress(address) && out.appendLiteral("]") && out.appendLineEnd()
  if !written { out.removeLast(out.count - start) }
  return written
}

private func writePath(
  _ command: StaticString, _ argument: Span<UInt8>, _ mailbox: Range<Int>, _ parameters: Parameters,
  _ allowed: ParameterSet, _ out: inout OutputSpan<UInt8>
) -> Bool {
  let start = out.count
  var written =
    out.appendLiteral(command) && out.appendLiteral("<") && out.appendToken(argument, in: mailbox)
    && out.appendLiteral(">")
  for slot in 0..<parameters.count where written && allowed.contains(parameters.kind(slot)) {
    let (keyword, value) = (parameters.keyword(slot), parameters.value(slot))
    written = out.appendLiteral(" ") && out.appendToken(argument, in: keyword)
    if written && !value.isEmpty {
      written = out.appendLiteral("=") && appendValue(argument, value, &out)
    }
  }
  written = written && out.appendLineEnd()
  if !written { out.removeLast(out.count - start) }
  return written
}

/// Appends a parameter's value; `=` in it, which esmtp-value has not, as xtext has it (RFC 3461, 4).
private func appendValue(
  _ argument: Span<UInt8>, _ value: Range<Int>, _ out: inout OutputSpan<UInt8>
) -> Bool {
  var start = value.lowerBound
  while let equals = argument.first(UInt8(ascii: "="), in: start..<value.upperBound) {
    guard out.appendToken(argument, in: start..<equals), out.appendLiteral("+3D") else {
      return false
    }
    start = equals + 1
  }
  return out.appendToken(argument, in: start..<value.upperBound)
}
