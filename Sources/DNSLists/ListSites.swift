// SPDX-License-Identifier: Apache-2.0
//
// All items together: which zones there are to ask, and what a client scores. Not the asking, and not what a score leads
// to. Kept: items of one zone share one question, and each item counts at most once.

package import Structures

/// A set of items, by their numbers. In other modules `ItemSet()` is a zero and `[]` a loop over an array.
@frozen
package struct ItemSet: OptionSet, Hashable, Sendable, BitwiseCopyable {
  package let rawValue: UInt32
  @inlinable package init(rawValue: UInt32) { self.rawValue = rawValue }
  /// None.
  @inlinable package init() { rawValue = 0 }
  /// The item with a number, 0..<32.
  @inlinable package init(item: Int) { rawValue = 1 << UInt32(item) }
  /// Each of 32.
  package static let all = ItemSet(rawValue: .max)
}

/// What the answers of a zone say of an address.
package enum ZoneVerdict: Hashable, Sendable {
  /// These items match, at least one.
  case listed(ItemSet)
  case notListed
  /// The answer counts for nothing.
  case healthError(ListError)
}

/// The items of a configuration.
package struct ListSites: Sendable {
  /// How many items there are at most: the bits of an `ItemSet`.
  package static let itemsMax = 32

  /// What cannot be told apart from one item to the next.
  package enum Failure: Error, Hashable, Sendable {
    /// More than `itemsMax`.
    case tooMany(Int)
  }

  /// In the order of the configuration; an item's number is its place.
  package let items: [ListSite]
  /// Each zone once, in the order in which it is first named; a zone's number is its place.
  package let zones: [ListZone]
  /// By zone.
  private let members: [ItemSet]

  package init(_ items: [ListSite]) throws(Failure) {
    if items.count > Self.itemsMax { throw .tooMany(items.count) }
    var zones: [ListZone] = []
    var members: [ItemSet] = []
    for (number, item) in items.enumerated() {
      if let zone = zones.firstIndex(of: item.zone) {
        members[zone].insert(ItemSet(item: number))
      } else {
        zones.append(item.zone)
        members.append(ItemSet(item: number))
      }
    }
    self.items = items
    self.zones = zones
    self.members = members
  }

  /// The items that a zone has.
  package func items(of zone: Int) -> ItemSet { members[zone] }

  /// The name to ask a zone for.
  package func queryName(
    _ address: Address, inZone zone: Int, asIPv6: Bool = false
  ) -> QueryName {
    guard let name = QueryName(address, in: zones[zone].name, asIPv6: asIPv6) else {
      invariantFailed("a zone's name leaves room for an address before it")
    }
    return name
  }

  /// What the answers of a zone say.
  package func verdict(ofZone zone: Int, _ answers: AddressList) -> ZoneVerdict {
    var matched = ItemSet()
    for i in 0..<answers.count {
      let answer = answers[i]
      if let error = ListError(answer) { return .healthError(error) }
      var rest = members[zone].rawValue
      while rest != 0 {
        let item = rest.trailingZeroBitCount
        rest &= rest - 1
        if items[item].filter.contains(answer.v4) { matched.insert(ItemSet(item: item)) }
      }
    }
    return matched.isEmpty ? .notListed : .listed(matched)
  }

  /// The sum of the weights of the items that matched.
  package func score(_ matched: ItemSet) -> Int32 {
    var sum: Int32 = 0
    var rest = matched.rawValue
    while rest != 0 {
      let item = rest.trailingZeroBitCount
      rest &= rest - 1
      if item < items.count { sum += items[item].weight }
    }
    return sum
  }
}
