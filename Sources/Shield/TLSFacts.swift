// SPDX-License-Identifier: Apache-2.0

/// What a handshake came to.
package struct TLSFacts: BitwiseCopyable, Sendable {
  /// As on the wire: 0x0303 is TLS 1.2, 0x0304 is TLS 1.3.
  package var version: UInt16 = 0
  /// The cipher suite's number in IANA's registry.
  package var cipher: UInt16 = 0
  /// Of the cipher's key.
  package var bits: UInt16 = 0
  /// An earlier session went on.
  package var isResumed = false
  /// The peer showed a certificate.
  package var hasCertificate = false
  /// Of that certificate: SHA-256, and the beginning of the subject's common name.
  package var fingerprint = InlineArray<32, UInt8>(repeating: 0)
  package var subject = InlineArray<64, UInt8>(repeating: 0)
  package var subjectCount: UInt8 = 0
  /// And it is one that was asked for: the chain, and for a downstream the name.
  package var isVerified = false
  /// The name the client asked for (SNI, RFC 6066, 3); empty for none and for one above 128 octets.
  package var name = InlineArray<128, UInt8>(repeating: 0)
  package var nameCount: UInt8 = 0
  /// Until the handshake is over: its source has had more of them than it has credit for, and those that have some
  /// come first.
  var isInTurn = false
  /// The handshake is not over yet.
  var isInHandshake = false

  package init() {}

  /// `TLSv1.3`: what OpenSSL calls it.
  var versionName: InlineArray<7, UInt8> {
    var name: InlineArray<7, UInt8> = [84, 76, 83, 118, 49, 46, 48]
    name[6] += UInt8(clamping: Int(version) - 0x0301)
    return name
  }
}
