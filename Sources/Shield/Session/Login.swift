// SPDX-License-Identifier: Apache-2.0
import SMTP

/// A log-in.
struct Login: BitwiseCopyable, Sendable {
  /// Where an AUTH exchange stands.
  enum Exchange: UInt8, BitwiseCopyable, Sendable {
    case none
    /// The downstream has asked for an answer.
    case going
    /// It is being ended with the downstream; then the client gets our reply.
    case cancelling
  }

  /// The client authenticated.
  private(set) var isAuthenticated = false
  private(set) var exchange = Exchange.none
  private(set) var failures: UInt32 = 0
  /// Of the current AUTH: where its name is to come, and the name's keyed hash once it has; 0 for none.
  private var mechanism = LoginMechanism.other
  private(set) var user: UInt64 = 0

  mutating func begin(_ mechanism: LoginMechanism) {
    self.mechanism = mechanism
    user = 0
  }

  /// Where the name is to be found in the next answer; nil once it is known, or will not be. The first answer that may
  /// hold it is the one that counts: of LOGIN the second is the password.
  mutating func nameDue() -> LoginMechanism? {
    guard user == 0 else { return nil }
    defer { mechanism = .other }
    return mechanism
  }

  mutating func take(user: UInt64) { self.user = user }

  mutating func challenged() { exchange = .going }
  mutating func cancel() {
    exchange = .cancelling
    mechanism = .other
  }
  mutating func endExchange() { exchange = .none }
  mutating func succeeded() { isAuthenticated = true }

  /// It was refused.
  ///
  /// - Returns: under which user name, if that is known.
  mutating func failed() -> UInt64 {
    failures += 1
    defer { user = 0 }
    return user
  }

  /// What was said in clear is forgotten under TLS.
  mutating func forget() {
    isAuthenticated = false
    exchange = .none
  }
}
