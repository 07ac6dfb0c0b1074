// SPDX-License-Identifier: Apache-2.0
import ConfigurationFixtures
import Flow
import Personas
import Structures
import Testing

@testable import Configuration
@testable import Lab

private let shipped = PersonaFiles.load(directory: "\(projectFolder)/tuning/personas")

private func persona(_ id: String) throws -> Persona {
  try #require(shipped.personas.first { $0.id == id }, "no persona \(id)")
}

/// Reads one text as if it were a persona's file.
private func read(_ yaml: String) -> (persona: Persona, problems: [Problem]) {
  PersonaFiles.read(SourceText(file: "b.yaml", bytes: Array(yaml.utf8)))
}

private func readScenario(_ yaml: String) -> (scenario: Scenario?, problems: [Problem]) {
  ScenarioFile.read(SourceText(file: "s.yaml", bytes: Array(yaml.utf8)), personas: shipped.personas)
}

/// A persona with nothing wrong; tests add a line, the seventh.
private let plain = """
  id: B99
  name: test
  kind: bot
  patience:
    value: 21s
    source: assumption

  """

struct ShippedPersonaTests {
  @Test("every file loads without a problem, and all kinds are there")
  func loads() {
    #expect(shipped.problems == [])
    let ids = shipped.personas.map(\.id)
    let wanted =
      (1...14).map { "B\($0)" } + (1...11).map { "L\($0)" } + ["P-rspamd", "P-check", "P-callout"]
    #expect(Set(ids) == Set(wanted))
    for persona in shipped.personas {
      let kind: Persona.Kind =
        persona.id.hasPrefix("B") ? .bot : persona.id.hasPrefix("L") ? .sender : .probe
      #expect(persona.kind == kind, "\(persona.id)")
      #expect(!persona.name.isEmpty && persona.about.count > 20, "\(persona.id)")
    }
  }

  @Test("no file names a path of a machine, and each is SPDX-marked")
  func sources() throws {
    for kind in ["personas", "scenarios"] {
      for name in try names(in: "\(projectFolder)/tuning/\(kind)", endingIn: ".yaml") {
        let text = try contents("tuning/\(kind)/\(name)")
        #expect(text.hasPrefix("# SPDX-License-Identifier: Apache-2.0\n"), "\(name)")
        for path in ["/work", "/home", "/tmp", "/root"] { #expect(!text.contains(path), "\(name)") }
      }
    }
  }

  @Test(
    "one patience for all stages is the published one",
    arguments: [
      ("B1", impatient, PatienceClock.reply), ("B2", .normal(21, 0.3), .read),
      ("B3", .normal(100, 0.5), .read), ("B4", .const(60), .reply), ("B5", .const(8), .reply),
      ("B6", .const(30), .reply), ("B7", .const(20), .reply), ("B8", .const(300), .read),
      ("B9", .const(30), .reply), ("B11", .uniform(2, 6), .session),
      ("B12", .const(1_000_000_000), .reply), ("B14", .const(2), .session),
      ("L1", .const(300), .read), ("L2", .const(600), .read), ("L5", .const(30), .reply),
      ("L6", .const(45), .reply), ("L7", .const(60), .reply), ("L8", .const(600), .session),
      ("L10", .const(180), .read), ("L11", .const(120), .reply), ("P-rspamd", .const(5), .reply),
      ("P-check", .const(10), .session), ("P-callout", .const(30), .reply),
    ] as [(String, Distribution, PatienceClock)])
  func patience(id: String, expected: Distribution, clock: PatienceClock) throws {
    let persona = try persona(id)
    #expect(persona.patience.isEmpty)
    #expect(persona.patienceOtherwise == expected)
    #expect(persona.clock == clock)
  }

  private static let impatient = Distribution.mix([
    (share: 0.91, of: .lognormal(4, 0.4)), (share: 0.09, of: .lognormal(290, 0.8)),
  ])

  @Test(
    "patience by stages is that of the sender's documentation",
    arguments: [
      ("L3", [300, 300, 300, 300, 300, 120, 600]), ("L4", [60, 300, 5, 300, 300, 300, 300]),
      ("L9", [60, 300, 5, 300, 300, 300, 300]), ("B10", [60, 300, 5, 300, 300, 300, 300]),
    ] as [(String, [Double])])
  func stages(id: String, seconds: [Double]) throws {
    let persona = try persona(id)
    let stages: [Awaited] = [.banner, .helo, .startTLS, .mail, .rcpt, .data, .dot]
    let found = stages.map { (persona.patience[$0] ?? persona.patienceOtherwise).value(at: 0.5) }
    #expect(found == seconds)
  }

  @Test("L4 waits five seconds for RSET")
  func rset() throws {
    #expect(try persona("L4").patience[.rset] == .const(5))
    #expect(try persona("L9").patience[.rset] == .const(5))
  }

  @Test("the rest of B1 to B14 is as published or as assumed")
  func bots() throws {
    let tries = [0.619, 0.168, 0.093, 0.035, 0.064, 0.013, 0.007]
    let b1 = try persona("B1")
    #expect(b1.pregreet == 0.33 && b1.listed == 0.88 && b1.bareHelo == 0.60)
    #expect(b1.quitsImpatient == 0.70)
    for id in ["B1", "B2", "B3"] {
      for (found, share) in zip(try persona(id).tries, tries) { #expect(abs(found - share) < 1e-9) }
      #expect(try persona(id).listed == 0.88)
    }
    let b2 = try persona("B2")
    // 25 a minute over five connections.
    #expect(b2.concurrency == .const(5) && b2.again == .const(60 * 5 / 25))
    #expect(try persona("B3").again == .const(60 / 10))
    let b4 = try persona("B4")
    #expect(b4.again == .const(600) && b4.listed == 0.88 && b4.tls == 0.1 && b4.pregreet == 0)
    let b5 = try persona("B5")
    #expect(b5.sessionMost == 16 && b5.pregreet == 0.8 && b5.heloName == "ylmf-pc")
    #expect(b5.aim == .auth && b5.concurrency == .const(300))
    // Three connections a second.
    #expect(b5.again == .const(300 / 3) && b5.attempts == .const(65_535))
    let b6 = try persona("B6")
    #expect(b6.addresses == 8_858 && b6.listed == 0.4 && b6.tls == 0.9)
    #expect(abs(b6.attempts.mean - 3.4) < 1e-9)
    let b7 = try persona("B7")
    #expect(b7.recipients == .const(185) && b7.slowStrikes == 3 && b7.aim == .harvest)
    #expect(b7.unknown == 1 && b7.pipelinesEarly == 0.5 && b7.tls == 0.2)
    let b8 = try persona("B8")
    #expect(b8.addresses == 254 && b8.perNetwork == 254 && b8.attempts == .const(17))
    #expect(b8.listed == 0.2 && b8.tls == 0.95)
    let b9 = try persona("B9")
    #expect(b9.addresses == 13_000 && b9.nonSMTP == 0.05 && b9.listed == 0.4 && b9.tls == 0.3)
    // 1,500 an hour.
    #expect(try persona("B10").again == .const(3_600 / 1_500))
    let b11 = try persona("B11")
    #expect(b11.bannerOnly == 0.5 && b11.aim == .helo && b11.again == .const(86_400))
    let b12 = try persona("B12")
    #expect(b12.trickle == .uniform(10, 60) && b12.concurrency == .uniform(50, 500))
    #expect(b12.aim == .hold)
    #expect(try persona("B13").patienceOtherwise == .const(30))
    #expect(try persona("B13").aim == .tls)
    let b14 = try persona("B14")
    #expect(b14.remembersSlow == 86_400 && b14.tls == 0.5)
  }

  @Test("the senders come back as documented")
  func senders() throws {
    let l1 = try persona("L1")
    let gaps = [6, 23, 28, 42, 63, 68, 79, 126].map { Double($0 * 60) }
    #expect(l1.retries == gaps && l1.rotates && l1.addresses == 7)
    let l2 = try persona("L2")
    #expect(Array(l2.retries.prefix(11)) == [60, 60, 60, 60, 300, 300, 300, 300, 300, 300, 600])
    #expect(l2.life == 86_400)
    #expect(Array(try persona("L4").retries.prefix(3)) == [1_200, 2_400, 4_800])
    #expect(Array(try persona("L5").retries.prefix(3)) == [450, 900, 1_800])
    #expect(try persona("L5").retries.count == 7)
    #expect(try persona("L8").sessionMost == 600)
    let l9 = try persona("L9")
    #expect(l9.life == 300 && l9.retries[0] > l9.life, "one 4xx and it is lost")
    let l10 = try persona("L10")
    #expect(l10.retries.count == 4 && l10.retries.reduce(0, +) == 31 * 60)
    let l11 = try persona("L11")
    #expect(Array(l11.retries.prefix(7)) == [5, 7, 8, 25, 75, 120, 240].map { $0 * 60 })
    #expect(l11.life == 48 * 3_600)
    for sender in shipped.personas where sender.kind == .sender {
      #expect(sender.pregreet == 0 && sender.quits == 1 && sender.pipelinesEarly == 0)
      #expect(sender.listed == 0 && sender.concurrency == .const(1), "a client is one message")
    }
    #expect(try persona("P-callout").aim == .callout)
    #expect(try persona("P-check").sessionMost == 10)
    #expect(try persona("P-rspamd").aim == .banner)
  }
}

struct PersonaFileTests {
  @Test("every persona, every scenario and every result of the benchmarks is built in as it is")
  func builtIn() throws {
    for (folder, ending) in [("personas", ".yaml"), ("scenarios", ".yaml"), ("results", ".json")] {
      let files = ShippedFiles.all(in: folder)
      let wanted = try names(in: "\(projectFolder)/tuning/\(folder)", endingIn: ending)
      #expect(files.map(\.path) == wanted.map { "\(folder)/\($0)" }, "Sources/CShipped/shipped.c")
      for file in files {
        let text = try contents("tuning/\(file.path)")
        #expect(String(decoding: file.bytes, as: UTF8.self) == text, "\(file.path)")
      }
    }
    let (personas, problems) = PersonaFiles.load()
    #expect(problems == [])
    #expect(personas.map(\.id) == shipped.personas.map(\.id))
  }

  @Test("a scenario is the name of one that ships or a file, and a slip of the finger is named")
  func scenarioNames() throws {
    for name in ScenarioFile.shipped {
      let (scenario, problems) = ScenarioFile.load(name, personas: shipped.personas)
      #expect(scenario?.name == name && problems == [], "\(name)")
    }
    let folder = try Folder()
    try folder.write("day", "name: own\nat_once: {value: {B1: 1}, source: test}\n")
    let own = ScenarioFile.load("\(folder.path)/day", personas: shipped.personas)
    #expect(own.scenario?.name == "own" && own.problems == [])
    let slip = ScenarioFile.load("mix-2052", personas: shipped.personas)
    #expect(slip.scenario == nil && slip.problems.exitCode == 66)
    #expect(slip.problems.first?.hint == "did you mean 'mix-2025'?")
    let strange = ScenarioFile.load("christmas", personas: shipped.personas)
    #expect(strange.problems.first?.hint.contains("curve, day, demo") == true)
  }

  @Test("a folder without personas is a problem")
  func empty() throws {
    let folder = try Folder()
    #expect(PersonaFiles.load(directory: folder.path).problems.exitCode == 66)
    #expect(PersonaFiles.load(directory: folder.path + "/none").problems.exitCode == 66)
  }

  @Test("a file that is wrong leaves the others, and an id is there once")
  func several() throws {
    let folder = try Folder()
    try folder.write("a.yaml", plain)
    try folder.write("b.yaml", plain)
    try folder.write("c.yaml", plain.replacing("B99", with: "B98") + "tls: 3\n")
    try folder.write("d.yaml", plain.replacing("B99", with: "B97"))
    let (personas, problems) = PersonaFiles.load(directory: folder.path)
    #expect(personas.map(\.id) == ["B99", "B97"])
    #expect(problems.count == 2)
    #expect(problems[0].reason == "there is a persona B99 already")
    #expect(problems[0].position.file.hasSuffix("b.yaml") && problems[0].position.line == 1)
    #expect(problems[1].position.file.hasSuffix("c.yaml") && problems[1].position.line == 7)
  }

  @Test("every key of the model can be set")
  func everything() {
    let (read, problems) = read(
      """
      id: B99
      name: all of it
      about: each key, once
      kind: bot
      aim: {value: hold, source: assumption}
      patience: {value: {otherwise: 30s, banner: {uniform: [2s, 6s]}, dot: forever}, source: assumption}
      clock: {value: session, source: assumption}
      session_most: {value: 10m, source: assumption}
      slow_strikes: {value: 3, source: assumption}
      slow_reply: {value: 2.5s, source: assumption}
      pregreet: {value: 1%, source: assumption}
      banner_only: {value: 2%, source: assumption}
      bare_helo: {value: 3%, source: assumption}
      helo_name: {value: ylmf-pc, source: assumption}
      pipelines_early: {value: 4%, source: assumption}
      pipelines: {value: 5%, source: assumption}
      non_smtp: {value: 6%, source: assumption}
      tls: {value: 7%, source: assumption}
      quits: {value: 8%, source: assumption}
      quits_impatient: {value: 9%, source: assumption}
      logins: {value: 3, source: assumption}
      trickle: {value: {normal: [30s, 500ms]}, source: assumption}
      messages: {value: 2, source: assumption}
      recipients: {value: {uniform: [1, 9]}, source: assumption}
      unknown: {value: 12.5%, source: assumption}
      bytes: {value: {lognormal: [4k, 0.8]}, source: assumption}
      concurrency: {value: 4, source: assumption}
      again: {value: 1h, source: assumption}
      tries: {value: [10%, 20%, 30%, 10%, 10%, 10%, 10%], source: assumption}
      life: {value: 5d, source: assumption}
      remembers_slow: {value: 1d, source: assumption}
      rotates: {value: yes, source: assumption}
      addresses: {value: 1000, source: assumption}
      per_network: {value: 254, source: assumption}
      zipf: {value: 1.5, source: assumption}
      ipv6: {value: 11%, source: assumption}
      listed: {value: 88%, source: assumption}

      """)
    #expect(problems == [])
    #expect(read.name == "all of it" && read.about == "each key, once")
    #expect(read.kind == .bot && read.aim == .hold)
    #expect(read.patience == [.banner: .uniform(2, 6), .dot: .const(1_000_000_000)])
    #expect(read.patienceOtherwise == .const(30) && read.clock == .session)
    #expect(read.sessionMost == 600 && read.slowStrikes == 3 && read.slowReply == 2.5)
    let shares = [
      read.pregreet, read.bannerOnly, read.bareHelo, read.pipelinesEarly, read.pipelines,
      read.nonSMTP, read.tls, read.quits, read.quitsImpatient,
    ]
    for (k, share) in shares.enumerated() { #expect(abs(share - Double(k + 1) / 100) < 1e-9) }
    #expect(read.heloName == "ylmf-pc" && read.logins == .const(3))
    #expect(read.trickle == .normal(30, 0.5))
    #expect(read.messages == .const(2) && read.recipients == .uniform(1, 9))
    #expect(read.unknown == 0.125 && read.bytes == .lognormal(4_096, 0.8))
    #expect(read.concurrency == .const(4) && read.again == .const(3_600))
    #expect(read.tries == [0.1, 0.2, 0.3, 0.1, 0.1, 0.1, 0.1])
    #expect(read.life == 432_000 && read.remembersSlow == 86_400 && read.rotates)
    #expect(read.addresses == 1_000 && read.perNetwork == 254 && read.zipf == 1.5)
    #expect(read.ipv6 == 0.11 && read.listed == 0.88)
  }

  @Test(
    "a mistake is told with its line and what to write",
    arguments: [
      (
        "pregret: {value: 3%, source: assumption}", 7, "unknown key 'pregret'",
        "did you mean 'pregreet'?"
      ),
      ("colour: {value: 3%, source: assumption}", 7, "unknown key 'colour'", "the keys are id"),
      ("tls: {value: 3%}", 7, "tls has no source", "source: assumption"),
      ("tls: {source: assumption}", 7, "tls has no value", "value"),
      ("tls: {value: 3%, sauce: assumption}", 7, "unknown key 'sauce'", "did you mean 'source'?"),
      ("tls: {value: 3%, source: }", 7, "a source is words", "where it is from"),
      ("tls: {value: 3%, source: 2010}", 7, "a source is words", "where it is from"),
      ("tls: 3%", 7, "without saying where it is from", "source"),
      ("tls: {value: -3%, source: assumption}", 7, "below nothing", "0% to 100%"),
      ("tls: {value: 103%, source: assumption}", 7, "more than 100%", "0% to 100%"),
      ("tls: {value: 0.3, source: assumption}", 7, "not a percentage", "write 30%"),
      ("again: {value: 30, source: assumption}", 7, "no unit of time", "write 30s"),
      (
        "again: {value: {unifrom: [1s, 2s]}, source: assumption}", 7, "unknown key 'unifrom'",
        "'uniform'"
      ),
      ("again: {value: {uniform: [2s, 1s]}, source: assumption}", 7, "below the minimum", "swap"),
      ("again: {value: {normal: [2s]}, source: assumption}", 7, "two values", "standard deviation"),
      (
        "again: {value: {mix: [{share: 0%, const: 1s}]}, source: assumption}", 7, "all shares",
        "give"
      ),
      (
        "again: {value: {mix: [{share: -1%, const: 1s}]}, source: assumption}", 7, "below nothing",
        "0%"
      ),
      ("again: {value: {mix: {const: 1s}}, source: assumption}", 7, "a mix is a list", "share"),
      ("again:\n  value: 1s\n  source: assumption\n  note: x", 10, "unknown key 'note'", "value"),
      ("addresses: {value: 0, source: assumption}", 7, "below the minimum", "from 1"),
      ("per_network: {value: 255, source: assumption}", 7, "above the maximum", "254"),
      ("rotates: {value: perhaps, source: assumption}", 7, "not one of yes, no", "yes or no"),
      ("clock: {value: idle, source: assumption}", 7, "not one of read, reply, session", "read"),
      ("aim: {value: harvets, source: assumption}", 7, "not one of", "did you mean 'harvest'?"),
      ("aim: {value: hold, source: assumption}", 7, "says nothing", "trickle"),
      ("aim: {value: auth, source: assumption}", 7, "logs in never", "logins"),
      ("tries: {value: [50%, 50%], source: assumption}", 7, "2 shares", "write seven"),
      ("retries: {value: [5m], source: assumption}", 7, "a bot has no schedule", "tries"),
      ("retries: {value: [5m x many], source: assumption}", 7, "no number of times", "5m x 6"),
      ("retries: {value: {at: [9m, 5m]}, source: assumption}", 7, "do not rise", "order"),
      ("retries: {value: {on: [5m]}, source: assumption}", 7, "or 'at' and a list", "at"),
      ("id: B100", 7, "given twice", "keep one"),
    ])
  func mistakes(line: String, at: Int, reason: String, hint: String) throws {
    let problem = try #require(read(plain + line + "\n").problems.first, "\(line): none")
    #expect(problem.severity == .error && problem.position.file == "b.yaml")
    #expect(problem.position.line == at, "\(problem)")
    #expect(problem.reason.contains(reason), "\(problem)")
    #expect(problem.hint.contains(hint), "\(problem)")
  }

  @Test(
    "a stage that is none is told by its own line",
    arguments: [
      ("    banana: 3s", "unknown key 'banana'"), ("    baner: 3s", "unknown key 'baner'"),
    ])
  func stage(line: String, reason: String) throws {
    let text =
      "id: B99\nkind: bot\npatience:\n  value:\n    otherwise: 3s\n\(line)\n  source: assumption\n"
    let problem = try #require(read(text).problems.first)
    #expect(problem.position.line == 6 && problem.reason.contains(reason), "\(problem)")
    if line.contains("baner") { #expect(problem.hint == "did you mean 'banner'?") }
  }

  @Test("all that is wrong is told at once, and what must be there is missed")
  func together() {
    let problems = read("name: x\ntls: {value: 3%}\ncolour: {value: 1}\n").problems
    let reasons = problems.map(\.reason).joined(separator: "; ")
    for word in ["an id", "kind is missing", "patience is missing", "no source", "colour"] {
      #expect(reasons.contains(word), "\(reasons)")
    }
  }

  @Test("what is no file of keys is told", arguments: ["- a\n", "text\n", "a: [\n"])
  func noKeys(text: String) {
    #expect(read(text).problems.hasErrors)
  }

  @Test("what a key shows, it reads to the same")
  func roundTrip() throws {
    for persona in shipped.personas {
      for key in PersonaKeys.all where !["patience", "name", "about"].contains(key.key) {
        let shown = key.show(persona)
        if shown == "none" || shown == "[]" { continue }
        // A bot's tries are 1 where nothing is said.
        if key.key == "tries" && shown == "1" { continue }
        if key.key == "session_most" && shown == "forever" { continue }
        var problems = ProblemList()
        let text = "v: \(shown)\n"
        let node = YAMLFile.read(SourceText(file: "v", bytes: Array(text.utf8)), &problems)
        guard case .map(let members)? = node?.content else { continue }
        var copy = Persona(id: "X")
        try key.read(members[0].value, &copy)
        #expect(key.show(copy) == shown, "\(persona.id): \(key.key)")
      }
    }
  }
}

struct ScenarioFileTests {
  private static let files =
    (try? names(in: "\(projectFolder)/tuning/scenarios", endingIn: ".yaml")) ?? []

  @Test("every scenario that ships loads without a problem", arguments: files)
  func loads(file: String) throws {
    let (scenario, problems) = ScenarioFile.load(
      "\(projectFolder)/tuning/scenarios/\(file)", personas: shipped.personas)
    #expect(problems == [])
    let loaded = try #require(scenario)
    #expect("\(loaded.name).yaml" == file)
    #expect(!loaded.entries.isEmpty && loaded.entries.allSatisfy { $0.rate > 0 })
  }

  @Test("the ten scenarios are there")
  func all() {
    #expect(
      ScenarioFile.shipped == [
        "curve", "day", "demo", "flood-10k", "hardened", "mix-2010", "mix-2025", "ordinary",
        "overload",
        "pure-b1",
        "rustock-climbot",
      ])
  }

  private func load(_ name: String) throws -> Scenario {
    try #require(
      ScenarioFile.load(
        "\(projectFolder)/tuning/scenarios/\(name).yaml", personas: shipped.personas
      ).scenario)
  }

  /// Connections a second of a persona, if nobody is slowed.
  private func connections(_ scenario: Scenario, _ id: String) throws -> Double {
    let persona = try persona(id)
    let rate = scenario.entries.first { $0.persona == id }?.rate ?? 0
    return rate * persona.connectionsEach(within: scenario.duration)
  }

  private static let connectionRates: [(String, String, Double)] = [
    ("mix-2010", "B1", 36), ("mix-2010", "B2", 31.5), ("mix-2010", "B5", 2.7),
    ("mix-2010", "L1", 2.4), ("mix-2010", "L11", 0.1), ("mix-2010", "L5", 0.8),
    ("mix-2025", "B6", 24.484_536),
    ("mix-2025", "B10", 9.793_814), ("pure-b1", "B1", 90), ("hardened", "B14", 95),
    ("day", "B1", 7.835_052),
  ]

  @Test(
    "shares of connections become rates of clients that open as many", arguments: connectionRates)
  func rates(name: String, id: String, expected: Double) throws {
    #expect(abs(try connections(try load(name), id) - expected) < 1e-6)
  }

  @Test("the flood is 10,000 bots and 200 messages, within three minutes")
  func flood() throws {
    let scenario = try load("flood-10k")
    var counts: [Persona.Kind: Double] = [:]
    for entry in scenario.entries {
      counts[try persona(entry.persona).kind, default: 0] += entry.rate * scenario.duration
    }
    #expect(abs((counts[.bot] ?? 0) - 10_000) < 50)
    #expect(abs((counts[.sender] ?? 0) - 200) < 1)
  }

  @Test("all keys of a scenario are read")
  func everything() throws {
    let (found, problems) = readScenario(
      """
      name: all
      about: each key, once
      duration: {value: 10m, source: assumption}
      connections: {value: 50, source: assumption}
      honest: {value: 20%, source: assumption}
      bots: {value: {B3: 100%}, source: assumption}
      senders: {value: {L1: 1%, L2: 3%}, source: assumption}
      clients: {value: {P-check: 0.5}, source: assumption}
      at_once: {value: {B3: 100}, source: assumption}
      bursts: {value: [{at: 1m, lasting: 30s, times: 10}], source: assumption}
      latency: {value: 20ms, source: assumption}
      resets: {value: 1%, source: assumption}
      slow_readers: {value: 2%, source: assumption}
      listed_are: {value: bad, source: assumption}
      downstream:
        reply: {value: 1ms, source: assumption}
        dot: {value: {uniform: [10ms, 20ms]}, source: assumption}
        connections: {value: 7, source: assumption}
        capacity: {value: 12.5, source: assumption}
        breaks: {value: 3%, source: assumption}
        outages: {value: [{at: 2m, lasting: 5s}], source: assumption}

      """)
    #expect(problems == [])
    let scenario = try #require(found)
    #expect(scenario.name == "all" && scenario.duration == 600)
    #expect(scenario.entries.map(\.persona) == ["B3", "L1", "L2", "P-check"])
    #expect(abs(scenario.entries[1].rate - 2.5) < 1e-9)
    #expect(abs(scenario.entries[2].rate - 7.5) < 1e-9)
    #expect(scenario.entries[3].rate == 0.5 && scenario.entries[0].atOnce == 100)
    #expect(scenario.bursts.map(\.times) == [10] && scenario.bursts[0].at == 60)
    #expect(scenario.latency == .const(0.02) && scenario.resets == 0.01)
    #expect(scenario.slowReaders == 0.02 && scenario.listedAre == "bad")
    let behind = scenario.downstream
    #expect(behind.reply == .const(0.001) && behind.dot == .uniform(0.01, 0.02))
    #expect(behind.connections == 7 && behind.capacity == 12.5 && behind.breaks == 0.03)
    #expect(behind.outages.count == 1 && behind.outages[0] == (at: 120, lasting: 5))
  }

  @Test(
    "a mistake is told with its line and what to write",
    arguments: [
      ("bots: {value: {B33: 50%}, source: assumption}", "no persona 'B33'", "did you mean 'B3'?"),
      (
        "bots: {value: {nobody: 50%}, source: assumption}", "no persona 'nobody'", "personas are B1"
      ),
      ("bots: {value: {L1: 50%}, source: assumption}", "L1 is a sender", "under senders"),
      ("bots: {value: {B1: -5%}, source: assumption}", "below nothing", "0% to 100%"),
      ("bots: {value: {B1: 5}, source: assumption}", "not a percentage", "5%"),
      ("bots: {value: {B1: 100%}}", "no source", "assumption"),
      ("bots: {value: [B1], source: assumption}", "found a list instead of", "{persona: share"),
      ("senders: {value: {B1: 50%}, source: assumption}", "B1 is a bot", "under bots"),
      ("clients: {value: {B1: -5}, source: assumption}", "not a number", "number"),
      ("bursts: {value: [{at: 1m}], source: assumption}", "at, lasting, times", "lasting"),
      ("burst: {value: [], source: assumption}", "unknown key 'burst'", "did you mean 'bursts'?"),
      ("downstream: {raply: {value: 1s, source: assumption}}", "'raply' in downstream", "'reply'"),
      ("downstream: 3", "keys of its own", "reply"),
      ("listed_are: {value: good, source: assumption}", "not one of nothing", "bad"),
    ])
  func mistakes(line: String, reason: String, hint: String) throws {
    let text =
      "name: x\nconnections: {value: 10, source: assumption}\nat_once: {value: {B1: 1}, source: assumption}\n"
    let (scenario, problems) = readScenario(text + line + "\n")
    let problem = try #require(problems.first, "\(line): none")
    #expect(scenario == nil)
    #expect(problem.position.line == 4, "\(problem)")
    #expect(problem.reason.contains(reason), "\(problem)")
    #expect(problem.hint.contains(hint), "\(problem)")
  }

  @Test(
    "what makes no scenario is told",
    arguments: [
      ("name: x\n", "nobody comes"), ("at_once: {value: {B1: 1}, source: x}\n", "without a name"),
      ("name: x\nbots: {value: {B1: 1%}, source: x}\n", "shares without connections"),
      (
        "name: x\nconnections: {value: 5, source: x}\nhonest: {value: 5%, source: x}\nbots: {value: {B1: 1%}, source: x}\n",
        "nobody is honest"
      ),
    ])
  func incomplete(text: String, reason: String) {
    let (scenario, problems) = readScenario(text)
    #expect(scenario == nil)
    #expect(problems.contains { $0.reason.contains(reason) }, "\(problems)")
  }

  @Test("a scenario that is not there is exit code 66")
  func missing() {
    let (scenario, problems) = ScenarioFile.load("/nowhere.yaml", personas: [])
    #expect(scenario == nil && problems.exitCode == 66)
  }
}
