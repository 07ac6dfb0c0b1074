// SPDX-License-Identifier: Apache-2.0
import Configuration
import Flow
import Foundation
import Policy
import Shield
import Simulator
import Structures
import Suspicion
import TestServer
import Testing

/// What `explain` says of an address, and what the engine does to a client that comes from it.
@Suite("One judge of arrivals")
struct JudgeTests {
  private static let accessActions = [
    nil, "dunno", "unknown", "permit", "suspicious", "bad", "reject",
  ]
  private static let classes = [nil, "unknown", "trusted", "suspicious", "bad"]
  private static let delays = [nil, "1s", "25s"]

  private struct Case {
    let address: String
    let access: String?
    let rates: String
  }

  /// Each combination under an address of its own.
  private static let cases: [Case] = {
    var cases: [Case] = []
    for access in accessActions {
      for peerClass in classes {
        for delay in delays {
          let settings = [peerClass.map { "class=\($0)" }, delay.map { "delay=\($0)" }]
          cases.append(
            Case(
              address: "198.51.100.\(cases.count + 1)", access: access,
              rates: settings.compactMap { $0 }.joined(separator: " ")))
        }
      }
    }
    return cases
  }()

  /// The same configuration for a shield and for `explain`.
  private struct World: ~Copyable {
    var shield: VirtualShield
    let configuration: Configuration

    private init(_ shield: consuming VirtualShield, _ configuration: Configuration) {
      self.shield = shield
      self.configuration = configuration
    }

    static func made(
      _ settings: String, access: String = "", rates: String = ""
    ) throws -> World {
      let folder = FileManager.default.temporaryDirectory.appendingPathComponent(
        "judge-\(UUID().uuidString)")
      try FileManager.default.createDirectory(at: folder, withIntermediateDirectories: true)
      defer { try? FileManager.default.removeItem(at: folder) }
      for (name, text) in [
        ("access.cidr", access), ("rates.cidr", rates),
        (
          "sluice.yaml",
          "mode: enforce\nhostname: mx.example.test\n"
            + "tables: {access: access.cidr, rates: rates.cidr}\n" + settings
        ),
      ] {
        try text.write(
          to: folder.appendingPathComponent(name), atomically: true, encoding: .utf8)
      }
      let (loaded, problems) = Configuration.load(
        file: folder.appendingPathComponent("sluice.yaml").path)
      let configuration = try #require(loaded, "\(problems.map(\.description).joined())")
      var shield = try virtualShield(configuration: settings, access: access, rates: rates)
      shield.advance(by: .seconds(1))
      return World(shield, configuration)
    }

    /// Connects, and gives what the journal says of the arrival: the tier, the signals, whether it was refused, and how
    /// long its banner is held back.
    mutating func arrive(
      _ address: String
    ) throws -> (client: Int, tier: Tier, signals: SignalSet, refused: Bool, banner: Int64) {
      while shield.driver.engine.core.journal.next() != nil {}
      let peer = Peer(address: try #require(Address(address)), port: 40_000, listener: 0)
      let arrived = shield.driver.connect(peer)
      let client = try #require(arrived)
      var entries: [JournalEntry] = []
      while let entry = shield.driver.engine.core.journal.next() { entries.append(entry) }
      let connect = try #require(entries.first { $0.event == .connect })
      let wait = entries.first { $0.event == .delay && $0.stage == .banner }?.micros ?? 0
      return (
        client, connect.tier, connect.signals, entries.contains { $0.event == .reject }, wait
      )
    }
  }

  @Test(
    "whatever the tables say of an address, the engine and `explain` make the same of it",
    arguments: ["enforce", "observe", "ignore"])
  func combinations(action: String) throws {
    var access = ""
    var rates = ""
    for one in Self.cases {
      if let word = one.access { access += "\(one.address) \(word)\n" }
      if !one.rates.isEmpty { rates += "\(one.address) \(one.rates)\n" }
    }
    var world = try World.made(
      "signals: {listed_suspicious: {action: \(action)}, listed_bad: {action: \(action)}}\n",
      access: access, rates: rates)
    #expect(Self.cases.count == 105)
    for one in Self.cases {
      let what = "\(one.access ?? "no rule") and '\(one.rates)', \(action)"
      let told = Explanation(of: try #require(Address(one.address)), in: world.configuration)
      let met = try world.arrive(one.address)
      #expect(told.standing.tier == met.tier, "\(what)")
      #expect(told.standing.signals == met.signals, "\(what)")
      #expect(told.standing.isRefused == met.refused, "\(what)")
      let banner = try #require(told.stages.first { $0.stage == .banner }).now
      if !met.refused && met.tier != .bad { #expect(banner == met.banner, "\(what)") }
      #expect((told.outcome == .refused) == (met.refused || met.tier == .bad), "\(what)")
      world.shield.driver.reset(met.client)
      world.shield.settle()
    }
  }

  @Test("what `explain` says of a client that the daemon remembers is what the daemon does")
  func remembered() throws {
    var world = try World.made("reputation: {good_for: 1d, bad_for: 1h}\n")
    let good = "203.0.113.1"
    let first = try world.arrive(good)
    world.shield.advance(by: .seconds(5))
    for line in ["HELO a.example.org", "MAIL FROM:<a@b.c>", "RCPT TO:<d@e.f>", "DATA", "."] {
      world.shield.driver.say(first.client, line + "\r\n")
      world.shield.advance(by: .seconds(1))
    }
    #expect(world.shield.downstream.accepted.count == 1)
    world.shield.driver.reset(first.client)
    let bad = "203.0.113.77"
    let early = try world.arrive(bad)
    world.shield.driver.say(early.client, "EHLO early\r\n")
    world.shield.driver.reset(early.client)
    world.shield.advance(by: .seconds(1))
    for (address, isBad) in [(good, false), (bad, true)] {
      let told = try #require(Explanation(of: address, in: world.configuration))
      #expect(told.standing.tier == .clean)
      let remembered = try #require(isBad ? told.ifBad : told.ifKnown)
      let met = try world.arrive(address)
      #expect(remembered.tier == met.tier && remembered.banner == met.banner, "\(address)")
      #expect(met.tier == (isBad ? .suspicious : .known))
      #expect(met.banner == (isBad ? 22_000_000 : 0))
      #expect(
        told.description.contains("a new client would be delayed, then let through; see history"))
      #expect(told.description.contains("it was proven bad: T2, banner after 22s"))
      #expect(told.description.contains("its mail was accepted: T0, banner after 0s"))
    }
  }

  @Test("one early talk makes T3, and `explain` says so")
  func earlyTalk() throws {
    var world = try World.made("")
    let met = try world.arrive("203.0.113.5")
    world.shield.driver.say(met.client, "EHLO early\r\n")
    world.shield.settle()
    var entries: [JournalEntry] = []
    while let entry = world.shield.driver.engine.core.journal.next() { entries.append(entry) }
    #expect(entries.last?.tier == .bad)
    let told = try #require(Explanation(of: "203.0.113.5", in: world.configuration))
    #expect(told.proofs == [.pregreet, .nonSMTP])
    let banner = try #require(told.stages.first { $0.stage == .banner })
    #expect(banner.next == 22_000_000 && banner.worst == 110_000_000)
    #expect(
      told.description.contains("T3: held, never let through; one of these is enough: pregreet"))
    #expect(!told.description.contains("at most, if it misbehaves"))
    let mild = try World.made(
      "signals: {pregreet: {proof: no}, non_smtp: {proof: no}}\n",
      access: "203.0.113.5 suspicious\n")
    let clean = try #require(Explanation(of: "203.0.113.4", in: mild.configuration))
    #expect(clean.nextTier == .suspicious && clean.stages.allSatisfy { $0.worst == nil })
    let suspect = try #require(Explanation(of: "203.0.113.5", in: mild.configuration))
    #expect(suspect.nextTier == nil && !suspect.description.contains("T3"))
  }
}
