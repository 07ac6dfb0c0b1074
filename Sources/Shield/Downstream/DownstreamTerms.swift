// SPDX-License-Identifier: Apache-2.0
import SMTP
import Suspicion

/// How the downstream learns who the client is.
package enum Identity: UInt8, BitwiseCopyable, Sendable {
  /// Not at all: it sees Sluice's address, and must not trust it.
  case none
  /// PROXY protocol, version 1 (a line of text).
  case proxyV1
  /// PROXY protocol, version 2 (binary).
  case proxyV2
  /// Postfix's XCLIENT, before the first transaction.
  case xclient
  /// Postfix's XFORWARD, before each transaction: for the log, not for access.
  case xforward
  /// A trace header on top of each message.
  case received

  /// Whether the downstream expects something before it says a word.
  var isHeader: Bool { self == .proxyV1 || self == .proxyV2 }
}

/// How the downstream is spoken to.
struct DownstreamTerms: Sendable {
  var identity = Identity.none
  var tls = DownstreamTLS.off
  /// TLS begins with the connection, not by STARTTLS.
  var isImplicitTLS = false
  /// How often it is asked what it offers, in microseconds.
  var probeEvery: Int64 = 60_000_000
}
