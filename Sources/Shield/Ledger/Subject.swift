// SPDX-License-Identifier: Apache-2.0

/// What an entry is about, where the event alone does not say.
package enum Subject: UInt8, BitwiseCopyable, Sendable {
  case none, connections, concurrency, messages, recipients, errors, bytes, commands,
    unknownCommands,
    sessions, badSessions, slots, links, authFailures, time, tlsSessions
  case notTLS, noCipher, tlsVersion, certificate, alert, handshake, noTLS
  case connect, greeting, heloRefused, reply, malformedReply, unexpectedReply, wrongClass, closed,
    silence,
    early
  case headerNotTaken, greetingMissing, identityNotOffered, identityRefused, mechanismsCut
  case unlistedBalancer, headerMissing, headerMalformed, headerTooLong, headersWaiting,
    clientUnnamed
  case slotsOfAddress, slotsOfNetwork, sessionsOfAddress, sessionsOfNetwork, linksOfAddress,
    linksOfNetwork, tlsOfAddress, tlsOfNetwork, handshakesOfAddress, handshakesOfNetwork

  package var words: String {
    switch self {
    case .none: ""
    case .connections: "connection rate"
    case .concurrency: "concurrent connections"
    case .messages: "message rate"
    case .recipients: "recipient rate"
    case .errors: "error rate"
    case .bytes: "byte rate"
    case .commands: "command count"
    case .unknownCommands: "unknown commands"
    case .sessions: "no free session (limits.sessions)"
    case .badSessions: "tarpit sessions of this source (tarpit.sessions_per_source)"
    case .slots: "no free slot (limits.connections)"
    case .links: "no free downstream connection (limits.downstream_connections)"
    case .authFailures: "failed log-ins"
    case .time: "time"
    case .tlsSessions: "TLS sessions (limits.tls_sessions)"
    case .notTLS: "clear text instead of a TLS handshake"
    case .noCipher: "no common cipher"
    case .tlsVersion: "no common TLS version"
    case .certificate: "certificate not accepted"
    case .alert: "the peer aborted the handshake"
    case .handshake: "handshake failed"
    case .noTLS: "TLS not offered"
    case .connect: "cannot connect"
    case .greeting: "greeting rejected"
    case .heloRefused: "EHLO and HELO rejected"
    case .reply: "reply"
    case .malformedReply: "malformed reply"
    case .unexpectedReply: "reply without a command"
    case .wrongClass: "reply code of the wrong class"
    case .closed: "connection closed"
    case .silence: "no answer in time"
    case .early: "replied before the end of the message"
    case .headerNotTaken:
      "it did not accept the PROXY header: configure it to expect one, or change downstream.identity"
    case .greetingMissing:
      "no greeting, or 421: if it expects a PROXY header, set downstream.identity to proxy_v2 or proxy_v1"
    case .mechanismsCut:
      "its EHLO reply lists too many AUTH mechanisms for a reply: clients are offered fewer"
    case .identityNotOffered:
      "its EHLO reply does not list XCLIENT or XFORWARD for this address: see downstream.identity"
    case .identityRefused:
      "it rejected XCLIENT or XFORWARD: configure it to accept them from this address"
    case .unlistedBalancer: "not a listed load balancer"
    case .headerMissing: "no PROXY header within 3 s"
    case .headerMalformed: "not a valid PROXY header"
    case .headerTooLong: "PROXY header has more than 2,048 bytes after its addresses"
    case .headersWaiting: "too many connections still without a PROXY header"
    case .slotsOfAddress: "connections of this address (overload.share_per_address)"
    case .slotsOfNetwork: "connections of this network (overload.share_per_network)"
    case .sessionsOfAddress: "sessions of this address (overload.share_per_address)"
    case .sessionsOfNetwork: "sessions of this network (overload.share_per_network)"
    case .linksOfAddress: "downstream connections of this address (overload.share_per_address)"
    case .linksOfNetwork: "downstream connections of this network (overload.share_per_network)"
    case .tlsOfAddress: "TLS sessions of this address (overload.share_per_address)"
    case .tlsOfNetwork: "TLS sessions of this network (overload.share_per_network)"
    case .handshakesOfAddress: "TLS handshakes of this address (overload.share_per_address)"
    case .handshakesOfNetwork: "TLS handshakes of this network (overload.share_per_network)"
    case .clientUnnamed: "mail after a PROXY header without a client address (LOCAL or UNKNOWN)"
    }
  }
}
