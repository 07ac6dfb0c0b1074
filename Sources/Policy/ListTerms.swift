// SPDX-License-Identifier: Apache-2.0
//
// What DNS lists say of a client, and what that leads to: one value from the configuration to the engine (which judges by
// it) and the driver (which asks the zones). Not the asking, and not which zones can be believed at the moment.

package import DNSLists

/// At which moment a listed client is rejected. Postscreen rejects at RCPT, after its tests.
package enum ListRejection: String, Sendable, CaseIterable {
  /// It is slowed by its tier, and no more.
  case never
  /// By its first reply, where the lists have answered by then; else as with `rcpt`.
  case connect
  /// Each recipient is refused, so the log shows whose mail it was.
  case rcpt
}

/// What a score comes to.
package enum ListOpinion: Sendable, Equatable {
  case none, listed, allowed
}

/// The lists that are asked about clients, and what their answers count for.
package struct ListTerms: Sendable {
  package var sites: ListSites
  /// The score from which on a client is listed (postscreen_dnsbl_threshold); at least 1.
  package var threshold: Int32 = 1
  /// The score up to which a client is allowed (postscreen_dnsbl_allowlist_threshold); at most -1, or nil for never.
  package var allowThreshold: Int32?
  package var rejectAt = ListRejection.never

  /// The name of each zone as others may see it, without a key, ready for the wire.
  private let names: [[UInt8]]

  package init(_ sites: ListSites) {
    self.sites = sites
    names = sites.zones.map { Array($0.publicName.utf8) }
  }

  /// The zone that weighs most among the items that matched, as others may see it: for the reply.
  package func name(of matched: ItemSet) -> [UInt8] {
    var heaviest: Int?
    for item in sites.items.indices where matched.contains(ItemSet(item: item)) {
      if heaviest.map({ sites.items[item].weight > sites.items[$0].weight }) ?? true {
        heaviest = item
      }
    }
    guard let heaviest else { return [] }
    for zone in sites.zones.indices where sites.items(of: zone).contains(ItemSet(item: heaviest)) {
      return names[zone]
    }
    return []
  }

  /// What the items that matched come to.
  package func opinion(_ matched: ItemSet) -> ListOpinion {
    let score = sites.score(matched)
    if score >= threshold { return .listed }
    if let allowThreshold, score <= allowThreshold { return .allowed }
    return .none
  }

  /// Whether an opinion stands whatever zones that have not answered may say.
  ///
  /// - Parameter pending: the items of those zones.
  package func isDecided(_ matched: ItemSet, pending: ItemSet) -> Bool {
    if pending.isEmpty { return true }
    var (least, most) = (sites.score(matched), sites.score(matched))
    for item in sites.items.indices where pending.contains(ItemSet(item: item)) {
      let weight = sites.items[item].weight
      if weight < 0 { least += weight } else { most += weight }
    }
    if least >= threshold { return true }
    return allowThreshold.map { most <= $0 } ?? (most < threshold)
  }
}
