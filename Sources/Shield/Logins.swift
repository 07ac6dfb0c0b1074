// SPDX-License-Identifier: Apache-2.0
import Flow
import SMTP
import Structures
import Suspicion

// Log-ins (outbound listeners). The downstream judges them; we count what it refuses, by address, by network and by
// user name at once, because guessing is spread over addresses (3 tries each in 320 days are on record) and over
// names. Names are looked at in memory and kept as a keyed hash; passwords are not looked at.
//
// An address that has used up its failures is put off without asking. A network is only slowed, it has other
// members, and so is a user: whoever could lock a name out would.
extension Engine {
  mutating func authenticate(_ i: Int, now: Instant, into effects: inout EffectQueue) {
    let s = Int(connections[i].session)
    if !sessions[s].flags.contains(.extended) {
      answer(i, .heloFirst, now: now, into: &effects)
    } else if sessions[s].flags.contains(.authenticated) || sessions[s].flags.contains(.mail) {
      answer(i, .badSequence, now: now, into: &effects)
    } else if !offersAuth(i) && offersTLS(i) {
      reject(i, .encryptionNeeded, now: now, into: &effects)
    } else if !offered(i).keywords.contains(.auth) {
      answer(i, .notImplemented, now: now, into: &effects)
    } else if mayNotTry(i, now: now) {
      answer(i, .tooManyLogins, now: now, into: &effects)
    } else {
      readMechanism(i)
      forward(i, now: now, into: &effects)
    }
  }

  /// The client's answer to a challenge goes to the downstream as it is. It is never logged.
  mutating func answerChallenge(_ i: Int, now: Instant, into effects: inout EffectQueue) {
    let s = Int(connections[i].session)
    if !isPrintable(line(s)) {
      leave(i, .badSyntaxClosing, now: now, into: &effects)
      return
    }
    readName(s, line(s))
    sessions[s].argumentStart = 0
    forward(i, now: now, into: &effects)
  }

  // MARK: The name

  private mutating func readMechanism(_ i: Int) {
    let s = Int(connections[i].session)
    let argument = argument(s)
    let (mechanism, end) = mechanism(argument)
    sessions[s].mechanism = mechanism
    sessions[s].user = 0
    if end < argument.count { readName(s, argument.from(end + 1)) }
  }

  /// The mechanism an argument of AUTH begins with, and where that ends.
  private func mechanism(_ argument: Region) -> (LoginMechanism, Int) {
    let bytes = arena.span(argument)
    var end = 0
    while end < bytes.count && bytes[end] != 0x20 { end += 1 }
    return (LoginMechanism(bytes.extracting(0..<end)), end)
  }

  /// The first answer that holds a name is the one that counts: of LOGIN the second is the password.
  private mutating func readName(_ s: Int, _ answer: Region) {
    guard sessions[s].user == 0 else { return }
    sessions[s].user = user(sessions[s].mechanism, answer)
    // Whatever comes now is no name.
    sessions[s].mechanism = .other
  }

  private func user(_ mechanism: LoginMechanism, _ answer: Region) -> UInt64 {
    withLoginName(mechanism, arena.span(answer)) { name in hash(name) } ?? 0
  }

  // MARK: Failures

  private enum Login {
    static let address: UInt8 = 33
    static let network: UInt8 = 34
    static let user: UInt8 = 35
  }

  private func loginKey(address i: Int) -> BucketKey {
    let address = sourceAddress(i)
    return BucketKey(address, length: address.isIPv4 ? 32 : 64, limit: Login.address)
  }

  private func mayNotTry(_ i: Int, now: Instant) -> Bool {
    guard policy.mode == .enforce, !connections[i].flags.contains(.trusted) else { return false }
    return buckets.peek(loginKey(address: i), policy.logins.address, now: now) == 0
  }

  /// The downstream has refused a log-in: counts it under all that is known of it.
  ///
  /// - Returns: which failure this is, 1 and more: the highest of what the session, the address, the network and the
  ///   user name say.
  mutating func loginFailed(_ i: Int, now: Instant) -> Int {
    let s = Int(connections[i].session)
    counters.loginsFailed += 1
    sessions[s].authFailures += 1
    note(.authFailure, i, now: now)
    var count = Int(sessions[s].authFailures)
    if connections[i].flags.contains(.trusted) { return count }
    let limits = policy.logins
    count = max(count, fail(loginKey(address: i), limits.address, now: now))
    let network = connections[i].address.network(connections[i].address.isIPv4 ? 24 : 48)
    let shared = BucketKey(
      network, length: connections[i].address.isIPv4 ? 24 : 48, limit: Login.network)
    // A network is allowed so many more; what it has used counts in proportion.
    let share = max(Int(limits.network.burst / max(limits.address.burst, 1)), 1)
    count = max(count, fail(shared, limits.network, now: now) / share)
    if sessions[s].user != 0 {
      let user = BucketKey(
        Address(high: sessions[s].user, low: 0), length: 128, limit: Login.user)
      count = max(count, fail(user, limits.user, now: now))
    }
    sessions[s].user = 0
    if mayNotTry(i, now: now) { limitReached(i, .authFailures, now: now) }
    return count
  }

  /// Counts one failure.
  ///
  /// - Returns: how many are not forgiven yet.
  private mutating func fail(_ key: BucketKey, _ rate: Rate, now: Instant) -> Int {
    if rate.isUnlimited { return 0 }
    _ = buckets.take(key, 1, rate, now: now)
    return Int(rate.burst - min(buckets.peek(key, rate, now: now), rate.burst))
  }
}
