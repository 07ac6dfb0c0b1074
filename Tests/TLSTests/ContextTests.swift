// SPDX-License-Identifier: Apache-2.0
import COpenSSL
import Structures
import Synchronization
import Testing

@testable import TLS

/// Names, tickets, certificates of the other side, words and reloads.
struct ContextTests {
  // MARK: - Names

  static let certificates = [
    TLSServerCertificate(Fixtures.mx), TLSServerCertificate(Fixtures.wild),
    TLSServerCertificate(Fixtures.other, names: ["other.example.net", "deep.a.example.com"]),
  ]

  @Test(
    "the certificate is that of the name asked for, or the first",
    arguments: Version.allCases,
    [
      ("mx.example.org", "mx.example.org"), ("mail.example.org", "mx.example.org"),
      ("MX.Example.ORG", "mx.example.org"), ("other.example.net", "other.example.net"),
      ("a.example.com", "wild.example.com"), ("example.com", "mx.example.org"),
      ("b.a.example.com", "mx.example.org"), ("deep.a.example.com", "other.example.net"),
      ("unknown.test", "mx.example.org"), ("a.example.com.", "wild.example.com"),
      (nil, "mx.example.org"),
    ] as [(String?, String)])
  func names(version: Version, asked: (name: String?, shown: String)) throws {
    let pair = Pair(
      try serverContext(Self.certificates), try clientContext(version, name: asked.name))
    pair.run()
    #expect(pair.areEstablished)
    #expect(pair.client.peerCertificate?.commonName == asked.shown)
    #expect(pair.server.serverName == asked.name)
  }

  @Test("one name can have an ECDSA and an RSA certificate; the client decides")
  func twoKinds() throws {
    let server = try serverContext([
      TLSServerCertificate(Fixtures.mx), TLSServerCertificate(Fixtures.rsa),
      TLSServerCertificate(Fixtures.other),
    ])
    for (ciphers, kind) in [("ECDHE+aECDSA", "ECDSA"), ("ECDHE+aRSA", "RSA")] {
      let pair = Pair(server, try clientContext(.v12) { $0.ciphers = ciphers })
      pair.run()
      #expect(pair.server.info?.cipherName.contains(kind) == true)
      let none = Pair(server, try clientContext(.v12, name: nil) { $0.ciphers = ciphers })
      none.run()
      #expect(none.server.info?.cipherName.contains(kind) == true, "without a name as well")
    }
    let rest = Pair(
      server, try clientContext(.v12, name: "mail.example.org") { $0.ciphers = "aRSA" })
    rest.run()
    #expect(rest.server.handshake.failure == "no shared cipher", "that name has ECDSA alone")
    #expect(rest.client.handshake.failure == "alert handshake failure")
  }

  @Test("the name is chosen again after a HelloRetryRequest, and is the same")
  func retry() throws {
    let server = try serverContext(Self.certificates) { $0.groups = "P-384" }
    let pair = Pair(
      server, try clientContext(.v13, name: "other.example.net") { $0.groups = "X25519:P-384" })
    pair.run(piece: 1)
    #expect(pair.areEstablished)
    #expect(pair.client.peerCertificate?.commonName == "other.example.net")
  }

  @Test("odd names get the first certificate; one that is too long ends the handshake")
  func oddNames() throws {
    let server = try serverContext(Self.certificates)
    for name in ["a b", "\u{1}", "..", ".", "*.example.com", String(repeating: "a", count: 255)] {
      let client = End(try clientContext(name: nil), saying: name)
      let end = End(server)
      end.hear(client.speak())
      #expect(end.handshake == .needsMore, "\(name)")
      client.hear(end.speak())
      #expect(client.peerCertificate?.commonName == "mx.example.org", "\(name)")
    }
    // One octet more than there may be, written into a hello that has the most.
    let client = End(try clientContext(name: nil), saying: String(repeating: "a", count: 255))
    var hello = client.speak()
    let name = try #require(hello.indices.first { hello[$0...].starts(with: [0, 0, 255, 97]) })
    hello[name + 1] = 1
    hello[name + 2] = 0
    let end = End(server)
    end.hear(hello)
    #expect(end.handshake.failure != nil)
  }

  // MARK: - Tickets

  /// Whether a second session with the same contexts is resumed.
  private func isResumed(
    _ first: TLSServerContext, _ second: TLSServerContext, _ client: TLSClientContext,
    between: () -> Void = {}
  ) -> Bool {
    let pair = Pair(first, client)
    pair.run()
    #expect(pair.areEstablished)
    #expect(pair.server.info?.isResumed == false)
    between()
    let again = Pair(second, client)
    again.run()
    #expect(again.areEstablished)
    #expect(again.server.info?.isResumed == again.client.info?.isResumed)
    return again.server.info?.isResumed == true
  }

  @Test(
    "a session is gone on with until its key was rotated twice", arguments: Version.allCases)
  func tickets(version: Version) throws {
    let keys = TLSTicketKeys(rotation: 3_600)
    let server = try serverContext(keys: keys)
    #expect(isResumed(server, server, try clientContext(version)))
    #expect(isResumed(server, server, try clientContext(version)) { keys.rotate() })
    #expect(
      !isResumed(server, server, try clientContext(version)) {
        keys.rotate()
        keys.rotate()
      })
  }

  @Test("time rotates the keys, and a long silence forgets both", arguments: Version.allCases)
  func time(version: Version) throws {
    let now = Mutex<Int64>(1_000)
    let keys = TLSTicketKeys(rotation: 100) { now.withLock { $0 } }
    let server = try serverContext(keys: keys)
    for (seconds, expected) in [(99, true), (100, true), (199, true), (200, false), (1_000, false)]
    {
      #expect(
        isResumed(server, server, try clientContext(version)) {
          now.withLock { $0 += Int64(seconds) }
        } == expected, "after \(seconds) s")
      keys.rotate()
    }
  }

  @Test("tickets of one listener are nothing to another", arguments: Version.allCases)
  func listeners(version: Version) throws {
    let first = try serverContext()
    #expect(!isResumed(first, try serverContext(), try clientContext(version)), "other keys")
    let keys = TLSTicketKeys(rotation: 3_600)
    let one = try serverContext(keys: keys)
    #expect(
      !isResumed(
        one, try serverContext(keys: keys, service: "[::]:465"), try clientContext(version)),
      "same keys, another service")
    #expect(
      isResumed(one, try serverContext(keys: keys), try clientContext(version)),
      "the same listener after a reload")
  }

  @Test("without ticket keys nothing is resumed", arguments: Version.allCases)
  func ticketsOff(version: Version) throws {
    let server = try serverContext(keys: nil)
    #expect(!isResumed(server, server, try clientContext(version)))
  }

  @Test("a ticket of TLS 1.3 is used once, a session of 1.2 again and again")
  func singleUse() throws {
    let server = try serverContext()
    for (version, expected) in [(Version.v12, true), (.v13, false)] {
      let client = try clientContext(version)
      let first = Pair(server, client)
      first.run()
      let second = Pair(server, client)
      // A third begins before the second has got a ticket of its own.
      let third = Pair(server, client)
      second.run()
      third.run()
      #expect(second.server.info?.isResumed == true)
      #expect(third.server.info?.isResumed == expected, "\(version)")
    }
  }

  @Test("a cut connection leaves its session to be gone on with", arguments: Version.allCases)
  func cutSession(version: Version) throws {
    let server = try serverContext()
    let client = try clientContext(version)
    do {
      let pair = Pair(server, client)
      pair.run()
    }
    let again = Pair(server, client)
    again.run()
    #expect(again.client.info?.isResumed == true)
  }

  // MARK: - The other side's certificate

  @Test(
    "verify takes the right name from the right authority and nothing else",
    arguments: Version.allCases)
  func verify(version: Version) throws {
    let server = try serverContext(Self.certificates)
    func failure(_ name: String, _ authority: String) throws -> String? {
      let client = try clientContext(
        version, level: .verify, name: name,
        authorities: .file("\(Fixtures.folder)/\(authority).pem"))
      let pair = Pair(server, client)
      pair.run()
      if pair.client.isEstablished {
        #expect(pair.server.isEstablished)
        #expect(pair.client.info?.peerCertificate == .verified)
        #expect(pair.client.peerCertificate?.isVerified == true)
      } else {
        #expect(pair.server.failure?.kind == .alert)
      }
      return pair.client.handshake.failure
    }
    #expect(try failure("mx.example.org", "root") == nil)
    #expect(try failure("a.example.com", "root") == nil)
    #expect(try failure("nobody.test", "root") == "certificate verify failed: hostname mismatch")
    #expect(
      try failure("192.0.2.2", "root") == "certificate verify failed: IP address mismatch")
    #expect(
      try failure("mx.example.org", "stranger")
        == "certificate verify failed: unable to get local issuer certificate")
  }

  @Test("an address is looked for among the certificate's addresses, and is no SNI")
  func addresses() throws {
    let server = try serverContext([TLSServerCertificate(Fixtures.wild)])
    let pair = Pair(server, try clientContext(level: .verify, name: "192.0.2.1"))
    pair.run()
    #expect(pair.areEstablished)
    #expect(pair.server.serverName == nil)
  }

  @Test(
    "opportunistic and required take any certificate",
    arguments: [TLSClientSettings.Level.opportunistic, .required])
  func unverified(level: TLSClientSettings.Level) throws {
    let pair = Pair(
      try serverContext(), try clientContext(level: level, name: "nobody.test"))
    pair.run()
    #expect(pair.areEstablished)
    #expect(pair.client.info?.peerCertificate == .unverified)
  }

  @Test("verify without a name, and authorities that are not there, are no context")
  func badClients() {
    #expect {
      _ = try clientContext(level: .verify, name: nil)
    } throws: {
      ($0 as? TLSContextError)?.place == .name
    }
    #expect {
      _ = try clientContext(level: .verify, authorities: .file("/nowhere/ca.pem"))
    } throws: {
      ($0 as? TLSContextError)?.place == .authorities
    }
  }

  @Test("client certificates are asked for, let through and recorded", arguments: Version.allCases)
  func clientCertificates(version: Version) throws {
    let server = try serverContext(asksForCertificates: true)
    let client = try clientContext(version)
    let bare = Pair(server, client)
    bare.run()
    #expect(bare.server.info?.peerCertificate == TLSInfo.PeerCertificate.none)
    #expect(bare.server.peerCertificate == nil)
    let shown = try clientContext(version)
    SSL_CTX_use_cert_and_key(
      shown.context, Fixtures.client.leaf, Fixtures.client.key, nil, 1)
    // The second time from the ticket.
    for isResumed in [false, true] {
      let pair = Pair(server, shown)
      pair.run()
      #expect(pair.areEstablished)
      #expect(pair.server.info?.isResumed == isResumed)
      #expect(pair.server.info?.peerCertificate == .unverified)
      let certificate = try #require(pair.server.peerCertificate)
      #expect(certificate.commonName == "client.example")
      #expect(certificate.fingerprint.count == 32)
      #expect(certificate.fingerprintText.count == 95)
      #expect(!certificate.isVerified)
      #expect(certificate.verification == "unable to verify the first certificate")
    }
  }

  // MARK: - Words

  @Test("what the sides do not share is told in words")
  func nothingShared() throws {
    let ciphers = Pair(
      try serverContext { $0.cipherSuites = "TLS_AES_256_GCM_SHA384" },
      try clientContext(.v13) { $0.cipherSuites = "TLS_AES_128_GCM_SHA256" })
    ciphers.run()
    #expect(ciphers.server.handshake.failure == "no shared cipher")
    #expect(ciphers.client.handshake.failure == "alert handshake failure")
    let groups = Pair(
      try serverContext { $0.groups = "P-384" }, try clientContext(.v13) { $0.groups = "X25519" })
    groups.run()
    #expect(groups.server.handshake.failure == "no shared cipher")
    let versions = Pair(
      try serverContext { $0.minProtocol = "TLSv1.3" }, try clientContext(.v12))
    versions.run()
    #expect(versions.server.handshake.failure == "bad protocol version")
    #expect(versions.client.handshake.failure == "alert protocol version")
  }

  @Test("as shipped TLS 1.1 and what has no forward secrecy is refused")
  func modern() throws {
    let server = try serverContext([
      TLSServerCertificate(Fixtures.mx), TLSServerCertificate(Fixtures.rsa),
    ])
    for ciphers in ["kRSA", "ECDHE+SHA", "ECDHE+SHA256", "DHE", "AES128-GCM-SHA256"] {
      let pair = Pair(server, try clientContext(.v12) { $0.ciphers = ciphers + ":@SECLEVEL=0" })
      pair.run()
      #expect(pair.server.handshake.failure == "no shared cipher", "\(ciphers)")
    }
    let old = Pair(
      server,
      try clientContext {
        $0.minProtocol = "TLSv1"
        $0.maxProtocol = "TLSv1.1"
        $0.ciphers = "ALL:@SECLEVEL=0"
      })
    old.run()
    #expect(old.server.handshake.failure == "bad protocol version")
  }

  @Test(
    "a word that OpenSSL does not know is named",
    arguments: [
      (TLSWord.minProtocol, "TLSv1.4", "does not take it"),
      (.maxProtocol, "1.2", "does not take it"),
      (.ciphers, "ECDHE+AESGCM:NONSENSE", "'NONSENSE' names no cipher"),
      (.ciphers, "", "does not take it"), (.ciphers, "!ECDHE", "does not take it"),
      (.cipherSuites, "TLS_AES_256_GCM_SHA384:TLS_NULL", "'TLS_NULL' is no cipher suite"),
      (.cipherSuites, "", "'' is no cipher suite"), (.groups, "X25519:P-25", "'P-25' is no group"),
      (.groups, "", "'' is no group"), (.groups, "X25519\nP-256", "a character"),
    ])
  func badWords(word: TLSWord, value: String, reason: String) {
    #expect(TLSWords.problem(word, value)?.contains(reason) == true)
    #expect {
      _ = try serverContext { $0[word] = value }
    } throws: {
      ($0 as? TLSContextError)?.place == .word(word)
    }
  }

  @Test(
    "words of OpenSSL's manual are taken",
    arguments: [
      (TLSWord.minProtocol, "TLSv1"), (.minProtocol, "None"), (.maxProtocol, "TLSv1.2"),
      (.ciphers, "DEFAULT:!aNULL:!RC4:+SHA1"), (.ciphers, "ALL:@SECLEVEL=0"),
      (.ciphers, "HIGH,!MD5 @STRENGTH"), (.cipherSuites, "TLS_AES_128_CCM_SHA256"),
      (.groups, "secp384r1:x448:ffdhe2048"),
    ])
  func goodWords(word: TLSWord, value: String) {
    #expect(TLSWords.problem(word, value) == nil)
  }

  @Test("a context without a certificate is none, and OpenSSL's refusal names the certificate")
  func noCertificate() throws {
    #expect(throws: TLSContextError.self) { _ = try serverContext([]) }
    let weak = Fixtures.identity("weak.pem", "weak.key")
    #expect {
      _ = try serverContext([TLSServerCertificate(Fixtures.mx), TLSServerCertificate(weak)])
    } throws: {
      let error = $0 as? TLSContextError
      return error?.place == .certificate(1) && error?.reason.contains("too small") == true
    }
  }

  // MARK: - Reload

  @Test("sessions outlive the context they were made from; new ones have the new certificate")
  func reload() throws {
    let keys = TLSTicketKeys(rotation: 3_600)
    let client = try clientContext(name: nil)
    var old: TLSServerContext? = try serverContext(keys: keys)
    let context = try #require(old)
    let live = Pair(context, client)
    // One in the middle of its handshake, one done.
    let half = Pair(context, try clientContext(.v13, name: nil))
    live.run()
    half.server.hear(half.client.speak())
    let new = try serverContext([TLSServerCertificate(Fixtures.other)], keys: old?.ticketKeys)
    old = nil
    let text = Array("NOOP\r\n".utf8)
    live.server.hear(live.client.say(text))
    #expect(live.server.plain == text)
    half.run()
    #expect(half.areEstablished)
    let next = Pair(new, try clientContext(name: nil))
    next.run()
    #expect(next.client.peerCertificate?.commonName == "other.example.net")
    let resumed = Pair(new, client)
    resumed.run()
    #expect(resumed.server.info?.isResumed == true)
  }

  @Test("a context goes with its last session")
  func lifetime() throws {
    weak var watched: TLSTicketKeys?
    do {
      let keys = TLSTicketKeys(rotation: 60)
      watched = keys
    }
    #expect(watched == nil)
    var pair: Pair?
    do {
      let keys = TLSTicketKeys(rotation: 60)
      watched = keys
      pair = Pair(try serverContext(Self.certificates, keys: keys), try clientContext())
    }
    #expect(watched != nil, "the session needs its keys")
    pair?.run()
    pair = nil
    #expect(watched == nil)
  }
}

extension End {
  /// A client that asks for any name.
  fileprivate convenience init(_ context: TLSClientContext, saying name: String) {
    self.init(context, isSilent: true)
    // SSL_set_tlsext_host_name, which is a macro.
    var bytes = Array(name.utf8CString)
    bytes.withUnsafeMutableBytes {
      _ = SSL_ctrl(
        session, SSL_CTRL_SET_TLSEXT_HOSTNAME, Int(TLSEXT_NAMETYPE_host_name), $0.baseAddress)
    }
    hear([])
  }
}
