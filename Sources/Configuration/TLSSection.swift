// SPDX-License-Identifier: Apache-2.0
import Flow
import Glibc
import Policy
import Structures
import Suspicion
package import TLS

/// What the operator decides about TLS, with the certificates already read.
///
/// Not contexts: those are made from `serverSettings` and `clientSettings` by the service. Kept: a
/// context can be made from them, for that was tried when the configuration was read.
package struct TLSSection: Sendable {
  /// An entry of `tls.certificates`.
  package struct Entry: Sendable, Equatable {
    /// As written; empty for those in the certificate.
    package internal(set) var names: [String] = []
    /// Paths that the process can open.
    package internal(set) var certificate = ""
    package internal(set) var key = ""
    /// Where the two paths stand.
    var places: (certificate: SourcePosition, key: SourcePosition)?

    package static func == (one: Entry, other: Entry) -> Bool {
      one.names == other.names && one.certificate == other.certificate && one.key == other.key
    }
  }

  package internal(set) var entries: [Entry] = []
  package internal(set) var words = TLSWords.modern
  package internal(set) var requestsClientCertificates = false
  /// How long a key of session tickets is used, in microseconds; nil for no tickets.
  package internal(set) var ticketRotation: Int64? = 3_600_000_000
  /// For a whole handshake, in microseconds.
  package internal(set) var handshakeTimeout: Int64 = 30_000_000
  /// Whether AUTH is offered before TLS.
  package internal(set) var authOnClear = false

  /// Read from the entries, in their order.
  package internal(set) var certificates: [TLSServerCertificate] = []
  /// Problems of certificates that can still be used. Certificates that peers reject are errors: `check` fails with them.
  /// `serve` starts, because clear text and a warning are better than no mail.
  package internal(set) var findings: [Problem] = []

  package init() {}

  /// What the context of a listener is made from.
  package func serverSettings(for listener: Listener) -> TLSServerSettings {
    var settings = TLSServerSettings(certificates: certificates, service: listener.text)
    settings.words = words
    settings.requestsClientCertificates = requestsClientCertificates
    return settings
  }

  /// Keys for the tickets of one listener, or nil if there are to be none.
  package func ticketKeys() -> TLSTicketKeys? {
    ticketRotation.map { TLSTicketKeys(rotation: $0 / 1_000_000) }
  }

  /// Days until the first certificate ends, for a metric; nil without any.
  package func daysLeft(at now: Int64) -> Int64? {
    certificates.map { $0.identity.daysLeft(at: now) }.min()
  }
}

extension Downstream {
  /// What the context towards it is made from; nil without TLS.
  package var clientSettings: TLSClientSettings? {
    guard let level = TLSClientSettings.Level(rawValue: terms.tls.rawValue) else { return nil }
    // RFC 6066, 3: without the dot at the end.
    let name =
      tlsName
      ?? (Address(host) == nil ? String(host.hasSuffix(".") ? host.dropLast() : host[...]) : nil)
    var settings = TLSClientSettings(level: level, name: name)
    settings.authorities = tlsAuthorities
    return settings
  }
}

extension ConfigurationReader {
  private static let certificateExample = "[{certificate: mx.pem, key: mx.key}]"

  mutating func readCertificates(_ node: ConfigNode) throws(BadValue) {
    guard case .list(let nodes) = node.content else {
      throw BadValue(
        reason: "found \(node.kind) instead of a list of certificates",
        hint: "write \(ConfigurationReader.certificateExample)")
    }
    draft.tls.entries = nodes.compactMap { readCertificate($0) }
  }

  private mutating func readCertificate(_ node: ConfigNode) -> TLSSection.Entry? {
    guard case .map(let members) = node.content else {
      problems.add(
        .error, at: node.place, "found \(node.kind) instead of a certificate",
        "write {certificate: mx.pem, key: mx.key}")
      return nil
    }
    var entry = TLSSection.Entry()
    var places = (certificate: node.place, key: node.place)
    for member in members {
      do throws(BadValue) {
        switch member.name {
        case "names":
          entry.names = try readList(member.value, "names") { (word) throws(BadValue) in
            let isWild = word.hasPrefix("*.")
            let name = try Form.hostname(isWild ? String(word.dropFirst(2)) : word, isFull: false)
            return isWild ? "*.\(name)" : name
          }
        case "certificate":
          entry.certificate = try path(try Setting.text(member.value, "the path of a file"))
          places.certificate = member.value.place
        case "key":
          entry.key = try path(try Setting.text(member.value, "the path of a file"))
          places.key = member.value.place
        default:
          problems.add(
            .error, at: member.place,
            "unknown key '\(ConfigNode.cut(member.name))' in a certificate",
            hint(for: member.name, among: ["names", "certificate", "key"]))
        }
      } catch {
        problems.add(.error, at: member.value.place, error.reason, error.hint)
      }
    }
    for name in ["certificate", "key"] where !members.contains(where: { $0.name == name }) {
      problems.add(
        .error, at: node.place, "an entry without '\(name)'",
        "write {certificate: mx.pem, key: mx.key}; one file may hold both")
    }
    guard !entry.certificate.isEmpty, !entry.key.isEmpty else { return nil }
    entry.places = places
    return entry
  }

  /// A path as the process can open it: relative ones count from the folder of the main file.
  func path(_ text: String) throws(BadValue) -> String {
    if text.isEmpty { throw BadValue(reason: "the path is empty", hint: "write a path") }
    return text.hasPrefix("/") || folder.isEmpty ? text : "\(folder)/\(text)"
  }

  // MARK: - What can only be told from several keys, or from files

  mutating func finishTLS(_ whole: SourcePosition) {
    checkProtocols(whole)
    loadCertificates(whole)
    settleListeners()
    checkDownstreamTLS(whole)
  }

  private mutating func checkProtocols(_ whole: SourcePosition) {
    let order = ["SSLv3", "TLSv1", "TLSv1.1", "TLSv1.2", "TLSv1.3"]
    let words = draft.tls.words
    if let least = order.firstIndex(of: words.minProtocol),
      let most = order.firstIndex(of: words.maxProtocol), least > most
    {
      problems.add(
        .error, at: places["tls.max_protocol"] ?? places["tls.min_protocol"] ?? whole,
        "tls.max_protocol (\(words.maxProtocol)) is older than tls.min_protocol (\(words.minProtocol))",
        "write max_protocol: None for no limit")
    }
  }

  private mutating func loadCertificates(_ whole: SourcePosition) {
    var loaded: [TLSServerCertificate] = []
    for entry in draft.tls.entries {
      let places = entry.places ?? (whole, whole)
      let certificate = content(of: entry.certificate, at: places.certificate)
      let key =
        entry.key == entry.certificate ? certificate : content(of: entry.key, at: places.key)
      guard let certificate, let key else { continue }
      func tell(_ finding: CertificateFinding, _ severity: Problem.Severity) -> Problem {
        let isKey = finding.file == .key
        let place = isKey ? places.key : places.certificate
        return Problem(
          severity, at: place, lineText: problems.line(at: place),
          reason: "\(isKey ? entry.key : entry.certificate): \(finding.reason)", hint: finding.hint)
      }
      let (identity, findings) = TLSIdentity.read(certificate: certificate, key: key)
      for finding in findings { problems.add(tell(finding, .error)) }
      guard let identity else { continue }
      warnOfReaders(entry.key, at: places.key)
      draft.files += entry.key == entry.certificate ? [entry.key] : [entry.certificate, entry.key]
      for finding in identity.findings(for: entry.names, at: draft.now) {
        draft.tls.findings.append(tell(finding, finding.severity == .notice ? .warning : .error))
      }
      let made = TLSServerCertificate(identity, names: entry.names)
      for (other, older) in zip(loaded, draft.tls.entries)
      where other.identity.keyType == identity.keyType {
        guard let name = made.names.first(where: { other.names.contains($0) }) else { continue }
        problems.add(
          .warning, at: places.certificate,
          "\(older.certificate) also has the name \(name), with the same kind of key, and comes first",
          "delete one of the two for that name; two are useful if one is ECDSA and one RSA")
      }
      loaded.append(made)
    }
    guard loaded.count == draft.tls.entries.count else { return }
    draft.tls.certificates = loaded
    guard !loaded.isEmpty else { return }
    do {
      _ = try TLSServerContext(draft.tls.serverSettings(for: .shipped), ticketKeys: nil)
    } catch {
      let place =
        switch error.place {
        case .certificate(let number): draft.tls.entries[number].places?.certificate
        case .word(let word): places["tls.\(word.rawValue)"]
        default: places["tls.certificates"]
        }
      problems.add(
        .error, at: place ?? whole, error.reason,
        "inspect it with: openssl x509 -noout -text -in FILE")
    }
  }

  /// A key that every user of the machine can read is no secret. Its group may: that is how ssl-cert works.
  private mutating func warnOfReaders(_ path: String, at place: SourcePosition) {
    var facts = stat()
    guard stat(path, &facts) == 0, facts.st_mode & (S_IROTH | S_IWOTH) != 0 else { return }
    let mode = String(facts.st_mode & 0o777, radix: 8)
    problems.add(
      .warning, at: place,
      "the key \(path) is readable by every user of this machine (mode \(mode))",
      "chmod 640 \(path), with Sluice's group; if other users could log in here, replace the key"
    )
  }

  private mutating func content(of path: String, at place: SourcePosition) -> [UInt8]? {
    do {
      return try readFile(path, bytesMax: 1 << 20)
    } catch {
      problems.add(error.problem(at: place, lineText: problems.line(at: place)))
      return nil
    }
  }

  private mutating func settleListeners() {
    let hasCertificates = !draft.tls.entries.isEmpty
    for index in draft.listeners.indices {
      let listener = draft.listeners[index]
      let mode = listener.tlsAsked ?? (hasCertificates ? .starttls : .off)
      draft.listeners[index].tls = mode
      let place = index < tlsPlaces.count ? tlsPlaces[index] : nil
      guard let place else { continue }
      if (mode == .starttls || mode == .implicit) && !hasCertificates {
        problems.add(
          .error, at: place, "\(listener.text) is configured for TLS, but there is no certificate",
          "write tls: {certificates: \(ConfigurationReader.certificateExample)}, or tls: off here")
      }
      if mode == .implicit && listener.port == 25 {
        problems.add(
          .warning, at: place,
          "mail servers begin in clear text on port 25, and could not deliver",
          "write tls: starttls; implicit TLS is for port 465")
      }
      if mode == .passThrough && draft.downstream.terms.tls != .off {
        problems.add(
          .warning, at: place,
          "clients are not offered the downstream's STARTTLS here: with downstream.tls: "
            + "\(draft.downstream.terms.tls.rawValue) Sluice itself uses TLS with the downstream",
          "write tls: starttls and a certificate, or downstream: {tls: off}")
      }
    }
  }

  private mutating func checkDownstreamTLS(_ whole: SourcePosition) {
    let downstream = draft.downstream
    let place = places["downstream.tls"] ?? whole
    if downstream.terms.isImplicitTLS {
      let implicit = places["downstream.tls_implicit"] ?? place
      if downstream.terms.tls == .off {
        problems.add(
          .warning, at: implicit, "this has no effect without downstream.tls",
          "also write tls: required or verify")
      } else if downstream.terms.tls == .opportunistic {
        problems.add(
          .error, at: implicit, "implicit TLS leaves no way back to clear text",
          "write tls: required or verify, or tls_implicit: no")
      }
    }
    if downstream.tlsAuthorities != .system && downstream.terms.tls != .verify {
      problems.add(
        .warning, at: places["downstream.tls_ca"] ?? place,
        "authorities are only used with tls: verify",
        "write tls: verify, or delete this")
    }
    guard let settings = downstream.clientSettings else { return }
    do {
      _ = try TLSClientContext(settings)
    } catch {
      switch error.place {
      case .name:
        problems.add(
          .error, at: place,
          "the downstream is an address, so the name in its certificate is unknown",
          "write tls_name: with the name, or the address if the certificate has it")
      case .authorities:
        problems.add(
          .error, at: places["downstream.tls_ca"] ?? place, error.reason,
          "write the path of a PEM file with certificates, or of a folder prepared by openssl rehash"
        )
      default: problems.add(.error, at: place, error.reason)
      }
    }
  }

  /// `system`, or a file or folder that is there.
  mutating func readAuthorities(_ text: String, at place: SourcePosition) throws(BadValue)
    -> TLSAuthorities
  {
    if text == "system" { return .system }
    let path = try path(text)
    var facts = stat()
    guard stat(path, &facts) == 0 else {
      problems.add(
        FileFailure(path: path, operation: "open", errno: errno)
          .problem(at: place, lineText: problems.line(at: place)))
      return .system
    }
    return facts.st_mode & S_IFMT == S_IFDIR ? .folder(path) : .file(path)
  }
}

extension TLSAuthorities {
  /// As written in a configuration.
  var text: String {
    switch self {
    case .system: "system"
    case .file(let path), .folder(let path): Form.write(text: path)
    }
  }
}

extension Setting {
  static let downstreamTLS: [Setting] = [
    choice(
      "downstream.tls", \.downstream.terms.tls, DownstreamTLS.allCases.map { ($0.rawValue, $0) }),
    Setting(
      key: "downstream.tls_name", range: "a name, an address, or auto",
      read: { (node, reader) throws(BadValue) in
        let word = try text(node, "a name such as mail.example.org")
        if word == "auto" {
          reader.draft.downstream.tlsName = nil
        } else if Address(word) != nil {
          reader.draft.downstream.tlsName = word
        } else {
          reader.draft.downstream.tlsName = try Form.hostname(word, isFull: false)
        }
      },
      show: { $0.downstream.tlsName.map { Form.write(text: $0) } ?? "auto" }),
    Setting(
      key: "downstream.tls_ca", range: "a file, a folder, or system",
      read: { (node, reader) throws(BadValue) in
        let word = try text(node, "system or a path")
        reader.draft.downstream.tlsAuthorities = try reader.readAuthorities(word, at: node.place)
      },
      show: { $0.downstream.tlsAuthorities.text }),
    toggle("downstream.tls_implicit", \.downstream.terms.isImplicitTLS),
  ]

  static let tls: [Setting] = [
    Setting(
      key: "tls.certificates", range: "a list of {names, certificate, key}",
      read: { (node, reader) throws(BadValue) in try reader.readCertificates(node) },
      show: { configuration in
        let all = configuration.tls.entries.map { entry in
          let names = entry.names.map { Form.write(text: $0) }.joined(separator: ", ")
          return "{" + (names.isEmpty ? "" : "names: [\(names)], ")
            + "certificate: \(Form.write(text: entry.certificate)), key: \(Form.write(text: entry.key))}"
        }
        return "[\(all.joined(separator: ", "))]"
      }),
    word(.minProtocol, range: "TLSv1, TLSv1.1, TLSv1.2 or TLSv1.3"),
    word(.maxProtocol, range: "as above, or None"),
    word(.ciphers, range: "OpenSSL's cipher list"),
    word(.cipherSuites, range: "OpenSSL's cipher suites"),
    word(.groups, range: "OpenSSL's groups"),
    choice(
      "tls.client_certificates", \.tls.requestsClientCertificates,
      [("no", false), ("request", true)]),
    Setting(
      key: "tls.session_tickets", range: "1m…7d, or off",
      read: { (node, reader) throws(BadValue) in
        let text = try text(node, "a duration such as 1h, or off")
        if text == "off" || text == "no" {
          reader.draft.tls.ticketRotation = nil
          return
        }
        let time = try Form.duration(text)
        guard (60_000_000...7 * 86_400_000_000).contains(time) else {
          throw BadValue(
            reason: "a session ticket key cannot be used for \(Form.write(duration: time))",
            hint: "write 1m to 7d, or off")
        }
        reader.draft.tls.ticketRotation = time
      },
      show: { $0.tls.ticketRotation.map { Form.write(duration: $0) } ?? "off" }),
    duration("tls.handshake_timeout", \.tls.handshakeTimeout, 1_000_000...300_000_000),
    toggle("tls.auth_on_clear", \.tls.authOnClear),
  ]

  private static func word(_ word: TLSWord, range: String) -> Setting {
    Setting(
      key: "tls.\(word.rawValue)", range: range,
      read: { (node, reader) throws(BadValue) in
        let value = try text(node, "a value as OpenSSL has it")
        if let reason = TLSWords.problem(word, value) {
          throw BadValue(
            reason: "'\(ConfigNode.cut(value))': \(reason)",
            hint: word == .minProtocol || word == .maxProtocol
              ? "write TLSv1.2 or TLSv1.3" : "list the known ones: openssl \(word.listing)")
        }
        reader.draft.tls.words[word] = value
      },
      show: { configuration in
        let value = configuration.tls.words[word]
        // Of YAML's own signs '!' begins a tag and ':' a value.
        let isPlain = value.allSatisfy { $0.isLetter || $0.isNumber || ".-_".contains($0) }
        return isPlain ? value : Form.write(text: value)
      })
  }
}

extension TLSWord {
  /// The command that lists what may be written.
  fileprivate var listing: String {
    switch self {
    case .ciphers, .minProtocol, .maxProtocol: "ciphers -v ALL"
    case .cipherSuites: "ciphers -v -s -tls1_3"
    case .groups: "ecparam -list_curves, and X25519, X448"
    }
  }
}
