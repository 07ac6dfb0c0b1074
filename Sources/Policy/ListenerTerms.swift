// SPDX-License-Identifier: Apache-2.0
//
// What the operator has decided about one listener, as one value from the configuration to where it acts. Not the
// socket, which is the service's, and no certificates, which are in the TLS contexts.

package import Structures

/// Which way a listener's mail goes.
package enum Role: UInt8, Sendable {
  /// From strangers to our users: no AUTH.
  case inbound
  /// From our users to strangers: AUTH is passed to the downstream.
  case outbound
}

/// How a listener's clients come to TLS.
package enum ListenerTLS: String, Sendable, CaseIterable {
  /// Not at all.
  case off
  /// By STARTTLS (RFC 3207).
  case starttls
  /// From the first octet on (RFC 8314, 3.3).
  case implicit
  /// STARTTLS is the downstream's: Sluice passes octets on and reads none.
  case passThrough = "pass_through"
}

/// An address that clients connect to, and what holds for those who do.
package struct ListenerTerms: Sendable {
  /// Where it listens; a wildcard tells nothing about the address that a client dialled.
  package var address: Address
  /// 0 is any that is free, until the socket is open.
  package var port: UInt16
  package var role: Role
  package var tls: ListenerTLS
  /// The load balancers that speak for others here, by a PROXY header; nil where clients come by themselves.
  package var balancers: PrefixTable?

  /// The listener that ships: all addresses, port 25, inbound, no TLS.
  package init(
    address: Address = Address(v4: 0), port: UInt16 = 25, role: Role = .inbound,
    tls: ListenerTLS = .off, balancers: PrefixTable? = nil
  ) {
    self.address = address
    self.port = port
    self.role = role
    self.tls = tls
    self.balancers = balancers
  }

  /// Whether it takes every address of its family.
  package var isWildcard: Bool { address == Address(v4: 0) || address == Address(high: 0, low: 0) }
}
