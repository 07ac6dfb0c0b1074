// SPDX-License-Identifier: Apache-2.0
//
// How DNS lists are asked: one value from the configuration to the driver. Not which lists those are, nor what their
// answers count for: that is `ListTerms`. The engine knows nothing of it.

package import Structures

/// Where a DNS server listens.
package struct NameServer: Hashable, Sendable, CustomStringConvertible {
  package static let standardPort: UInt16 = 53

  package let address: Address
  package let port: UInt16

  package init(_ address: Address, port: UInt16 = NameServer.standardPort) {
    self.address = address
    self.port = port
  }

  /// `192.0.2.1` or `[2001:db8::1]:5353`: the port only where it is not 53.
  package var description: String {
    if port == NameServer.standardPort { return "\(address)" }
    return address.isIPv4 ? "\(address):\(port)" : "[\(address)]:\(port)"
  }
}

/// Whom the lists are asked through, how long, and how many answers are kept.
package struct LookUpSettings: Hashable, Sendable {
  /// As many as resolvers of C know; c-ares takes a share of the time for each.
  package static let serversMax = 8

  /// In the order in which they are asked, at most `serversMax`; empty for those of /etc/resolv.conf.
  package var servers: [NameServer] = []
  /// From the question to the answer, in microseconds; 0.5 s to 10 s.
  package var timeout: Int64 = 3_000_000
  /// Answers that are remembered, of all workers together.
  package var cacheEntries = 65_536

  package init() {}
}
