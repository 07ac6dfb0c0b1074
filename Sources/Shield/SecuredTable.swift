// SPDX-License-Identifier: Apache-2.0
import Structures

/// What a handshake came to.
package struct TLSFacts: BitwiseCopyable, Sendable {
  /// As on the wire: 0x0303 is TLS 1.2, 0x0304 is TLS 1.3.
  package var version: UInt16 = 0
  /// The cipher suite's number in IANA's registry.
  package var cipher: UInt16 = 0
  /// Of the cipher's key.
  package var bits: UInt16 = 0
  /// An earlier session went on.
  package var isResumed = false
  /// The peer showed a certificate.
  package var hasCertificate = false
  /// And it is one that was asked for: the chain, and for a downstream the name.
  package var isVerified = false
  /// The name the client asked for (SNI, RFC 6066, 3); empty for none and for one above 128 octets.
  package var name = InlineArray<128, UInt8>(repeating: 0)
  package var nameCount: UInt8 = 0

  package init() {}
}

/// Clients that speak TLS, and what is known of it: bounded, and beside the connections, because of a million held
/// ones few will.
///
/// A hash table of half the places at most, open addressing, found by the client's place.
struct SecuredTable: ~Copyable {
  struct Entry: BitwiseCopyable {
    var client: Int32 = -1
    var facts = TLSFacts()
  }

  private var entries: Slab<Entry>
  private var indexes: IndexAllocator
  /// Indexes of entries, or -1.
  private var places: Slab<Int32>
  let capacity: Int

  init(capacity: Int) {
    self.capacity = capacity
    entries = Slab(capacity: max(capacity, 1), repeating: Entry())
    indexes = IndexAllocator(capacity: capacity)
    var size = 2
    while size < 2 * capacity { size *= 2 }
    places = Slab(capacity: size, repeating: -1)
  }

  var count: Int { capacity - indexes.free }

  /// Bytes of memory for each entry.
  static var bytesEach: Int {
    MemoryLayout<Entry>.stride + 8 + 4 * MemoryLayout<Int32>.stride
  }

  private func home(_ client: Int) -> Int {
    // Fibonacci hashing (Knuth, vol. 3, 6.4): clients' places are small numbers that nobody outside chooses.
    let mixed = UInt64(truncatingIfNeeded: client) &* 0x9E37_79B9_7F4A_7C15
    return Int(mixed >> 32) & (places.capacity - 1)
  }

  private func place(of client: Int) -> Int? {
    var place = home(client)
    while places[place] >= 0 {
      if entries[Int(places[place])].client == Int32(client) { return place }
      place = (place + 1) & (places.capacity - 1)
    }
    return nil
  }

  /// Gives a client a place.
  ///
  /// - Returns: false if there is none left.
  mutating func add(_ client: Int) -> Bool {
    guard let index = indexes.take() else { return false }
    entries[index] = Entry(client: Int32(client))
    var place = home(client)
    while places[place] >= 0 { place = (place + 1) & (places.capacity - 1) }
    places[place] = Int32(index)
    return true
  }

  func facts(_ client: Int) -> TLSFacts? {
    guard let place = place(of: client) else { return nil }
    return entries[Int(places[place])].facts
  }

  mutating func set(_ client: Int, _ facts: TLSFacts) {
    guard let place = place(of: client) else { return }
    entries[Int(places[place])].facts = facts
  }

  /// Those behind a gap move up, so that all are still found.
  mutating func remove(_ client: Int) {
    guard var gap = place(of: client) else { return }
    indexes.release(Int(places[gap]))
    let mask = places.capacity - 1
    var next = (gap + 1) & mask
    while places[next] >= 0 {
      let wanted = home(Int(entries[Int(places[next])].client))
      // It may move if its home is not between the gap and itself.
      if (next - wanted) & mask >= (next - gap) & mask {
        places[gap] = places[next]
        gap = next
      }
      next = (next + 1) & mask
    }
    places[gap] = -1
  }
}
