// SPDX-License-Identifier: Apache-2.0
import Policy
import Flow
import Reputation
import Structures
import Suspicion

// Log-ins that fail. The downstream judges them; we count what it refuses, by address, by network and by user name at
// once, because guessing is spread over addresses (3 tries each in 320 days are on record) and over names.
//
// Any worker may see a user name or an IPv6 /48. What fails at one is sent to the others as a `Change`, and they count it
// in their own tables.
//
// An address that has used up its failures is deferred without asking the downstream. A network is only slowed, because
// it has other members. A user name is only slowed too, or attackers would lock users out.
extension Judge {
  /// Beyond the limits that rules have.
  private func loginKey(_ source: Source) -> BucketKey {
    BucketKey(source.address, length: Int(source.length), limit: 32 + source.kind.rawValue)
  }

  /// Whether an address has used up its failures.
  func mayNotTry(_ connection: Connection, _ core: borrowing Core, now: Instant) -> Bool {
    guard core.policy.mode == .enforce, !connection.flags.contains(.trusted) else { return false }
    let key = loginKey(Source(host: connection.address))
    return buckets.peek(key, core.policy.logins.address, now: now) == 0
  }

  /// The downstream has refused a log-in: counts it for its address, its network and its user name.
  ///
  /// - Returns: which failure this is, 1 and more: the highest of what the session, the address, the network and the
  ///   user name say.
  mutating func loginFailed(
    _ i: ClientIndex, _ clients: inout Clients, _ core: inout Core, now: Instant
  ) -> Int {
    let s = clients.connections[i].session
    core.counters.loginsFailed += 1
    let user = clients.sessions[s].login.failed()
    note(.authFailure, i, &clients, &core, now: now)
    var count = Int(clients.sessions[s].login.failures)
    if clients.connections[i].flags.contains(.trusted) { return count }
    let address = clients.connections[i].address
    count = max(count, learnFailure(of: Source(host: address), core, now: now))
    let network = Source(networkOf: address, length: address.isIPv4 ? 24 : 48)
    count = max(count, learnFailure(of: network, core, now: now))
    if user != 0 {
      count = max(count, learnFailure(of: Source(.user, hash: user), core, now: now))
    }
    if mayNotTry(clients.connections[i], core, now: now) {
      core.limitReached(i, .authFailures, clients, now: now)
    }
    return count
  }

  /// A log-in failed here: counts it, and tells the other workers.
  private mutating func learnFailure(
    of source: Source, _ core: borrowing Core, now: Instant
  ) -> Int {
    memory.learn(.loginFailed, of: source, now: now)
    return count(source, core, now: now)
  }

  /// Something was learnt elsewhere, or before this process began.
  mutating func learn(_ change: Change, _ core: inout Core, now: Instant) {
    core.counters.changesHeardOf += 1
    guard let at = memory.time(of: change, now: now) else { return }
    if change.what == .loginFailed {
      _ = count(change.source, core, now: at)
    } else {
      memory.remember(change, chanceAfter: core.policy.secondChanceAfter)
    }
  }

  /// Counts one failure under a source.
  ///
  /// - Returns: how many are not forgiven yet, of a network in proportion to what an address may have.
  private mutating func count(
    _ source: Source, _ core: borrowing Core, now: Instant
  ) -> Int {
    let limits = core.policy.logins
    switch source.kind {
    case .address: return charge(loginKey(source), limits.address, now: now)
    case .user: return charge(loginKey(source), limits.user, now: now)
    case .network:
      // A network is allowed so many more; what it has used counts in proportion.
      let share = max(Int(limits.network.burst / max(limits.address.burst, 1)), 1)
      return charge(loginKey(source), limits.network, now: now) / share
    case .heloDomain: return 0
    }
  }

  /// Counts one failure.
  ///
  /// - Returns: how many are not forgiven yet.
  private mutating func charge(_ key: BucketKey, _ rate: Rate, now: Instant) -> Int {
    if rate.isUnlimited { return 0 }
    _ = buckets.take(key, 1, rate, now: now)
    return Int(rate.burst - min(buckets.peek(key, rate, now: now), rate.burst))
  }
}
