// SPDX-License-Identifier: Apache-2.0
import Testing

@testable import TLS

/// Certificates and keys, and what is told about them.
struct IdentityTests {
  private static let day: Int64 = 86_400

  /// Certificate, key, what is found, a part of the reason.
  static let badFiles:
    [(certificate: String, key: String, kinds: [CertificateFinding.Kind], reason: String)] = [
      ("mx.key", "mx.key", [.noCertificate], "holds a key and no certificate"),
      ("mx.der", "mx.key", [.noCertificate], "looks like DER"),
      ("mx.csr", "mx.key", [.noCertificate], "no certificate in PEM form"),
      ("empty", "mx.key", [.noCertificate], "the file is empty"),
      ("mx-chain.pem", "mx.pem", [.noKey], "holds a certificate and no key"),
      ("mx-chain.pem", "mx-key.der", [.noKey], "looks like DER"),
      ("mx-chain.pem", "empty", [.noKey], "the file is empty"),
      ("mx-chain.pem", "mx.csr", [.noKey], "no private key in PEM form"),
      ("mx-chain.pem", "mx-encrypted.key", [.encryptedKey], "encrypted with a password"),
      ("rsa.pem", "old-encrypted.key", [.encryptedKey], "encrypted with a password"),
      (
        "mx-chain.pem", "other.key", [.wrongKey],
        "does not belong to the certificate (of mx.example"
      ),
      ("mx-chain.pem", "rsa.key", [.wrongKey], "does not belong to the certificate"),
      ("mx-upside-down.pem", "mx.key", [.wrongKey], "the key belongs to certificate 2"),
      ("mx.key", "mx.pem", [.noCertificate, .noKey], "holds a key and no certificate"),
    ]

  @Test("what cannot be used is told apart", arguments: badFiles)
  func unusable(
    certificate: String, key: String, kinds: [CertificateFinding.Kind], reason: String
  ) {
    let (identity, findings) = TLSIdentity.read(
      certificate: Fixtures.bytes(certificate), key: Fixtures.bytes(key))
    #expect(identity == nil)
    #expect(findings.map(\.kind) == kinds)
    #expect(findings.first?.reason.contains(reason) == true, "\(findings)")
    #expect(findings.allSatisfy { $0.severity == .unusable && $0.hint.count > 15 })
  }

  @Test("damaged files are no crash and no identity")
  func damaged() {
    let good = Fixtures.bytes("mx-all.pem")
    for place in stride(from: 0, to: good.count, by: 37) {
      var bad = good
      bad[place] ^= 0x55
      _ = TLSIdentity.read(certificate: bad, key: bad)
      _ = TLSIdentity.read(certificate: Array(good[..<place]), key: good)
    }
    let (identity, findings) = TLSIdentity.read(
      certificate: Array("-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n".utf8),
      key: good)
    #expect(identity == nil)
    #expect(findings.first?.reason.contains("damaged") == true)
  }

  @Test("one file may hold all of it; names, days and kind are read")
  func facts() throws {
    let all = Fixtures.bytes("mx-all.pem")
    let identity = try #require(TLSIdentity.read(certificate: all, key: all).identity)
    #expect(identity.names == ["mx.example.org", "mail.example.org"])
    #expect(identity.chain.count == 1)
    #expect(identity.keyType == "EC" && identity.keyBits == 256)
    #expect(Fixtures.rsa.keyType == "RSA" && Fixtures.rsa.keyBits == 2_048)
    let now = secondsNow()
    #expect((89...90).contains(identity.daysLeft(at: now)))
    #expect(identity.daysLeft(at: identity.notAfter + 1) == -1)
    #expect(identity.daysLeft(at: identity.notAfter - Self.day) == 1)
    #expect(identity.notBefore <= now)
  }

  private func kinds(
    _ identity: TLSIdentity, _ names: [String] = [], after days: Int64 = 0,
    _ authorities: TLSAuthorities = .file("\(Fixtures.folder)/stranger.pem")
  ) -> [CertificateFinding.Kind] {
    identity.findings(
      for: names, at: secondsNow() + days * Self.day, authorities: authorities
    ).map(\.kind)
  }

  @Test("time: good, soon to end, ended, not yet begun")
  func time() throws {
    #expect(kinds(Fixtures.mx) == [])
    #expect(kinds(Fixtures.mx, after: 68) == [])
    #expect(kinds(Fixtures.mx, after: 70) == [.expiring])
    #expect(kinds(Fixtures.mx, after: 91) == [.expired])
    #expect(kinds(Fixtures.mx, after: -2) == [.notYetValid])
    let expired = try #require(
      Fixtures.mx.findings(for: [], at: Fixtures.mx.notAfter + 3 * Self.day).first)
    #expect(expired.severity == .wrong)
    #expect(expired.reason.hasPrefix("the certificate expired on 20"))
    #expect(expired.reason.hasSuffix("3 days ago"))
    let soon = try #require(
      Fixtures.mx.findings(for: [], at: Fixtures.mx.notAfter - 5 * Self.day).first)
    #expect(soon.severity == .notice)
    #expect(soon.reason.hasSuffix("in 5 days"))
  }

  @Test("a chain: in the file, in the system's store, nowhere")
  func chain() {
    let bare = Fixtures.identity("mx.pem", "mx.key")
    #expect(kinds(bare) == [.chainless])
    let reason = bare.findings(for: [], at: secondsNow()).first?.reason ?? ""
    #expect(reason.contains("(CN=middle)"), "\(reason)")
    #expect(kinds(bare, [], .file("\(Fixtures.folder)/middle.pem")) == [])
    #expect(kinds(Fixtures.other) == [.chainless])
    #expect(kinds(Fixtures.other, [], Fixtures.root) == [])
    let own = Fixtures.identity("root.pem", "root.key")
    #expect(kinds(own) == [], "it is its own issuer")
  }

  private func kinds(
    _ identity: TLSIdentity, _ names: [String], _ authorities: TLSAuthorities
  ) -> [CertificateFinding.Kind] { kinds(identity, names, after: 0, authorities) }

  @Test("a weak key, and names that the certificate does not have")
  func rest() throws {
    let weak = Fixtures.identity("weak.pem", "weak.key")
    #expect(kinds(weak, [], Fixtures.root) == [.weakKey])
    #expect(kinds(Fixtures.mx, ["mx.example.org", "MAIL.example.org"]) == [])
    #expect(kinds(Fixtures.mx, ["mx.example.org", "mx.example.net"]) == [.missingName])
    #expect(kinds(Fixtures.wild, ["a.example.com", "*.example.com"], Fixtures.root) == [])
    #expect(kinds(Fixtures.wild, ["example.com"], Fixtures.root) == [.missingName])
    #expect(kinds(Fixtures.mx, ["*.example.org"]) == [.missingName])
    let finding = try #require(Fixtures.mx.findings(for: ["x.test"], at: secondsNow()).last)
    #expect(
      finding.reason
        == "the certificate does not have the name x.test; it has mx.example.org, mail.example.org")
  }
}
