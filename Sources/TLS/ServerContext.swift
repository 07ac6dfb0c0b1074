// SPDX-License-Identifier: Apache-2.0
//
// What all sessions of a listener share: protocols, certificates by name, ticket keys. Not a session.
// Keeps: nothing of a context changes after it was made, so all workers use one; a session holds the
// context it was made from, so a reload makes a new one and touches no live session.

import COpenSSL
import CTLS
import Structures

/// A certificate and the names it is shown for.
public struct TLSServerCertificate: Sendable {
  /// Certificate, chain and key.
  public let identity: TLSIdentity
  /// Exact names, and `*.example.org` for every single label below; empty for those in the certificate.
  public let names: [String]

  /// Names in any case.
  public init(_ identity: TLSIdentity, names: [String] = []) {
    self.identity = identity
    self.names = (names.isEmpty ? identity.names : names).map { $0.lowercased() }
  }
}

/// What a server's context is made from.
public struct TLSServerSettings: Sendable {
  /// Protocols, ciphers and groups.
  public var words = TLSWords.modern
  /// The first is shown to those who ask for no name or for an unknown one. One name may have several, of
  /// different kinds of key.
  public var certificates: [TLSServerCertificate]
  /// Whether clients are asked for a certificate. They need not have one, and any is let through: it is
  /// recorded and checked with the system's authorities.
  public var requestsClientCertificates = false
  /// Sessions are resumed only where this is the same: the listener's name.
  public var service: String
  /// Octets of a record, 512 to 16,384.
  public var sendFragmentMax = 16_384

  /// With the modern words.
  public init(certificates: [TLSServerCertificate], service: String) {
    self.certificates = certificates
    self.service = service
  }
}

/// A server's side for one listener.
///
/// Shared by all workers: SSL_CTX is safe for that, and what is beside it does not change.
public final class TLSServerContext: @unchecked Sendable {
  /// The one that sessions are made from; it refers to those for other names.
  let context: OpaquePointer
  /// The keys of its tickets, for the context that replaces this one; nil if it gives none.
  public let ticketKeys: TLSTicketKeys?

  /// - Parameters:
  ///   - settings: at least one certificate.
  ///   - ticketKeys: nil for no tickets at all.
  public init(
    _ settings: TLSServerSettings, ticketKeys: TLSTicketKeys?
  ) throws(TLSContextError) {
    guard !settings.certificates.isEmpty else {
      throw TLSContextError(place: .whole, reason: "a server needs a certificate")
    }
    var table = NameTable()
    let plan = NameTable.plan(settings.certificates)
    for (number, certificates) in plan.contexts.enumerated() where number > 0 {
      // Made before the first one, which owns them through its table.
      let other = try TLSServerContext.make(settings, certificates, ticketKeys)
      table.others.append(OwnedContext(other))
      guard ContextState.attach(to: other, { $0.keys = ticketKeys }) != nil else {
        throw TLSContextError(place: .whole, reason: takeErrorText())
      }
    }
    table.exact = plan.exact
    table.wildcards = plan.wildcards
    context = try TLSServerContext.make(settings, plan.contexts[0], ticketKeys)
    self.ticketKeys = ticketKeys
    let state = ContextState.attach(to: context) {
      $0.keys = ticketKeys
      $0.table = table
    }
    guard let state else { throw TLSContextError(place: .whole, reason: takeErrorText()) }
    ctls_set_name_callback(context, nameCallback, state)
  }

  deinit { SSL_CTX_free(context) }

  /// The most of a client's chain, in octets: OpenSSL's 100 KB would be held for each handshake.
  private static let clientChainBytesMax = 32_768

  private static func make(
    _ settings: TLSServerSettings, _ certificates: [Int], _ ticketKeys: TLSTicketKeys?
  ) throws(TLSContextError) -> OpaquePointer {
    ERR_clear_error()
    guard let context = SSL_CTX_new(TLS_server_method()) else {
      throw TLSContextError(place: .whole, reason: takeErrorText())
    }
    var isDone = false
    defer { if !isDone { SSL_CTX_free(context) } }
    try settings.words.apply(to: context)
    SSL_CTX_set_options(
      context,
      CTLS_NO_RENEGOTIATION | CTLS_NO_COMPRESSION | CTLS_SERVER_PREFERENCE | CTLS_PRIORITIZE_CHACHA)
    setCommon(context, sendFragmentMax: settings.sendFragmentMax)
    ctls_set_session_cache(context, CTLS_CACHE_OFF)
    // Used only if the words allow DHE; its strength follows that of the certificate.
    ctls_set_dh_auto(context)
    SSL_CTX_set_max_early_data(context, 0)
    SSL_CTX_set_recv_max_early_data(context, 0)
    guard let service = sha256(Array(settings.service.utf8)) else {
      throw TLSContextError(place: .whole, reason: takeErrorText())
    }
    SSL_CTX_set_session_id_context(context, service, UInt32(service.count))
    if let ticketKeys {
      SSL_CTX_set_tlsext_ticket_key_evp_cb(context, ticketKeyCallback)
      SSL_CTX_set_timeout(context, Int(ticketKeys.rotation))
      // Mail servers come one connection at a time; a second ticket is never used.
      SSL_CTX_set_num_tickets(context, 1)
    } else {
      SSL_CTX_set_options(context, CTLS_NO_TICKET)
      SSL_CTX_set_num_tickets(context, 0)
    }
    if settings.requestsClientCertificates {
      SSL_CTX_set_default_verify_paths(context)
      // Every certificate is let through: the result of the check is kept in the session.
      SSL_CTX_set_verify(context, SSL_VERIFY_PEER) { _, _ in 1 }
    }
    ctls_set_certificates_max(context, clientChainBytesMax)
    for number in certificates {
      let identity = settings.certificates[number].identity
      guard let chain = ctls_new_stack() else {
        throw TLSContextError(place: .certificate(number), reason: takeErrorText())
      }
      defer { ctls_free_stack(chain) }
      for one in identity.chain { ctls_push(chain, one) }
      ERR_clear_error()
      if SSL_CTX_use_cert_and_key(context, identity.leaf, identity.key, chain, 1) != 1 {
        throw TLSContextError(
          place: .certificate(number), reason: "OpenSSL refuses the certificate: \(takeErrorText())"
        )
      }
    }
    isDone = true
    return context
  }

  /// What servers and clients have in common.
  static func setCommon(_ context: OpaquePointer, sendFragmentMax: Int) {
    ctls_set_modes(context)
    SSL_CTX_set_info_callback(context, handshakeCallback)
    ctls_set_read_ahead(context, 0)
    SSL_CTX_set_block_padding(context, 0)
    let isSet = ctls_set_max_send_fragment(context, sendFragmentMax)
    invariant(isSet == 1, "records cannot have \(sendFragmentMax) octets")
  }
}

/// A reference to an SSL_CTX that goes with its owner.
final class OwnedContext: @unchecked Sendable {
  let pointer: OpaquePointer
  init(_ pointer: OpaquePointer) { self.pointer = pointer }
  deinit { SSL_CTX_free(pointer) }
}

/// Which context a name is served from: 0 is the first one, the others stand in `others`.
struct NameTable: Sendable {
  var exact: [String: Int] = [:]
  /// By what follows `*.`.
  var wildcards: [String: Int] = [:]
  var others: [OwnedContext] = []

  /// Distributes certificates over contexts: names that have the same certificates share one.
  ///
  /// - Returns: for each context the places of its certificates, and where each name leads.
  static func plan(
    _ certificates: [TLSServerCertificate]
  ) -> (contexts: [[Int]], exact: [String: Int], wildcards: [String: Int]) {
    var order: [String] = []
    var byName: [String: [Int]] = [:]
    for (number, certificate) in certificates.enumerated() {
      for name in certificate.names {
        if byName[name] == nil { order.append(name) }
        // Of one kind of key the first stays: SSL_CTX has one place for each.
        let kinds = (byName[name] ?? []).map { certificates[$0].identity.keyType }
        if !kinds.contains(certificate.identity.keyType) {
          byName[name, default: []].append(number)
        }
      }
    }
    // Without any name of its own the first certificate still is the one for everybody.
    let first = order.first { byName[$0]?.contains(0) == true }.flatMap { byName[$0] } ?? [0]
    var contexts = [first]
    var exact: [String: Int] = [:]
    var wildcards: [String: Int] = [:]
    for name in order {
      guard let wanted = byName[name] else { continue }
      var place = contexts.firstIndex(of: wanted)
      if place == nil {
        place = contexts.count
        contexts.append(wanted)
      }
      if name.hasPrefix("*.") {
        wildcards[String(name.dropFirst(2))] = place
      } else {
        exact[name] = place
      }
    }
    return (contexts, exact, wildcards)
  }

  /// - Parameter name: as it came; anything that is no host name is unknown.
  /// - Returns: nil for an unknown name.
  func find(_ name: UnsafePointer<CChar>) -> Int? {
    // RFC 1035, 2.3.4: 255 octets. OpenSSL refuses more, and NUL, before it asks.
    var text = ""
    var next = name
    while next.pointee != 0 {
      var byte = UInt8(bitPattern: next.pointee)
      if (65...90).contains(byte) { byte += 32 }
      let isAllowed =
        (97...122).contains(byte) || (48...57).contains(byte) || byte == 45 || byte == 46
        || byte == 95
      guard isAllowed, text.utf8.count < 255 else { return nil }
      text.unicodeScalars.append(Unicode.Scalar(byte))
      next += 1
    }
    // A dot at the end says that the name is whole (RFC 6066, 3, does not allow it; some send it).
    if text.hasSuffix(".") { text.removeLast() }
    if let place = exact[text] { return place }
    guard let dot = text.firstIndex(of: "."), dot != text.startIndex else { return nil }
    return wildcards[String(text[text.index(after: dot)...])]
  }
}

/// What of ours hangs on an SSL_CTX and lives exactly as long.
final class ContextState {
  var keys: TLSTicketKeys?
  var table: NameTable?
  var cache: SessionCache?

  private static let index = ctls_context_index { _, state, _, _, _, _ in
    if let state { Unmanaged<ContextState>.fromOpaque(state).release() }
  }

  /// - Returns: its address, for callbacks that take one; nil without memory.
  static func attach(
    to context: OpaquePointer, _ fill: (ContextState) -> Void
  ) -> UnsafeMutableRawPointer? {
    let state = ContextState()
    fill(state)
    let held = Unmanaged.passRetained(state)
    if SSL_CTX_set_ex_data(context, index, held.toOpaque()) == 1 { return held.toOpaque() }
    held.release()
    return nil
  }

  static func of(_ context: OpaquePointer?) -> ContextState? {
    guard let context, let address = SSL_CTX_get_ex_data(context, index) else { return nil }
    return Unmanaged<ContextState>.fromOpaque(address).takeUnretainedValue()
  }
}

/// Chooses the certificate by the name that the client asks for. It may be asked twice (after a
/// HelloRetryRequest), and gives the same answer.
private func nameCallback(
  _ session: OpaquePointer?, _ alert: UnsafeMutablePointer<Int32>?,
  _ argument: UnsafeMutableRawPointer?
) -> Int32 {
  guard let session, let argument,
    let name = SSL_get_servername(session, TLSEXT_NAMETYPE_host_name)
  else { return SSL_TLSEXT_ERR_NOACK }
  let state = Unmanaged<ContextState>.fromOpaque(argument).takeUnretainedValue()
  guard let table = state.table, let place = table.find(name) else { return SSL_TLSEXT_ERR_NOACK }
  if place > 0 { SSL_set_SSL_CTX(session, table.others[place - 1].pointer) }
  return SSL_TLSEXT_ERR_OK
}
