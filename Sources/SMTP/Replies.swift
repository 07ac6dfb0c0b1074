// SPDX-License-Identifier: Apache-2.0

// The replies that Sluice gives in its own name. Not the banner, which has the host's name in it, and
// not what the downstream says, which `ReplyReader` re-makes. Invariant: every text is printable ASCII
// and short enough for one line of 512 octets (RFC 5321, 4.5.3.1.5), and an enhanced code's class is
// the first digit of its reply code (RFC 2034, 4).

/// An enhanced status code (RFC 3463, 2).
package struct EnhancedCode: Equatable, Sendable, BitwiseCopyable {
  package let `class`: UInt8
  package let subject: UInt16
  package let detail: UInt16

  package init(_ class: UInt8, _ subject: UInt16, _ detail: UInt16) {
    self.class = `class`
    self.subject = subject
    self.detail = detail
  }
}

/// One reply of our own.
package struct OwnReply: Sendable {
  package let code: UInt16
  /// Nil where RFC 2034, 4 forbids one: 3xx replies.
  package let enhanced: EnhancedCode?
  package let text: StaticString

  package init(_ code: UInt16, _ enhanced: EnhancedCode?, _ text: StaticString) {
    self.code = code
    self.enhanced = enhanced
    self.text = text
  }

  /// Writes the reply as one line with its line end.
  ///
  /// - Returns: false, with nothing written, if it does not fit.
  package func write(into out: inout OutputSpan<UInt8>) -> Bool {
    let start = out.count
    let written =
      out.appendDecimal(UInt64(code)) && out.appendLiteral(" ") && writeEnhanced(into: &out)
      && out.appendLiteral(text) && out.appendLineEnd()
    if !written { out.removeLast(out.count - start) }
    return written
  }

  private func writeEnhanced(into out: inout OutputSpan<UInt8>) -> Bool {
    guard let enhanced else { return true }
    return out.appendDecimal(UInt64(enhanced.class)) && out.appendLiteral(".")
      && out.appendDecimal(UInt64(enhanced.subject)) && out.appendLiteral(".")
      && out.appendDecimal(UInt64(enhanced.detail)) && out.appendLiteral(" ")
  }
}

// "Client host rejected" and "Service unavailable" are what the log filters of fail2ban look for
// (conventions.md); keep them where a client was turned away for what it is.
extension OwnReply {
  // 2xx and 3xx
  package static let goodbye = OwnReply(221, .init(2, 0, 0), "Bye")
  package static let ok = OwnReply(250, .init(2, 0, 0), "OK")
  package static let senderOK = OwnReply(250, .init(2, 1, 0), "Sender OK")
  package static let recipientOK = OwnReply(250, .init(2, 1, 5), "Recipient OK")
  package static let cannotVerify = OwnReply(
    252, .init(2, 5, 0), "Cannot verify the user, but will take mail for it and try to deliver")
  package static let help = OwnReply(
    214, .init(2, 0, 0), "See RFC 5321; questions to the postmaster of this domain")
  package static let startMailInput = OwnReply(
    354, nil, "Send the message, end it with <CRLF>.<CRLF>")
  package static let readyForTLS = OwnReply(220, .init(2, 0, 0), "Ready to start TLS")

  // 421: we are closing
  package static let systemFailing = OwnReply(
    421, .init(4, 3, 0), "Service unavailable: a fault on our side, please try again later; closing"
  )
  package static let shuttingDown = OwnReply(
    421, .init(4, 3, 2), "Service unavailable: shutting down, please try again shortly; closing")
  package static let overloaded = OwnReply(
    421, .init(4, 3, 2), "Service unavailable: too busy, please try again later; closing")
  package static let timedOut = OwnReply(
    421, .init(4, 4, 2), "Waited too long for you; closing")
  package static let tooManyConnections = OwnReply(
    421, .init(4, 7, 0), "Client host rejected: too many connections from your network; closing")
  package static let tooManyErrors = OwnReply(
    421, .init(4, 7, 0), "Client host rejected: too many errors; closing")
  package static let tooManyCommands = OwnReply(
    421, .init(4, 7, 0), "Client host rejected: too many commands; closing")
  package static let foreignProtocol = OwnReply(
    421, .init(4, 7, 0), "Client host rejected: this is a mail server, you speak another protocol")

  // 450, 451, 452: this transaction, not now
  package static let rateLimited = OwnReply(
    450, .init(4, 7, 1), "Client host rejected: rate limit, please try again later")
  package static let greylisted = OwnReply(
    450, .init(4, 7, 1), "Client host rejected: not seen before, please try again in a few minutes")
  package static let temporaryPolicy = OwnReply(
    450, .init(4, 3, 0), "Service unavailable: cannot decide now, please try again later")
  package static let downstreamFailed = OwnReply(
    451, .init(4, 3, 0),
    "Service unavailable: the mail system behind this one failed, try again later")
  package static let downstreamUnreachable = OwnReply(
    451, .init(4, 4, 1), "Service unavailable: the mail system behind this one does not answer")
  package static let downstreamLost = OwnReply(
    451, .init(4, 4, 2),
    "Service unavailable: lost the mail system behind this one, try again later")
  package static let temporarilyRejected = OwnReply(
    451, .init(4, 7, 1), "Client host rejected: please try again later")
  package static let tooManyRecipients = OwnReply(
    452, .init(4, 5, 3), "Too many recipients, send the rest in another transaction")
  package static let tooManyMessages = OwnReply(
    452, .init(4, 5, 3), "Too many messages in one session, please connect again for the rest")

  // 5xx: what the client did
  package static let unknownCommand = OwnReply(500, .init(5, 5, 1), "Command not recognised")
  package static let badCommandLine = OwnReply(
    500, .init(5, 5, 2), "Command line has octets that no command may have")
  package static let lineTooLong = OwnReply(500, .init(5, 5, 2), "Command line too long")
  package static let badSyntax = OwnReply(501, .init(5, 5, 4), "Syntax error in the argument")
  package static let badHelo = OwnReply(
    501, .init(5, 5, 4), "Give your host name or [address] after EHLO or HELO")
  package static let noArgumentAllowed = OwnReply(
    501, .init(5, 5, 4), "This command takes no argument")
  package static let notImplemented = OwnReply(502, .init(5, 5, 1), "Command not implemented")
  package static let badSequence = OwnReply(503, .init(5, 5, 1), "Bad sequence of commands")
  package static let heloFirst = OwnReply(503, .init(5, 5, 1), "Send EHLO or HELO first")
  package static let mailFirst = OwnReply(503, .init(5, 5, 1), "Send MAIL first")
  package static let nestedMail = OwnReply(
    503, .init(5, 5, 1), "A sender was given already, send RSET to begin again")
  package static let recipientFirst = OwnReply(503, .init(5, 5, 1), "No valid recipients")
  package static let pipeliningFault = OwnReply(
    503, .init(5, 5, 0), "Client host rejected: data sent before it was asked for; closing")
  package static let alreadyTLS = OwnReply(503, .init(5, 5, 1), "TLS is on already")
  package static let parameterNotImplemented = OwnReply(
    504, .init(5, 5, 4), "Parameter value not implemented")
  package static let bareLineFeed = OwnReply(
    521, .init(5, 5, 2),
    "Client host rejected: lines must end with CR LF, bare LF or CR seen; closing")
  package static let tlsRequired = OwnReply(530, .init(5, 7, 0), "Send STARTTLS first")
  package static let authenticationRequired = OwnReply(
    530, .init(5, 7, 0), "Authentication required")
  package static let rejected = OwnReply(550, .init(5, 7, 1), "Client host rejected: access denied")
  package static let badMessage = OwnReply(
    550, .init(5, 6, 0), "The message has NUL, bare CR or bare LF in it, or a line too long")
  package static let tooBig = OwnReply(552, .init(5, 3, 4), "The message is bigger than we take")
  package static let serviceRefused = OwnReply(
    554, .init(5, 7, 1), "Service unavailable: client host rejected")
  package static let needsSMTPUTF8 = OwnReply(
    553, .init(5, 6, 7), "The address has octets beyond ASCII, which needs SMTPUTF8")
  package static let badSender = OwnReply(501, .init(5, 1, 7), "Bad syntax in the sender address")
  package static let badRecipient = OwnReply(
    501, .init(5, 1, 3), "Bad syntax in the recipient address")
  package static let badParameter = OwnReply(
    501, .init(5, 5, 4), "Bad value of a MAIL or RCPT parameter")
  package static let duplicateParameter = OwnReply(
    501, .init(5, 5, 4), "A parameter was given twice")
  package static let tooManyParameters = OwnReply(501, .init(5, 5, 4), "Too many parameters")
  package static let unknownParameter = OwnReply(
    555, .init(5, 5, 4), "A MAIL or RCPT parameter is not recognised or not implemented")

  /// Every reply above, for the tests' sake.
  package static var all: [OwnReply] {
    [
      goodbye, ok, senderOK, recipientOK, cannotVerify, help, startMailInput, readyForTLS,
      systemFailing, shuttingDown, overloaded, timedOut, tooManyConnections, tooManyErrors,
      tooManyCommands, foreignProtocol, rateLimited, greylisted, temporaryPolicy, downstreamFailed,
      downstreamUnreachable, downstreamLost, temporarilyRejected, tooManyRecipients,
      tooManyMessages, unknownCommand, badCommandLine, lineTooLong, badSyntax, badHelo,
      noArgumentAllowed, notImplemented, badSequence, heloFirst, mailFirst, nestedMail,
      recipientFirst, pipeliningFault, alreadyTLS, parameterNotImplemented, bareLineFeed,
      tlsRequired, authenticationRequired, rejected, badMessage, tooBig, serviceRefused,
      needsSMTPUTF8, badSender, badRecipient, badParameter, duplicateParameter, tooManyParameters,
      unknownParameter,
    ]
  }
}
