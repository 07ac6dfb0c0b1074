// SPDX-License-Identifier: Apache-2.0
import Policy
import SMTP
import Shield
import Simulator
import Structures
import Suspicion
import Testing

/// Commands that depart from the letter of the RFCs and have one meaning alone; what reaches the server of them is in
/// the dialogues.
@Suite("Loose syntax")
struct SyntaxTests {
  private static let loose = SignalSet(.looseSyntax)

  /// Says these commands and leaves; gives the replies' codes and what was written into the journal.
  private func session(_ policy: Policy, _ commands: [String]) throws -> ([String], [JournalEntry])
  {
    var shield = shield(policy)
    let arrived = shield.arrive("192.0.2.7")
    let client = try #require(arrived)
    _ = shield.banner(client)
    var codes: [String] = []
    for command in commands { codes.append(String(shield.ask(client, command + "\r\n").prefix(3))) }
    _ = shield.ask(client, "QUIT\r\n")
    shield.advance(by: .seconds(5))
    return (codes, shield.events())
  }

  private static let delivery = [
    " HELO c.example.org", "MAIL FROM:a@b.example", "RCPT TO: \t <d@e.example>", "DATA",
    "hello\r\n.",
  ]

  @Test("it is noted once, proves nothing, and the log has the canonical form")
  func tolerated() throws {
    let (codes, events) = try session(policy(), Self.delivery)
    #expect(codes == ["250", "250", "250", "354", "250"])
    #expect(events.filter { $0.event == .signal }.map(\.signal) == [.looseSyntax])
    let accepted = try #require(events.first { $0.event == .accepted })
    #expect(text(accepted.text.sender, accepted.text.senderCount) == "<a@b.example>")
    #expect(text(accepted.text.recipient, accepted.text.recipientCount) == "<d@e.example>")
    let closing = try #require(events.last { $0.event == .disconnect })
    #expect(closing.signals == Self.loose && closing.verdict == .delivered)
    #expect(!Signal.looseSyntax.mayProve)
    #expect(SignalRule.shipped(.looseSyntax).weight < policy().suspiciousScore)
  }

  @Test("to the letter there is nothing to note")
  func nothing() throws {
    let (codes, events) = try session(
      policy(), ["HELO c.example.org", "MAIL FROM: <a@b.example>  SIZE=1", "RCPT TO:<Postmaster>"])
    #expect(codes == ["250", "250", "250"])
    #expect(!events.contains { $0.event == .signal })
  }

  @Test("strict syntax refuses in enforce mode, and in observe mode says what it would")
  func strict() throws {
    let lines = [
      "HELO c.example.org", "MAIL FROM:<root>", "MAIL FROM:<a@b.example>", "RCPT TO:d@e.example",
    ]
    let (refused, _) = try session(policy { $0.syntax = .strict }, lines)
    #expect(refused == ["250", "501", "250", "501"])
    let (passed, events) = try session(
      policy {
        $0.syntax = .strict
        $0.mode = .observe
      }, Self.delivery)
    #expect(passed == ["250", "250", "250", "354", "250"])
    let would = events.filter { $0.event == .wouldReject }
    #expect(would.map(\.own) == [.unknownCommand, .badPathSyntax, .unknownCommand])
    #expect(
      would[1].verb == .mail
        && text(would[1].text.sender, would[1].text.senderCount) == "<a@b.example>")
    // It was delivered: the closing line says that, and what enforce would have done is in the lines before.
    #expect(events.contains { $0.event == .accepted })
  }

  @Test("who leaves HELO out waits for it at MAIL")
  func withoutHelo() throws {
    func wait(_ commands: [String]) throws -> Double {
      var shield = shield(policy())
      let arrived = shield.arrive("192.0.2.7")
      let client = try #require(arrived)
      _ = shield.banner(client)
      let start = shield.driver.now
      for command in commands { #expect(shield.ask(client, command + "\r\n").hasPrefix("250")) }
      return (shield.driver.now - start).inSeconds
    }
    let (with, without) = (
      try wait(["HELO c.example.org", "MAIL FROM:<a@b.example>"]),
      try wait(["MAIL FROM:<a@b.example>"])
    )
    #expect(with > 0.4 && abs(with - without) < 0.05, "\(with) s and \(without) s")
  }

  @Test("a long address is cut for the log, in its brackets or not", arguments: [97, 98, 99, 300])
  func cut(octets: Int) throws {
    let local = String(repeating: "a", count: octets - 10)
    let (codes, events) = try session(
      policy(),
      [
        "HELO c.example.org", "MAIL FROM:\(local)@b.example", "RCPT TO:<d@e.example>", "DATA",
        "x\r\n.",
      ])
    #expect(codes == ["250", "250", "250", "354", "250"])
    let accepted = try #require(events.first { $0.event == .accepted })
    let whole = "<\(local)@b.example>"
    #expect(text(accepted.text.sender, accepted.text.senderCount) == String(whole.prefix(100)))
  }

  private func text(_ bytes: InlineArray<100, UInt8>, _ count: UInt8) -> String {
    String(decoding: (0..<Int(count)).map { bytes[$0] }, as: UTF8.self)
  }
}
