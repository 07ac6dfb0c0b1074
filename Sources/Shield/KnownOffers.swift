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

  /// A probe came to nothing.
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

// What a client is offered, and what becomes of it where its own connection is offered less.
extension Engine {
  /// What a client is told in the reply to EHLO, of what the downstream offers: what Sluice carries of it here.
  func offered(_ i: Int, of theirs: Capabilities) -> Capabilities {
    var own = Capabilities()
    own.keywords = .carried
    if namesTLS(i, theirs) { own.keywords.insert(.starttls) }
    // Once is all there may be (RFC 4954, 4).
    let s = Int(connections[i].session)
    if !offersAuth(i) || s >= 0 && sessions[s].flags.contains(.authenticated) {
      own.keywords.remove(.auth)
    }
    if connections[i].flags.contains(.encrypted) && downstream.terms.tls == .verify {
      own.keywords.insert(.requiretls)
    }
    own.sizeMax = policy.session.messageBytes
    own.recipientsMax = UInt32(clamping: policy.session.recipients)
    let role = policy.role(ofListener: Int(connections[i].listener))
    return theirs.offered(by: own, role: role == .outbound ? .outbound : .inbound)
  }

  /// What a client may use that is told nothing, after HELO or without any greeting: what it uses all the same its own
  /// connection decides.
  func offeredUnasked(_ i: Int) -> Capabilities {
    var anything = Capabilities()
    anything.keywords = .carried
    return offered(i, of: downstream.offers.all ?? anything)
  }

  /// Whether EHLO must wait for the client's own connection to the downstream: nothing is known of what that offers,
  /// or it is known to offer unlike things to unlike clients.
  func mustAskFirst(now: Instant) -> Bool {
    downstream.offers.all == nil || downstream.offers.isUnlike(now: now)
  }

  /// EHLO is answered by what others were offered. Where nothing is known of that, by 421: a sender that is not offered
  /// what it needs would return the mail.
  mutating func helloFromOthers(_ i: Int, now: Instant, into effects: inout EffectQueue) {
    if let known = downstream.offers.all {
      sayHello(i, offered(i, of: known), now: now, into: &effects)
    } else {
      leave(i, .offersUnknown, now: now, into: &effects)
    }
  }

  /// The client's own connection is ready for the client whose EHLO waits for it. It is not kept: who has said EHLO
  /// may say nothing more for minutes.
  mutating func ehloAnswered(_ i: Int, _ l: Int, now: Instant, into effects: inout EffectQueue) {
    let reply = linkReply(l).prefix(Int(links[l].replyCount))
    let offers = Capabilities(ehloReply: arena.span(reply))
    dropLink(of: i, now: now, into: &effects)
    sayHello(i, offered(i, of: offers), now: now, into: &effects)
    if connections[i].state == .talking { work(i, now: now, into: &effects) }
  }

  /// The client uses what it was told and its own connection was not: it is put off, never refused.
  mutating func offeredLess(
    _ i: Int, _ reply: OwnReply, now: Instant, into effects: inout EffectQueue
  ) {
    if downstream.offers.differs(now: now) {
      journal.append(entry(.downstreamUnlike, i, now: now))
    }
    if reply.isOutage {
      answer(i, reply, now: now, into: &effects)
    } else {
      reject(i, reply, now: now, into: &effects)
    }
  }
}
