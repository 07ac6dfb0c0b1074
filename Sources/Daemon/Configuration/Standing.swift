// SPDX-License-Identifier: Apache-2.0
package import Flow
package import Structures
package import Suspicion

/// How a peer stands at the moment it connects, by its address and the tables alone.
///
/// Not its history: what was remembered of it comes on top. Kept: the first table that names a class
/// decides it; the access table comes first, and a `dunno` there leaves it to the rates.
package struct Standing: Sendable {
  /// The access table refuses it at once.
  package let isRefused: Bool
  package let peerClass: PeerClass
  package let signals: SignalSet
  /// Without history.
  package let tier: Tier
  package let score: Double
  /// The greeting delay that the rate rule sets in place of the configured one, in microseconds.
  package let greetingDelay: Int64?

  package init(_ address: Address, _ policy: Policy) {
    let action = policy.access.lookup(address)?.action
    let rate = policy.rates.lookup(address)
    isRefused = action == .reject
    if case .classify(let named) = action {
      peerClass = named
    } else {
      peerClass = rate?.peerClass ?? .unknown
    }
    var signals = SignalSet()
    if peerClass == .suspicious { signals.insert(SignalSet(.listedSuspicious)) }
    if peerClass == .bad { signals.insert(SignalSet(.listedBad)) }
    signals = signals.filter { policy[$0].action != .ignore }
    self.signals = signals
    tier = policy.tier(signals, known: false, trusted: peerClass == .trusted)
    score = policy.score(signals)
    greetingDelay = rate?.delay.map(\.microseconds)
  }

  /// The delay of a stage for a peer like this at a tier, as `Delays` has it; a rate rule's `delay=` takes
  /// the place of the greeting delay of T1 and T2, within the ceiling.
  ///
  /// - Parameter score: nil for that of this standing.
  package func delay(
    _ stage: Stage, _ tier: Tier, score: Double? = nil, count: Int = 1, _ policy: Policy
  ) -> Int64 {
    if stage == .banner, tier == .clean || tier == .suspicious, let greetingDelay {
      return min(greetingDelay, policy.delays[.banner].ceiling)
    }
    return policy.delays.delay(stage, tier: tier, score: score ?? self.score, count: count)
  }
}

extension SignalSet {
  fileprivate func filter(_ isKept: (Signal) -> Bool) -> SignalSet {
    var kept = SignalSet()
    for signal in members where isKept(signal) { kept.insert(SignalSet(signal)) }
    return kept
  }
}
