// SPDX-License-Identifier: Apache-2.0
package import Flow
package import Structures
package import Suspicion

/// How a peer stands at the moment it connects, by the tables and what is remembered of it.
///
/// The one place that judges an arrival: the engine asks it about those that come, `explain` about those that might.
/// Kept: the first table that names a class decides it; the access table comes first, and `unknown` or `dunno` there
/// leave it to the rates. It allocates nothing.
package struct Standing: Equatable, Sendable {
  /// What is remembered of an address.
  package struct History: Equatable, Sendable {
    /// Its mail was accepted.
    package var isKnown: Bool
    /// It was proven bad.
    package var isBad: Bool
    package static let none = History()

    package init(isKnown: Bool = false, isBad: Bool = false) {
      self.isKnown = isKnown
      self.isBad = isBad
    }
  }

  /// The access table refuses it at once.
  package let isRefused: Bool
  package let peerClass: PeerClass
  package let isKnown: Bool
  package let signals: SignalSet
  package let tier: Tier
  /// The delay of the banner that the rate rule sets in place of the configured one, in microseconds.
  package let greetingDelay: Int64?

  package init(_ address: Address, history: History = .none, _ policy: Policy) {
    let rate = policy.rates.lookup(address)
    var opinion = PeerClass.unknown
    var isRefused = false
    switch policy.access.lookup(address)?.action {
    case .reject: isRefused = true
    case .classify(let stated): opinion = stated
    case .dunno, nil: break
    }
    if opinion == .unknown { opinion = rate?.peerClass ?? .unknown }
    self.isRefused = isRefused
    peerClass = opinion
    isKnown = history.isKnown
    var signals = SignalSet()
    if opinion == .suspicious { signals.formUnion(Self.heeded(.listedSuspicious, policy)) }
    if opinion == .bad { signals.formUnion(Self.heeded(.listedBad, policy)) }
    if history.isBad { signals.formUnion(Self.heeded(.history, policy)) }
    self.signals = signals
    tier = policy.tier(signals, known: history.isKnown, trusted: opinion == .trusted)
    greetingDelay = opinion == .trusted ? nil : rate?.greetingDelay
  }

  package var isTrusted: Bool { peerClass == .trusted }

  /// A signal as a set, empty where it is ignored. Not a nested function: what such a one captures is allocated in a
  /// debug build.
  private static func heeded(_ signal: Signal, _ policy: Policy) -> SignalSet {
    policy[signal].action == .ignore ? SignalSet() : SignalSet(signal)
  }
}

extension Policy {
  /// The delay of a stage before second chances, load and the sum of a session, in microseconds.
  ///
  /// - Parameter greeting: what a rate rule sets in place of the delay of the banner, within its ceiling; T3 gets its
  ///   banner from the tarpit nevertheless.
  package func delay(
    _ stage: Stage, tier: Tier, score: Double, count: Int = 1, greeting: Int64?
  ) -> Int64 {
    if stage == .banner, tier != .bad, let greeting {
      return min(greeting, delays[.banner].ceiling)
    }
    return delays.delay(stage, tier: tier, score: score, count: count)
  }

  /// The most that a session may be delayed in all by what no rate asks for, in microseconds; T3 has no such sum.
  package func delaySum(_ tier: Tier) -> Int64 {
    switch tier {
    case .known, .clean: min(delays.cleanSum, delays.sumMost)
    case .suspicious: min(delays.suspiciousSum, delays.sumMost)
    case .bad: .max
    }
  }
}
