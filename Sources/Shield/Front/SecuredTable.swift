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
  /// Of that certificate: SHA-256, and the beginning of the subject's common name.
  package var fingerprint = InlineArray<32, UInt8>(repeating: 0)
  package var subject = InlineArray<64, UInt8>(repeating: 0)
  package var subjectCount: UInt8 = 0
  /// And it is one that was asked for: the chain, and for a downstream the name.
  package var isVerified = false
  /// The name the client asked for (SNI, RFC 6066, 3); empty for none and for one above 128 octets.
  package var name = InlineArray<128, UInt8>(repeating: 0)
  package var nameCount: UInt8 = 0
  /// Until the handshake is over: its source has had more of them than it has credit for, and those that have some
  /// come first.
  var isInTurn = false
  /// The handshake is not over yet.
  fileprivate(set) var isInHandshake = false

  package init() {}

  /// `TLSv1.3`: what OpenSSL calls it.
  var versionName: InlineArray<7, UInt8> {
    var name: InlineArray<7, UInt8> = [84, 76, 83, 118, 49, 46, 48]
    name[6] += UInt8(clamping: Int(version) - 0x0301)
    return name
  }
}

/// Clients that speak TLS, and what is known of it: bounded, and beside the connections, because of a million held
/// ones few will.
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

  /// Whether no more than a part of the places is taken, and of those for handshakes.
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
