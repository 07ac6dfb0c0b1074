// SPDX-License-Identifier: Apache-2.0
//
// What the other files need of OpenSSL as a whole: its version, its error queue in words, text in and
// out. No TLS logic. Keeps: the error queue belongs to a thread and is emptied before each call whose
// failure will be read from it, so an old error is never told as a new one.

import COpenSSL
import CTLS
import Glibc

/// The library behind this module.
public enum TLSLibrary {
  /// As it names itself, such as `OpenSSL 3.0.19 27 Jan 2026`.
  public static var version: String { String(cString: OpenSSL_version(OPENSSL_VERSION)) }
}

/// A reference-counted object of OpenSSL, which may be used from any thread.
///
/// SSL_CTX, X509, EVP_PKEY and SSL_SESSION are: their counts are atomic, and what we read of them does
/// not change once they are made.
struct Handle: @unchecked Sendable {
  let pointer: OpaquePointer
}

/// The oldest error of this thread in OpenSSL's words, and the queue emptied.
func takeErrorText() -> String {
  let code = ERR_peek_error()
  ERR_clear_error()
  guard code != 0 else { return "no reason given" }
  if let text = ERR_reason_error_string(code) { return String(cString: text) }
  return "error \(String(code, radix: 16))"
}

/// Runs `body` with a BIO that reads from `bytes`; nil without memory for one.
func withReadingBIO<Result>(_ bytes: [UInt8], _ body: (OpaquePointer) -> Result) -> Result? {
  bytes.withUnsafeBytes { raw in
    // An empty array has no address, and OpenSSL takes -1 for "up to the NUL".
    guard let bio = BIO_new_mem_buf(raw.baseAddress ?? emptyText, Int32(clamping: raw.count)) else {
      return nil
    }
    defer { BIO_free(bio) }
    return body(bio)
  }
}

private var emptyText: UnsafeRawPointer { UnsafeRawPointer(OpenSSL_version(OPENSSL_VERSION)) }

/// SHA-256 of some bytes; nil without memory for it.
func sha256(_ bytes: [UInt8]) -> [UInt8]? {
  var digest = [UInt8](repeating: 0, count: 32)
  var count: UInt32 = 0
  let done = EVP_Digest(bytes, bytes.count, &digest, &count, EVP_sha256(), nil)
  return done == 1 && count == 32 ? digest : nil
}

/// The text of an ASN.1 string as UTF-8, with U+FFFD for what is none.
func utf8(_ string: UnsafePointer<ASN1_STRING>?) -> String? {
  guard let string else { return nil }
  var bytes: UnsafeMutablePointer<UInt8>?
  let count = ASN1_STRING_to_UTF8(&bytes, string)
  guard count >= 0, let bytes else { return nil }
  defer { CRYPTO_free(bytes, #file, #line) }
  return String(
    decoding: UnsafeBufferPointer(start: bytes, count: Int(count)), as: UTF8.self)
}

/// Seconds since the start of 1970, now.
func secondsNow() -> Int64 { Int64(time(nil)) }
