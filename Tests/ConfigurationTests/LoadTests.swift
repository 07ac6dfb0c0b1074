// SPDX-License-Identifier: Apache-2.0
import ConfigurationFixtures
import Flow
import Glibc
import Policy
import Structures
import Suspicion
import Testing

@testable import Configuration

/// Files, folders, tables and options together.
struct LoadTests {
  @Test("files of conf.d are merged in the order of their names, key by key, listeners as a whole")
  func merging() throws {
    let folder = try Folder()
    let main = try folder.write(
      "sluice.yaml", "mode: observe\ndelays: {banner: {clean: 1s, bad: 20s}}\nsmtp: {errors: 7}\n")
    try folder.write(
      "conf.d/20-b.yaml", "delays: {banner: {clean: 3s}}\nlisteners: [{address: \"[::1]:26\"}]\n")
    try folder.write("conf.d/10-a.yaml", "delays: {banner: {clean: 2s}}\nsmtp:\n")
    try folder.write("conf.d/.hidden.yaml", "nonsense")
    try folder.write("conf.d/30-c.yaml.bak", "nonsense")
    let (configuration, problems) = Configuration.load(file: main, environment: machine)
    #expect(problems == [])
    let read = try #require(configuration)
    #expect(read.policy.delays[.banner].clean == 3_000_000)
    #expect(read.policy.delays[.banner].bad == 20_000_000)
    #expect(read.policy.session.errors == 7)
    #expect(read.listeners.map(\.text) == ["[::1]:26"])
    #expect(read.files.count == 3)
    #expect(read.origins["delays.banner.clean"]?.file.hasSuffix("20-b.yaml") == true)
  }

  @Test("a key of names is 32 digits, and what is none says so with its file")
  func nameKey() throws {
    let folder = try Folder()
    let main = try folder.write("sluice.yaml", "reputation: {key_file: names.key}\n")
    try folder.write("names.key", "00112233445566778899aabbCCDDEEFF\n")
    let key = Configuration.load(file: main, environment: machine).configuration?.nameKey
    #expect(key?.high == 0x0011_2233_4455_6677 && key?.low == 0x8899_aabb_ccdd_eeff)
    for (text, word) in [
      ("", "has 0 characters"), ("0011", "has 4 characters"),
      ("0011223344556677 899aabbCCDDEEFF", "has other characters"),
      (String(repeating: "0", count: 32), "of zeros"),
    ] {
      let file = try folder.write("names.key", text)
      let (configuration, problems) = Configuration.load(file: main, environment: machine)
      #expect(configuration == nil && problems.exitCode == 78)
      #expect(problems.first?.reason.contains(word) == true, "\(problems)")
      #expect(problems.first?.position.file == file)
    }
  }

  @Test("a key without a value in conf.d is a mistake there, and switches nothing off")
  func valueLeftOut() throws {
    let folder = try Folder()
    let main = try folder.write("sluice.yaml", "mode: enforce\nown: {names: [a.example]}\n")
    let extra = try folder.write("conf.d/a.yaml", "mode:\nown: {names: }\nsmtp:\n")
    let (configuration, problems) = Configuration.load(file: main, environment: machine)
    #expect(configuration == nil)
    #expect(problems.map(\.position.description) == ["\(extra):1:1", "\(extra):2:7"])
    #expect(problems.first?.reason == "'mode' has no value")
  }

  @Test("a file of conf.d that is not read though it looks like one is a warning")
  func passedOver() throws {
    let folder = try Folder()
    let main = try folder.write("sluice.yaml", "hostname: mx.example.org\n")
    let extra = try folder.write("conf.d/10-mode.yml", "mode: enforce\n")
    try folder.write("conf.d/10-mode.yaml~", "mode: enforce\n")
    try folder.write("conf.d/README", "nothing\n")
    let (configuration, problems) = Configuration.load(file: main, environment: machine)
    #expect(configuration != nil)
    #expect(
      problems.map(\.description) == [
        "\(extra): warning: this file is not read: only *.yaml is\n  hint: rename it to 10-mode.yaml"
      ])
  }

  @Test("the configuration and the tables that README shows are good as they stand")
  func readme() throws {
    let page = try contents("README.md")
    let folder = try Folder()
    for name in ["access", "rates"] {
      let block = try #require(
        page.split(separator: "\n\n").first { $0.hasPrefix("    # \(name).cidr") }
          ?? page.split(separator: "\n\n").flatMap { $0.split(separator: "\n    # ") }
          .first { $0.hasPrefix("\(name).cidr") })
      let lines = block.split(separator: "\n").map { $0.drop { $0 == " " } }
        .filter { $0.first?.isNumber == true || $0.hasPrefix(":") }
      #expect(!lines.isEmpty)
      try folder.write("\(name).cidr", lines.joined(separator: "\n") + "\n")
    }
    let sample = page.split(separator: "\n").drop { !$0.hasPrefix("       hostname:") }
      .prefix { $0.hasPrefix("       ") }.map { $0.dropFirst(7) }
    let main = try folder.write("sluice.yaml", sample.joined(separator: "\n") + "\n")
    #expect(sample.count > 3)
    #expect(Configuration.load(file: main, environment: machine).problems == [])
    // And before the tables are written.
    for name in ["access", "rates"] { unlink("\(folder.path)/\(name).cidr") }
    #expect(Configuration.load(file: main, environment: machine).problems == [])
  }

  @Test("a mistake in conf.d names that file")
  func mistakeInDropIn() throws {
    let folder = try Folder()
    let main = try folder.write("sluice.yaml", "mod: observe\n")
    let extra = try folder.write("conf.d/a.yaml", "mode: off\n")
    let problems = Configuration.load(file: main, environment: machine).problems
    #expect(problems.map(\.position.description) == ["\(main):1:1", "\(extra):1:7"])
    #expect(problems.exitCode == 78)
  }

  @Test("a missing file is one problem with exit code 66")
  func missing() {
    let (configuration, problems) = Configuration.load(
      file: "/nowhere/sluice.yaml", environment: machine)
    #expect(configuration == nil)
    #expect(problems.exitCode == 66)
    #expect(
      problems.map(\.description) == [
        """
        /nowhere/sluice.yaml: error: cannot open /nowhere/sluice.yaml: No such file or directory
          hint: check the path; a relative path starts at the folder of the configuration file
        """
      ])
  }

  @Test("a folder in place of a file is no crash")
  func folderAsFile() throws {
    let folder = try Folder()
    #expect(Configuration.load(file: folder.path, environment: machine).problems.exitCode == 66)
  }

  @Test("tables are found beside the file, and what is wrong in them is told")
  func tables() throws {
    let folder = try Folder()
    let main = try folder.write(
      "sluice.yaml", "tables: {access: a.cidr, rates: \"cidr:\(folder.path)/r.cidr\"}\n")
    try folder.write("a.cidr", "192.0.2.0/24 reject\n198.51.100.0/24 permit\n")
    let rates = try folder.write("r.cidr", "0.0.0.0/0 conn=60/min\n")
    let good = Configuration.load(file: main, environment: machine)
    #expect(good.problems == [])
    let policy = try #require(good.configuration).policy
    #expect(policy.access.lookup(try #require(Address("192.0.2.7")))?.action == .reject)
    #expect(policy.rates.lookup(try #require(Address("203.0.113.1"))) != nil)
    try folder.write("r.cidr", "0.0.0.0/0 con=60/min\n")
    let bad = Configuration.load(file: main, environment: machine)
    #expect(bad.configuration == nil)
    #expect(bad.problems.map(\.position.description) == ["\(rates):1:11"])
  }

  @Test("a table that is not there is told at the key that names it, with exit code 66")
  func missingTable() throws {
    let folder = try Folder()
    let main = try folder.write("sluice.yaml", "tables:\n  access: a.cidr\n")
    let problems = Configuration.load(file: main, environment: machine).problems
    #expect(problems.map(\.position.description) == ["\(main):2:11"])
    #expect(problems.first?.lineText == "  access: a.cidr")
    #expect(problems.exitCode == 66)
  }

  @Test("options are enough without a file")
  func optionsAlone() throws {
    let overrides = Overrides(
      listen: ["127.0.0.1:2525", "[::1]:2525"], downstream: "mail.example.org:25", mode: "observe",
      hostname: "mx9.example.org")
    let (configuration, problems) = Configuration.load(
      file: nil, overrides: overrides, environment: machine)
    #expect(problems == [])
    let read = try #require(configuration)
    #expect(read.listeners.map(\.text) == ["127.0.0.1:2525", "[::1]:2525"])
    #expect(read.downstream.host == "mail.example.org")
    #expect(read.downstream.port == 25)
    #expect(read.policy.hostname == "mx9.example.org")
    #expect(read.files == [])
  }

  @Test("options win over the file, and keep what they do not say")
  func optionsOverFile() throws {
    let yaml = "downstream: {address: \"a:1\", identity: proxy_v1}\nmode: observe"
    let read = read(yaml, Overrides(downstream: "b:2", mode: "enforce"))
    #expect(read.problems == [])
    #expect(read.configuration?.downstream.host == "b")
    #expect(read.configuration?.downstream.terms.introduction == .proxyV1)
    #expect(read.configuration?.policy.mode == .enforce)
    let told = Configuration.load(
      file: nil, overrides: Overrides(identity: "xclient"), environment: machine)
    #expect(told.configuration?.downstream.terms.introduction == .xclient)
  }

  @Test("a mistake in an option names the option")
  func optionMistakes() {
    let overrides = Overrides(listen: ["25"], downstream: "x", mode: "on", hostname: "-")
    let (configuration, problems) = Configuration.load(
      file: nil, overrides: overrides, environment: machine)
    #expect(configuration == nil)
    #expect(
      Set(problems.map(\.position.file)) == [
        "--listen 25", "--downstream x", "--mode on", "--hostname -",
      ])
    #expect(
      problems.first { $0.position.file == "--mode on" }?.description.hasPrefix(
        "--mode on: error: ") == true)
  }

  @Test("aliases that would blow up are refused, not followed")
  func aliases() {
    var yaml = "a0: &a0 [x, x, x, x, x, x, x, x, x, x]\n"
    for i in 1...9 {
      let list = Array(repeating: "*a\(i - 1)", count: 10).joined(separator: ", ")
      yaml += "a\(i): &a\(i) [\(list)]\n"
    }
    let (configuration, problems) = read(yaml)
    #expect(configuration == nil)
    #expect(problems.contains { $0.reason.contains("too many values") })
  }

  @Test(
    "nesting as deep as a stack is refused",
    arguments: ["[", "{a: ", "- ", "? ", "a:\n "])
  func nesting(opener: String) {
    var yaml = String(repeating: opener, count: 5_000)
    if opener == "a:\n " {
      yaml = (0..<300).map { String(repeating: " ", count: $0) + "a:\n" }.joined()
    }
    let (configuration, problems) = read(yaml)
    #expect(configuration == nil)
    #expect(problems.hasErrors)
  }
}

/// Every line of the shipped file deleted or garbled: never a crash, always an answer.
struct MutationTests {
  @Test(
    "a garbled file gives a configuration or a problem with a position",
    arguments: [1, 2, 3, 4, 5, 6])
  func mutations(seed: UInt64) throws {
    var random = SeededGenerator(seed: seed)
    let lines = try contents("docs/sluice.yaml").split(
      separator: "\n", omittingEmptySubsequences: false)
    for index in lines.indices {
      var mutated = lines.map(String.init)
      if seed == 1 {
        mutated.remove(at: index)
      } else {
        mutated[index] = Self.garbled(mutated[index], &random)
      }
      let yaml = mutated.joined(separator: "\n")
      let (configuration, problems) = read(yaml)
      let label = "seed \(seed), line \(index + 1): \(seed == 1 ? "deleted" : mutated[index])"
      #expect((configuration != nil) != problems.hasErrors, "\(label)")
      for problem in problems {
        #expect(problem.position.file == "sluice.yaml", "\(label): \(problem)")
        #expect(problem.severity == .warning || problem.position.line > 0, "\(label): \(problem)")
        #expect(!problem.description.isEmpty)
      }
    }
  }

  private static func garbled(_ line: String, _ random: inout SeededGenerator) -> String {
    var scalars = Array(line.unicodeScalars)
    let pool = Array(
      "\t \"'{}[]:,#&*!|>%@`-?0a\u{0}\u{7F}\u{85}\u{2028}é\u{E000}\u{FFFD}😀".unicodeScalars)
    for _ in 0..<Int.random(in: 1...3, using: &random) {
      let place = Int.random(in: 0...scalars.count, using: &random)
      let scalar = pool[Int.random(in: 0..<pool.count, using: &random)]
      switch Int.random(in: 0..<4, using: &random) {
      case 0: scalars.insert(scalar, at: place)
      case 1 where place < scalars.count: scalars[place] = scalar
      case 2 where place < scalars.count: scalars.remove(at: place)
      default: scalars += scalars[min(place, scalars.count)...]
      }
    }
    return String(String.UnicodeScalarView(scalars))
  }

  @Test("any bytes at all are an answer, not a crash", arguments: [7, 8, 9])
  func noise(seed: UInt64) {
    var random = SeededGenerator(seed: seed)
    for round in 0..<300 {
      let bytes = (0..<Int.random(in: 0...200, using: &random)).map { _ in
        UInt8.random(in: 0...255, using: &random) & (round % 2 == 0 ? 0x7F : 0xFF)
      }
      let source = SourceText(file: "noise", bytes: bytes)
      let (configuration, problems) = Configuration.read([source], folder: "", Overrides(), machine)
      #expect(
        (configuration != nil) != problems.hasErrors, "seed \(seed), round \(round): \(bytes)")
    }
  }
}
