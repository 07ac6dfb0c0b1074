// SPDX-License-Identifier: Apache-2.0
//
// A certificate with its chain and its key, read from PEM in memory, and all that can be said against it.
// Not the reading of files: whoever has the right to read them hands over their bytes. Keeps: an identity
// is there only if its key belongs to its certificate; everything less is a finding with a sentence.

import COpenSSL
import CTLS
import Glibc

/// Something wrong with a certificate or its key.
public struct CertificateFinding: Sendable, Equatable {
  /// Each is told apart by a sentence of its own.
  public enum Kind: String, Sendable, CaseIterable {
    case noCertificate
    case noKey
    case encryptedKey
    case wrongKey
    case expired
    case notYetValid
    case weakKey
    case chainless
    case missingName
    case expiring
  }

  /// How bad it is.
  public enum Severity: Sendable {
    /// It cannot be used at all.
    case unusable
    /// It can be used, and peers that look at it refuse it.
    case wrong
    /// It works today, or for most.
    case notice
  }

  /// The file that must be changed.
  public enum File: Sendable {
    case certificate
    case key
  }

  /// What is wrong.
  public let kind: Kind
  /// The file that must be changed.
  public let file: File
  /// A sentence without its end and without the file's name.
  public let reason: String
  /// What to do.
  public let hint: String

  /// How bad it is.
  public var severity: Severity {
    switch kind {
    case .noCertificate, .noKey, .encryptedKey, .wrongKey: .unusable
    case .expired, .notYetValid, .weakKey: .wrong
    case .chainless, .missingName, .expiring: .notice
    }
  }
}

/// Where the certificates of authorities are.
public enum TLSAuthorities: Sendable, Equatable {
  /// Where this OpenSSL was told to look: on Debian /etc/ssl/certs.
  case system
  /// A file with certificates in PEM.
  case file(String)
  /// A folder whose files have names made by `openssl rehash`.
  case folder(String)

  /// - Returns: whether OpenSSL could load them.
  func load(into store: OpaquePointer) -> Bool {
    ERR_clear_error()
    switch self {
    case .system: return X509_STORE_set_default_paths(store) == 1
    case .file(let path): return X509_STORE_load_file(store, path) == 1
    case .folder(let path): return X509_STORE_load_path(store, path) == 1
    }
  }
}

/// A certificate, what leads from it to an authority, and the key.
///
/// Safe to share between threads: nothing of it is changed after `read`, and OpenSSL counts references
/// atomically.
public final class TLSIdentity: @unchecked Sendable {
  let leaf: OpaquePointer
  let chain: [OpaquePointer]
  let key: OpaquePointer
  /// DNS names of the certificate in lower case; its CN if it has none.
  public let names: [String]
  /// The last second at which it is valid, and the first, since the start of 1970.
  public let notAfter: Int64
  /// The first second at which it is valid, since the start of 1970.
  public let notBefore: Int64
  /// `RSA`, `EC`, `ED25519`: a name can have a certificate of each.
  public let keyType: String
  /// Bits of the key.
  public let keyBits: Int

  /// Warned from this many days before the end on.
  public static let warningDays: Int64 = 21

  private init(leaf: OpaquePointer, chain: [OpaquePointer], key: OpaquePointer) {
    self.leaf = leaf
    self.chain = chain
    self.key = key
    names = TLSIdentity.names(of: leaf)
    notAfter = TLSIdentity.seconds(X509_get0_notAfter(leaf))
    notBefore = TLSIdentity.seconds(X509_get0_notBefore(leaf))
    keyType = EVP_PKEY_get0_type_name(key).map { String(cString: $0) } ?? "unknown"
    keyBits = Int(EVP_PKEY_get_bits(key))
  }

  deinit {
    X509_free(leaf)
    for certificate in chain { X509_free(certificate) }
    EVP_PKEY_free(key)
  }

  // MARK: - Reading

  /// Reads a certificate with its chain, and a key, from the bytes of their files (which may be one file).
  ///
  /// - Returns: the identity, or nil, and then one of the findings is `unusable`.
  public static func read(
    certificate: [UInt8], key: [UInt8]
  ) -> (identity: TLSIdentity?, findings: [CertificateFinding]) {
    var findings: [CertificateFinding] = []
    var all = certificates(certificate)
    if all.isEmpty { findings.append(noCertificate(certificate)) }
    let read = privateKey(key)
    guard let secret = read.key else {
      if let finding = read.finding { findings.append(finding) }
      for one in all { X509_free(one) }
      return (nil, findings)
    }
    guard !all.isEmpty else {
      EVP_PKEY_free(secret)
      return (nil, findings)
    }
    if X509_check_private_key(all[0], secret) == 1 {
      let leaf = all.removeFirst()
      ERR_clear_error()
      return (TLSIdentity(leaf: leaf, chain: all, key: secret), [])
    }
    ERR_clear_error()
    let place = all.firstIndex { X509_check_private_key($0, secret) == 1 }
    ERR_clear_error()
    findings.append(
      CertificateFinding(
        kind: .wrongKey, file: place == nil ? .key : .certificate,
        reason: place.map {
          "the key belongs to certificate \($0 + 1) of the file, and the server's own must be the first"
        }
          ?? "the key does not belong to the certificate (of \(names(of: all[0]).first ?? "no name"))",
        hint: place == nil
          ? "name the key that the certificate was requested with, or request a new certificate for this key"
          : "put the server's certificate first, then its intermediates"))
    for one in all { X509_free(one) }
    EVP_PKEY_free(secret)
    return (nil, findings)
  }

  /// More than any chain has; a bundle of all authorities is no chain.
  private static let chainMax = 16

  private static func certificates(_ bytes: [UInt8]) -> [OpaquePointer] {
    defer { ERR_clear_error() }
    let found = withReadingBIO(bytes) { bio in
      var found: [OpaquePointer] = []
      while found.count < chainMax, let next = PEM_read_bio_X509(bio, nil, refusePassword, nil) {
        found.append(next)
      }
      return found
    }
    return found ?? []
  }

  private static func noCertificate(_ bytes: [UInt8]) -> CertificateFinding {
    let text = String(decoding: bytes.prefix(65_536), as: UTF8.self)
    let reason: String
    var hint = "write the path of a file that begins with -----BEGIN CERTIFICATE-----"
    if bytes.isEmpty {
      reason = "the file is empty"
    } else if bytes.first == 0x30 {
      reason = "the file is not PEM but looks like DER or PKCS #12"
      hint =
        "convert it: openssl x509 -inform DER -in FILE -out FILE.pem, or openssl pkcs12 for a .p12"
    } else if text.contains("-----BEGIN CERTIFICATE-----") {
      reason = "the certificate in the file is damaged"
      hint = "copy it anew: from -----BEGIN CERTIFICATE----- to -----END CERTIFICATE-----"
    } else if text.contains("PRIVATE KEY-----") {
      reason = "the file holds a key and no certificate"
      hint = "the paths of certificate and key may be swapped"
    } else {
      reason = "there is no certificate in PEM form in the file"
    }
    return CertificateFinding(kind: .noCertificate, file: .certificate, reason: reason, hint: hint)
  }

  private static func privateKey(
    _ bytes: [UInt8]
  ) -> (key: OpaquePointer?, finding: CertificateFinding?) {
    var wasAsked = false
    let key = withUnsafeMutablePointer(to: &wasAsked) { asked in
      withReadingBIO(bytes) { PEM_read_bio_PrivateKey($0, nil, refusePassword, asked) } ?? nil
    }
    ERR_clear_error()
    if let key { return (key, nil) }
    if wasAsked {
      return (
        nil,
        CertificateFinding(
          kind: .encryptedKey, file: .key, reason: "the key is encrypted with a password",
          hint: "a service has nobody to ask: openssl pkey -in FILE -out FILE.key, and chmod 600 it"
        )
      )
    }
    let text = String(decoding: bytes.prefix(65_536), as: UTF8.self)
    let reason: String
    var hint = "write the path of a file with -----BEGIN PRIVATE KEY-----"
    if bytes.isEmpty {
      reason = "the file is empty"
    } else if bytes.first == 0x30 {
      reason = "the file is not PEM but looks like DER or PKCS #12"
      hint = "convert it: openssl pkey -inform DER -in FILE -out FILE.key"
    } else if text.contains("PRIVATE KEY-----") {
      reason = "the key in the file is damaged, or of a kind this OpenSSL does not know"
      hint =
        "copy it anew, or make one: openssl genpkey -algorithm EC -pkeyopt ec_paramgen_curve:P-256"
    } else if text.contains("-----BEGIN CERTIFICATE-----") {
      reason = "the file holds a certificate and no key"
      hint = "the paths of certificate and key may be swapped"
    } else {
      reason = "there is no private key in PEM form in the file"
    }
    return (nil, CertificateFinding(kind: .noKey, file: .key, reason: reason, hint: hint))
  }

  // MARK: - Looking at it

  /// Days until it ends, rounded down; negative when it has.
  public func daysLeft(at now: Int64) -> Int64 {
    let left = notAfter - now
    return left >= 0 ? left / 86_400 : -((-left + 86_399) / 86_400)
  }

  /// All that speaks against it.
  ///
  /// - Parameters:
  ///   - expected: names of the configuration; `*.example.org` must stand in the certificate like that.
  ///   - now: seconds since the start of 1970.
  ///   - authorities: those that most peers are taken to know.
  public func findings(
    for expected: [String], at now: Int64, authorities: TLSAuthorities = .system
  ) -> [CertificateFinding] {
    var found: [CertificateFinding] = []
    func add(_ kind: CertificateFinding.Kind, _ reason: String, _ hint: String) {
      found.append(
        CertificateFinding(kind: kind, file: .certificate, reason: reason, hint: hint))
    }
    let ends = TLSIdentity.day(notAfter)
    if now > notAfter {
      add(
        .expired, "the certificate expired on \(ends), \(-daysLeft(at: now)) days ago",
        "renew it; if that was done, name the new file")
    } else if now < notBefore {
      add(
        .notYetValid, "the certificate is not valid before \(TLSIdentity.day(notBefore))",
        "wait, use the one before it, or set this machine's clock right")
    } else if daysLeft(at: now) < TLSIdentity.warningDays {
      add(
        .expiring, "the certificate expires on \(ends), in \(daysLeft(at: now)) days",
        "renew it, and see why that did not happen by itself")
    }
    if keyType.hasPrefix("RSA"), keyBits < 2_048 {
      add(
        .weakKey, "the RSA key has \(keyBits) bits, and peers refuse less than 2048",
        "make a new key (openssl genpkey -algorithm RSA -pkeyopt rsa_keygen_bits:2048) and a certificate for it"
      )
    }
    if isChainless(authorities) {
      let issuer = TLSIdentity.oneLine(X509_get_issuer_name(leaf))
      add(
        .chainless,
        "the certificate's issuer (\(issuer)) is neither in the file nor in the system's store",
        "add the intermediate certificate behind it: the file that authorities call fullchain.pem")
    }
    let missing = expected.filter { !covers($0) }
    if !missing.isEmpty {
      let has = names.isEmpty ? "no name" : names.prefix(8).joined(separator: ", ")
      add(
        .missingName,
        "the certificate does not have the name \(missing.joined(separator: ", ")); it has \(has)",
        "request one with that name, or take the name out of the list")
    }
    return found
  }

  private func covers(_ name: String) -> Bool {
    let wanted = name.lowercased()
    if wanted.hasPrefix("*.") { return names.contains(wanted) }
    return X509_check_host(leaf, wanted, 0, 0, nil) == 1
  }

  private func isChainless(_ authorities: TLSAuthorities) -> Bool {
    if X509_check_issued(leaf, leaf) == X509_V_OK { return false }
    if chain.contains(where: { X509_check_issued($0, leaf) == X509_V_OK }) { return false }
    guard let store = X509_STORE_new(), let look = X509_STORE_CTX_new() else { return false }
    defer {
      X509_STORE_CTX_free(look)
      X509_STORE_free(store)
      ERR_clear_error()
    }
    guard authorities.load(into: store), X509_STORE_CTX_init(look, store, leaf, nil) == 1 else {
      return true
    }
    var issuer: OpaquePointer?
    guard X509_STORE_CTX_get1_issuer(&issuer, look, leaf) == 1 else { return true }
    X509_free(issuer)
    return false
  }

  // MARK: - Facts of a certificate

  static func names(of certificate: OpaquePointer) -> [String] {
    var found: [String] = []
    if let raw = X509_get_ext_d2i(certificate, NID_subject_alt_name, nil, nil) {
      let all = OpaquePointer(raw)
      for place in 0..<ctls_name_count(all) {
        if let name = utf8(ctls_dns_name(all, place)) { found.append(name.lowercased()) }
      }
      GENERAL_NAMES_free(all)
    }
    if found.isEmpty, let name = commonName(of: certificate) { found.append(name.lowercased()) }
    return found
  }

  static func commonName(of certificate: OpaquePointer) -> String? {
    guard let subject = X509_get_subject_name(certificate) else { return nil }
    let place = X509_NAME_get_index_by_NID(subject, NID_commonName, -1)
    guard place >= 0, let entry = X509_NAME_get_entry(subject, place) else { return nil }
    return utf8(X509_NAME_ENTRY_get_data(entry)).map { String($0.prefix(255)) }
  }

  private static func oneLine(_ name: OpaquePointer?) -> String {
    guard let name, let bio = BIO_new(BIO_s_mem()) else { return "unknown" }
    defer { BIO_free(bio) }
    X509_NAME_print_ex(bio, name, 0, CTLS_NAME_RFC2253)
    var bytes: UnsafeMutablePointer<CChar>?
    let count = ctls_memory(bio, &bytes)
    guard let bytes else { return "unknown" }
    return UnsafeRawBufferPointer(start: bytes, count: min(count, 200)).withMemoryRebound(
      to: UInt8.self
    ) { String(decoding: $0, as: UTF8.self) }
  }

  private static func seconds(_ time: UnsafePointer<ASN1_TIME>?) -> Int64 {
    var parts = tm()
    guard let time, ASN1_TIME_to_tm(time, &parts) == 1 else { return 0 }
    return Int64(timegm(&parts))
  }

  /// `2026-11-21` of UTC.
  private static func day(_ seconds: Int64) -> String {
    var time = time_t(seconds)
    var parts = tm()
    gmtime_r(&time, &parts)
    func two(_ number: Int32) -> String { number < 10 ? "0\(number)" : "\(number)" }
    return "\(parts.tm_year + 1900)-\(two(parts.tm_mon + 1))-\(two(parts.tm_mday))"
  }
}

/// Answers no password, and notes in a Bool that one was asked for.
private func refusePassword(
  _ buffer: UnsafeMutablePointer<CChar>?, _ size: Int32, _ isWriting: Int32,
  _ asked: UnsafeMutableRawPointer?
) -> Int32 {
  asked?.assumingMemoryBound(to: Bool.self).pointee = true
  return -1
}
