// SPDX-License-Identifier: Apache-2.0
import ConfigurationFixtures
import Flow
import Policy
import Shield
import Structures
import Suspicion
import Testing

@testable import Configuration

/// What a configuration file says is what comes out, and what is wrong in it is told where it stands.
struct ConfigurationTests {
  @Test("an empty file, no file and the shipped file are the same configuration")
  func shipped() throws {
    let whole = read(try contents("docs/sluice.yaml"))
    #expect(whole.problems == [], "\(whole.problems)")
    let configuration = try #require(whole.configuration)
    #expect(configuration.dump() == Configuration(environment: machine).dump())
    #expect(read("").configuration?.dump() == configuration.dump())
    #expect(
      Configuration.load(file: nil, environment: machine).configuration?.dump()
        == configuration.dump())
    #expect(configuration.dump(changed: true) == "")
    #expect(configuration.limits == Limits())
    #expect(configuration.policy.delays == Delays())
    #expect(configuration.policy.hostname == "mx.example.org")
    #expect(configuration.policy.ownNames == ["mx.example.org"])
    #expect(configuration.workers == 2)
  }

  @Test("the shipped file writes every key, so that it can be found there")
  func shippedIsComplete() throws {
    let origins = try #require(read(try contents("docs/sluice.yaml")).configuration).origins
    for setting in Setting.all { #expect(origins[setting.key] != nil, "\(setting.key)") }
  }

  @Test("a dump is a file that says the same")
  func dump() throws {
    let yaml = """
      mode: enforce
      hostname: MX2.Example.org
      workers: 3
      listeners:
        - {address: "192.0.2.1:25", proxy_protocol: {from: [10.0.0.9, "2001:db8::/64"]}}
        - {address: "[::]:587", role: outbound}
      downstream: {address: "mail.example.org:25", identity: proxy_v2, probe_every: 250ms}
      """
    // 250ms is below the range on purpose.
    #expect(read(yaml).problems.map(\.reason) == ["250ms is below the minimum, 1s"])
    let good = read(yaml.replacing("250ms", with: "5s"))
    #expect(good.problems == [])
    let configuration = try #require(good.configuration)
    #expect(configuration.policy.hostname == "mx2.example.org")
    #expect(configuration.listeners.map(\.role) == [.inbound, .outbound])
    #expect(configuration.downstream.terms.probeEvery == 5_000_000)
    let balancers = configuration.listeners.map { $0.balancers?.map(\.description) }
    #expect(balancers == [["10.0.0.9/32", "2001:db8::/64"], nil])
    #expect(configuration.listeners[0].balancerTable?.lookup(Address(v4: 0x0A00_0009)) != nil)
    #expect(configuration.listeners[0].balancerTable?.lookup(Address(v4: 0x0A00_0008)) == nil)
    for changed in [false, true] {
      let again = read(configuration.dump(changed: changed))
      #expect(again.problems == [])
      #expect(again.configuration?.dump() == configuration.dump())
    }
  }

  @Test("every value lands in its own place")
  func places() throws {
    // Every number is made one larger, every word another one: no two keys may share a field.
    let shipped = Configuration(environment: machine)
    for setting in Setting.all {
      guard let yaml = Self.changed(setting, from: setting.show(shipped)) else { continue }
      let configuration = try #require(read(yaml).configuration, "\(yaml): \(read(yaml).problems)")
      let different = Setting.all.filter { $0.show(configuration) != $0.show(shipped) }.map(\.key)
      #expect(different == [setting.key], "\(yaml)")
    }
  }

  /// They need files, or change what other keys are.
  private static let unchangeable: Set = [
    "listeners", "tables.access", "tables.rates", "tls.certificates", "reputation.key_file",
  ]
  private static let others = [
    "tls.min_protocol": "TLSv1.3", "tls.max_protocol": "TLSv1.2", "tls.ciphers": "DEFAULT",
    "tls.cipher_suites": "TLS_AES_128_GCM_SHA256", "tls.groups": "P-384",
    "lists.sites": "[\"bl.example*2\"]", "lists.allow_threshold": "-2", "lists.cache": "8192",
    "lists.servers": "[127.0.0.1]", "tls.session_tickets": "off",
    "downstream.tls_name": "a.example", "downstream.tls_ca": "/etc",
  ]

  private static func changed(_ setting: Setting, from old: String) -> String? {
    let bad = setting.key.hasSuffix(".bad")
    let new: String
    switch setting.range {
    case "yes or no": new = old == "yes" ? "no" : "yes"
    case "no": return nil
    case _ where setting.key == "limits.receive_buffers": new = "2048"
    case _ where setting.key == "limits.connections": new = "9001"
    case _ where unchangeable.contains(setting.key): return nil
    case _ where others[setting.key] != nil: new = others[setting.key] ?? ""
    case _ where setting.key == "downstream.address": new = "\"127.0.0.1:10026\""
    case _ where setting.key == "hostname": new = "a.example"
    case _ where setting.key == "log.destination": new = "/var/log/sluice"
    case _ where setting.key.hasPrefix("own."):
      new = setting.key.hasSuffix("names") ? "[a]" : "[\"::1\"]"
    case let range where range.contains(", ") && !range.contains("…"):
      new = range.split(separator: ", ").map(String.init).first { $0 != old } ?? ""
    case _ where old.hasSuffix("%"): new = setting.key.contains("reserved") ? "10%" : "80%"
    case _ where old.contains("."): new = "0.77"
    case let range where range.contains("s…"):
      // Within the lowest ceilings; nothing ships with it where it is put.
      let isLow = [".starttls", ".other", "data"].contains { setting.key.contains($0) }
      new = setting.key.hasPrefix("timeouts.") ? "11s" : bad || isLow ? "1s" : "7s"
    case _ where setting.key.contains("bytes"): new = "8k"
    default: new = "91"
    }
    if setting.key == "smtp.message_bytes" { return "smtp: {message_bytes: 10M}" }
    if setting.key == "delays.body.suspicious" { return "delays: {body: {suspicious: 11s}}" }
    let minutes = ["reputation.bad_for", "reputation.good_for", "tarpit.session"]
    let value = minutes.contains(setting.key) ? "11m" : new
    let path = setting.key.split(separator: ".")
    let open = path.dropLast().map { "\($0): {" }.joined()
    return open + "\(path.last ?? ""): \(value)" + String(repeating: "}", count: path.count - 1)
  }

  @Test("a problem prints place, line, mark and hint")
  func description() throws {
    let problems = read("mode: observe\ndelays:\n  banr: {clean: 4s}\n").problems
    #expect(
      problems.map(\.description) == [
        """
        sluice.yaml:3:3: error: unknown key 'banr' in 'delays'
              banr: {clean: 4s}
              ^
          hint: did you mean 'banner'?
        """
      ])
  }

  /// Line, column, a part of the reason, a part of the hint.
  static let mistakes: [(yaml: String, place: String, reason: String, hint: String)] = [
    ("mod: observe", "1:1", "unknown key 'mod' in the configuration", "'mode'"),
    ("banner: {clean: 4s}", "1:1", "unknown key 'banner'", "below 'delays'"),
    ("delays:\n  mode: observe", "2:3", "unknown key 'mode'", "top level"),
    ("zzzzzz: 1", "1:1", "unknown key", "the keys here are: mode, hostname"),
    ("mode: enforced", "1:7", "'enforced' is not one of", "'enforce'"),
    ("mode: [observe]", "1:7", "found a list instead of", "observe or enforce"),
    ("mode:", "1:1", "'mode' has no value", "default, observe"),
    ("delays: 4s", "1:9", "'delays' is a section", "banner, helo"),
    ("- a", "1:1", "keys and values, not of a list", "mode"),
    ("word", "1:1", "keys and values, not of 'word'", "mode"),
    ("delays: {banner: {clean: 4}}", "1:26", "has no unit of time", "write 4s"),
    (
      "delays: {banner: {clean: 26s}}", "1:26", "ceiling of 25s: senders that wait 30 s",
      "25s at most"
    ),
    ("delays: {banner: {bad: 281s}}", "1:24", "ceiling of 280s", "280s at most"),
    ("delays: {end_of_data: {clean: 6s}}", "1:31", "ceiling of 5s", "5s at most"),
    ("delays: {sum: {suspicious: 3m}}", "1:28", "ceiling of 2m", "2m at most"),
    ("signals: {errors: {proof: true}}", "1:27", "cannot be a proof", "raise the weight"),
    ("signals: {errors: {weight: 1.5}}", "1:28", "1.5 is above the maximum, 1.0", "0.0 to 1.0"),
    ("signals: {pregret: {weight: 1}}", "1:11", "unknown key 'pregret' in 'signals'", "'pregreet'"),
    (
      "signals: {errors: {wieght: 1}}", "1:20", "unknown key 'wieght' in 'signals.errors'",
      "'weight'"
    ),
    ("smtp: {errors: many}", "1:16", "not a whole number", "digits"),
    ("smtp: {errors: 0}", "1:16", "0 is below the minimum, 1", "1 to 100000"),
    (
      "smtp: {command_bytes: 64k}", "1:23", "does not fit into limits.input_bytes (32k)",
      "lower the first"
    ),
    ("overload: {shrink_at: 95%}", "1:23", "above overload.shed_at (90%)", "second"),
    ("overload: {shrink_at: 0.5}", "1:23", "not a percentage", "write 50%"),
    ("limits: {receive_buffers: 1000}", "1:27", "not a power of two", "512 or 1024"),
    ("limits: {sessions: 20000}", "1:20", "is more than limits.connections", "lower the first"),
    (
      "timeouts: {command: 5s, command_under_stress: 6s}", "1:47",
      "is longer than timeouts.command (5s)", "lower the first"
    ),
    ("hostname: mx", "1:11", "is not a fully qualified name", "mx.example.org"),
    ("hostname: 192.0.2.1", "1:11", "is not a host name", "not the address"),
    ("own: {addresses: [192.0.2.0/24]}", "1:19", "is not an IP address", "not a network"),
    ("own: {names: [a, b_c]}", "1:18", "is not a host name", "such as"),
    ("listeners: 0.0.0.0:25", "1:12", "instead of a list of listeners", "[{address"),
    ("listeners: []", "1:12", "no client can connect", "[{address"),
    ("listeners: [\"0.0.0.0:25\"]", "1:13", "instead of a listener", "{address: \"0.0.0.0:25\""),
    ("listeners: [{role: inbound}]", "1:13", "without an address", "{address"),
    ("listeners: [{address: \":25\"}]", "1:23", "has no address", "0.0.0.0:25"),
    ("listeners: [{address: \"[::]:25\", rol: inbound}]", "1:34", "unknown key 'rol'", "'role'"),
    (
      "listeners: [{address: \"[::]:25\", role: in}]", "1:40", "'in' is not one of",
      "inbound or outbound"
    ),
    (
      "listeners:\n- {address: \"0.0.0.0:25\"}\n- {address: \"0.0.0.0:25\"}", "3:3",
      "is the same as 0.0.0.0:25 in line 2", "delete"
    ),
    (
      "listeners:\n- {address: \"0.0.0.0:25\"}\n- {address: \"127.0.0.1:25\"}", "3:3",
      "overlaps with 0.0.0.0:25 in line 2", "only the wildcard"
    ),
    ("downstream: {address: \"127.0.0.1:25\"}", "1:23", "is Sluice's own listener", "another port"),
    ("downstream: {address: mail}", "1:23", "has no port", "127.0.0.1:10025"),
    ("tables: {access: \"hash:/etc/a\"}", "1:18", "'hash' tables are not supported", "cidr:/etc/a"),
    ("tables: {access: nowhere/a.cidr}", "1:18", "cannot open nowhere/a.cidr", "check the path"),
    ("tls: {min_protocol: TLSv1.4}", "1:21", "OpenSSL does not take it", "TLSv1.2 or"),
    ("tls: {ciphers: \"ECDHE+AESGCM:AEZ\"}", "1:16", "'AEZ' names no cipher", "openssl ciphers"),
    (
      "tls: {ciphers: \"ECDHE+AESGCM:!NOSUCH\"}", "1:16", "'NOSUCH' names no cipher",
      "openssl ciphers"
    ),
    (
      "tls: {ciphers: \"ECDHE+AESGCM:!AENULL\"}", "1:16",
      "'AENULL' names no cipher of this OpenSSL: did you mean ANULL?", "openssl ciphers"
    ),
    (
      "downstream: 10.0.0.5:25", "1:13", "is a section with its own keys",
      "write downstream: {address: \"10.0.0.5:25\"}"
    ),
    (
      "log: /var/log/sluice.log", "1:6", "is a section",
      "write log: {destination: \"/var/log/sluice.log\"}"
    ),
    ("signals: {pregreet: ignore}", "1:21", "is a section", "write pregreet: {action: ignore}"),
    ("delays: {banner: 6s}", "1:18", "is a section", "write banner: {clean: 6s}"),
    ("own: mx.example.org", "1:6", "is a section", "write own: {names: [\"mx.example.org\"]}"),
    ("tls: {cipher_suites: TLS_X}", "1:22", "'TLS_X' is no cipher suite", "openssl ciphers"),
    ("tls: {groups: \"P-256:P\"}", "1:15", "'P' is no group", "list_curves"),
    (
      "tls: {min_protocol: TLSv1.3, max_protocol: TLSv1.2}", "1:44",
      "is older than tls.min_protocol",
      "None"
    ),
    ("tls: {session_tickets: 10s}", "1:24", "cannot be used for 10s", "1m to 7d"),
    ("tls: {handshake_timeout: 10m}", "1:26", "above the maximum, 5m", "1s to 5m"),
    ("tls: {client_certificates: require}", "1:28", "is not one of", "no or request"),
    (
      "tls: {certificates: mx.pem}", "1:21", "instead of a list of certificates", "[{certificate"
    ),
    ("tls: {certificates: [mx.pem]}", "1:22", "instead of a certificate", "{certificate"),
    ("tls: {certificates: [{key: a}]}", "1:22", "an entry without 'certificate'", "both"),
    ("tls: {certificate: a}", "1:7", "unknown key 'certificate' in 'tls'", "'certificates'"),
    (
      "listeners: [{address: \"[::]:25\", tls: starttls}]", "1:39", "there is no certificate",
      "tls: off"
    ),
    (
      "listeners: [{address: \"[::]:25\", tls: yes}]", "1:39", "is not one of off, starttls",
      "write off"
    ),
    ("downstream: {tls: verify}", "1:19", "the name in its certificate is unknown", "tls_name"),
    (
      "downstream: {tls: opportunistic, tls_implicit: yes}", "1:48", "no way back",
      "required or verify"
    ),
    ("downstream: {tls: must}", "1:19", "is not one of off, opportunistic", "required"),
    ("downstream: {tls_name: \"a b\"}", "1:24", "is not a host name", "such as"),
    ("log: {destination: syslog}", "1:20", "neither stderr nor", "/var/log"),
    ("workers: 0", "1:10", "0 workers", "auto"),
    (
      "mode: observe\nmode: enforce", "2:1", "'mode' is given twice here; the first is in line 1",
      "one"
    ),
    ("mode: observe\n\ta: 1", "2:1", "this is not YAML", "tabs"),
    ("delays: {banner: {clean: 4s}", "1:29", "this is not YAML", "indentation"),
    ("a: \"x", "1:6", "this is not YAML", "quotes"),
    ("mode: observe\n---\nmode: enforce", "2:1", "this YAML is not supported", "'---'"),
    ("mode: *x", "1:7", "undefined alias", ""),
    ("mode: \u{1}observe", "1:7", "control character (U+1)", "delete"),
    ("{}: 1", "1:1", "not a word", "key: value"),
  ]

  @Test("a mistake is told where it stands, with what to write", arguments: mistakes)
  func mistake(yaml: String, place: String, reason: String, hint: String) {
    expectMistake(in: yaml, at: place, reason, hint: hint)
  }

  @Test("all mistakes of a file are told at once, duplicate keys among them, in its order")
  func everything() {
    let yaml = """
      mode: enforced
      smtp: {errors: 1, "errors": 2, erors: 3}
      mode: observe
      delays:
        banner: {clean: 99s}
        banner: {clean: 1}
      mode: observe
      """
    let places = read(yaml).problems.map { "\($0.position.line) \($0.reason.prefix(22))" }
    #expect(
      places
        == [
          "2 'errors' is given twice", "2 unknown key 'erors' in", "3 'mode' is given twice ",
          "6 'banner' is given twic", "6 '1' has no unit of tim", "7 'mode' is given twice ",
        ].map { String($0.prefix(24)) })
  }

  /// Severity, a part of the reason.
  @Test(
    "what works and may not be meant is a warning",
    arguments: [
      (
        "listeners: [{address: \"0.0.0.0:587\", role: outbound}]\nlimits: {input_bytes: 8k}",
        "less than the length of an AUTH line", "log-ins with tokens get 500"
      ),
      (
        "mode: enforce\ndownstream: {identity: none}", "open relay",
        "the downstream takes everybody for us"
      ),
      (
        "mode: enforce\ndownstream: {identity: received}", "open relay",
        "a header on the message gives nobody other rights"
      ),
      ("limits: {downstream_connections: 4000}", "can never be used", "more than sessions"),
      ("smtp: {recipients: 50}", "RFC 5321", "less than promised"),
      ("downstream: {tls_implicit: yes}", "this has no effect", "no TLS at all"),
      ("downstream: {tls: required, tls_ca: /etc}", "with tls: verify", "nobody asks them"),
      ("delays: {mail: {clean: 9s}}", "longer than a suspicious", "a curve upside down"),
      ("delays: {sum: {clean: 61s}}", "longer than a suspicious", "the sums too"),
    ])
  func warnings(yaml: String, reason: String, why: String) {
    let (configuration, problems) = read(yaml)
    #expect(configuration != nil)
    #expect(problems.map(\.severity) == [.warning], "\(why)")
    #expect(problems.first?.reason.contains(reason) == true, "\(problems)")
  }

  @Test("with identity none the caution about open relays is there in either mode")
  func caution() throws {
    for word in ["none", "received", "xforward"] {
      let open = read("downstream: {identity: \(word)}")
      #expect(open.configuration?.cautions.first?.contains("OPEN RELAY") == true)
    }
    #expect(Configuration(environment: machine).cautions == [])
    for word in ["proxy_v2", "proxy_v1", "xclient"] {
      let safe = read("mode: enforce\ndownstream: {identity: \(word)}")
      #expect(safe.problems == [])
      #expect(safe.configuration?.cautions == [])
    }
  }

  @Test("mail that would come back to a listener is told from mail that goes on, by address")
  func circles() throws {
    func circle(_ listener: String, at address: String, own: String = "") throws -> Bool {
      let yaml = """
        listeners: [{address: "\(listener)"}]
        downstream: {address: "mail.example.org:25"}
        own: {addresses: [\(own)]}
        """
      let configuration = try #require(read(yaml).configuration, "\(read(yaml).problems)")
      #expect(configuration.mayCircle == listener.hasSuffix(":25"))
      let reason = configuration.circle(at: try #require(Address(address)))
      if let reason {
        #expect(
          reason.contains("mail.example.org:25 (\(address)) is Sluice's own listener \(listener)"))
      }
      return reason != nil
    }
    #expect(try circle("127.0.0.1:25", at: "127.0.0.1"))
    #expect(try circle("127.0.0.1:25", at: "0.0.0.0"))
    #expect(try circle("0.0.0.0:25", at: "127.0.0.9"))
    #expect(try circle("0.0.0.0:25", at: "192.0.2.7", own: "192.0.2.7"))
    #expect(try circle("[::]:25", at: "::1"))
    #expect(try circle("[::1]:25", at: "::"))
    #expect(try circle("192.0.2.7:25", at: "192.0.2.7"))
    #expect(try !circle("192.0.2.7:25", at: "192.0.2.8"))
    #expect(try !circle("127.0.0.1:25", at: "127.0.0.2"))
    #expect(try !circle("127.0.0.1:26", at: "127.0.0.1"))
    #expect(try !circle("0.0.0.0:25", at: "192.0.2.7"))
    #expect(try !circle("0.0.0.0:25", at: "::1"))
    #expect(try !circle("[::]:25", at: "127.0.0.1"))
  }

  @Test("what the server does not learn behind a STARTTLS that is passed through is said")
  func blindness() throws {
    for (word, count) in [
      ("proxy_v2", 1), ("proxy_v1", 1), ("xclient", 1), ("none", 3), ("received", 3),
      ("xforward", 3),
    ] {
      let yaml = """
        listeners: [{address: "192.0.2.1:25", tls: pass_through}, {address: "192.0.2.1:26"}]
        downstream: {identity: \(word)}
        """
      let cautions = try #require(read(yaml).configuration).cautions
      #expect(cautions.count == count)
      let found = cautions.filter { $0.contains("learns neither") }
      #expect(found.count == (count == 3 ? 1 : 0))
      #expect(
        found.allSatisfy { $0.contains("192.0.2.1:25") && $0.contains("proxy_v2 or proxy_v1") })
    }
  }

  @Test("a machine without a full name is a warning once Sluice acts, and never an error")
  func machineNames() {
    let box = Environment(machineName: "box", processors: 1)
    let proxy = "downstream: {identity: proxy_v2}\n"
    #expect(read(proxy, environment: box).problems == [])
    let acting = read(proxy + "mode: enforce", environment: box)
    #expect(acting.configuration?.policy.hostname == "box")
    #expect(acting.problems.map(\.severity) == [.warning])
    let odd = Environment(machineName: "my box!", processors: 1)
    #expect(read("", environment: odd).configuration?.policy.hostname == "localhost")
  }
}
