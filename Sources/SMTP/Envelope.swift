// SPDX-License-Identifier: Apache-2.0

// The arguments of MAIL and RCPT (RFC 5321, 4.1.1.2 and 4.1.1.3), and the lines re-made from them for
// the downstream. Not the envelope itself, which the session keeps. Invariant: every octet of a line
// written here is ours or was checked by a parser and again by `appendToken`; all ranges are relative
// to the argument bytes that were parsed.

/// What came of reading an argument.
package enum Parsed<Value: BitwiseCopyable & Sendable>: Sendable {
  case parsed(Value)
  case fault(ArgumentFault)
}

/// The argument of MAIL, behind `FROM:`.
package struct MailArguments: Sendable, BitwiseCopyable {
  /// The reverse-path with its brackets; always begins at 0.
  package var path: Range<Int> { 0..<pathEnd }
  package let parameters: Parameters
  /// Whether a space too many stood between two parameters.
  package let isLoose: Bool
  // Range is not BitwiseCopyable in Swift 6.3; its end is.
  private let pathEnd: Int

  /// Whether the path is `<>`: a bounce, which may not be bounced in turn.
  package var isNullPath: Bool { path.count == 2 }

  package var isSMTPUTF8: Bool { parameters.present.contains(.smtputf8) }

  /// Reads the bytes behind `FROM:`, trailing white space already gone (`Command.argument`).
  package static func parse(_ argument: Span<UInt8>) -> Parsed<MailArguments> {
    let (found, fault) = Path.scan(argument, role: .reverse)
    guard let path = found else { return .fault(fault == .noBrackets ? .syntax : .badSender) }
    var parameters = Parameters()
    let rest = path.range.upperBound..<argument.count
    if let fault = parameters.read(argument, rest, of: .ofMail) { return .fault(fault) }
    if path.hasEightBit || parameters.hasEightBit {
      guard parameters.present.contains(.smtputf8) else { return .fault(.needsSMTPUTF8) }
      guard argument.isUTF8(in: 0..<argument.count) else { return .fault(.badSender) }
    }
    return .parsed(
      MailArguments(
        parameters: parameters, isLoose: parameters.isLoose, pathEnd: path.range.upperBound))
  }
}

/// The argument of RCPT, behind `TO:`.
package struct RcptArguments: Sendable, BitwiseCopyable {
  /// The forward-path with its brackets; always begins at 0.
  package var path: Range<Int> { 0..<pathEnd }
  package let parameters: Parameters
  /// Whether a space too many stood between two parameters.
  package let isLoose: Bool
  private let pathEnd: Int

  /// Reads the bytes behind `TO:`, trailing white space already gone (`Command.argument`).
  ///
  /// - Parameter smtputf8: whether MAIL had SMTPUTF8, which covers its recipients (RFC 6531, 3.4).
  package static func parse(_ argument: Span<UInt8>, smtputf8: Bool) -> Parsed<RcptArguments> {
    let (found, fault) = Path.scan(argument, role: .forward)
    guard let path = found else { return .fault(fault == .noBrackets ? .syntax : .badRecipient) }
    var parameters = Parameters()
    let rest = path.range.upperBound..<argument.count
    if let fault = parameters.read(argument, rest, of: .ofRcpt) { return .fault(fault) }
    if path.hasEightBit || parameters.hasEightBit {
      guard smtputf8 else { return .fault(.needsSMTPUTF8) }
      guard argument.isUTF8(in: 0..<argument.count) else { return .fault(.badRecipient) }
    }
    return .parsed(
      RcptArguments(
        parameters: parameters, isLoose: parameters.isLoose, pathEnd: path.range.upperBound))
  }
}

/// Writes the MAIL line for the downstream.
///
/// - Parameters:
///   - argument: the bytes that `arguments` was parsed from.
///   - allowed: the parameters to pass on; the others are dropped, so a parameter that changes what
///     was asked for must have been refused before (reliability.md, EHLO keywords).
/// - Returns: false, with nothing written, if the line does not fit or would hold a control octet.
package func writeMail(
  _ arguments: MailArguments, from argument: Span<UInt8>, passing allowed: ParameterSet,
  into out: inout OutputSpan<UInt8>
) -> Bool {
  writePath("MAIL FROM:", argument, arguments.path, arguments.parameters, allowed, &out)
}

/// Writes the RCPT line for the downstream; see `writeMail`.
package func writeRcpt(
  _ arguments: RcptArguments, from argument: Span<UInt8>, passing allowed: ParameterSet,
  into out: inout OutputSpan<UInt8>
) -> Bool {
  writePath("RCPT TO:", argument, arguments.path, arguments.parameters, allowed, &out)
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

private func writePath(
  _ command: StaticString, _ argument: Span<UInt8>, _ path: Range<Int>, _ parameters: Parameters,
  _ allowed: ParameterSet, _ out: inout OutputSpan<UInt8>
) -> Bool {
  let start = out.count
  var written = out.appendLiteral(command) && out.appendToken(argument, in: path)
  for slot in 0..<parameters.count where written && allowed.contains(parameters.kind(slot)) {
    let whole = parameters.keyword(slot).lowerBound..<parameters.value(slot).upperBound
    written = out.appendLiteral(" ") && out.appendToken(argument, in: whole)
  }
  written = written && out.appendLineEnd()
  if !written { out.removeLast(out.count - start) }
  return written
}
