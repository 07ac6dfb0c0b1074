// SPDX-License-Identifier: Apache-2.0
package import Structures

/// The things a source is limited in; the raw value tells its buckets apart.
package enum LimitKind: UInt8, Sendable, BitwiseCopyable, CaseIterable {
  case connections = 1
  case messages, recipients, errors, bytes

  /// Handshakes have a bucket of their own for each source, and no rule.
  package static var handshakes: UInt8 { 32 }

  /// The word for it in tables, configuration and metrics.
  package var name: String {
    switch self {
    case .connections: "conn"
    case .messages: "msgs"
    case .recipients: "rcpt"
    case .errors: "errors"
    case .bytes: "bytes"
    }
  }
}

/// What happens to a source over its limit, from mild to hard.
package enum OverAction: UInt8, Sendable, BitwiseCopyable, CaseIterable {
  case slow, tempfail, refuse, drop

  static let names = ["slow", "tempfail", "refuse", "drop"]

  /// The word in a rate table.
  package var name: String { Self.names[Int(rawValue)] }
}

/// What a rate table says about one address, as plain bytes: no reference is counted to hand it around.
///
/// Not a bucket and not the text of the rule. Kept: what the rule leaves open is nil, so that defaults
/// can be put in from elsewhere; a limit that was lifted is `Rate.unlimited` instead.
package struct RateRule: Hashable, Sendable, BitwiseCopyable {
  /// Which sources share one bucket.
  package enum Sharing: Hashable, Sendable, BitwiseCopyable {
    /// All within a network of this length: 0…32 or 0…128.
    case prefix(UInt8)
    /// All that match the rule's pattern.
    case wholeNetwork
  }

  /// New connections.
  package var connections: Rate?
  /// Messages, counted at MAIL.
  package var messages: Rate?
  /// Recipients, counted at RCPT.
  package var recipients: Rate?
  /// Replies of class 5xx and protocol errors.
  package var errors: Rate?
  /// Bytes from the peer.
  package var bytes: Rate?
  /// Sessions at the same time; 0 for nothing said, `UInt32.max` for a limit that was lifted.
  package var concurrency: UInt32 = 0
  /// Microseconds until the greeting, 0…300,000,000; -1 for nothing said.
  package var delayMicroseconds: Int64 = -1
  package var peerClass: PeerClass?
  package var sharing: Sharing = .prefix(32)
  package var over: OverAction = .slow
  /// By what its table knows the rule; not its number in the file.
  package var rule: UInt32 = 0
  /// The network of the rule's pattern; only meaningful with `Sharing.wholeNetwork`.
  package var network = CIDRPattern(block: .allIPv4, isNegated: false)

  /// `delay=` in microseconds; nil where the rule says nothing of it.
  package var greetingDelay: Int64? { delayMicroseconds < 0 ? nil : delayMicroseconds }

  package var delay: Duration? { greetingDelay.map { .microseconds($0) } }

  package func rate(_ kind: LimitKind) -> Rate? {
    switch kind {
    case .connections: connections
    case .messages: messages
    case .recipients: recipients
    case .errors: errors
    case .bytes: bytes
    }
  }

  /// Whose bucket an address that matched this rule counts in; `with(limit:)` tells its limits apart.
  ///
  /// The same after a reload that moved the rule, so that nobody's debts change owners.
  package func key(for address: Address) -> BucketKey {
    switch sharing {
    case .prefix(let length):
      BucketKey(address.network(Int(length)), length: Int(length))
    case .wholeNetwork:
      BucketKey(
        network.block.address, length: network.block.length, negated: network.isNegated)
    }
  }

  /// The bucket of an address for one of its limits.
  package func key(for address: Address, _ kind: LimitKind) -> BucketKey {
    key(for: address).with(limit: kind.rawValue)
  }
}
