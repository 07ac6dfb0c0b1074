// SPDX-License-Identifier: Apache-2.0
import Structures

/// Clients that speak TLS, and what is known of their TLS. It is bounded and kept apart from the connections, because
/// few of a million held clients speak it.
package struct SecuredTable: ~Copyable {
  private var facts: Slab<TLSFacts>
  private var numbers: PlaceMap
  /// How many of the clients are in their handshake.
  private(set) var handshakes = 0
  var capacity: Int { numbers.capacity }
  var count: Int { numbers.count }

  init(capacity: Int) {
    facts = Slab(capacity: max(capacity, 1), repeating: TLSFacts())
    numbers = PlaceMap(capacity: capacity)
  }

  /// Bytes of memory for each place.
  package static var bytesEach: Int { MemoryLayout<TLSFacts>.stride + PlaceMap.bytesEach }

  /// Whether at most this part of the places is taken, and of the places for handshakes.
  ///
  /// - Parameters:
  ///   - part: 0…1.
  ///   - handshakes: how many handshakes there may be at once.
  func hasRoom(_ part: Double, handshakes most: Int) -> Bool {
    Double(count) < Double(capacity) * part && Double(handshakes) < Double(most) * part
  }

  /// Gives a client a place.
  ///
  /// - Returns: false if there is none left.
  mutating func add(_ client: ClientIndex, isInTurn: Bool) -> Bool {
    guard let number = numbers.add(client.number) else { return false }
    facts[number] = TLSFacts()
    facts[number].isInTurn = isInTurn
    facts[number].isInHandshake = true
    handshakes += 1
    return true
  }

  subscript(_ client: ClientIndex) -> TLSFacts? {
    numbers.number(of: client.number).map { facts[$0] }
  }

  /// A client's handshake is over.
  mutating func set(_ client: ClientIndex, _ facts: TLSFacts) {
    guard let number = numbers.number(of: client.number) else { return }
    if self.facts[number].isInHandshake { handshakes -= 1 }
    self.facts[number] = facts
    self.facts[number].isInHandshake = false
  }

  mutating func remove(_ client: ClientIndex) {
    guard let number = numbers.number(of: client.number) else { return }
    if facts[number].isInHandshake { handshakes -= 1 }
    numbers.remove(client.number)
  }
}
