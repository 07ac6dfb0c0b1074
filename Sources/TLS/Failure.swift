// SPDX-License-Identifier: Apache-2.0
//
// Why a TLS session ended, and what it was while it lasted, as small values without references: a driver
// can keep them in a record and the log can word them later.

import COpenSSL
import CTLS

/// Why a handshake or a session failed. Words are made only when they are asked for.
public struct TLSFailure: Error, Sendable, Equatable, BitwiseCopyable {
  /// What kind of failure it was.
  public enum Kind: UInt8, Sendable, BitwiseCopyable {
    /// None of the ciphers, groups or signature algorithms offered is allowed here.
    case noSharedCipher
    /// The peer speaks no protocol that is allowed here.
    case badProtocolVersion
    /// Its first byte is not that of a handshake but of text: SMTP or HTTP in clear.
    case plainText
    /// The peer sent a fatal alert; `code` is its number in RFC 8446, 6.
    case alert
    /// Its certificate was refused by us; `code` is OpenSSL's X509_V_ERR number.
    case certificateRefused
    /// A ClientHello that claims more than 16 KB, or whose first record is too short to hold its length.
    case badHello
    /// It asked again and again for new keys or for renegotiation.
    case tooManyHandshakes
    /// The library gave up without a word.
    case closed
    /// What came breaks the protocol, or its seal is wrong; `code` is OpenSSL's reason.
    case malformed
  }

  /// What kind of failure it was.
  public let kind: Kind
  /// See the kinds; 0 where they say nothing.
  public let code: Int32

  init(_ kind: Kind, code: Int32 = 0) {
    self.kind = kind
    self.code = code
  }

  /// A few words for the log, without a peer's own bytes in them: `alert unknown ca`.
  public var description: String {
    switch kind {
    case .noSharedCipher: return "no shared cipher"
    case .badProtocolVersion: return "bad protocol version"
    case .plainText: return "plain text instead of a handshake"
    case .alert: return "alert \(TLSFailure.alertName(code))"
    case .certificateRefused:
      let text = X509_verify_cert_error_string(Int(code)).map { String(cString: $0) }
      return "certificate verify failed: \(text ?? "error \(code)")"
    case .badHello: return "bad ClientHello"
    case .tooManyHandshakes: return "too many key updates or renegotiations"
    case .closed: return "ended without a reason"
    case .malformed:
      guard code != 0 else { return "malformed" }
      // The look-up needs the library and the reason in one number.
      let packed = UInt(ERR_LIB_SSL) << 23 | UInt(UInt32(bitPattern: code))
      return ERR_reason_error_string(packed).map { String(cString: $0) } ?? "malformed"
    }
  }

  private static func alertName(_ number: Int32) -> String {
    guard let name = SSL_alert_desc_string_long(number) else { return "\(number)" }
    let text = String(cString: name)
    return text == "unknown" ? "\(number)" : text
  }

  /// The failure that the error queue of this thread speaks of; the queue is emptied.
  static func take(_ session: OpaquePointer) -> TLSFailure {
    // The oldest word of libssl; what is older comes from a cipher that only knows that it failed.
    var error: UInt = 0
    var isEmpty = true
    while true {
      let next = ERR_get_error()
      if next == 0 { break }
      isEmpty = false
      if error == 0 && ctls_library(next) == ERR_LIB_SSL { error = next }
    }
    guard error != 0 else { return TLSFailure(isEmpty ? .closed : .malformed) }
    let reason = ctls_reason(error)
    // SSL_AD_REASON_OFFSET: alerts of the peer stand above it.
    if reason >= 1_000 { return TLSFailure(.alert, code: reason - 1_000) }
    switch reason {
    case SSL_R_NO_SHARED_CIPHER, SSL_R_NO_SHARED_GROUPS, SSL_R_NO_SUITABLE_KEY_SHARE,
      SSL_R_NO_SHARED_SIGNATURE_ALGORITHMS, SSL_R_NO_SUITABLE_SIGNATURE_ALGORITHM:
      return TLSFailure(.noSharedCipher)
    case SSL_R_UNSUPPORTED_PROTOCOL, SSL_R_WRONG_VERSION_NUMBER, SSL_R_VERSION_TOO_LOW,
      SSL_R_VERSION_TOO_HIGH, SSL_R_WRONG_SSL_VERSION, SSL_R_NO_PROTOCOLS_AVAILABLE,
      SSL_R_INAPPROPRIATE_FALLBACK:
      return TLSFailure(.badProtocolVersion)
    case SSL_R_HTTP_REQUEST, SSL_R_HTTPS_PROXY_REQUEST: return TLSFailure(.plainText)
    case SSL_R_CERTIFICATE_VERIFY_FAILED:
      return TLSFailure(.certificateRefused, code: Int32(clamping: SSL_get_verify_result(session)))
    default: return TLSFailure(.malformed, code: reason)
    }
  }
}

/// What was agreed on in a handshake.
public struct TLSInfo: Sendable, Equatable, BitwiseCopyable, CustomStringConvertible {
  /// What the other side showed of itself.
  public enum PeerCertificate: UInt8, Sendable, BitwiseCopyable {
    case none
    /// One that no authority we know speaks for, or that is expired.
    case unverified
    case verified
  }

  /// As on the wire: 0x0303 is TLS 1.2, 0x0304 is TLS 1.3.
  public let protocolVersion: UInt16
  /// The number of the cipher in IANA's registry.
  public let cipher: UInt16
  /// Secret bits of the cipher.
  public let bits: UInt16
  /// Whether an earlier session was gone on with, without a new key exchange of certificates.
  public let isResumed: Bool
  /// Of the client; on our client side, of the server.
  public let peerCertificate: PeerCertificate
  /// Addresses of text that OpenSSL has in its constants and that never goes away.
  private let protocolText: UInt
  private let cipherText: UInt

  init(_ session: OpaquePointer) {
    protocolVersion = UInt16(truncatingIfNeeded: SSL_version(session))
    let current = SSL_get_current_cipher(session)
    cipher = UInt16(current.map { SSL_CIPHER_get_protocol_id($0) } ?? 0)
    bits = UInt16(clamping: current.map { SSL_CIPHER_get_bits($0, nil) } ?? 0)
    isResumed = SSL_session_reused(session) == 1
    if SSL_get0_peer_certificate(session) == nil {
      peerCertificate = .none
    } else {
      peerCertificate = SSL_get_verify_result(session) == X509_V_OK ? .verified : .unverified
    }
    protocolText = UInt(bitPattern: SSL_get_version(session))
    cipherText = UInt(bitPattern: SSL_CIPHER_get_name(current))
  }

  private static func text(_ address: UInt) -> String {
    UnsafePointer<CChar>(bitPattern: address).map { String(cString: $0) } ?? "unknown"
  }

  /// `TLSv1.3`.
  public var protocolName: String { TLSInfo.text(protocolText) }
  /// `TLS_AES_256_GCM_SHA384`.
  public var cipherName: String { TLSInfo.text(cipherText) }
  /// In Postfix's words: `TLSv1.3 with cipher TLS_AES_256_GCM_SHA384 (256 bits)`.
  public var description: String {
    "\(protocolName) with cipher \(cipherName) (\(bits) bits)\(isResumed ? ", resumed" : "")"
  }
}

/// Who the other side says it is.
public struct TLSPeerCertificate: Sendable, Equatable {
  /// CN of the subject, 255 characters at most, as it is written there; escape it before you log it.
  public let commonName: String?
  /// SHA-256 of the certificate, 32 bytes.
  public let fingerprint: [UInt8]
  /// Whether an authority that we know speaks for it.
  public let isVerified: Bool
  /// X509_V_ERR in words; `ok` if it is verified.
  public let verification: String

  /// The fingerprint as people compare it: `AB:CD:…`.
  public var fingerprintText: String {
    fingerprint.map { byte in
      let text = String(byte, radix: 16, uppercase: true)
      return byte < 16 ? "0\(text)" : text
    }.joined(separator: ":")
  }
}
