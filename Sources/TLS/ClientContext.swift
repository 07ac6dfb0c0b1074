// SPDX-License-Identifier: Apache-2.0
//
// Our side of TLS towards a downstream: how much is asked of its certificate, and the one session that is
// kept for the next connection. Not a connection. Keeps: one entry, replaced by a newer one; a ticket of
// TLS 1.3 is used once (RFC 8446, C.4).

import COpenSSL
import CTLS
import Structures
import Synchronization

/// What a client's context is made from.
public struct TLSClientSettings: Sendable {
  /// How much is asked of the other side.
  public enum Level: String, Sendable, CaseIterable {
    /// Encrypted if it can be had; whoever answers is believed.
    case opportunistic
    /// Encrypted or not at all; whoever answers is believed.
    case required
    /// And the certificate must have the name and come from an authority that we know.
    case verify
  }

  /// How much is asked of the other side.
  public var level: Level
  /// The name that is sent as SNI and, at `verify`, looked for in the certificate; an address is only
  /// looked for. Nil for none, except at `verify`.
  public var name: String?
  /// Used at `verify` alone.
  public var authorities = TLSAuthorities.system
  /// Protocols, ciphers and groups.
  public var words = TLSWords.client
  /// Whether a connection goes on with the session of the one before. Not where each stands for another host.
  public var resumes = true

  /// With the system's authorities and the usual words.
  public init(level: Level, name: String?) {
    self.level = level
    self.name = name
  }
}

/// A client's side for one downstream.
///
/// Shared by all workers: SSL_CTX is safe for that, and the session it keeps stands behind a lock.
public final class TLSClientContext: @unchecked Sendable {
  let context: OpaquePointer
  private let cache = SessionCache()
  private let name: String?
  /// Whether the name is one that can be sent as SNI.
  private let isHostName: Bool
  /// How much is asked of the other side.
  public let level: TLSClientSettings.Level

  /// Loads the authorities, which for a large file takes milliseconds.
  public init(_ settings: TLSClientSettings) throws(TLSContextError) {
    ERR_clear_error()
    guard let made = SSL_CTX_new(TLS_client_method()) else {
      throw TLSContextError(place: .whole, reason: takeErrorText())
    }
    var isDone = false
    defer { if !isDone { SSL_CTX_free(made) } }
    try settings.words.apply(to: made)
    SSL_CTX_set_options(made, CTLS_NO_RENEGOTIATION | CTLS_NO_COMPRESSION)
    TLSServerContext.setCommon(made, sendFragmentMax: 16_384)
    if settings.resumes {
      ctls_set_session_cache(made, CTLS_CACHE_CLIENT)
      SSL_CTX_sess_set_new_cb(made, newSessionCallback)
    }
    if settings.level == .verify {
      guard let name = settings.name, !name.isEmpty else {
        throw TLSContextError(
          place: .name, reason: "to verify a certificate the name in it must be known")
      }
      guard let store = SSL_CTX_get_cert_store(made), settings.authorities.load(into: store) else {
        throw TLSContextError(
          place: .authorities, reason: "OpenSSL cannot load the authorities: \(takeErrorText())")
      }
      SSL_CTX_set_verify(made, SSL_VERIFY_PEER, nil)
    } else {
      SSL_CTX_set_verify(made, SSL_VERIFY_NONE, nil)
    }
    name = settings.name
    isHostName = settings.name.map { !TLSClientContext.isAddress($0) } ?? false
    level = settings.level
    context = made
    isDone = true
    let cache = cache
    guard ContextState.attach(to: made, { $0.cache = cache }) != nil else {
      throw TLSContextError(place: .whole, reason: takeErrorText())
    }
  }

  deinit { SSL_CTX_free(context) }

  private static func isAddress(_ name: String) -> Bool { Address(name) != nil }

  /// Sets up a session that was just made: name, check, and the session to go on with.
  ///
  /// - Returns: false without memory for it. The session must not be used then: without the check anybody's certificate
  ///   would do.
  func prepare(_ session: OpaquePointer) -> Bool {
    if let name {
      if isHostName {
        guard ctls_send_name(session, name) == 1 else { return false }
      }
      if level == .verify {
        let isSet =
          isHostName
          ? SSL_set1_host(session, name)
          : X509_VERIFY_PARAM_set1_ip_asc(SSL_get0_param(session), name)
        guard isSet == 1 else { return false }
        SSL_set_hostflags(session, UInt32(X509_CHECK_FLAG_NO_PARTIAL_WILDCARDS))
      }
    }
    cache.use(for: session)
    return true
  }
}

/// Room for one session.
final class SessionCache: Sendable {
  private let kept = Mutex<Handle?>(nil)

  deinit {
    let last = kept.withLock { $0 }
    if let last { SSL_SESSION_free(last.pointer) }
  }

  /// Takes over the caller's reference.
  func keep(_ session: Handle) {
    let old = kept.withLock { kept in
      let old = kept
      kept = session
      return old
    }
    if let old { SSL_SESSION_free(old.pointer) }
  }

  func use(for session: OpaquePointer) {
    let holder = Handle(pointer: session)
    kept.withLock { kept in
      guard let found = kept?.pointer else { return }
      _ = SSL_set_session(holder.pointer, found)
      if SSL_SESSION_get_protocol_version(found) >= TLS1_3_VERSION {
        SSL_SESSION_free(found)
        kept = nil
      }
    }
  }
}

/// - Returns: 1 if the reference is ours now.
private func newSessionCallback(_ session: OpaquePointer?, _ made: OpaquePointer?) -> Int32 {
  guard let session, let made, SSL_SESSION_is_resumable(made) == 1,
    let cache = ContextState.of(SSL_get_SSL_CTX(session))?.cache
  else { return 0 }
  cache.keep(Handle(pointer: made))
  return 1
}
