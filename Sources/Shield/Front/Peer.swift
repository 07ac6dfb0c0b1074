// SPDX-License-Identifier: Apache-2.0
package import Structures

/// A peer as the accept sees it.
package struct Peer: BitwiseCopyable, Sendable {
  package var address: Address
  package var port: UInt16
  /// Which of the configured listeners it came to.
  package var listener: UInt8
  /// The load balancer that named it in a PROXY header; nil for a client that connected directly.
  package var via: Address?
  /// A load balancer itself, which speaks for no client.
  var isNobody = false

  package init(address: Address, port: UInt16, listener: UInt8, via: Address? = nil) {
    self.address = address
    self.port = port
    self.listener = listener
    self.via = via
  }
}

/// What becomes of an accepted connection.
package enum Admission: Sendable {
  /// It has this slot; the driver puts its descriptor there.
  case held(Slot)
  /// Send these bytes if they go out at once, and close: there is no slot to wait in.
  case refused(Region)
  /// Close without a word.
  case dropped
}
