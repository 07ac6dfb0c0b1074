// SPDX-License-Identifier: Apache-2.0

/// What it says beside the replies of its script.
enum ServerText {
  private static func line(_ text: String) -> [UInt8] { ServerScript.Texts.text(text) }

  static let tooMany = line("421 4.3.2 Too many connections")
  static let lineTooLong = line("500 5.5.2 Line too long")
  static let controls = line("500 5.5.2 Control characters in a command")
  static let notGreeted = line("503 5.5.1 Say EHLO first")
  static let hasSender = line("503 5.5.1 Sender already given")
  static let noSender = line("503 5.5.1 Say MAIL first")
  static let noRecipients = line("554 5.5.1 No valid recipients")
  static let noUser = line("550 5.1.1 No such user here")
  static let relayingDenied = line("550 5.7.1 Relaying denied")
  /// What a probe for open relays asks for (RFC 2606).
  static let probed = Array("@example.invalid>".utf8)
  static let syntax = line("501 5.5.4 Syntax")
  static let noBracket = line("501 5.1.7 No closing bracket")
  static let tooBig = line("552 5.3.4 Message too big")
  static let notStored = line("452 4.3.1 Could not store the message")
  static let noMechanism = line("504 5.5.4 Mechanism not known")
  static let goOnPlain = line("334 ")
  static let userName = line("334 VXNlcm5hbWU6")
  static let password = line("334 UGFzc3dvcmQ6")
  static let cancelled = line("501 5.7.0 Cancelled")
  static let loggedIn = line("235 2.7.0 Welcome")
  static let notLoggedIn = line("535 5.7.8 Wrong name or password")
}
