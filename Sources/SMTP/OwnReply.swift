// SPDX-License-Identifier: Apache-2.0

/// The replies that are Sluice's own; all others are the downstream's, passed on.
///
/// 421 means that we close, 4yz that this attempt fails, 5yz that the client did something wrong. A 2yz
/// about mail is never ours. The texts use words that log filters for Postfix look for.
package enum OwnReply: UInt8, BitwiseCopyable, Sendable, CaseIterable {
  case ok, bye, cannotVerify
  /// HELP, without and with STARTTLS and AUTH.
  case help, helpTLS, helpAuth, helpTLSAuth
  case unknownCommand, notImplemented, badSequence, heloFirst, nestedMail, mailFirst, heloSyntax
  case mailSyntax, rcptSyntax, badPathSyntax, badSenderAddress, badRecipientAddress, noArgument,
    badParameter
  case unknownParameter, needsSMTPUTF8, messageTooLarge, tooManyRecipients, noValidRecipients
  case dataTooEarly, bareNewline, badSyntaxClosing, commandTooLong
  case nulInMessage, textLineTooLong, foldedStart, notSMTP
  case tooManyCommands, tooManyErrors, sessionTooLong, timeout, shuttingDown
  case messageRate, recipientRate, rateRefused, clientListed
  case authenticationLost, tooManyLogins, loginSyntax, loginTooLong, encryptionNeeded
  case readyForTLS, tlsUnavailable, clearBehindSTARTTLS
  case parameterNotNow, loginNotNow, offersUnknown
  case downstreamUnavailable, downstreamLost, transactionLost, noDownstreamRoom, clientUnnamed
  case tooManyLinks

  /// The reply to HELP where these are offered.
  package static func help(tls: Bool, auth: Bool) -> OwnReply {
    switch (tls, auth) {
    case (false, false): .help
    case (true, false): .helpTLS
    case (false, true): .helpAuth
    case (true, true): .helpTLSAuth
    }
  }

  package var code: UInt16 { parts.code }

  /// Whether it defers mail because of the downstream, and not because of the client.
  package var isOutage: Bool {
    switch self {
    case .downstreamUnavailable, .downstreamLost, .transactionLost, .noDownstreamRoom,
      .authenticationLost, .parameterNotNow, .loginNotNow, .offersUnknown:
      true
    default: false
    }
  }

  /// Code, enhanced code (RFC 3463) and text.
  private var parts: (code: UInt16, text: StaticString) {
    switch self {
    case .ok: (250, "2.0.0 Ok")
    case .bye: (221, "2.0.0 Bye")
    case .help: (214, "2.0.0 Commands: EHLO HELO MAIL RCPT DATA RSET NOOP QUIT VRFY HELP")
    case .helpTLS:
      (214, "2.0.0 Commands: EHLO HELO STARTTLS MAIL RCPT DATA RSET NOOP QUIT VRFY HELP")
    case .helpAuth:
      (214, "2.0.0 Commands: EHLO HELO AUTH MAIL RCPT DATA RSET NOOP QUIT VRFY HELP")
    case .helpTLSAuth:
      (214, "2.0.0 Commands: EHLO HELO STARTTLS AUTH MAIL RCPT DATA RSET NOOP QUIT VRFY HELP")
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
    case .badPathSyntax: (501, "5.5.4 Syntax: an address stands in angle brackets")
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
    case .commandTooLong: (500, "5.5.2 Line too long")
    case .nulInMessage: (554, "5.6.0 Message holds a NUL octet")
    case .textLineTooLong: (554, "5.6.0 Message holds a line that is too long")
    case .foldedStart: (554, "5.6.0 Message begins with white space where a header belongs")
    case .notSMTP: (521, "5.5.1 This is not SMTP, closing connection")
    case .tooManyCommands: (421, "4.7.0 Too many commands, closing connection")
    case .tooManyErrors: (421, "4.7.0 Too many errors, closing connection")
    case .sessionTooLong: (421, "4.4.2 Session too long, closing connection")
    case .timeout: (421, "4.4.2 Timeout, closing connection")
    case .shuttingDown: (421, "4.3.2 Service currently unavailable, shutting down")
    case .messageRate:
      (450, "4.7.1 Client host rejected: message rate limit exceeded, try again later")
    case .recipientRate:
      (450, "4.7.1 Client host rejected: recipient rate limit exceeded, try again later")
    case .rateRefused: (554, "5.7.1 Client host rejected: rate limit exceeded")
    case .readyForTLS: (220, "2.0.0 Ready to start TLS")
    case .tlsUnavailable: (454, "4.7.0 TLS not available due to temporary reason")
    case .clearBehindSTARTTLS: (554, "5.5.0 Sent in clear behind STARTTLS, closing connection")
    // As Postfix words it; the name of the list follows.
    case .clientListed: (550, "5.7.1 Service unavailable; client host blocked using")
    case .tooManyLogins: (454, "4.7.0 Too many failed log-ins, try again later")
    case .loginSyntax: (501, "5.5.2 Syntax: AUTH mechanism, answers in base64")
    // RFC 4954, 4 and 6.
    case .loginTooLong: (500, "5.5.6 Authentication exchange line is too long")
    // RFC 4954, 6.
    case .encryptionNeeded:
      (538, "5.7.11 Encryption required for requested authentication mechanism")
    case .authenticationLost:
      (421, "4.3.0 Service unavailable: mail server lost, please connect and log in again")
    // RFC 5321, 4.2.4: 555 would be for good.
    case .parameterNotNow:
      (455, "4.3.3 Mail server does not offer this parameter at present, try again later")
    case .loginNotNow:
      (454, "4.7.0 Temporary authentication failure: mail server offers none at present")
    case .offersUnknown:
      (421, "4.3.2 Service unavailable: mail server not reached yet, try again later")
    case .downstreamUnavailable:
      (451, "4.4.1 Service unavailable: mail server does not answer, try again later")
    case .downstreamLost: (451, "4.3.0 Service unavailable: mail server lost, try again later")
    case .transactionLost: (451, "4.3.0 Transaction lost with the mail server, try again later")
    case .noDownstreamRoom: (451, "4.3.2 Service unavailable: too busy, try again later")
    case .tooManyLinks:
      (451, "4.7.0 Client host rejected: too many messages in transit, try again later")
    case .clientUnnamed:
      (451, "4.3.0 Service unavailable: the load balancer does not say who the client is")
    }
  }

  /// Appends the whole reply, line end included.
  ///
  /// - Parameter name: what the text is about, behind it.
  /// - Returns: false, with nothing appended, if it does not fit.
  @discardableResult
  package func write(naming name: Span<UInt8> = Span(), into out: inout OutputSpan<UInt8>) -> Bool {
    let start = out.count
    let (code, text) = parts
    let written =
      out.appendDecimal(UInt64(code)) && out.appendLiteral(" ") && out.appendLiteral(text)
      && (name.isEmpty || out.appendLiteral(" ") && out.appendAll(name)) && out.appendLineEnd()
    if !written { out.removeLast(out.count - start) }
    return written
  }

  /// The text, enhanced code included.
  package var text: StaticString { parts.text }
}

/// Appends a reply of one line that says nothing but its code and class, for want of room.
package func writeShortReply(code: UInt16, into out: inout OutputSpan<UInt8>) {
  let start = out.count
  let written =
    out.appendDecimal(UInt64(code)) && out.appendLiteral(" ")
    && (code / 100 == 3
      || out.appendDecimal(UInt64(code / 100)) && out.appendLiteral(".0.0 "))
    && out.appendLiteral("(text left out)") && out.appendLineEnd()
  if !written { out.removeLast(out.count - start) }
}

/// Appends the reply to HELO, or nothing if it does not fit.
package func writeHELOReply(hostname: Span<UInt8>, into out: inout OutputSpan<UInt8>) {
  let start = out.count
  let written =
    out.appendLiteral("250 ") && out.appendToken(hostname, in: 0..<hostname.count)
    && out.appendLineEnd()
  if !written { out.removeLast(out.count - start) }
}

/// Appends a word and the space behind it, or nothing if they do not fit.
package func writeWord(_ word: StaticString, into out: inout OutputSpan<UInt8>) {
  let start = out.count
  let written = out.appendLiteral(word) && out.appendLiteral(" ")
  if !written { out.removeLast(out.count - start) }
}
