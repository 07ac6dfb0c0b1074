// SPDX-License-Identifier: Apache-2.0

/// The replies that are Sluice's own; all others are the downstream's, passed on.
///
/// 421 means that we close, 4yz that this attempt fails, 5yz that the client did something wrong. A 2yz
/// about mail is never ours. The texts use words that log filters for Postfix look for.
package enum OwnReply: UInt8, BitwiseCopyable, Sendable, CaseIterable {
  case ok, bye, help, cannotVerify
  case unknownCommand, notImplemented, badSequence, heloFirst, nestedMail, mailFirst, heloSyntax
  case mailSyntax, rcptSyntax, badSenderAddress, badRecipientAddress, noArgument, badParameter
  case unknownParameter, needsSMTPUTF8, messageTooLarge, tooManyRecipients, noValidRecipients
  case dataTooEarly, bareNewline, badSyntaxClosing, commandTooLong, commandTooLongForDownstream
  case nulInMessage, textLineTooLong, notSMTP
  case tooManyCommands, tooManyErrors, sessionTooLong, timeout, shuttingDown
  case messageRate, recipientRate, rateRefused
  case downstreamUnavailable, downstreamLost, transactionLost, noDownstreamRoom

  package var code: UInt16 { parts.code }

  /// Code, enhanced code (RFC 3463) and text.
  private var parts: (code: UInt16, text: StaticString) {
    switch self {
    case .ok: (250, "2.0.0 Ok")
    case .bye: (221, "2.0.0 Bye")
    case .help: (214, "2.0.0 Commands: EHLO HELO MAIL RCPT DATA RSET NOOP QUIT VRFY HELP")
    case .cannotVerify: (252, "2.5.0 Cannot verify; send mail and see")
    case .unknownCommand: (500, "5.5.1 Command not recognized")
    case .notImplemented: (502, "5.5.1 Command not implemented")
    case .badSequence: (503, "5.5.1 Bad sequence of commands")
    case .heloFirst: (503, "5.5.1 Send HELO or EHLO first")
    case .nestedMail: (503, "5.5.1 Nested MAIL command")
    case .mailFirst: (503, "5.5.1 Need MAIL command first")
    case .heloSyntax: (501, "5.5.4 Syntax: HELO hostname")
    case .mailSyntax: (501, "5.5.4 Syntax: MAIL FROM:<address>")
    case .rcptSyntax: (501, "5.5.4 Syntax: RCPT TO:<address>")
    case .badSenderAddress: (501, "5.1.7 Bad sender address syntax")
    case .badRecipientAddress: (501, "5.1.3 Bad recipient address syntax")
    case .noArgument: (501, "5.5.4 This command takes no argument")
    case .badParameter: (501, "5.5.4 Bad parameter syntax")
    case .unknownParameter: (555, "5.5.4 Unsupported parameter")
    case .needsSMTPUTF8: (553, "5.6.7 Address needs SMTPUTF8")
    case .messageTooLarge: (552, "5.3.4 Message size exceeds fixed limit")
    case .tooManyRecipients: (452, "4.5.3 Too many recipients")
    case .noValidRecipients: (554, "5.5.1 No valid recipients")
    case .dataTooEarly: (554, "5.5.0 Message sent before 354: improper use of pipelining")
    case .bareNewline: (521, "5.5.2 Bare <CR> or <LF> received: lines end in <CR><LF>")
    case .badSyntaxClosing: (500, "5.5.2 Bad syntax, closing connection")
    case .commandTooLong: (500, "5.5.2 Line too long, closing connection")
    case .commandTooLongForDownstream: (500, "5.5.2 Line too long")
    case .nulInMessage: (554, "5.6.0 Message holds a NUL octet")
    case .textLineTooLong: (554, "5.6.0 Message holds a line that is too long")
    case .notSMTP: (521, "5.5.1 This is not SMTP, closing connection")
    case .tooManyCommands: (421, "4.7.0 Too many commands, closing connection")
    case .tooManyErrors: (421, "4.7.0 Too many errors, closing connection")
    case .sessionTooLong: (421, "4.4.2 Session too long, closing connection")
    case .timeout: (421, "4.4.2 Timeout, closing connection")
    case .shuttingDown: (421, "4.3.2 Service currently unavailable, shutting down")
    case .messageRate: (450, "4.7.1 Client host rejected: message rate limit exceeded, try again later")
    case .recipientRate:
      (450, "4.7.1 Client host rejected: recipient rate limit exceeded, try again later")
    case .rateRefused: (554, "5.7.1 Client host rejected: rate limit exceeded")
    case .downstreamUnavailable: (451, "4.4.1 Service unavailable: mail server does not answer, try again later")
    case .downstreamLost: (451, "4.3.0 Service unavailable: mail server lost, try again later")
    case .transactionLost: (451, "4.3.0 Transaction lost with the mail server, try again later")
    case .noDownstreamRoom: (451, "4.3.2 Service unavailable: too busy, try again later")
    }
  }

  /// Appends the whole reply, line end included.
  package func write(into out: inout OutputSpan<UInt8>) {
    let (code, text) = parts
    append(code: code, to: &out)
    out.append(UInt8(ascii: " "))
    append(text, to: &out)
    append("\r\n", to: &out)
  }
}

func append(_ text: StaticString, to out: inout OutputSpan<UInt8>) {
  text.withUTF8Buffer { for byte in $0 { out.append(byte) } }
}

func append(_ bytes: Span<UInt8>, to out: inout OutputSpan<UInt8>) {
  for k in 0..<bytes.count { out.append(bytes[k]) }
}

func append(code: UInt16, to out: inout OutputSpan<UInt8>) {
  out.append(UInt8(48 + code / 100 % 10))
  out.append(UInt8(48 + code / 10 % 10))
  out.append(UInt8(48 + code % 10))
}

func append(number: UInt64, to out: inout OutputSpan<UInt8>) {
  var divisor: UInt64 = 1
  while number / divisor >= 10 { divisor *= 10 }
  while divisor > 0 {
    out.append(UInt8(48 + number / divisor % 10))
    divisor /= 10
  }
}

// MARK: Lines to the downstream. Each is made of octets that were checked, in one place per form, and a
// control octet or a line that does not fit makes nothing rather than something else.

/// Appends a command that is one word.
package func writeWord(_ word: StaticString, into out: inout OutputSpan<UInt8>) {
  guard out.freeCapacity >= word.utf8CodeUnitCount + 2 else { return }
  append(word, to: &out)
  append("\r\n", to: &out)
}

/// Appends a command and its argument, or nothing if the argument is not plain printable text.
package func writeCommand(
  _ word: StaticString, _ argument: Span<UInt8>, into out: inout OutputSpan<UInt8>
) {
  guard out.freeCapacity >= word.utf8CodeUnitCount + argument.count + 3, isPrintable(argument)
  else { return }
  append(word, to: &out)
  out.append(UInt8(ascii: " "))
  append(argument, to: &out)
  append("\r\n", to: &out)
}

/// Appends a line as it is, or nothing if it is not plain printable text. For AUTH's answers.
package func writeLine(_ line: Span<UInt8>, into out: inout OutputSpan<UInt8>) {
  guard out.freeCapacity >= line.count + 2, isPrintable(line) else { return }
  append(line, to: &out)
  append("\r\n", to: &out)
}

private func isPrintable(_ bytes: Span<UInt8>) -> Bool {
  for k in 0..<bytes.count where bytes[k] < 32 || bytes[k] > 126 { return false }
  return true
}
