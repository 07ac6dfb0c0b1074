// SPDX-License-Identifier: Apache-2.0
import ConfigurationFixtures
import Flow
import Foundation
import Policy
import TLS
import Suspicion
import Testing

@testable import Configuration

/// Certificates in the configuration: what is wrong with their files is told at the line that names them.
struct CertificateTests {
  @Test(
    "a key that every user can read or write is told, one that its group can read is not",
    arguments: [(0o600, 0), (0o640, 0), (0o644, 1), (0o604, 1), (0o602, 1)])
  func openKey(mode: Int, warnings: Int) throws {
    let folder = try certificateFolder()
    try FileManager.default.setAttributes(
      [.posixPermissions: mode], ofItemAtPath: "\(folder.path)/mx.key")
    let (configuration, problems) = try loadCertificates(folder, "mx.pem", "mx.key")
    #expect(configuration != nil)
    #expect(problems.map(\.severity) == Array(repeating: .warning, count: warnings))
    #expect(problems.allSatisfy { $0.position.line == 4 && $0.hint.contains("chmod 640") })
  }

  @Test("certificates that cannot be used are errors at their line, each with its own sentence")
  func errors() throws {
    let folder = try certificateFolder()
    // Files, line, a part of the reason, exit code.
    let cases: [(certificate: String, key: String, line: Int, reason: String, code: Int32)] = [
      ("none.pem", "mx.key", 3, "cannot open", 66),
      ("mx.pem", "none.key", 4, "cannot open", 66),
      (".", "mx.key", 3, "cannot read", 66),
      ("leaf.csr", "mx.key", 3, "no certificate in PEM form", 78),
      ("mx.pem", "leaf.csr", 4, "no private key in PEM form", 78),
      ("mx.pem", "encrypted.key", 4, "encrypted with a password", 78),
      ("mx.pem", "other.key", 4, "does not belong to the certificate", 78),
      ("weak.pem", "weak.key", 3, "too small", 78),
    ]
    for (certificate, key, line, reason, code) in cases {
      let (configuration, problems) = try loadCertificates(folder, certificate, key)
      #expect(configuration == nil)
      #expect(problems.count == 1, "\(problems)")
      let problem = try #require(problems.first)
      #expect(problem.position.line == line)
      #expect(problem.reason.contains(reason), "\(problem)")
      #expect(problem.lineText.contains(line == 3 ? certificate : key))
      #expect(!problem.hint.isEmpty)
      #expect(problems.exitCode == code)
    }
  }

  @Test("a key that no certificate has is told where it stands")
  func unknownKey() throws {
    let (configuration, problems) = try loadCertificates(
      certificateFolder(), "mx.pem", "mx.key", more: "      name: mx.example.org")
    #expect(configuration == nil)
    #expect(problems.map { "\($0.position.line):\($0.position.column)" } == ["6:7"])
    #expect(problems.first?.reason == "unknown key 'name' in a certificate")
    #expect(problems.first?.hint == "did you mean 'names'?")
  }

  @Test("a key that may not be read is told as that, with exit code 77")
  func forbidden() throws {
    // Root may read everything; then only the words can be looked at.
    let folder = try certificateFolder()
    chmod("\(folder.path)/mx.key", 0)
    let (_, problems) = try loadCertificates(folder, "mx.pem", "mx.key")
    if geteuid() == 0 {
      #expect(problems == [])
      let failure = FileFailure(path: "mx.key", operation: "open", errno: EACCES)
      #expect(failure.kind == .forbidden)
      #expect(failure.hint.contains("give Sluice's user"))
    } else {
      #expect(problems.exitCode == 77)
    }
  }

  @Test("what peers refuse fails the check and stops no service; the rest is a warning")
  func findings() throws {
    let folder = try certificateFolder()
    let cases: [(file: String, names: String, days: Int64, reason: String, code: Int32)] = [
      ("mx", "", 0, "", 0), ("mx", "mx.example.org", 38, "", 0),
      ("mx", "", 40, "expires on", 0), ("mx", "", 61, "expired on", 78),
      ("mx", "", -2, "not valid before", 78),
      ("mx", "mail.example.org", 0, "does not have the name", 0),
      ("leaf", "", 0, "is neither in the file nor", 0),
    ]
    for (file, names, days, reason, code) in cases {
      let (configuration, problems) = try loadCertificates(
        folder, "\(file).pem", file == "leaf" ? "other.key" : "mx.key", names: names, after: days)
      #expect(problems == [])
      let findings = try #require(configuration).tls.findings
      #expect(findings.count == (reason.isEmpty ? 0 : 1), "\(findings)")
      #expect(reason.isEmpty || findings.first?.reason.contains(reason) == true, "\(findings)")
      #expect(findings.allSatisfy { $0.position.line == 3 && $0.lineText.contains(".pem") })
      #expect(findings.exitCode == code)
    }
  }

  @Test("with certificates listeners offer STARTTLS, unless they say otherwise")
  func listeners() throws {
    let folder = try certificateFolder()
    let listeners = """
      listeners:
        - {address: "127.0.0.1:25"}
        - {address: "127.0.0.2:25", tls: off}
        - {address: "127.0.0.1:465", role: outbound, tls: implicit}
        - {address: "127.0.0.3:25", tls: pass_through}
      downstream: {identity: proxy_v2}
      """
    let (configuration, problems) = try loadCertificates(
      folder, "both.pem", "both.pem", more: listeners)
    #expect(problems == [])
    let read = try #require(configuration)
    #expect(read.listeners.map(\.tls) == [.starttls, .off, .implicit, .passThrough])
    #expect(read.files.count == 2)
    #expect(read.cautions.count == 1)
    #expect(read.cautions.first?.contains("127.0.0.3:25 has tls: pass_through") == true)
    #expect((58...60).contains(try #require(read.tls.daysLeft(at: machine.now))))
    // What it dumps is read as the same.
    let main = try folder.write("again.yaml", read.dump())
    let again = Configuration.load(file: main, environment: machine)
    #expect(again.problems == [])
    #expect(again.configuration?.dump() == read.dump())
    // And a context of each listener can be made.
    for listener in read.listeners {
      _ = try TLSServerContext(
        read.tls.serverSettings(for: listener), ticketKeys: read.tls.ticketKeys())
    }
    let hidden = try loadCertificates(
      folder, "both.pem", "both.pem", more: listeners.replacing("v2}", with: "v2, tls: required}"))
    #expect(hidden.problems.map(\.severity) == [.warning])
    #expect(hidden.problems.first?.position.line == 10)
    #expect(hidden.problems.first?.reason.contains("are not offered") == true)
    let plain = try loadCertificates(
      folder, "mx.pem", "mx.key", more: "listeners: [{address: \"[::]:25\", tls: implicit}]")
    #expect(plain.problems.map(\.severity) == [.warning])
    #expect(plain.problems.first?.reason.contains("port 25") == true)
    #expect(Configuration(environment: machine).listeners.map(\.tls) == [.off])
  }

  @Test("two certificates for a name are of use with keys of two kinds")
  func duplicates() throws {
    let folder = try certificateFolder()
    let twice = """
          - {certificate: other.pem, key: other.key, names: [mx.example.org, other.example.org]}
      """
    let (configuration, problems) = try loadCertificates(
      folder, "mx.pem", "mx.key", names: "mx.example.org", more: twice)
    #expect(configuration != nil)
    #expect(problems.map(\.severity) == [.warning])
    #expect(problems.first?.reason.contains("also has the name mx.example.org") == true)
  }

  @Test("what is asked of the downstream becomes a context's settings")
  func downstream() throws {
    let folder = try certificateFolder()
    let main = try folder.write(
      "sluice.yaml",
      "downstream: {address: \"mail.example.org:25\", tls: verify, tls_ca: mx.pem}\n")
    let (configuration, problems) = Configuration.load(file: main, environment: machine)
    #expect(problems == [])
    let settings = try #require(configuration?.downstream.clientSettings)
    #expect(settings.level == .verify)
    #expect(settings.name == "mail.example.org")
    #expect(settings.authorities == .file("\(folder.path)/mx.pem"))
    #expect(Configuration(environment: machine).downstream.clientSettings == nil)
    for (file, code, reason) in [("none.pem", 66, "cannot open"), ("mx.key", 78, "cannot load")] {
      try folder.write(
        "sluice.yaml", "downstream: {address: \"a:25\", tls: verify, tls_ca: \(file)}\n")
      let bad = Configuration.load(file: main, environment: machine)
      #expect(bad.problems.count == 1, "\(bad.problems)")
      #expect(bad.problems.first?.reason.contains(reason) == true)
      #expect(bad.problems.exitCode == Int32(code))
    }
  }
}
