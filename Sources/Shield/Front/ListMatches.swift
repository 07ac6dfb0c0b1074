// SPDX-License-Identifier: Apache-2.0
import DNSLists
import Structures

/// The items of the DNS lists that clients are on, four bytes a connection beside the records: for the reply that says
/// which list it was. Takes no memory where no lists are asked.
struct ListMatches: Sendable {
  private var items: [UInt32] = []

  /// Makes room for as many connections; what was kept is forgotten, because items have other numbers by now.
  mutating func prepare(connections: Int) { items = Array(repeating: 0, count: connections) }

  mutating func keep(_ matched: ItemSet, of i: ClientIndex) {
    if !items.isEmpty { items[i.number] = matched.rawValue }
  }

  mutating func forget(_ i: ClientIndex) {
    if !items.isEmpty { items[i.number] = 0 }
  }

  subscript(_ i: ClientIndex) -> ItemSet {
    items.isEmpty ? [] : ItemSet(rawValue: items[i.number])
  }
}
