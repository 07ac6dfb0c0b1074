// SPDX-License-Identifier: Apache-2.0
import Suspicion

/// A transaction: from MAIL to its end, on whichever way that comes. `reset` is the only place where it ends.
struct Envelope: BitwiseCopyable, Sendable {
  /// MAIL was accepted.
  private(set) var hasMail = false
  /// The downstream of this transaction is gone; its commands get 451.
  private(set) var isLost = false
  /// The message may use SMTPUTF8.
  private(set) var isUTF8 = false
  /// MAIL was accepted, and the downstream connection it was said on let go: on the next it is said again.
  private(set) var isParked = false
  /// The delay of the first recipient, and that of DATA, was spent before MAIL.
  private(set) var hasPaidRecipient = false
  private(set) var hasPaidData = false
  /// The recipient answered last was refused: its path is not one of the message's.
  private(set) var hasRefusedRecipient = false
  /// MAIL was refused: what was said behind it in a group is refused for that alone.
  private(set) var hasRefusedMail = false
  /// Octets of MAIL as the downstream heard it; 0 if it cannot be said again.
  private(set) var mailCount: Int32 = 0
  private(set) var senderCount: UInt8 = 0
  private(set) var recipientCount: UInt8 = 0
  private(set) var acceptedRecipients: UInt32 = 0
  /// Delay given to accepted recipients of this message, in microseconds.
  private(set) var recipientDelay: Int64 = 0

  /// The one place where a transaction's state ends.
  mutating func reset() {
    let mail = mailCount
    self = Envelope()
    mailCount = mail
  }

  // MARK: The sender

  /// MAIL is at hand, with a sender whose path was kept.
  mutating func beginMail(senderCount: UInt8, isUTF8: Bool) {
    if isUTF8 { self.isUTF8 = true }
    self.senderCount = senderCount
    recipientCount = 0
  }

  mutating func keepMail(_ count: Int) { mailCount = Int32(count) }

  mutating func mailAccepted() {
    hasMail = true
    hasRefusedMail = false
  }

  mutating func mailRefused() { hasRefusedMail = true }

  /// The downstream connection is let go while the client waits.
  ///
  /// - Returns: false if it cannot be, because MAIL could not be said again.
  mutating func park() -> Bool {
    if hasMail {
      if mailCount == 0 { return false }
      isParked = true
    }
    return true
  }

  mutating func unpark() { isParked = false }

  /// The transaction's downstream is gone: what still belongs to it gets 451.
  mutating func lose() {
    guard hasMail else { return }
    hasMail = false
    isParked = false
    isLost = true
  }

  // MARK: Recipients

  mutating func keepRecipient(_ count: UInt8) { recipientCount = count }

  mutating func recipientAccepted() {
    acceptedRecipients += 1
    hasRefusedRecipient = false
  }

  mutating func recipientRefused() { hasRefusedRecipient = true }

  // MARK: Delays

  mutating func payRecipient(_ delay: Int64) { recipientDelay += delay }

  /// The delay of the first recipient, or of DATA, is spent before MAIL.
  mutating func payRecipientAhead() { hasPaidRecipient = true }
  mutating func payDataAhead() { hasPaidData = true }

  /// What the curve may still ask for at a stage, in microseconds, of `sum` for all recipients: they have an account of
  /// their own, and what was spent ahead is not asked for again.
  mutating func delayMost(_ stage: Stage, sum: Int64) -> Int64 {
    switch stage {
    case .recipientAccepted:
      if hasPaidRecipient {
        hasPaidRecipient = false
        return 0
      }
      return sum - recipientDelay
    case .data where hasPaidData:
      hasPaidData = false
      return 0
    default: return .max
    }
  }
}
