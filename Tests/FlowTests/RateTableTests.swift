// SPDX-License-Identifier: Apache-2.0
import Flow
import Structures
import Testing

@Suite struct RateTableTests {
  private func load(_ text: String) -> (table: RateTable, problems: [TableProblem]) {
    RateTable.load(content: Array(text.utf8), file: "rates.cidr")
  }

  private func rule(_ settings: String, _ network: String = "192.0.2.0/24") throws -> RateRule {
    let (table, problems) = load("\(network) \(settings)\n")
    #expect(problems == [])
    let first = String(try #require(network.split(separator: "/").first))
    return try #require(table.lookup(try address(first)))
  }

  @Test("a rule is plain bytes")
  func trivial() {
    func holds<T: BitwiseCopyable>(_: T.Type) -> Int { MemoryLayout<T>.size }
    #expect(holds(RateRule.self) <= 320)
  }

  @Test("all settings together are read")
  func everything() throws {
    let rule = try rule(
      "conn=60/min burst=10 concurrency=20 msgs=100/h rcpt=2000/h burst=50 errors=10/60s "
        + "bytes=64k/s delay=4s class=suspicious per=/25 over=tempfail")
    #expect(rule.connections == Rate(60, per: .seconds(60), burst: 10))
    #expect(rule.messages == Rate(100, per: .seconds(3600), burst: 100))
    #expect(rule.recipients == Rate(2000, per: .seconds(3600), burst: 50))
    #expect(rule.errors == Rate(10, per: .seconds(60), burst: 10))
    #expect(rule.bytes == Rate(65_536, per: .seconds(1), burst: 16_384))
    #expect(rule.concurrency == 20 && rule.delay == .seconds(4) && rule.peerClass == .suspicious)
    #expect(rule.sharing == .prefix(25) && rule.over == .tempfail)
  }

  @Test("what a rule does not mention is left open")
  func defaults() throws {
    let rule = try rule("class=trusted")
    #expect(LimitKind.allCases.allSatisfy { rule.rate($0) == nil })
    #expect(rule.concurrency == 0 && rule.delay == nil && rule.over == .slow)
    #expect(rule.sharing == .prefix(32))
    #expect(try self.rule("class=bad", "2001:db8::/32").sharing == .prefix(64))
  }

  @Test(
    "rates are read in all their spellings",
    arguments: [
      ("conn=10/s", 10, 1_000_000, 10, "a second"),
      ("conn=10/min", 10, 60_000_000, 10, "a minute"),
      ("conn=10/m", 10, 60_000_000, 10, "short for a minute"),
      ("conn=10/1h", 10, 3_600_000_000, 10, "one hour"),
      ("conn=10/15min", 10, 900_000_000, 10, "a quarter of an hour"),
      ("conn=10/d", 10, 86_400_000_000, 10, "a day"),
      ("conn=10/500ms", 10, 500_000, 10, "milliseconds"),
      ("conn=2k/h", 2_000, 3_600_000_000, 2_000, "k is a thousand for events"),
      ("Conn=2K/H", 2_000, 3_600_000_000, 2_000, "letter case does not count"),
      ("conn=1M/d burst=1k", 1_000_000, 86_400_000_000, 1_000, "M, and k in a burst"),
    ] as [(String, UInt64, Int64, UInt64, String)])
  func spellings(text: String, units: UInt64, period: Int64, burst: UInt64, why: String) throws {
    let expected = Rate(units, per: .microseconds(period), burst: burst)
    #expect(try rule(text).connections == expected, "\(why)")
  }

  @Test(
    "a burst of bytes is a quarter of a second's worth, but two kilobytes at least",
    arguments: [
      ("bytes=64k/s", 65_536, 16_384, "a quarter"), ("bytes=1k/s", 1_024, 2_048, "at least 2 KB"),
      ("bytes=1M/s", 1 << 20, 1 << 18, "M is 1024 k"),
      ("bytes=64k/s burst=100k", 65_536, 102_400, "k is 1024 in its burst too"),
    ] as [(String, UInt64, UInt64, String)])
  func byteBursts(text: String, units: UInt64, burst: UInt64, why: String) throws {
    #expect(try rule(text).bytes == Rate(units, per: .seconds(1), burst: burst), "\(why)")
  }

  @Test("unlimited and off lift a limit, which is not the same as not mentioning it")
  func lifted() throws {
    let rule = try rule("conn=unlimited bytes=off concurrency=unlimited delay=0")
    #expect(rule.connections == .unlimited && rule.bytes == .unlimited && rule.messages == nil)
    #expect(rule.concurrency == .max && rule.delay == .zero)
  }

  @Test("per= says who shares a bucket")
  func sharing() throws {
    let a = try address("192.0.2.7")
    let b = try address("192.0.2.9")
    let c = try address("192.0.2.200")
    let each = try rule("conn=1/s")
    #expect(each.key(for: a) != each.key(for: b))
    let half = try rule("conn=1/s per=/25")
    #expect(half.key(for: a) == half.key(for: b) && half.key(for: a) != half.key(for: c))
    let all = try rule("conn=1/s per=net")
    #expect(all.key(for: a) == all.key(for: c))
    #expect(all.key(for: a) == BucketKey(try address("192.0.2.0"), length: 24))
    #expect(all.key(for: a, .bytes) != all.key(for: a, .connections))
    let six = try rule("conn=1/s", "2001:db8::/32")
    #expect(
      six.key(for: try address("2001:db8::1")) == six.key(for: try address("2001:db8::ffff:2")))
    #expect(
      six.key(for: try address("2001:db8::1")) != six.key(for: try address("2001:db8:0:1::1")))
  }

  @Test("a bucket stays the same when a reload moves the rule, also for a negated network")
  func stableKeys() throws {
    let source = try address("198.51.100.1")
    let table = load("!10.0.0.0/8 conn=1/s per=net\n").table
    let moved = load("10.1.0.0/16 class=bad\n!10.0.0.0/8 conn=1/s per=net\n").table
    let before = try #require(table.lookup(source))
    let after = try #require(moved.lookup(source))
    #expect(table.position(Int(before.rule))?.line == 1)
    #expect(moved.position(Int(after.rule))?.line == 2)
    #expect(before.key(for: source) == after.key(for: source))
    let inside = try #require(
      load("10.0.0.0/8 conn=1/s per=net\n").table.lookup(try address("10.1.1.1")))
    #expect(inside.key(for: source) != before.key(for: source))
  }

  @Test(
    "a wrong setting is an error at its own column that says what to write",
    arguments: [
      ("con=1/s", 0, "did you mean conn=1/s?", "an unknown setting"),
      ("msgs=1/s concurency=3", 9, "did you mean concurrency=3?", "an unknown setting later on"),
      ("zzzzz=1", 0, "the settings are: conn, msgs", "a wild setting"),
      ("conn=0/min", 0, "\"192.0.2.0/24 reject\" into the access table", "a rate of nothing"),
      ("conn=0", 0, "\"192.0.2.0/24 reject\" into the access table", "nothing at all"),
      ("concurrency=0", 0, "\"192.0.2.0/24 reject\" into the access table", "no sessions"),
      ("conn=60", 5, "write conn=60/min", "no time"),
      ("conn=60/week", 8, "conn=60/min", "no such time"),
      ("conn=60/0s", 8, "conn=60/min", "no time at all"),
      ("conn=x/s", 5, "conn=10/min", "no count"),
      ("conn=-1/s", 5, "conn=10/min", "less than nothing"),
      ("conn=999999999999G/s", 5, "conn=10/min", "more than fits"),
      ("conn=1/40d", 5, "at most 31d", "too long a time"),
      ("conn=", 5, "conn=10/min, with no space", "no value"),
      ("trusted", 0, "write class=trusted", "a bare class"),
      ("tempfail", 0, "write over=tempfail", "a bare answer"),
      ("reject", 0, "access table", "an access word"),
      ("conn=1/s #comment", 9, "space after the #", "a comment without a space"),
      ("class=trusted\n  10.0.0.0/8 class=bad", 2, "first column", "an indented rule"),
      ("burst=3 conn=1/s", 0, "directly after its rate", "a burst in front of its rate"),
      ("conn=1/s delay=1s burst=3", 18, "directly after its rate", "a burst too far behind"),
      ("conn=1/s burst=0", 15, "at least 1", "no burst"),
      ("conn=1/s conn=2/s", 9, "leave one of them out", "twice the same"),
      ("delay=4", 6, "write delay=4s", "a delay without a unit"),
      ("delay=10min", 6, "delay=25s at most", "a delay beyond the ceiling"),
      ("delay=60s", 6, "delay=25s at most", "a delay that would be cut"),
      ("class=T3", 6, "did you mean class=bad?", "the log's word for a class"),
      ("class=deny", 6, "trusted, unknown, suspicious, bad", "no class, but an action"),
      ("over=reject", 5, "did you mean over=refuse?", "another program's word"),
      ("over=421", 5, "did you mean over=tempfail?", "a code"),
      ("class=truted", 6, "did you mean class=trusted?", "a slip in a class"),
      ("over=explode", 5, "slow, tempfail, refuse, drop", "no such answer"),
      ("per=/33", 4, "per=/32", "longer than an IPv4 address"),
      ("per=24", 4, "per=/32", "no slash"),
      ("conn=0 burst=5", 0, "access table", "one mistake is not reported as two"),
    ] as [(String, Int, String, String)])
  func mistakes(settings: String, offset: Int, hint: String, why: String) throws {
    let (_, problems) = load("192.0.2.0/24 \(settings)\n")
    #expect(problems.count == 1, "\(why): \(problems)")
    let problem = try #require(problems.first)
    #expect(problem.severity == .error)
    let column = problem.position.line == 1 ? offset + 14 : offset + 1
    #expect(problem.position.column == column, "\(why): \(problem)")
    #expect((problem.reason + " " + problem.hint).contains(hint), "\(why): \(problem)")
  }

  @Test("all mistakes of all lines are reported at once, each time anew")
  func allAtOnce() {
    let (_, problems) = load("10.0.0.0/8 con=1/s delay=9\n11.0.0.0/8 con=1/s delay=9\n")
    #expect(problems.map(\.position.line) == [1, 1, 2, 2])
  }

  @Test("settings are read for the family of their own rule, though they look the same")
  func families() throws {
    let (table, problems) = load(
      "10.0.0.0/8 conn=1/s\n2001:db8::/32 conn=1/s\n11.0.0.0/8 conn=1/s\n")
    #expect(problems == [])
    #expect(table.lookup(try address("10.0.0.1"))?.sharing == .prefix(32))
    #expect(table.lookup(try address("2001:db8::1"))?.sharing == .prefix(64))
    #expect(table.lookup(try address("11.0.0.1"))?.sharing == .prefix(32))
    #expect(table.settingsCount == 2)
    let (_, wrong) = load("2001:db8::/32 conn=1/s per=/48\n10.0.0.0/8 conn=1/s per=/48\n")
    #expect(wrong.map(\.position.line) == [2])
  }

  @Test("explain gives the rule and its place")
  func explain() throws {
    let (table, _) = load("10.0.0.0/8 conn=1/s\n\n11.0.0.0/8 conn=2/s\n")
    let found = try #require(table.explain(try address("11.1.1.1")))
    #expect(found.written.result == "conn=2/s" && found.position.description == "rates.cidr:3:1")
  }
}
