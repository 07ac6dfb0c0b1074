// SPDX-License-Identifier: Apache-2.0
import ConfigurationFixtures
import Structures
import Testing

@testable import Configuration

/// The forms of values: what is taken, what is refused, and with which advice.
struct FormTests {
  @Test(
    "a duration is a number and a unit, and reads back as written",
    arguments: [
      ("250ms", 250_000, "250ms"), ("6s", 6_000_000, "6s"), ("0.5s", 500_000, "500ms"),
      ("5m", 300_000_000, "5m"), ("300s", 300_000_000, "5m"), ("2h", 7_200_000_000, "2h"),
      ("30d", 2_592_000_000_000, "30d"), ("0", 0, "0s"), ("0s", 0, "0s"),
      ("90m", 5_400_000_000, "90m"), ("0.001ms", 1, "1e-06s"),
    ])
  func durations(text: String, microseconds: Int64, written: String) throws {
    let value = try Form.duration(text)
    #expect(value == microseconds)
    if microseconds != 1 { #expect(Form.write(duration: value) == written) }
  }

  @Test(
    "a duration that is none says what to write",
    arguments: [
      ("6", "write 6s", "a bare number"), ("6 s", "write 6s", "a space"),
      ("6sec", "write 6s", "a word"),
      ("10min", "write 10m", "Flow's unit"), ("2w", "write 14d", "weeks"),
      ("6S", "write 6s", "a capital"), ("-6s", "such as", "a sign"),
      ("1h30m", "such as", "two units"),
      ("", "such as", "nothing"), ("s", "such as", "no number"), ("1.2345s", "such as", "too fine"),
      ("99999999999999999999s", "such as", "too long"), ("1e3s", "such as", "an exponent"),
    ])
  func badDurations(text: String, advice: String, reason: String) {
    let error = #expect(throws: BadValue.self, "\(reason)") { try Form.duration(text) }
    #expect(error?.hint.contains(advice) == true, "\(text): \(error?.hint ?? "")")
  }

  @Test(
    "sizes count in steps of 1,024",
    arguments: [
      ("2048", 2_048, "2k"), ("64k", 65_536, "64k"), ("64K", 65_536, "64k"),
      ("10M", 10_485_760, "10M"), ("1G", 1 << 30, "1G"), ("1000", 1_000, "1000"), ("0", 0, "0"),
    ])
  func sizes(text: String, bytes: Int, written: String) throws {
    let value = try Form.size(text)
    #expect(value == bytes)
    #expect(Form.write(size: value) == written)
  }

  @Test(
    "a size that is none says what to write",
    arguments: [
      ("64kB", "write 64k"), ("64 KiB", "write 64k"), ("10MB", "write 10M"), ("5B", "write 5"),
      ("1T", "such as 64k"), ("-1k", "such as 64k"), ("", "such as 64k"), ("1.5M", "such as 64k"),
    ])
  func badSizes(text: String, advice: String) {
    let error = #expect(throws: BadValue.self) { try Form.size(text) }
    #expect(error?.hint.contains(advice) == true, "\(text): \(error?.hint ?? "")")
  }

  @Test(
    "percentages need their sign",
    arguments: [("0.7", "write 70%"), ("70", "write 70%"), ("x", "70%")])
  func badPercentages(text: String, advice: String) {
    let error = #expect(throws: BadValue.self) { try Form.percentage(text) }
    #expect(error?.hint.contains(advice) == true)
  }

  @Test(
    "a percentage reads back as written",
    arguments: ["0%", "5%", "70%", "12.5%", "100%", "29%", "58%"])
  func percentages(text: String) throws {
    #expect(Form.write(percentage: try Form.percentage(text)) == text)
  }

  @Test(
    "booleans are YAML 1.1's", arguments: ["yes", "no", "true", "false", "on", "off", "Yes", "OFF"])
  func toggles(text: String) throws {
    #expect(try Form.toggle(text) == ["yes", "true", "on"].contains(text.lowercased()))
    #expect(throws: BadValue.self) { try Form.toggle(text + "!") }
  }

  @Test("separators in a number are named", arguments: ["10_000", "10,000", "10'000", "10.000"])
  func grouped(text: String) {
    let error = #expect(throws: BadValue.self) { try Form.count(text) }
    #expect(error?.hint == "write 10000, without separators")
  }

  @Test(
    "an endpoint is an address and a port",
    arguments: [
      ("0.0.0.0:25", "0.0.0.0", 25), ("[::]:25", "::", 25),
      ("[2001:db8::1]:587", "2001:db8::1", 587),
      ("mx.example.org:25", "mx.example.org", 25), ("Postfix:10025", "postfix", 10_025),
    ])
  func endpoints(text: String, host: String, port: UInt16) throws {
    let read = try Form.endpoint(text, allowsName: true)
    #expect(read.host == host)
    #expect(read.port == port)
  }

  @Test(
    "an endpoint that is none says what to write",
    arguments: [
      (":25", "write 0.0.0.0:25"), ("*:25", "write 0.0.0.0:25"), ("25", "such as"),
      ("0.0.0.0", "write 0.0.0.0:25"), ("2001:db8::1", "write [2001:db8::1]:25"),
      ("::1:25", "write [::1]:25, or [::1:25]:25 if 25 is part of the address"),
      ("2001:db8::1:587", "write [2001:db8::1]:587, or"), ("::1:beef", "write [::1:beef]:25"),
      ("[192.0.2.1]:25", "write 192.0.2.1:25"), ("192.0.2.1:0", "such as"),
      ("192.0.2.1:65536", "such as"), ("192.0.2.256:25", "such as"),
      ("mx.example.org:25", "such as"),
      ("/run/lmtp", "such as"), ("[fe80::1%eth0]:25", "not link-local"), ("", "such as"),
      (":", "such as"),
    ])
  func badEndpoints(text: String, advice: String) {
    let error = #expect(throws: BadValue.self) { try Form.endpoint(text, allowsName: false) }
    #expect(error?.hint.contains(advice) == true, "\(text): \(error?.hint ?? "")")
  }

  @Test(
    "text reads back from a YAML file as it was",
    arguments: [
      "plain", "/srv/a \"quoted\" folder/x", "back\\slash", "tab\there", "#no comment", "a: b",
      "two\nlines", "ü€😀", "\u{1B}[2J", "\u{85}\u{2028}", "",
    ])
  func text(text: String) throws {
    var problems = ProblemList()
    let source = SourceText(file: "x", bytes: Array("key: \(Form.write(text: text))\n".utf8))
    let root = try #require(YAMLFile.read(source, &problems))
    #expect(problems.all == [])
    guard case .map(let members) = root.content, case .scalar(let read) = members[0].value.content
    else {
      Issue.record("\(root)")
      return
    }
    #expect(read == text)
  }

  @Test(
    "a word that is near one of several, or its beginning, has that one for a hint",
    arguments: [
      ("enforced", ["observe", "enforce"], "did you mean 'enforce'?"),
      ("proxy", ["proxy_v2", "proxy_v1", "xclient"], "did you mean 'proxy_v2'?"),
      ("zebra", ["observe", "enforce"], "write observe or enforce"),
    ])
  func choices(text: String, words: [String], advice: String) {
    let error = #expect(throws: BadValue.self) { try Form.choice(text, words) }
    #expect(error?.hint == advice)
  }

  @Test(
    "a host name keeps to RFC 1123",
    arguments: [
      ("mx.example.org", true), ("MX.Example.ORG", true), ("a.b", true), ("1.example", true),
      ("xn--bcher-kva.example", true), ("localhost", false), ("mx.example.org.", false),
      ("-a.example", false), ("a-.example", false), ("a_b.example", false), ("192.0.2.1", false),
      ("mx..example", false), ("", false), ("mx example.org", false), ("bücher.example", false),
      (String(repeating: "a", count: 64) + ".example", false),
      (String(repeating: "a.", count: 127) + "example", false),
    ])
  func hostnames(text: String, isGood: Bool) {
    let read = try? Form.hostname(text, isFull: true)
    #expect(read == (isGood ? text.lowercased() : nil))
  }
}
