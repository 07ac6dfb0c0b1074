// SPDX-License-Identifier: Apache-2.0
import Policy
import SMTP
import Structures
import Suspicion

/// What a downstream connection was offered in the reply to its own EHLO, which holds for it alone.
struct LinkOffer: BitwiseCopyable, Sendable {
  var keywords = Capabilities.Keywords()
  /// The biggest message it takes, in octets; 0 for no limit (RFC 1870, 4).
  var sizeMax: UInt64 = 0

  /// Nothing, as before EHLO and after HELO.
  init() {}

  init(_ offers: Capabilities) {
    keywords = offers.keywords
    sizeMax = offers.sizeMax
  }
}

/// What the downstream is known to offer, for all clients: what it said to the last probe, or, where it refuses
/// probes, what it said alike to all clients of late.
///
/// Not what one connection may use: that is its `LinkOffer`, because a server may offer unlike keywords to unlike
/// clients. Kept: what is known stays known until something newer is, however long the downstream is away.
struct KnownOffers: Sendable {
  /// What the last probe that ended came to.
  enum Probe: Sendable {
    case none
    case passed
    /// The downstream was there and did not want it.
    case refused
    /// It was not reached.
    case failed
  }

  private(set) var probe = Probe.none
  private var probed: Capabilities?
  /// What clients were offered alike: those counted by `clients`, and the `window` before them.
  private var alike: Capabilities?
  private var alikeBefore: Capabilities?
  private var clients = 0
  /// Until when each client's EHLO waits for what its own connection is offered.
  private var unlikeUntil = Instant.origin

  /// How many clients are taken together.
  private static let window = 8
  /// How long a difference is remembered, in microseconds. A new policy of the server is noticed within the hour.
  private static let unlikeFor: Int64 = 3_600_000_000

  /// What all clients are offered; nil as long as nobody has been told anything.
  var all: Capabilities? {
    guard let alikeAll = alikeBefore.map({ before in alike.map(before.common) ?? before }) ?? alike
    else { return probed }
    return probe == .refused ? alikeAll : probed ?? alikeAll
  }

  /// Whether EHLO is not answered from what is known of others.
  func isUnlike(now: Instant) -> Bool { now < unlikeUntil }

  /// A probe was offered this.
  mutating func probeHeard(_ offers: Capabilities) {
    probe = .passed
    probed = offers
    alike = nil
    alikeBefore = nil
    clients = 0
  }

  /// A client was offered this in its own name.
  mutating func clientHeard(_ offers: Capabilities) {
    // Only where there is no probe to go by.
    if probe == .passed { return }
    if clients == Self.window {
      alikeBefore = alike
      alike = nil
      clients = 0
    }
    alike = alike.map(offers.common) ?? offers
    clients += 1
  }

  /// A probe failed.
  ///
  /// - Parameter isRefusal: whether a connection had been made.
  mutating func probeFailed(isRefusal: Bool) { probe = isRefusal ? .refused : .failed }

  /// A client was offered less than it had been told.
  ///
  /// - Returns: whether that is news.
  mutating func differs(now: Instant) -> Bool {
    let isNews = !isUnlike(now: now)
    unlikeUntil = now.after(microseconds: Self.unlikeFor)
    return isNews
  }
}
