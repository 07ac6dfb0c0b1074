// SPDX-License-Identifier: Apache-2.0

/// What a worker counted since it started. Each is only ever added to, gauges excepted.
package struct Counters: BitwiseCopyable, Sendable, Equatable {
  package var accepted: UInt64 = 0
  package var refused: UInt64 = 0
  package var shed: UInt64 = 0
  package var hangups: UInt64 = 0
  package var timeouts: UInt64 = 0
  package var passed: UInt64 = 0
  package var tarpitted: UInt64 = 0
  package var drips: UInt64 = 0
  package var delays: UInt64 = 0
  package var wouldDelay: UInt64 = 0
  package var delayedMicros: UInt64 = 0
  package var rateLimited: UInt64 = 0
  package var messages: UInt64 = 0
  package var messageBytes: UInt64 = 0
  package var recipients: UInt64 = 0
  package var rejectedDownstream: UInt64 = 0
  package var tempfailedByUs: UInt64 = 0
  package var linksOpened: UInt64 = 0
  package var linkFailures: UInt64 = 0
  package var possibleDuplicates: UInt64 = 0
  package var secondChances: UInt64 = 0
  package var protocolFaults: UInt64 = 0
  /// Connections to listeners behind a load balancer that did not come from one, or without its header.
  package var proxyRefused: UInt64 = 0
  /// Refused because their source holds its share of: slots (421), sessions (421), downstream connections (451), places
  /// for TLS and for handshakes (454).
  package var overShareSlots: UInt64 = 0
  package var overShareSessions: UInt64 = 0
  package var overShareLinks: UInt64 = 0
  package var overShareTLS: UInt64 = 0
  package var bytesIn: UInt64 = 0
  package var bytesOut: UInt64 = 0
  package var handshakes: UInt64 = 0
  package var handshakesInTurn: UInt64 = 0
  package var handshakesFailed: UInt64 = 0
  package var linksSecured: UInt64 = 0
  package var loginsFailed: UInt64 = 0
  /// What other workers have learnt of sources and was taken in here.
  package var changesHeardOf: UInt64 = 0
  package var spliced: UInt64 = 0
  /// Clients about whom the DNS lists were asked, those whose answer came while they were here, and those it lists.
  package var lookUps: UInt64 = 0
  package var lookUpsAnswered: UInt64 = 0
  package var listed: UInt64 = 0
  /// Closing lines by what became of the session, whether they were written or left out.
  package var verdicts = VerdictCounts()
  // Gauges: as things are now.
  package var held: UInt64 = 0
  package var waiting: UInt64 = 0
  package var dripping: UInt64 = 0
  package var talking: UInt64 = 0
  package var links: UInt64 = 0
  package var tlsSessions: UInt64 = 0

  package init() {}

  /// Every figure with the name it has in the log and in metrics. Gauges are marked.
  package static var fields:
    [(name: String, isGauge: Bool, path: WritableKeyPath<Counters, UInt64>)]
  {
    [
      ("accepted", false, \.accepted), ("refused", false, \.refused), ("shed", false, \.shed),
      ("hangups", false, \.hangups), ("timeouts", false, \.timeouts), ("passed", false, \.passed),
      ("tarpitted", false, \.tarpitted), ("drips", false, \.drips), ("delays", false, \.delays),
      ("would_delay", false, \.wouldDelay), ("delayed_micros", false, \.delayedMicros),
      ("rate_limited", false, \.rateLimited), ("messages", false, \.messages),
      ("message_bytes", false, \.messageBytes), ("recipients", false, \.recipients),
      ("rejected_downstream", false, \.rejectedDownstream),
      ("tempfailed_by_us", false, \.tempfailedByUs), ("links_opened", false, \.linksOpened),
      ("link_failures", false, \.linkFailures),
      ("possible_duplicates", false, \.possibleDuplicates),
      ("second_chances", false, \.secondChances), ("protocol_faults", false, \.protocolFaults),
      ("proxy_refused", false, \.proxyRefused),
      ("over_share_connections", false, \.overShareSlots),
      ("over_share_sessions", false, \.overShareSessions),
      ("over_share_links", false, \.overShareLinks), ("over_share_tls", false, \.overShareTLS),
      ("bytes_in", false, \.bytesIn),
      ("bytes_out", false, \.bytesOut), ("tls_handshakes", false, \.handshakes),
      ("tls_handshakes_in_turn", false, \.handshakesInTurn),
      ("tls_handshakes_failed", false, \.handshakesFailed),
      ("tls_links", false, \.linksSecured), ("logins_failed", false, \.loginsFailed),
      ("changes_heard_of", false, \.changesHeardOf),
      ("tls_passed_on", false, \.spliced), ("dns_asked", false, \.lookUps),
      ("dns_answered", false, \.lookUpsAnswered), ("dns_listed", false, \.listed),
    ]
      + Verdict.allCases.map { ("verdict_" + $0.counterName, false, \.verdicts[$0]) }
      + [
        ("held", true, \.held),
        ("waiting", true, \.waiting), ("dripping", true, \.dripping), ("talking", true, \.talking),
        ("links", true, \.links), ("tls_sessions", true, \.tlsSessions),
      ]
  }

  /// Adds another worker's figures.
  package mutating func add(_ other: Counters) {
    for field in Self.fields { self[keyPath: field.path] &+= other[keyPath: field.path] }
  }
}
