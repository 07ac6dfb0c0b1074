// SPDX-License-Identifier: Apache-2.0
import Foundation
import Policy
import Shield
import Simulator
import Structures
import Suspicion
import TestServer
import Testing

/// `scripts/test --fast` runs fewer seeds of what is random here; the whole run has all of them.
private let isFast = getenv("SLUICE_TESTS_FAST") != nil

@Suite("Whatever clients and downstream do")
struct ChaosTests {
  private static let lines = [
    "EHLO client.example.org\r\n", "HELO friend\r\n", "HELO mx.example.test\r\n",
    "HELO [10.0.0.1]\r\n",
    "MAIL FROM:<a@b.c>\r\n", "MAIL FROM:<>\r\n", "RCPT TO:<d@e.f>\r\n", "RCPT TO:<bad@e.f>\r\n",
    "DATA\r\n", "text of a message\r\n", ".\r\n", "..stuffed\r\n", "RSET\r\n", "NOOP\r\n",
    "QUIT\r\n",
    "VRFY x\r\n", "WIBBLE\r\n", "GET / HTTP/1.1\r\n", "bare\n", "cr\rx", "\0", "\u{16}\u{3}\u{1}",
    "AUTH PLAIN AA==\r\n", "STARTTLS\r\n", "DATA\r\nearly\r\n.\r\n",
    "MAIL FROM:<a@b.c>\r\nRCPT TO:<d@e.f>\r\nDATA\r\n", "hello\r\n.\r\nQUIT\r\n",
    "EHLO client.example.org\r\n",
    "MAIL FROM:<a@b.c>\r\nRCPT TO:<bad@e.f>\r\nRCPT TO:<d@e.f>\r\nRCPT TO:<bad@e.f>\r\nDATA\r\n",
    "RSET\r\nMAIL FROM:<a@b.c>\r\n" + String(repeating: "RCPT TO:<d@e.f>\r\n", count: 20),
    "RCPT TO:<d@e.f>\r\nRCPT TO:<d@e.f> NOTIFY=NEVER\r\nNOOP\r\nRCPT TO:<d@e.f>\r\nDATA\r\nearly",
    String(repeating: "x", count: 3_000), String(repeating: "long text ", count: 400) + "\r\n",
  ]

  private static let answers: [ServerScript.Answer] = [
    .reply("250 2.0.0 Fine"), .reply("550 5.1.1 No"), .reply("451 4.3.0 Later"),
    .reply("421 4.3.2 Bye"), .reply("354 What"), .close, .silence, .raw(Array("garbage\r\n".utf8)),
    .raw(Array("250 a\r\n250 b\r\n".utf8)), .raw(Array("250-half".utf8)),
    .reply("250-a\r\n250-b\r\n250 c"),
  ]

  private static let starttls = ServerScript.Rule(
    prefix: "STARTTLS", answer: .reply("220 2.0.0 Go"))

  /// What one run came to, for comparing runs.
  private struct Outcome: Equatable {
    var heard: [String] = []
    var taken = 0
    var accepted = 0
    var told = 0
    /// What clients and the downstream heard, as sets of texts: in which order they ended makes no difference.
    var wire: UInt64 = 0
  }

  /// Plays a random world against the engine and holds it to its promises.
  private func play(_ seed: UInt64, receiveMax: Int = .max, check: Bool = true) -> Outcome {
    var random = SeededGenerator(seed: seed)
    let mode: Mode = random.next() % 8 == 0 ? .observe : .enforce
    let listeners: [ListenerTLS] = [.off, .starttls, .implicit, .passThrough]
    let tls = listeners[Int(random.next() % 4)]
    var shield = shield(
      policy(
        access: "127.0.5.0/24 trusted\n127.0.2.0/24 suspicious\n127.0.3.0/24 bad\n",
        rates: "127.0.4.0/24 bytes=2k/s msgs=3/min conn=10/min concurrency=3\n"
      ) {
        $0.mode = mode
        $0.listeners[0].role = random.next() % 4 == 0 ? .outbound : .inbound
        $0.listeners[0].tls = tls
        $0.authOnClear = random.next() % 2 == 0
        if random.next() % 4 == 0 { $0.bareNewline = .reject }
        $0.session.errors = 20
      },
      limits {
        $0.connections = 12; $0.sessions = 6; $0.downstreamConnections = 4; $0.tlsSessions = 4
      }, seed: seed)
    shield.driver.receiveMax = receiveMax
    shield.downstream.script.offers += ["AUTH PLAIN LOGIN", "STARTTLS"]
    let modes: [DownstreamTLS] = [.off, .opportunistic, .required, .verify]
    shield.driver.speak(tls: modes[Int(random.next() % 4)], implicit: random.next() % 4 == 0)
    shield.downstream.script.rules = [Self.starttls]
    var outcome = Outcome()
    var clients: [Int] = []
    var texts: [Int: String] = [:]
    var finished: [String] = []
    for _ in 0..<200 {
      switch random.next() % 20 {
      case 0...2:
        let source = "127.0.\(random.next() % 6).\(random.next() % 3 + 1)"
        if let client = shield.arrive(source, port: UInt16(random.next() % 60_000 + 1)) {
          // The place of one that was closed meanwhile.
          if let old = texts[client] { finished.append(old) }
          clients.removeAll { $0 == client }
          clients.append(client)
          texts[client] = ""
        }
      case 3...12:
        guard let client = clients.randomElement(using: &random) else { break }
        var text = Self.lines.randomElement(using: &random) ?? ""
        if random.next() % 8 == 0 { text = String(text.prefix(Int(random.next() % 5))) }
        shield.driver.say(client, text)
      case 13: clients.randomElement(using: &random).map { shield.driver.end($0) }
      case 14: clients.randomElement(using: &random).map { shield.driver.reset($0) }
      case 15:
        guard let client = clients.randomElement(using: &random) else { break }
        shield.driver.setWindow(client, random.next() % 2 == 0 ? .max : Int(random.next() % 40))
      case 16:
        let moments = [
          "connect", "EHLO", "MAIL", "RCPT", "DATA", "dot", "RSET", "AUTH", "STARTTLS",
        ]
        let rule = ServerScript.Rule(
          prefix: moments.randomElement(using: &random) ?? "MAIL",
          answer: Self.answers.randomElement(using: &random) ?? .close)
        let bad = ServerScript.Rule(
          prefix: "RCPT TO:<bad", answer: .reply("550 5.1.1 Who is that"))
        switch random.next() % 4 {
        case 0: shield.downstream.script.rules = [rule]
        case 1: shield.downstream.script.rules = [bad, rule]
        case 2: shield.downstream.script.rules = [bad]
        default: shield.downstream.script.rules = []
        }
        shield.downstream.script.rules.append(Self.starttls)
        shield.driver.handshakeFault =
          [nil, nil, nil, .noCipher, .certificate][Int(random.next() % 5)]
        shield.driver.handshakeStands = random.next() % 8 == 0
      case 17:
        shield.driver.downstreamListens = random.next() % 4 != 0
        // It takes little, and says what nobody asked for.
        if let link = shield.driver.dialled.suffix(3).randomElement(using: &random) {
          switch random.next() % 4 {
          case 0: shield.driver.setWindow(link, Int(random.next() % 200))
          case 1: shield.driver.setWindow(link, .max)
          case 2:
            let words = ["250 2.0.0 Fine\r\n", "354 Go on\r\n", "250 a\r\n354 b\r\n", "55"]
            shield.driver.say(link, words.randomElement(using: &random) ?? "")
          default: break
          }
        }
      default:
        shield.advance(by: .milliseconds(Int(random.next() % 30_000)))
      }
      shield.settle()
      for client in clients { texts[client, default: ""] += shield.heard(client) }
    }
    // The probes that go on for ever shall find nobody.
    shield.downstream.script.rules = []
    shield.driver.downstreamListens = false
    for client in clients {
      shield.driver.setWindow(client, .max)
      texts[client, default: ""] += shield.heard(client)
      shield.driver.reset(client)
    }
    shield.advance(by: .seconds(7_300))
    finished += clients.compactMap { texts[$0] }
    for text in finished {
      // The reply to a final dot that the scripted downstream accepted is like no other.
      outcome.taken += text.components(separatedBy: "250 2.0.0 Taken").count - 1
      outcome.heard.append(text)
      // What passes unread may be anything.
      guard check, tls != .passThrough else { continue }
      for line in text.split(separator: "\r\n", omittingEmptySubsequences: false).dropLast() {
        let bytes = Array(line.utf8)
        let fine =
          bytes.count >= 4 && bytes[0] >= 50 && bytes[0] <= 53
          && (bytes[3] == 32 || bytes[3] == 45)
        #expect(fine, "seed \(seed): a client heard '\(line)'")
      }
    }
    outcome.accepted = shield.downstream.accepted.count
    outcome.told = shield.downstream.lines.count
    for text in finished { outcome.wire &+= fingerprint("C", text) }
    for line in shield.downstream.lines { outcome.wire &+= fingerprint("D", "\(line)") }
    for message in shield.downstream.accepted { outcome.wire &+= fingerprint("M", "\(message)") }
    if check {
      #expect(
        outcome.taken <= outcome.accepted,
        "seed \(seed): \(outcome.taken) acknowledged, \(outcome.accepted) accepted")
      #expect(
        tls == .passThrough || shield.downstream.breaches == 0,
        "seed \(seed): bare line ends went downstream")
      #expect(shield.driver.engine.heldCount == 0, "seed \(seed): a slot was not freed")
      #expect(shield.driver.engine.linkCount == 0, "seed \(seed): a link was not freed")
      #expect(shield.driver.engine.leasedSessions == 0, "seed \(seed): a session was not returned")
      #expect(
        shield.driver.engine.sharesAreEmpty == true, "seed \(seed): a share was not given back")
    }
    return outcome
  }

  @Test("no reply is ours to give, nothing leaks, nothing breaks", arguments: 0..<8)
  func promises(part: Int) {
    for seed in (part * 40)..<(part * 40 + (isFast ? 8 : 40)) { _ = play(UInt64(seed)) }
  }

  @Test("the same when every byte arrives alone", arguments: 0..<4)
  func dripped(part: Int) {
    for seed in (part * 10)..<(part * 10 + (isFast ? 3 : 10)) {
      _ = play(UInt64(1_000 + seed), receiveMax: 1)
    }
  }

  /// FNV-1a, 64 bits (draft-eastlake-fnv).
  private func fingerprint(_ kind: String, _ text: String) -> UInt64 {
    var hash: UInt64 = 0xcbf2_9ce4_8422_2325
    for byte in (kind + text).utf8 { hash = (hash ^ UInt64(byte)) &* 0x100_0000_01b3 }
    return hash
  }

  private static let recordedWorlds = URL(fileURLWithPath: #filePath).deletingLastPathComponent()
    .deletingLastPathComponent().appendingPathComponent("Corpus/worlds.txt")

  /// A change of the engine's inside must not change a byte of what it says. One that is meant to is recorded anew,
  /// with SLUICE_RECORD_WORLDS=1 in the environment.
  @Test("the bytes on the wire are those that were recorded")
  func recorded() throws {
    let count = 2_000
    if ProcessInfo.processInfo.environment["SLUICE_RECORD_WORLDS"] != nil {
      let lines = (0..<count).map { seed in
        String(play(10_000 + UInt64(seed), check: false).wire, radix: 16)
      }
      try (lines.joined(separator: "\n") + "\n").write(
        to: Self.recordedWorlds, atomically: true, encoding: .utf8)
    }
    let recorded = try String(contentsOf: Self.recordedWorlds, encoding: .utf8)
      .split(separator: "\n")
    #expect(recorded.count == count)
    // All of them with SLUICE_ALL_WORLDS in the environment; some are enough for each run of the tests.
    let isWhole = ProcessInfo.processInfo.environment["SLUICE_ALL_WORLDS"] != nil
    for (seed, wire) in recorded.enumerated() where isWhole || seed % 20 == 0 {
      let played = String(play(10_000 + UInt64(seed), check: false).wire, radix: 16)
      #expect(played == wire, "world \(seed)")
    }
  }

  @Test("the same seed gives the same run, to the byte")
  func replay() {
    for seed in UInt64(5_000)..<5_010 {
      let first = play(seed, check: false)
      let second = play(seed, check: false)
      #expect(first == second, "seed \(seed)")
    }
  }
}
extension String {
  fileprivate func components(separatedBy separator: String) -> [Substring] {
    var parts: [Substring] = []
    var rest = self[...]
    while let range = rest.firstRange(of: separator) {
      parts.append(rest[..<range.lowerBound])
      rest = rest[range.upperBound...]
    }
    parts.append(rest)
    return parts
  }
}
