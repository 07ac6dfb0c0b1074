// SPDX-License-Identifier: Apache-2.0
import SMTP

/// What HELO or EHLO came to.
struct Greeting: BitwiseCopyable, Sendable {
  /// HELO or EHLO was accepted; and it is EHLO.
  private(set) var isGreeted = false
  private(set) var isExtended = false
  /// What the client was told in the reply to EHLO. After HELO, which tells nothing, what it would have been.
  private(set) var offered = Capabilities.Keywords()
  /// Octets of the name, in its region.
  private(set) var nameCount: UInt8 = 0

  /// A greeting is at hand: the one before holds no more.
  mutating func begin(isExtended: Bool) {
    isGreeted = false
    self.isExtended = isExtended
  }

  mutating func take(_ offers: Capabilities) {
    isGreeted = true
    offered = offers.keywords
  }

  /// What a client may use that has not greeted.
  mutating func presume(_ offers: Capabilities) { offered = offers.keywords }

  mutating func keepName(_ count: Int) { nameCount = UInt8(count) }

  /// What was said in clear is forgotten under TLS (RFC 3207, 4.2).
  mutating func forget() {
    isGreeted = false
    isExtended = false
    nameCount = 0
  }
}
