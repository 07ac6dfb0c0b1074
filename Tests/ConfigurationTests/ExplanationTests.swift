// SPDX-License-Identifier: Apache-2.0
import ConfigurationFixtures
import Flow
import Foundation
import Policy
import Shield
import Structures
import Suspicion
import Testing

@testable import Configuration

/// What `explain` says about an address is what the tables and the policy would do.
struct ExplanationTests {
  private let folder: Folder
  private let configuration: Configuration

  init() throws {
    folder = try Folder()
    let main = try folder.write(
      "sluice.yaml", "tables: {access: access.cidr, rates: rates.cidr}\nmode: observe\n")
    try folder.write(
      "access.cidr",
      """
      192.0.2.0/28 permit
      192.0.2.16/28 reject go away
      192.0.2.32/28 suspicious
      192.0.2.48/28 bad
      192.0.2.64/28 dunno
      """)
    try folder.write(
      "rates.cidr",
      """
      192.0.2.64/28 class=suspicious delay=1s
      192.0.2.0/24 conn=60/min burst=20 rcpt=2000/h concurrency=5 per=/24 over=tempfail
      198.51.100.0/24 bytes=64k/s msgs=unlimited per=net delay=25s
      2001:db8::/32 conn=10/min
      """)
    configuration = try #require(Configuration.load(file: main, environment: machine).configuration)
  }

  @Test(
    "the exit code is 0 for pass, 1 for slowed, 2 for refused",
    arguments: [
      ("192.0.2.1", 0, "T0", "permitted"), ("192.0.2.17", 2, "T1", "rejected"),
      ("192.0.2.33", 1, "T2", "suspicious"), ("192.0.2.49", 2, "T3", "bad: never let through"),
      ("192.0.2.65", 1, "T2", "dunno leaves the class to the rates"),
      ("203.0.113.1", 1, "T1", "unknown"),
      ("::ffff:192.0.2.1", 0, "T0", "the mapped form is the same client"),
      ("[192.0.2.1]", 0, "T0", "as in a log"), ("[IPv6:2001:DB8::1]", 1, "T1", "as in a HELO"),
    ])
  func exitCodes(text: String, code: Int32, tier: String, reason: String) throws {
    let explanation = try #require(Explanation(of: text, in: configuration))
    #expect(explanation.exitCode == code, "\(reason)")
    #expect(explanation.standing.tier.name == tier, "\(reason)")
  }

  @Test(
    "no address, no explanation",
    arguments: ["", "mx.example.org", "192.0.2", "192.0.2.1:25", "[", "[]"])
  func noAddress(text: String) {
    #expect(Explanation(of: text, in: configuration) == nil)
  }

  @Test("rules are named with file, line and text")
  func rules() throws {
    let explanation = try #require(Explanation(of: "192.0.2.17", in: configuration))
    #expect(explanation.access?.position.line == 2)
    #expect(explanation.access?.position.file == "\(folder.path)/access.cidr")
    #expect(explanation.access?.text == "192.0.2.16/28 reject go away")
    #expect(explanation.rate?.position.line == 2)
  }

  @Test("limits are told in words, and what shares them")
  func limits() throws {
    let shared = try #require(Explanation(of: "192.0.2.90", in: configuration))
    #expect(
      shared.limits == [
        "60 connections per minute per /24, burst 20; over it: tempfail (421)",
        "2000 recipients per hour per /24, burst 2,000; over it: tempfail (450)",
        "5 sessions at once per /24; over it: tempfail (421)",
      ])
    #expect(shared.bucket == "192.0.2.0/24, shared by all of it")
    let whole = try #require(Explanation(of: "198.51.100.9", in: configuration))
    #expect(whole.bucket == "198.51.100.0/24, shared by all of it")
    #expect(
      whole.limits == [
        "messages: no limit",
        "64k bytes per second for the whole network together, burst 16,384; "
          + "over it: messages are read more slowly",
      ])
    // No rule of the rate table holds for what the operator vouches for.
    let trusted = try #require(Explanation(of: "192.0.2.1", in: configuration))
    #expect(trusted.limits.isEmpty && trusted.bucket == nil && trusted.rate != nil)
    #expect(trusted.description.contains("none apply to a trusted client"))
    let v6 = try #require(Explanation(of: "2001:db8::5", in: configuration))
    #expect(v6.bucket == "2001:db8::/64, shared by all of it")
  }

  @Test(
    "what happens over a limit is what docs/tables.md says",
    arguments: [
      (
        "slow", "delay, then 421 if that is not enough",
        "delay, then 450 if that is not enough",
        "the signal rate_excess", "delay"
      ),
      (
        "tempfail", "tempfail (421)", "tempfail (450)", "421, and the session ends",
        "tempfail (421)"
      ),
      ("refuse", "reject (554)", "reject (554)", "421, and the session ends", "reject (554)"),
      ("drop", "drop", "drop", "421, and the session ends", "drop"),
    ])
  func over(word: String, conn: String, msgs: String, errors: String, concurrency: String) throws {
    let folder = try Folder()
    let main = try folder.write("sluice.yaml", "tables: {rates: rates.cidr}\n")
    try folder.write(
      "rates.cidr",
      "192.0.2.0/24 conn=1/s msgs=1/s rcpt=1/s errors=1/s bytes=1k/s concurrency=1 over=\(word)\n")
    let read = try #require(Configuration.load(file: main, environment: machine).configuration)
    let told = try #require(Explanation(of: "192.0.2.1", in: read)).limits.map {
      $0.components(separatedBy: "over it: ").last
    }
    #expect(told == [conn, msgs, msgs, errors, "messages are read more slowly", concurrency])
  }

  @Test("delays are those of the tier and of the next one; a rule's delay keeps to the ceiling")
  func delays() throws {
    func row(_ text: String, _ stage: Stage) throws -> Explanation.StageDelay {
      let explanation = try #require(Explanation(of: text, in: configuration))
      return try #require(explanation.stages.first { $0.stage == stage })
    }
    let clean = try row("203.0.113.1", .banner)
    #expect(clean.now == 4_000_000)
    #expect(clean.next == 22_000_000)
    #expect(try row("203.0.113.1", .recipientRejected).next == 20_000_000)
    let known = try row("192.0.2.1", .banner)
    #expect(known.now == 0)
    #expect(known.next == nil, "what the operator vouches for is not judged")
    let ruled = try row("198.51.100.9", .banner)
    #expect(ruled.now == 10_000_000, "delay= is above what a clean session may be delayed in all")
    #expect(ruled.next == 25_000_000, "delay= of the rule")
    #expect(try row("192.0.2.65", .banner).now == 1_000_000)
    #expect(try row("192.0.2.33", .banner).next == 110_000_000)
  }

  @Test("the text keeps to 80 columns but for what the operator wrote, and names the mode")
  func text() throws {
    let text = try #require(Explanation(of: "203.0.113.1", in: configuration)).description
    #expect(text.contains("observe: "))
    #expect(text.contains("T1 at connect, without history"))
    #expect(text.split(separator: "\n").allSatisfy { $0.count <= 80 }, "\(text)")
  }

  @Test("the JSON is JSON, with a version")
  func json() throws {
    let text = try #require(Explanation(of: "192.0.2.17", in: configuration)).json
    let object = try JSONSerialization.jsonObject(with: Data(text.utf8)) as? [String: Any]
    #expect(object?["version"] as? Int == 1)
    #expect(object?["outcome"] as? String == "refused")
    #expect((object?["access"] as? [String: Any])?["line"] as? Int == 2)
    #expect((object?["delays_ms"] as? [Any])?.count == Stage.allCases.count)
  }

  @Test("a JSON string survives every scalar")
  func jsonStrings() throws {
    let odd = "\"\\\n\r\t\u{0}\u{7F}é😀/"
    let data = Data(JSON.array([.string(odd), .decimal(.nan), .bool(true)]).text.utf8)
    let back = try JSONSerialization.jsonObject(with: data) as? [Any]
    #expect(back?.first as? String == odd)
  }
}
