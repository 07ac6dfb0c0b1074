// SPDX-License-Identifier: Apache-2.0
import Configuration
import Foundation
import Policy
import Shield
import Simulator
import Structures
import Suspicion
import TestServer
import Testing

let dialogueFolder = URL(fileURLWithPath: #filePath).deletingLastPathComponent()
  .deletingLastPathComponent().appendingPathComponent("Dialogues")

let dialogueFiles: [String] = {
  let names = (try? FileManager.default.contentsOfDirectory(atPath: dialogueFolder.path)) ?? []
  return names.filter { $0.hasSuffix(".txt") }.sorted()
}()

/// Makes a shield on a virtual network for a dialogue's configuration.
func virtualShield(
  configuration text: String, access: String, rates: String, seed: UInt64 = 1,
  adjust: (inout Limits) -> Void = { _ in }
) throws -> VirtualShield {
  let folder = FileManager.default.temporaryDirectory.appendingPathComponent(
    "dialogue-\(UUID().uuidString)")
  try FileManager.default.createDirectory(at: folder, withIntermediateDirectories: true)
  defer { try? FileManager.default.removeItem(at: folder) }
  try access.write(
    to: folder.appendingPathComponent("access.cidr"), atomically: true, encoding: .utf8)
  try rates.write(
    to: folder.appendingPathComponent("rates.cidr"), atomically: true, encoding: .utf8)
  let base = """
    hostname: mx.example.test
    downstream: {address: "127.0.0.1:2600", identity: none}
    tables: {access: access.cidr, rates: rates.cidr}

    """
  let hasMode = text.contains("mode:")
  try (base + (hasMode ? "" : "mode: enforce\n") + text).write(
    to: folder.appendingPathComponent("sluice.yaml"), atomically: true, encoding: .utf8)
  let (loaded, problems) = Configuration.load(
    file: folder.appendingPathComponent("sluice.yaml").path)
  let configuration = try #require(
    loaded, "the configuration is wrong: \(problems.map(\.description).joined())")
  let policy = configuration.enginePolicy
  var limits = configuration.limits
  limits.connections = min(limits.connections, 64)
  limits.sessions = min(limits.sessions, 32)
  limits.downstreamConnections = min(limits.downstreamConnections, 32)
  limits.buckets = min(limits.buckets, 1_024)
  limits.sources = min(limits.sources, 1_024)
  adjust(&limits)
  let engine = Engine(policy: policy, limits: limits, seed: seed)
  return VirtualShield(driver: VirtualDriver(engine: engine))
}

@Suite("Dialogues in virtual time")
struct DialogueTests {
  @Test("there are dialogues")
  func present() { #expect(dialogueFiles.count >= 15) }

  @Test("a dialogue is spoken as written", arguments: dialogueFiles)
  func spoken(file: String) throws {
    try speak(file, receiveMax: .max)
  }

  @Test("a dialogue is the same when every byte comes alone", arguments: dialogueFiles)
  func dripped(file: String) throws {
    try speak(file, receiveMax: 1)
  }

  private func speak(_ file: String, receiveMax: Int) throws {
    let dialogue = try Dialogue(file: dialogueFolder.appendingPathComponent(file))
    if receiveMax == 1 && !dialogue.splits { return }
    var shield = try virtualShield(
      configuration: dialogue.configuration, access: dialogue.access, rates: dialogue.rates)
    shield.driver.receiveMax = receiveMax
    if let offers = dialogue.offers { shield.downstream.script.offers = offers }
    shield.downstream.script.rules = dialogue.rules.map { rule in
      let answer: ServerScript.Answer =
        switch rule.answer {
        case "close": .close
        case "silence": .silence
        default:
          rule.answer.hasPrefix("raw ")
            ? .raw(Dialogue.unescape(String(rule.answer.dropFirst(4))))
            : .reply(rule.answer.replacingOccurrences(of: "\\n", with: "\r\n"))
        }
      return ServerScript.Rule(prefix: rule.prefix, answer: answer)
    }
    if dialogue.rules.contains(where: { $0.prefix == "refuse" }) {
      shield.driver.downstreamListens = false
    }
    // The shield asks its downstream what it offers before the first client comes.
    shield.advance(by: .seconds(1))
    let start = shield.driver.now
    let address = try #require(Address(dialogue.from))
    let admitted = shield.driver.connect(Peer(address: address, port: 40_000, listener: 0))
    let client = try #require(admitted, "the client was turned away")
    var hearing = Hearing()
    var told = shield.downstream.lines.count
    for (line, step) in dialogue.steps {
      let place = "\(file):\(line)"
      shield.settle()
      hearing.add(shield.driver.heard(client))
      switch step {
      case .say(let text): shield.driver.say(client, text + "\r\n")
      case .send(let bytes): shield.driver.say(client, bytes)
      case .wait(let seconds): shield.advance(by: Duration(inSeconds: seconds))
      case .end: shield.driver.end(client)
      case .reset: shield.driver.reset(client)
      case .hear(let expected, let at):
        // Nobody waits for ever: ten minutes is longer than anything in a dialogue.
        let limit = shield.driver.now + .seconds(600)
        while hearing.line == nil && shield.driver.now < limit
          && shield.driver.sockets[client].isOpen
        {
          let due = shield.driver.engine.nextDeadline(now: shield.driver.now)
          shield.advance(to: min(max(due, shield.driver.now + .milliseconds(1)), limit))
          hearing.add(shield.driver.heard(client))
        }
        let heard = hearing.next()
        let text = try #require(heard?.text, "\(place): expected '\(expected)', heard nothing")
        #expect(matches(text, expected), "\(place): expected '\(expected)', heard '\(text)'")
        if let at, let time = heard?.time {
          let seconds = (time - start).inSeconds
          #expect(
            abs(seconds - at) < 0.051, "\(place): expected at \(at) s, heard at \(seconds) s")
        }
      case .closed:
        let limit = shield.driver.now + .seconds(600)
        while !shield.driver.sockets[client].isFinished && shield.driver.now < limit {
          let due = shield.driver.engine.nextDeadline(now: shield.driver.now)
          shield.advance(to: min(max(due, shield.driver.now + .milliseconds(1)), limit))
        }
        hearing.add(shield.driver.heard(client))
        #expect(shield.driver.sockets[client].isFinished, "\(place): it is still open")
        #expect(hearing.rest.isEmpty, "\(place): it said more: \(hearing.rest)")
      case .told(let expected):
        shield.settle()
        let lines = shield.downstream.lines
        let found = lines[told...].firstIndex { matches($0, expected) }
        let place = try #require(
          found, "\(place): downstream was not told '\(expected)', but \(lines[told...])")
        told = place + 1
      case .toldNothing:
        #expect(
          !shield.downstream.lines.contains { $0.uppercased().hasPrefix("MAIL") },
          "\(place): mail reached the downstream: \(shield.downstream.lines)")
      case .stored(let count):
        shield.settle()
        #expect(shield.downstream.accepted.count == count, "\(place): messages stored")
      }
    }
    #expect(shield.downstream.breaches == 0, "the downstream got bare line ends or NULs")
    shield.driver.reset(client)
    shield.advance(by: .seconds(900))
    #expect(shield.driver.engine.heldCount == 0, "a client's slot was not freed")
    #expect(shield.driver.engine.linkCount == 0, "a downstream connection was not freed")
    #expect(shield.driver.engine.leasedSessions == 0, "a session was not given back")
  }

  /// `*` at the end matches any rest.
  private func matches(_ text: String, _ expected: String) -> Bool {
    expected.hasSuffix("*") ? text.hasPrefix(expected.dropLast()) : text == expected
  }
}

/// What a client has heard, cut into lines with the time of each line's last byte.
private struct Hearing {
  private var bytes: [UInt8] = []
  private var times: [Instant] = []

  mutating func add(_ heard: (bytes: [UInt8], times: [Instant])) {
    bytes += heard.bytes
    times += heard.times
  }

  var line: Int? { bytes.firstIndex(of: 10) }

  var rest: String { String(decoding: bytes, as: UTF8.self) }

  mutating func next() -> (text: String, time: Instant)? {
    guard let end = line else { return nil }
    var text = Array(bytes[..<end])
    if text.last == 13 { text.removeLast() }
    let time = times[end]
    bytes.removeFirst(end + 1)
    times.removeFirst(end + 1)
    return (String(decoding: text, as: UTF8.self), time)
  }
}
