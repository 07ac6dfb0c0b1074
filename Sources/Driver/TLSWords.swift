// SPDX-License-Identifier: Apache-2.0
//
// What OpenSSL says of a handshake, in the engine's words.

import Shield
import TLS

extension TLSFacts {
  init(_ info: TLSInfo) {
    self.init()
    version = info.protocolVersion
    cipher = info.cipher
    bits = info.bits
    isResumed = info.isResumed
    hasCertificate = info.peerCertificate != .none
    isVerified = info.peerCertificate == .verified
  }

  /// The certificate that a client has shown, and the name that it asked for.
  mutating func note(_ shown: TLSPeerCertificate?, _ serverName: String?) {
    if let shown {
      for (k, octet) in shown.fingerprint.prefix(32).enumerated() { fingerprint[k] = octet }
      let common = (shown.commonName ?? "").utf8.prefix(subject.count)
      for (k, octet) in common.enumerated() { subject[k] = octet }
      subjectCount = UInt8(common.count)
    }
    if let asked = serverName?.utf8, asked.count <= name.count {
      for (k, octet) in asked.enumerated() { name[k] = octet }
      nameCount = UInt8(asked.count)
    }
  }
}

extension Subject {
  init(_ failure: TLSFailure) {
    self =
      switch failure.kind {
      case .noSharedCipher: .noCipher
      case .badProtocolVersion: .tlsVersion
      case .plainText: .notTLS
      case .alert, .closed: .alert
      case .certificateRefused: .certificate
      default: .handshake
      }
  }
}
