// SPDX-License-Identifier: Apache-2.0
import Policy
import Structures
import Suspicion

/// What a session has used up of its limits (`SessionLimits`), and what comes of that.
///
/// Kept: a number ends no session in the middle of a message. While a transaction has an accepted recipient, the limit
/// on errors slows (`pause`) and the session ends with the transaction; a message to many of whom many are dead would
/// never arrive otherwise (RFC 5321, 4.5.3.1.10, asks for as much where the limit is our own). So that nobody keeps a
/// downstream connection for ever by that, there are bounds far above: as many errors more as a message may have
/// recipients, twice the commands, twice the time.
struct SessionUse: BitwiseCopyable, Sendable {
  private(set) var commands: UInt32 = 0
  private(set) var errors: UInt32 = 0
  private var unknown: UInt32 = 0
  /// Over the error rate of its source.
  private var isOverRate = false
  /// Until when the commands without mail so far are accounted for, each a share of `idlePeriod` long.
  private var idleUntil = Instant.origin

  /// How long a session beyond its errors waits at each command, in microseconds (Postfix's `smtpd_error_sleep_time`).
  static let pause: Int64 = 1_000_000
  /// In which time there may be `SessionLimits.idleCommands`: a client that keeps itself alive needs one of them
  /// (RFC 5321, 4.5.3.2.7).
  static let idlePeriod: Int64 = 300_000_000

  // MARK: What happens

  mutating func countCommand() { commands += 1 }
  mutating func countError() { errors += 1 }
  mutating func countUnknown() { unknown += 1 }
  /// The errors of its source are over their rate.
  mutating func exceedRate() { isOverRate = true }

  /// Counts a command without mail.
  ///
  /// - Returns: whether they have become too many.
  mutating func countIdle(_ limits: SessionLimits, now: Instant) -> Bool {
    let share = Self.idlePeriod / Int64(max(limits.idleCommands, 1))
    idleUntil = max(idleUntil, now).after(microseconds: share)
    return idleUntil > now.after(microseconds: Self.idlePeriod)
  }

  /// A mail command came: the commands before it were not idle.
  mutating func countMail() { idleUntil = .origin }

  /// The client has logged in: what it said before tells nothing.
  mutating func forgive() {
    let before = commands
    self = SessionUse()
    commands = before
  }

  // MARK: What comes of it

  /// Whether it has made more errors than it may.
  func isOver(_ limits: SessionLimits) -> Bool {
    isOverRate || errors > UInt32(limits.errors) || unknown > UInt32(limits.unknownCommands)
  }

  /// The limit at which the session ends now; nil if it goes on.
  ///
  /// - Parameters:
  ///   - age: how long it has lasted, in microseconds.
  ///   - time: how long it may, in microseconds.
  ///   - isDelivering: a transaction would be lost that has an accepted recipient.
  func end(_ limits: SessionLimits, age: Int64, time: Int64, isDelivering: Bool) -> Subject? {
    let scale = isDelivering ? 2 : 1
    if commands > UInt32(limits.commands * scale) { return .commands }
    if age > time * Int64(scale) { return .time }
    if isDelivering { return errors > UInt32(limits.errors + limits.recipients) ? .errors : nil }
    if isOverRate || errors > UInt32(limits.errors) { return .errors }
    return unknown > UInt32(limits.unknownCommands) ? .unknownCommands : nil
  }
}
