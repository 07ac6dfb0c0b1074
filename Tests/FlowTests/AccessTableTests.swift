// SPDX-License-Identifier: Apache-2.0
import Flow
import Structures
import Testing

@Suite struct AccessTableTests {
  private func load(_ text: String) -> (table: AccessTable, problems: [TableProblem]) {
    AccessTable.load(content: Array(text.utf8), file: "access.cidr")
  }

  @Test(
    "every word of the access table means what it says, in any letter case",
    arguments: [
      ("permit", .classify(.trusted)), ("OK", .classify(.trusted)), ("Reject", .reject),
      ("DUNNO", .dunno), ("trusted", .classify(.trusted)), ("unknown", .classify(.unknown)),
      ("Suspicious", .classify(.suspicious)), ("bad", .classify(.bad)),
      ("class=bad", .classify(.bad)), ("CLASS=Suspicious", .classify(.suspicious)),
    ] as [(String, AccessAction)])
  func words(word: String, action: AccessAction) throws {
    let (table, problems) = load("192.0.2.0/24 \(word)\n")
    #expect(problems == [])
    #expect(table.lookup(try address("192.0.2.7"))?.action == action)
    #expect(table.lookup(try address("192.0.3.7"))?.action == nil)
  }

  @Test("explain gives the rule, its reply and its place")
  func explain() throws {
    let (table, problems) = load(
      "# mine\n192.0.2.0/24 reject 550 5.7.1 No,\n   thank you # really\n0.0.0.0/0 reject\n")
    #expect(problems == [])
    let match = try #require(table.explain(try address("192.0.2.7")))
    #expect(match.rule.action == .reject && match.rule.reply == "550 5.7.1 No, thank you")
    #expect(match.rule.rule.pattern == "192.0.2.0/24")
    #expect(match.position.description == "access.cidr:2:1")
    let other = try #require(table.explain(try address("198.51.100.1")))
    #expect(other.rule.reply == nil && other.position.line == 4)
    #expect(table.explain(try address("2001:db8::1")) == nil)
  }

  @Test("a table without its text decides the same and names the same lines")
  func linesOnly() throws {
    var text = "# head\n"
    var random = SeededGenerator(seed: 5)
    for number in 0..<600 {
      if number % 7 == 0 { text += "\n# a comment\n" }
      if number % 50 == 10 { text += "if 10.0.0.0/8\n!10.\(number % 256).0.0/16 bad\nendif\n" }
      let prefix = "\(UInt8.random(in: 1...20, using: &random)).\(number % 256).0.0/16"
      text += "\(prefix) \(["reject 550 no", "permit", "\n  suspicious", "dunno"][number % 4])\n"
    }
    let (whole, problems) = load(text)
    let (lines, same) = AccessTable.load(
      content: Array(text.utf8), file: "access.cidr", keeping: .lines)
    #expect(problems == same && lines.rules.count == whole.rules.count)
    #expect(lines.rules.rules.isEmpty && lines.footprint * 4 < whole.footprint)
    var known = 0
    for number in 0..<5_000 {
      let address = Address(v4: UInt32(number % 22) << 24 | UInt32(number * 37 % 256) << 16 | 5)
      let found = whole.lookup(address)
      let other = lines.lookup(address)
      #expect(found?.action == other?.action)
      #expect(found.map { whole.position($0.rule) } == other.map { lines.position($0.rule) })
      #expect(whole.explain(address)?.position == found.flatMap { whole.position($0.rule) })
      #expect(lines.explain(address)?.position == nil)
      if found != nil { known += 1 }
    }
    #expect(known > 500)
    #expect(lines.position(-1) == nil && lines.position(.max) == nil)
  }

  @Test(
    "a word that is not an action is an error that names the nearest one",
    arguments: [
      ("rejct", 14, "did you mean reject?", "a slip"),
      ("class=trused", 14, "did you mean class=trusted?", "a slip in a class"),
      ("class=zebra", 14, "write one of: trusted, unknown, suspicious, bad", "no such class"),
      ("class=good", 14, "did you mean class=trusted?", "another word for a class"),
      ("T3", 14, "did you mean bad?", "the log's word for a class"),
      ("T0", 14, "did you mean trusted?", "the log's word for a class"),
      ("deny", 14, "did you mean reject?", "a firewall's word"),
      ("DISCARD", 14, "did you mean reject?", "Postfix's word"),
      ("550 go away", 14, "did you mean reject?", "Postfix's reply codes"),
      ("allow", 14, "did you mean trusted?", "a firewall's word"),
      ("conn=60/min", 14, "rate table", "a rate"),
      ("permit bulk mail", 21, "start a comment", "text that would be ignored"),
      ("dunno\n  10.0.0.0/8 reject", 3, "first column", "an indented rule"),
    ] as [(String, Int, String, String)])
  func mistakes(result: String, column: Int, hint: String, why: String) throws {
    let (_, problems) = load("192.0.2.0/24 \(result)\n")
    #expect(problems.count == 1)
    let problem = try #require(problems.first)
    #expect(problem.severity == .error && problem.position.column == column, "\(why): \(problem)")
    #expect(problem.hint.contains(hint), "\(why): \(problem.hint)")
  }

  @Test("mistakes in networks and in actions come in one list, in the order of the file")
  func together() {
    let (_, problems) = load("10.0.0.0/8 what\n10.0.0.1/8 reject\n10.1.0.0/16 permit\nx\n")
    #expect(problems.map(\.position.line) == [1, 2, 3, 4])
    #expect(problems.map(\.severity) == [.error, .error, .warning, .error])
  }

  @Test(
    "a netmask is an error that names the length it stands for",
    arguments: [
      ("192.0.2.0/255.255.255.0", "write 192.0.2.0/24"),
      ("192.0.0.0/255.255.252.0", "write 192.0.0.0/22"),
      ("192.0.2.7/255.255.252.0", "write 192.0.0.0/22"),
      ("192.0.0.0/0.0.3.255", "write 192.0.0.0/22"),
      ("192.0.2.0/255.0.255.0", "write a length such as /24"),
      ("192.0.2.0/33", "write a length such as /24"),
    ])
  func netmasks(pattern: String, hint: String) throws {
    let (_, problems) = load("\(pattern) reject\n")
    #expect(problems.map(\.hint) == [hint])
  }

  @Test(
    "a carriage return that ends no line is an error, told once: all lines would be one rule",
    arguments: [
      ("10.0.0.0/8 reject\r11.0.0.0/8 bad\r", 1, 18),
      ("# a comment\r10.0.0.0/8 reject\r", 1, 12),
      ("10.0.0.0/8 reject\r", 1, 18),
      ("10.0.0.0/8 reject\n11.0.0.0/8 bad\r12.0.0.0/8 bad\n13.0.0.0/8\rbad\n", 2, 15),
    ])
  func bareReturns(text: String, line: Int, column: Int) {
    let found = load(text).1.filter { $0.reason.contains("carriage return") }
    #expect(found.map(\.position.line) == [line] && found.map(\.position.column) == [column])
    #expect(found.allSatisfy { $0.severity == .error && $0.hint.contains("LF or CRLF") })
  }

  @Test("lines that end in CRLF, or in CR CR LF, are lines")
  func carriageReturns() {
    let (table, problems) = load("10.0.0.0/8 reject\r\n11.0.0.0/8 bad\r\r\n")
    #expect(problems == [] && table.rules.count == 2)
  }
}
