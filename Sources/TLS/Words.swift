// SPDX-License-Identifier: Apache-2.0
//
// Protocols, ciphers and groups in OpenSSL's own words (SSL_CONF_cmd), so that what its manual says works
// here. Not a list of names of ours. Keeps: every word is checked element by element, because OpenSSL
// itself passes over a cipher it does not know as long as one other is left.

import COpenSSL
import CTLS
import Structures

/// One of the words that decide what is spoken.
public enum TLSWord: String, Sendable, CaseIterable {
  case minProtocol = "min_protocol"
  case maxProtocol = "max_protocol"
  case ciphers
  case cipherSuites = "cipher_suites"
  case groups

  /// The same in OpenSSL's configuration files.
  var command: String {
    switch self {
    case .minProtocol: "MinProtocol"
    case .maxProtocol: "MaxProtocol"
    case .ciphers: "CipherString"
    case .cipherSuites: "Ciphersuites"
    case .groups: "Groups"
    }
  }
}

/// Why a context cannot be made.
public struct TLSContextError: Error, Equatable, Sendable, CustomStringConvertible {
  /// What of the settings is to blame.
  public enum Place: Equatable, Sendable {
    case word(TLSWord)
    /// The certificate with this place in the list, from 0.
    case certificate(Int)
    /// The authorities that others' certificates are checked with.
    case authorities
    /// The name that the other side's certificate must have.
    case name
    case whole
  }

  /// What of the settings is to blame.
  public let place: Place
  /// In words, with OpenSSL's own where it has some.
  public let reason: String
  /// The reason.
  public var description: String { reason }
}

/// What is spoken: values as OpenSSL's own configuration has them.
public struct TLSWords: Sendable, Equatable {
  /// The oldest protocol, such as `TLSv1.2`.
  public var minProtocol: String
  /// The newest protocol; `None` for no limit.
  public var maxProtocol: String
  /// For TLS 1.2 and older, as `openssl ciphers` takes them.
  public var ciphers: String
  /// For TLS 1.3.
  public var cipherSuites: String
  /// For the key exchange, the most wanted first.
  public var groups: String

  /// TLS 1.2 and 1.3, forward secrecy and authenticated encryption alone.
  public static let modern = TLSWords(
    minProtocol: "TLSv1.2", maxProtocol: "None", ciphers: "ECDHE+AESGCM:ECDHE+CHACHA20",
    cipherSuites:
      "TLS_AES_256_GCM_SHA384:TLS_CHACHA20_POLY1305_SHA256:TLS_AES_128_GCM_SHA256",
    groups: "X25519:P-256:P-384")

  /// Towards a server of one's own: TLS 1.2 and 1.3 with all that this OpenSSL takes for sound.
  public static let client = TLSWords(
    minProtocol: "TLSv1.2", maxProtocol: "None", ciphers: "DEFAULT",
    cipherSuites: modern.cipherSuites, groups: "X25519:P-256:P-384:P-521")

  /// All words as given.
  public init(
    minProtocol: String, maxProtocol: String, ciphers: String, cipherSuites: String, groups: String
  ) {
    self.minProtocol = minProtocol
    self.maxProtocol = maxProtocol
    self.ciphers = ciphers
    self.cipherSuites = cipherSuites
    self.groups = groups
  }

  /// The value of a word.
  public subscript(_ word: TLSWord) -> String {
    get {
      switch word {
      case .minProtocol: minProtocol
      case .maxProtocol: maxProtocol
      case .ciphers: ciphers
      case .cipherSuites: cipherSuites
      case .groups: groups
      }
    }
    set {
      switch word {
      case .minProtocol: minProtocol = newValue
      case .maxProtocol: maxProtocol = newValue
      case .ciphers: ciphers = newValue
      case .cipherSuites: cipherSuites = newValue
      case .groups: groups = newValue
      }
    }
  }

  /// What is wrong with the value of a word, as a sentence without its end; nil if nothing is.
  public static func problem(_ word: TLSWord, _ value: String) -> String? {
    guard let scratch = SSL_CTX_new(TLS_method()) else { return takeErrorText() }
    defer { SSL_CTX_free(scratch) }
    // NUL would end the text early, and newlines have no place in a list of names.
    if value.utf8.contains(where: { $0 < 32 || $0 > 126 }) {
      return "there is a character in it that is in no name"
    }
    switch word {
    case .minProtocol, .maxProtocol: break
    case .ciphers:
      for name in value.split(whereSeparator: { ":, ;".contains($0) }) where name.first != "@" {
        let isAskedFor = !"!-+".contains(name.first ?? "@")
        let word = String(isAskedFor ? name : name.dropFirst())
        if SSL_CTX_set_cipher_list(scratch, word) == 1 { continue }
        ERR_clear_error()
        // What is taken away or moved may be of another OpenSSL (!RC4, !DES-CBC3-SHA); a slip would take away nothing.
        let parts = word.split(whereSeparator: { "+-".contains($0) }).map { $0.uppercased() }
        if !isAskedFor && parts.contains(where: { cipherWords.contains($0) }) { continue }
        let meant = nearest(to: word, among: cipherWords.sorted()).map { ": did you mean \($0)?" }
        return "'\(word)' names no cipher of this OpenSSL\(meant ?? "")"
      }
    case .cipherSuites:
      let names = value.split(separator: ":", omittingEmptySubsequences: false)
      for name in names where !hasSuite(scratch, String(name)) {
        return "'\(name)' is no cipher suite of TLS 1.3 in this OpenSSL"
      }
    case .groups:
      for name in value.split(separator: ":", omittingEmptySubsequences: false)
      where set(.groups, String(name), in: scratch) != nil {
        return "'\(name)' is no group of this OpenSSL"
      }
    }
    return set(word, value, in: scratch)
  }

  /// The words of openssl-ciphers(1), "CIPHER STRINGS", and parts of names of ciphers that some OpenSSL had.
  private static let cipherWords: Set<String> = [
    "ALL", "COMPLEMENTOFALL", "DEFAULT", "COMPLEMENTOFDEFAULT", "HIGH", "MEDIUM", "LOW", "EXP",
    "EXPORT", "EXPORT40", "EXPORT56", "FIPS", "ENULL", "NULL", "ANULL", "KRSA", "ARSA", "RSA",
    "KDHR", "KDHD", "KDH", "DH", "KDHE", "KEDH", "DHE", "EDH", "ADH", "KEECDH", "KECDHE", "KECDH",
    "KECDHR", "ECDH", "ECDHE", "EECDH", "AECDH", "ADSS", "DSS", "ADH", "AECDH", "AECDSA", "ECDSA",
    "SSLV2", "SSLV3", "TLSV1", "TLSV1.0", "TLSV1.2", "AES128", "AES256", "AES", "AESGCM", "AESCCM",
    "AESCCM8", "ARIA", "ARIA128", "ARIA256", "ARIAGCM", "CAMELLIA", "CAMELLIA128", "CAMELLIA256",
    "CHACHA20", "3DES", "DES", "RC2", "RC4", "IDEA", "SEED", "MD5", "SHA", "SHA1", "SHA256",
    "SHA384", "CBC", "CBC3", "AGOST", "AGOST01", "KGOST", "GOST", "GOST94", "GOST89MAC", "PSK",
    "KPSK", "APSK", "KECDHEPSK", "KDHEPSK", "KRSAPSK", "SRP", "KSRP", "ASRP", "KRB5", "SUITEB128",
    "SUITEB128ONLY", "SUITEB192",
  ]

  private static func hasSuite(_ scratch: OpaquePointer, _ name: String) -> Bool {
    defer { ERR_clear_error() }
    guard SSL_CTX_set_ciphersuites(scratch, name) == 1, let all = SSL_CTX_get_ciphers(scratch)
    else { return false }
    for place in 0..<ctls_cipher_count(all) {
      if let cipher = ctls_cipher(all, place), String(cString: SSL_CIPHER_get_name(cipher)) == name
      {
        return true
      }
    }
    return false
  }

  /// - Returns: OpenSSL's reason, or nil if it took the value.
  private static func set(_ word: TLSWord, _ value: String, in context: OpaquePointer) -> String? {
    ERR_clear_error()
    guard let command = SSL_CONF_CTX_new() else { return "no memory" }
    defer { SSL_CONF_CTX_free(command) }
    SSL_CONF_CTX_set_flags(
      command, UInt32(SSL_CONF_FLAG_FILE | SSL_CONF_FLAG_CLIENT | SSL_CONF_FLAG_SERVER))
    SSL_CONF_CTX_set_ssl_ctx(command, context)
    if SSL_CONF_cmd(command, word.command, value) > 0 { return nil }
    // "bad value" with the command behind it is all that it says of a protocol; the value is our part.
    return "OpenSSL does not take it: \(takeErrorText())"
  }

  /// Sets all words.
  func apply(to context: OpaquePointer) throws(TLSContextError) {
    for word in TLSWord.allCases {
      if let reason = TLSWords.problem(word, self[word])
        ?? TLSWords.set(word, self[word], in: context)
      {
        throw TLSContextError(place: .word(word), reason: reason)
      }
    }
  }
}
