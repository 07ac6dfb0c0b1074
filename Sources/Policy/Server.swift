// SPDX-License-Identifier: Apache-2.0
//
// The mail server behind Sluice, as one value from the configuration to the engine (which counts its addresses) and the
// driver (which connects to them). Not what is known of it: whether it answers and what it offers is the engine's.

package import Structures

/// How a downstream is told who the client is. The words are those of `downstream.identity`.
package enum Introduction: String, Sendable, CaseIterable {
  /// PROXY protocol, version 2 (binary).
  case proxyV2 = "proxy_v2"
  /// PROXY protocol, version 1 (a line of text).
  case proxyV1 = "proxy_v1"
  /// Postfix's XCLIENT, before the first transaction.
  case xclient
  /// Postfix's XFORWARD, before each transaction: for the log, not for access.
  case xforward
  /// A trace header on top of each message.
  case received
  /// Not at all: it sees Sluice's address, and must not trust it.
  case none

  /// Whether the downstream decides about the client by the client's own address; else by ours.
  package var namesClient: Bool { self == .proxyV2 || self == .proxyV1 || self == .xclient }

  /// Whether the downstream expects something before it says a word.
  package var isHeader: Bool { self == .proxyV1 || self == .proxyV2 }
}

/// Whether there is TLS on the way to a downstream. Postfix's words are `may`, `encrypt` and `secure`.
package enum DownstreamTLS: String, Sendable, CaseIterable {
  case off
  /// Where the downstream offers it and it works; whoever it is.
  case opportunistic
  /// Always; whoever it is.
  case required
  /// Always, and only with a certificate for its name from an authority that is trusted.
  case verify
}

/// How a downstream is spoken to, whichever of its addresses that is.
package struct DownstreamTerms: Sendable, Equatable {
  package var introduction: Introduction
  package var tls: DownstreamTLS
  /// As written; without `tls` it means nothing.
  package var isImplicitTLS: Bool
  /// How often it is asked whether it is there and what it offers, in microseconds.
  package var probeEvery: Int64

  package init(
    _ introduction: Introduction = .none, tls: DownstreamTLS = .off, isImplicitTLS: Bool = false,
    probeEvery: Int64 = 60_000_000
  ) {
    self.introduction = introduction
    self.tls = tls
    self.isImplicitTLS = isImplicitTLS
    self.probeEvery = probeEvery
  }

  /// TLS begins with the connection, not by STARTTLS.
  package var beginsWithTLS: Bool { isImplicitTLS && tls != .off }
}

/// A downstream: how it is spoken to, and where it is.
package struct Server: Sendable, Equatable {
  /// The most addresses of one that are made use of.
  package static let addressesMost = 8

  package var terms: DownstreamTerms
  /// In the order in which they are tried (RFC 5321, 5.1); at least one, at most `addressesMost`.
  package private(set) var addresses: [Address]
  /// The same at each of them.
  package var port: UInt16

  /// - Parameter addresses: at least one; what is beyond `addressesMost` is left out.
  package init(
    _ terms: DownstreamTerms = DownstreamTerms(),
    at addresses: [Address] = [Address(v4: 0x7F00_0001)], port: UInt16 = 25
  ) {
    invariant(!addresses.isEmpty, "a downstream without an address")
    self.terms = terms
    self.addresses = Array(addresses.prefix(Server.addressesMost))
    self.port = port
  }

  /// The same server somewhere else.
  package func moved(to addresses: [Address]) -> Server {
    Server(terms, at: addresses, port: port)
  }
}
