// SPDX-License-Identifier: Apache-2.0
import Foundation
import Testing

@testable import TLS

/// Authorities, certificates and keys that live as long as the test run, made by the `openssl` command.
enum Fixtures {
  static let folder: String = {
    let path = "\(NSTemporaryDirectory())/sluice-tls-\(UUID().uuidString)"
    let script = """
      set -eu
      mkdir -p '\(path)'
      cd '\(path)'
      ec() { openssl genpkey -algorithm EC -pkeyopt ec_paramgen_curve:P-256 -out $1.key; }
      rsa() { openssl genpkey -algorithm RSA -pkeyopt rsa_keygen_bits:$2 -out $1.key; }
      authority() {
        openssl req -x509 -new -key $1.key -subj "/CN=$1" -days 3650 -out $1.pem \\
          -addext basicConstraints=critical,CA:TRUE
      }
      sign() { # NAME CN ALTNAMES ISSUER [EXTENSION]
        printf '%s\\n' "subjectAltName=$3" ${5:-} >$1.ext
        openssl req -new -key $1.key -subj "/CN=$2" -out $1.csr
        openssl x509 -req -in $1.csr -CA $4.pem -CAkey $4.key -CAcreateserial -days 90 \\
          -extfile $1.ext -out $1.pem
      }
      for name in root stranger middle mx other wild client; do ec $name; done
      rsa rsa 2048
      rsa weak 1024
      authority root
      authority stranger
      sign middle middle DNS:middle.example root basicConstraints=critical,CA:TRUE
      sign mx mx.example.org DNS:mx.example.org,DNS:mail.example.org middle
      sign rsa mx.example.org DNS:mx.example.org root
      sign other other.example.net DNS:other.example.net root
      sign wild wild.example.com 'DNS:*.example.com,IP:192.0.2.1' root
      sign client client.example DNS:client.example root
      sign weak weak.example DNS:weak.example root
      cat mx.pem middle.pem >mx-chain.pem
      cat middle.pem mx.pem >mx-upside-down.pem
      cat mx.key mx.pem middle.pem >mx-all.pem
      openssl pkey -in mx.key -aes256 -passout pass:secret -out mx-encrypted.key
      openssl rsa -in rsa.key -traditional -aes128 -passout pass:secret -out old-encrypted.key
      openssl x509 -in mx.pem -outform DER -out mx.der
      openssl pkey -in mx.key -outform DER -out mx-key.der
      """
    let process = Process()
    process.executableURL = URL(fileURLWithPath: "/bin/sh")
    process.arguments = ["-c", script]
    process.standardError = FileHandle.nullDevice
    process.standardOutput = FileHandle.nullDevice
    try? process.run()
    process.waitUntilExit()
    precondition(process.terminationStatus == 0, "the openssl command could not make certificates")
    atexit {
      try? FileManager.default.removeItem(atPath: Fixtures.folder)
    }
    return path
  }()

  static func bytes(_ name: String) -> [UInt8] {
    guard let data = FileManager.default.contents(atPath: "\(folder)/\(name)") else { return [] }
    return Array(data)
  }

  static func identity(_ certificate: String, _ key: String) -> TLSIdentity {
    let (identity, findings) = TLSIdentity.read(
      certificate: bytes(certificate), key: bytes(key))
    guard let identity else { fatalError("\(findings)") }
    return identity
  }

  static let mx = identity("mx-chain.pem", "mx.key")
  static let rsa = identity("rsa.pem", "rsa.key")
  static let other = identity("other.pem", "other.key")
  static let wild = identity("wild.pem", "wild.key")
  static let client = identity("client.pem", "client.key")
  static var root: TLSAuthorities { .file("\(folder)/root.pem") }
}

enum Version: String, CaseIterable, CustomTestStringConvertible {
  case v12 = "TLSv1.2"
  case v13 = "TLSv1.3"
  var testDescription: String { rawValue }
}

func serverContext(
  _ certificates: [TLSServerCertificate] = [TLSServerCertificate(Fixtures.mx)],
  keys: TLSTicketKeys? = TLSTicketKeys(rotation: 3_600), service: String = "[::]:25",
  asksForCertificates: Bool = false, _ change: (inout TLSWords) -> Void = { _ in }
) throws -> TLSServerContext {
  var settings = TLSServerSettings(certificates: certificates, service: service)
  settings.requestsClientCertificates = asksForCertificates
  change(&settings.words)
  return try TLSServerContext(settings, ticketKeys: keys)
}

func clientContext(
  _ version: Version? = nil, level: TLSClientSettings.Level = .opportunistic,
  name: String? = "mx.example.org", authorities: TLSAuthorities = Fixtures.root,
  _ change: (inout TLSWords) -> Void = { _ in }
) throws -> TLSClientContext {
  var settings = TLSClientSettings(level: level, name: name)
  settings.authorities = authorities
  if let version {
    settings.words.minProtocol = version.rawValue
    settings.words.maxProtocol = version.rawValue
  }
  change(&settings.words)
  return try TLSClientContext(settings)
}

/// One end: a channel, what it heard in plain text, and its last answers.
final class End {
  private var channel: TLSChannel
  var handshake = TLSHandshake.needsMore
  var plain: [UInt8] = []
  var lastRead = TLSRead.needsMore
  private var room = [UInt8](repeating: 0, count: 4_096)

  init(_ context: TLSServerContext) {
    guard let made = TLSChannel(context) else { fatalError("no memory for a test") }
    channel = made
  }

  init(_ context: TLSClientContext, isSilent: Bool = false) {
    guard let made = TLSChannel(context) else { fatalError("no memory for a test") }
    channel = made
    if !isSilent { hear([]) }
  }

  var isEstablished: Bool { if case .established = handshake { true } else { false } }
  var info: TLSInfo? { channel.info }
  var failure: TLSFailure? { channel.failure }
  var pendingOutput: Int { channel.pendingOutput }
  var holdsInput: Bool { channel.holdsInput }
  var serverName: String? { channel.serverName }
  var peerCertificate: TLSPeerCertificate? { channel.peerCertificate }
  /// OpenSSL's own, for what a peer of ours would never do.
  var session: OpaquePointer { channel.state.pointee.session }

  /// What a channel does before it calls OpenSSL.
  func lend(_ bytes: UnsafeRawBufferPointer) {
    channel.state.pointee.input = bytes.baseAddress
    channel.state.pointee.inputCount = bytes.count
  }

  func inputEnded() -> TLSEnd { channel.inputEnded() }
  func closeNotify() { channel.closeNotify() }
  func giveBack() { channel.giveBack() }
  func write(_ text: [UInt8]) -> TLSWrite { channel.write(text.span) }
  func write(_ byte: UInt8) -> TLSWrite { channel.write(byte) }

  func advance(_ bytes: [UInt8], _ taken: inout Int) -> TLSHandshake {
    channel.advance(bytes.span, taken: &taken)
  }

  func read(_ bytes: [UInt8], _ taken: inout Int, into room: inout [UInt8]) -> TLSRead {
    var span = room.mutableSpan
    return channel.read(bytes.span, taken: &taken, into: &span)
  }

  func take(into room: inout [UInt8]) -> Int {
    var span = room.mutableSpan
    return channel.take(into: &span)
  }

  /// What a driver does with bytes that came.
  func hear(_ bytes: [UInt8]) {
    var taken = 0
    if !isEstablished {
      handshake = channel.advance(bytes.span, taken: &taken)
      if !isEstablished { return }
    }
    while true {
      var span = room.mutableSpan
      lastRead = channel.read(bytes.span, taken: &taken, into: &span)
      guard case .bytes(let count) = lastRead else { return }
      plain += room[..<count]
    }
  }

  /// All that waits to be sent.
  func speak() -> [UInt8] {
    var bytes = [UInt8](repeating: 0, count: channel.pendingOutput)
    var span = bytes.mutableSpan
    let count = channel.take(into: &span)
    #expect(count == bytes.count)
    return bytes
  }

  func say(_ text: [UInt8]) -> [UInt8] {
    let written = channel.write(text.span)
    #expect(written == .accepted(text.count))
    return speak()
  }
}

/// Two ends in one process.
final class Pair {
  let server: End
  let client: End

  init(_ server: TLSServerContext, _ client: TLSClientContext) {
    self.server = End(server)
    self.client = End(client)
  }

  /// Carries bytes to and fro until both are silent, in pieces of at most `piece` bytes.
  func run(piece: Int = .max) {
    for _ in 0..<20 {
      let out = client.speak()
      Pair.carry(out, piece) { server.hear($0) }
      let back = server.speak()
      Pair.carry(back, piece) { client.hear($0) }
      if out.isEmpty && back.isEmpty { return }
    }
  }

  static func carry(_ bytes: [UInt8], _ piece: Int, _ hear: ([UInt8]) -> Void) {
    var start = 0
    while start < bytes.count {
      let end = min(bytes.count, piece == .max ? bytes.count : start + piece)
      hear(Array(bytes[start..<end]))
      start = end
    }
  }

  var areEstablished: Bool { server.isEstablished && client.isEstablished }
}

extension TLSHandshake {
  var failure: String? { if case .failed(let failure) = self { failure.description } else { nil } }
}

/// The records in some bytes of the wire: type and length.
func records(_ bytes: [UInt8]) -> [(type: UInt8, count: Int)] {
  var found: [(UInt8, Int)] = []
  var place = 0
  while place + 5 <= bytes.count {
    let count = Int(bytes[place + 3]) << 8 | Int(bytes[place + 4])
    found.append((bytes[place], count))
    place += 5 + count
  }
  return found
}
