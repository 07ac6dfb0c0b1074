// SPDX-License-Identifier: Apache-2.0

import COpenSSL
import CTLS

/// Names of cipher suites.
public enum TLSCipher {
  /// A session that never speaks: OpenSSL finds ciphers by one.
  private static let session: Handle? = {
    guard let context = SSL_CTX_new(TLS_method()) else { return nil }
    defer { SSL_CTX_free(context) }
    return SSL_new(context).map { Handle(pointer: $0) }
  }()

  /// The name of the cipher suite with this number in IANA's registry, in OpenSSL's words:
  /// `TLS_AES_256_GCM_SHA384`, or the number in hexadecimal if OpenSSL does not know it.
  public static func name(_ number: UInt16) -> String {
    let octets = [UInt8(number >> 8), UInt8(number & 255)]
    guard let session, let cipher = SSL_CIPHER_find(session.pointer, octets) else {
      return "0x" + String(number, radix: 16)
    }
    return String(cString: SSL_CIPHER_get_name(cipher))
  }
}
