// SPDX-License-Identifier: Apache-2.0

package import Structures

/// The addresses of an answer: at most 16, more are left out. No list answers with so many, and of a host that has more
/// the first ones are as good as any.
package struct AddressList: BitwiseCopyable, Sendable {
  /// How many addresses are kept.
  package static let countMax = 16

  private var places = InlineArray<16, Address>(repeating: Address(high: 0, low: 0))
  private var used: UInt8 = 0

  /// None.
  package init() {}

  /// The first 16 of some.
  package init(_ addresses: [Address]) {
    for address in addresses { append(address) }
  }

  /// How many there are.
  package var count: Int { Int(used) }
  /// Whether there is none.
  package var isEmpty: Bool { used == 0 }

  /// An address, 0 ..< count.
  package subscript(_ i: Int) -> Address {
    precondition(i < count, "there is no such address")
    return places[i]
  }

  /// Whether an address is among them.
  package func contains(_ address: Address) -> Bool {
    for i in 0..<count where places[i] == address { return true }
    return false
  }

  /// Appends an address if there is room.
  package mutating func append(_ address: Address) {
    guard count < Self.countMax else { return }
    places[count] = address
    used += 1
  }
}
