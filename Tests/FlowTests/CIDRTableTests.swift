// SPDX-License-Identifier: Apache-2.0
import Flow
import Structures
import Testing

func cidr(_ text: String) -> CIDRTable { CIDRTable(content: Array(text.utf8), file: "test.cidr") }

func address(_ text: String) throws -> Address { try #require(Address(text), "\(text)") }

@Suite struct CIDRTableTests {
  private func result(_ table: CIDRTable, _ text: String) throws -> String? {
    table.lookup(try address(text)).map { table.rules[$0].result }
  }

  @Test("the first rule that matches wins, whatever the lengths")
  func firstMatch() throws {
    let table = cidr(
      "10.1.0.0/16 a\n10.0.0.0/8 b\n10.2.0.0/16 c\n0.0.0.0/0 d\n2001:db8::/32 e\n::/0 f\n")
    let cases = [
      ("10.1.2.3", "a", "the specific one comes first"),
      ("10.2.2.3", "b", "the wide one comes first"),
      ("11.0.0.0", "d", "the default"),
      ("2001:db8::1", "e", "IPv6"), ("2001:db9::1", "f", "the IPv6 default"),
      ("::ffff:10.1.2.3", "a", "a mapped address is an IPv4 address"),
    ]
    for (text, expected, reason) in cases {
      #expect(try result(table, text) == expected, "\(text): \(reason)")
    }
  }

  @Test("a rule knows its pattern, its result and its place")
  func ruleText() throws {
    let table = cidr("# head\n\n![2001:db8::]/32   one  two \t# why\r\n[192.0.2.1] x")
    #expect(table.problems == [])
    #expect(table.rules.count == 2)
    let first = table.rules[0]
    #expect(first.pattern == "![2001:db8::]/32" && first.result == "one  two")
    #expect(first.position == SourcePosition(file: "test.cidr", line: 3, column: 1))
    #expect(first.network.isNegated && first.network.block.length == 32)
    #expect(table.rules[1].pattern == "[192.0.2.1]" && table.rules[1].result == "x")
    #expect(table.rules[1].position.line == 4)
    #expect(try result(table, "192.0.2.1") == "x")
  }

  @Test(
    "every form that Postfix reads is read, and those around it",
    arguments: [
      ("192.0.2.1 x", "192.0.2.1", "192.0.2.2", "one address"),
      ("[192.0.2.0]/24 x", "192.0.2.255", "192.0.3.0", "brackets around IPv4"),
      ("[2001:db8::]/32 x", "2001:db8:1::", "2001:db9::", "brackets around IPv6"),
      ("2001:DB8::A x", "2001:db8::a", "2001:db8::b", "capital letters"),
      ("::/1 x", "7fff::", "8000::", "the shortest IPv6 prefix"),
      ("::ffff:192.0.2.0/120 x", "192.0.2.9", "192.0.3.9", "a mapped network is an IPv4 one"),
      ("64:ff9b::192.0.2.1 x", "64:ff9b::c000:201", "64:ff9b::c000:202", "a dotted tail"),
      ("1:2:3:4:5:6:7:8 x", "1:2:3:4:5:6:7:8", "1:2:3:4:5:6:7:9", "eight groups"),
      ("1:2:3:4:5:6:7:: x", "1:2:3:4:5:6:7:0", "1:2:3:4:5:6:7:1", "one group left out"),
      ("::3:4:5:6:7:8 x", "0:0:3:4:5:6:7:8", "0:1:3:4:5:6:7:8", "a gap in front"),
      ("!192.0.2.0/24 x", "192.0.3.0", "192.0.2.0", "all but a network"),
      ("! 192.0.2.0/24 x", "192.0.3.0", "192.0.2.0", "space after the !"),
      ("!!192.0.2.0/24 x", "192.0.2.0", "192.0.3.0", "twice not"),
      ("!192.0.2.0/24 x", "0.0.0.0", "2001:db8::", "not an IPv4 network says nothing of IPv6"),
      ("192.0.2.0/24\tx", "192.0.2.1", "192.0.3.1", "a tab"),
      ("192.0.2.0/24\n x", "192.0.2.1", "192.0.3.1", "the result on a line of its own"),
      ("192.0.2.0/24 x\r\n\r\n198.51.100.0/24 x\r\n", "198.51.100.1", "203.0.113.1", "CRLF"),
      ("\u{FEFF}192.0.2.0/24 x", "192.0.2.1", "192.0.3.1", "a byte order mark"),
      ("if 192.0.2.0/24\n!192.0.2.128/25 x\nENDIF", "192.0.2.1", "192.0.2.129", "not within if"),
      ("IF !10.0.0.0/8\n0.0.0.0/0 x\nendif", "11.0.0.0", "10.0.0.0", "if not"),
      ("if !10.0.0.0/8\n::/0 y\n0.0.0.0/0 x\nendif", "11.0.0.0", "::1", "if not is of one family"),
      (
        "if 10.0.0.0/8\nif 10.1.0.0/16\n10.0.0.0/8 x\nendif\nendif\n", "10.1.0.1", "10.2.0.1",
        "if within if"
      ),
    ] as [(String, String, String, String)])
  func forms(text: String, inside: String, outside: String, reason: String) throws {
    let table = cidr(text)
    let errors = table.problems.filter { $0.severity == .error }
    #expect(errors == [], "\(reason)")
    #expect(try result(table, inside) == "x", "\(reason)")
    #expect(try result(table, outside) == nil, "\(reason)")
  }

  @Test(
    "a mistake names its column, the reason and what to write",
    arguments: [
      ("192.0.2.010 x", 9, "octal, that is as 8", "write 10 or 8", "Postfix reads octal"),
      ("192.0.2.09 x", 9, "octal, which it is not", "write 9,", "not even octal"),
      ("10.1.0.0/8 x", 1, "bits set after the first 8", "10.0.0.0/8", "host bits"),
      ("2001:db8::1/32 x", 1, "bits set after the first 32", "2001:db8::/32", "host bits"),
      ("10.0.0.0/33 x", 10, "from 0 to 32", "/24", "too long a prefix"),
      ("2001:db8::/129 x", 12, "from 0 to 128", "/64", "too long a prefix"),
      ("10.0.0.0/ x", 10, "not a number", "/24", "no prefix length"),
      ("10.0.0.0/255.0.0.0 x", 10, "not a number", "write 10.0.0.0/8", "a netmask"),
      ("10.0.0.256 x", 8, "256 is more than the 255", "0 to 255", "too large"),
      ("10/8 x", 1, "1 of the four parts", "10.0.0.0/8", "a short form"),
      ("mail.example.org x", 1, "is not an address", "names are not looked up", "a name"),
      ("10.0.0.0.0 x", 1, "is not an address", "192.0.2.0/24", "five parts"),
      ("1::2::3 x", 1, "occurs twice", "one \"::\"", "two gaps"),
      ("1:2:3 x", 1, "3 groups", "eight groups", "too few groups"),
      ("1:2:3:4:5:6:7:8:9 x", 1, "more than eight", "eight groups", "too many groups"),
      ("12345:: x", 1, "too long", "four hexadecimal", "five digits"),
      ("1:2:3:4:5:6:7: x", 1, "single colon", "eight groups", "a colon at the end"),
      ("[2001:db8::/32 x", 1, "`[` without `]`", "[2001:db8::]/32", "no bracket"),
      ("[2001:db8::]32 x", 13, "may follow `]`", "[2001:db8::]/32", "no slash"),
      ("192.0.2.0/24", 13, "without a result", "separated by white space", "no result"),
      ("if", 1, "without a network", "if 192.0.2.0/24", "a bare if"),
      ("! x", 3, "is not an address", "network first", "a bare not"),
      ("endif", 1, "without an `if`", "delete it", "no if"),
      ("if 10.0.0.0/8\nendif x", 7, "nothing may follow `endif`", "first column", "after endif"),
      (
        "if 10.0.0.0/8\n  10.1.0.0/16 x\nendif", 3, "nothing may follow", "first column", "indented"
      ),
      ("if 10.0.0.0/8", 4, "no `endif`", "write `endif`", "an open if"),
      ("  10.0.0.0/8 x", 3, "white space", "first column", "an indented first line"),
    ] as [(String, Int, String, String, String)])
  func mistakes(text: String, column: Int, reason: String, hint: String, why: String) throws {
    let errors = cidr(text).problems.filter { $0.severity == .error }
    #expect(errors.count == 1, "\(why): \(errors)")
    let problem = try #require(errors.first)
    #expect(problem.position.column == column, "\(why): \(problem)")
    #expect((problem.reason + problem.hint).contains(reason), "\(why): \(problem)")
    #expect((problem.reason + problem.hint).contains(hint), "\(why): \(problem)")
    let line = text.split(separator: "\n")[problem.position.line - 1]
    #expect(problem.line == String(line), "\(why)")
  }

  @Test("everything wrong in a file is reported at once, and the good rules are read")
  func allAtOnce() throws {
    let table = cidr("10.0.0.0/8 a\nnonsense b\n192.0.2.1/24 c\n11.0.0.0/8 d\n")
    #expect(table.problems.map(\.position.line) == [2, 3])
    #expect(try result(table, "11.0.0.1") == "d")
    let text = try #require(table.problems.last).description
    #expect(text.hasPrefix("test.cidr:3:1: error: "))
    #expect(text.contains("\n  192.0.2.1/24 c\n  ^\n  write 192.0.2.0/24"))
  }

  @Test("a mistake in a continued line is reported where it stands")
  func continuedPlace() throws {
    let table = cidr("if 10.0.0.0/8\n# between\n\n   extra\nendif\n")
    let problem = try #require(table.problems.first)
    #expect(problem.position.line == 4 && problem.position.column == 4)
    #expect(problem.line == "   extra")
  }

  @Test("a # belongs to the result unless white space stands on both sides")
  func comments() throws {
    let table = cidr(
      "10.0.0.0/8 reject see #12 # but not this\n  and C# too ## nor this\n #nor this\n")
    #expect(table.problems == [])
    #expect(try result(table, "10.0.0.1") == "reject see #12 and C# too")
  }

  @Test("a rule covered by an earlier one is reported with that rule's line")
  func coveredByOne() throws {
    let table = cidr("10.0.0.0/8 a\n\n10.1.0.0/16 b\n10.0.0.0/8 c\n")
    #expect(
      table.problems.map(\.reason) == [
        "line 3 can never match: covered by line 1", "line 4 can never match: covered by line 1",
      ])
    #expect(table.problems.allSatisfy { $0.severity == .warning })
    #expect(try #require(table.problems.first).hint.contains("above line 1"))
  }

  @Test(
    "a rule that can never match is reported with all that is in its way",
    arguments: [
      (
        "10.0.0.0/25 a\n10.0.0.128/25 b\n10.0.0.0/24 c", 3, "covered by lines 1 and 2 together",
        "two halves"
      ),
      (
        "10.0.0.0/26 a\n10.0.0.64/26 a\n10.0.0.128/26 a\n10.0.0.192/26 a\n10.0.0.0/24 c", 5,
        "lines 1, 2, 3 and others together", "four quarters"
      ),
      ("!10.0.0.0/8 a\n11.0.0.0/8 b", 2, "covered by line 1", "behind a negation"),
      ("!10.0.0.0/8 a\n!10.0.0.0/8 b", 2, "covered by line 1", "the same negation"),
      ("!10.0.0.0/8 a\n10.0.0.0/8 b\n0.0.0.0/0 c", 3, "covered by lines 1 and 2 together", "both"),
      ("if 10.0.0.0/8\n11.0.0.0/8 b\nendif", 2, "outside the `if` of line 1", "another network"),
      ("if 10.0.0.0/8\n::/0 b\nendif", 2, "outside the `if` of line 1", "another family"),
      ("!0.0.0.0/0 a", 1, "nothing lies outside", "the negation of everything"),
      (
        "10.0.0.0/8 a\nif 10.0.0.0/8\n!10.0.0.0/16 b\nendif", 3, "covered by line 1",
        "many networks, one in their way"
      ),
    ] as [(String, Int, String, String)])
  func dead(text: String, line: Int, reason: String, why: String) throws {
    let problems = cidr(text).problems
    #expect(problems.count == 1, "\(why): \(problems)")
    let problem = try #require(problems.first)
    #expect(problem.severity == .warning && problem.position.line == line, "\(why)")
    #expect(problem.reason.hasPrefix("line \(line) can never match: "), "\(why)")
    #expect(problem.reason.contains(reason), "\(why): \(problem.reason)")
  }

  @Test("a rule of which something is left is not reported")
  func alive() {
    let table = cidr("10.0.0.0/25 a\n10.0.0.128/26 b\n10.0.0.0/24 c\n!10.0.0.0/8 d\n0.0.0.0/0 e\n")
    #expect(table.problems == [])
  }

  @Test("after a thousand mistakes the rest is only counted")
  func manyMistakes() throws {
    let table = cidr(String(repeating: "x y\n", count: 5_000))
    #expect(table.problems.count == TableProblems.kept + 1)
    #expect(try #require(table.problems.last).reason == "4000 more errors are not shown")
  }

  @Test("ifs nested too deep are one error, and their endifs still match")
  func tooDeep() {
    let table = cidr(
      String(repeating: "if 10.0.0.0/8\n", count: 80) + "10.0.0.0/8 a\n"
        + String(repeating: "endif\n", count: 80) + "11.0.0.0/8 b\n")
    #expect(table.problems.count == 1)
    #expect(table.lookup(Address(v4: 11 << 24)) == 1)
  }

  @Test("a file that multiplies into too many networks is refused, not loaded for ever")
  func tooMany() {
    // Each inner rule stands for what 60 negated ifs leave over: some 6,000 networks.
    var text = ""
    for i in 0..<60 { text += "if !2001:db8:\(String(i, radix: 16))::1\n" }
    for _ in 0..<30 { text += "::/0 x\n" }
    for _ in 0..<60 { text += "endif\n" }
    let table = CIDRTable(content: Array(text.utf8), file: "test.cidr", networksMax: 50_000)
    let errors = table.problems.filter { $0.severity == .error }
    #expect(errors.count == 1)
    #expect(errors.first?.reason.contains("more than 50000 networks") == true)
  }

  @Test("an empty file is an empty table")
  func empty() {
    for text in ["", "\n\n", "# nothing", "\r\n", " \t "] {
      let table = cidr(text)
      #expect(table.problems == [] && table.rules.isEmpty)
      #expect(table.lookup(Address(v4: 1)) == nil)
    }
  }
}
