// SPDX-License-Identifier: Apache-2.0
import Flow
import Policy
import Glibc
import Shield
import SMTP
import Simulator
import Structures
import Suspicion
import TestServer
import Testing

/// Clients that do nothing wrong and hold what there is, from few addresses or many.
private struct Crowd {
  enum Habit: String, CaseIterable {
    /// MAIL, and RSET and MAIL again, for ever.
    case mailAndReset
    /// A message, an octet at a time.
    case trickle
    /// EHLO, and NOOP from time to time.
    case idle
    /// STARTTLS, and no handshake.
    case halfHandshake
    /// Nothing at all.
    case silent
  }

  private struct Client {
    let slot: Int
    let address: Int
    var steps = 0
  }

  let habit: Habit
  /// How many addresses it comes from, each of a network of its own.
  let addresses: Int
  /// How many connections it wants to have.
  let wanted: Int
  private var clients: [Client] = []
  private var held: [Int]
  private var next = 0

  init(_ habit: Habit, addresses: Int, wanted: Int) {
    self.habit = habit
    self.addresses = addresses
    self.wanted = wanted
    held = Array(repeating: 0, count: addresses)
  }

  private static func address(_ number: Int) -> String { "60.\(number / 250).\(number % 250).7" }

  /// Each address has as many connections as it gets, and each says what it says next.
  mutating func act(_ shield: inout VirtualShield) {
    for (k, client) in clients.enumerated().reversed()
    where !shield.driver.sockets[client.slot].isOpen
      || shield.driver.sockets[client.slot].isFinished
    {
      shield.driver.end(client.slot)
      held[client.address] -= 1
      clients.remove(at: k)
    }
    // Turn by turn, until an address gets no more.
    let most = (wanted + addresses - 1) / addresses
    for _ in 0..<addresses {
      let address = next % addresses
      next += 1
      while held[address] < most, clients.count < wanted,
        let slot = shield.arrive(Self.address(address))
      {
        held[address] += 1
        clients.append(Client(slot: slot, address: address))
      }
    }
    for k in clients.indices {
      let heard = shield.driver.heard(clients[k].slot).bytes
      if clients[k].steps == 0 && heard.isEmpty { continue }
      speak(&shield, k)
    }
    shield.settle()
  }

  private mutating func speak(_ shield: inout VirtualShield, _ k: Int) {
    let step = clients[k].steps
    clients[k].steps += 1
    let words: String
    switch (habit, step) {
    case (.silent, _): return
    case (_, 0): words = "EHLO client.example.org\r\n"
    case (.mailAndReset, _): words = step % 2 == 1 ? "MAIL FROM:<a@b.c>\r\n" : "RSET\r\n"
    case (.trickle, 1): words = "MAIL FROM:<a@b.c>\r\n"
    case (.trickle, 2): words = "RCPT TO:<d@e.f>\r\n"
    case (.trickle, 3): words = "DATA\r\n"
    case (.trickle, _): words = step % 40 == 0 ? "\r\n" : "x"
    case (.idle, _):
      guard step % 4 == 0 else { return }
      words = "NOOP\r\n"
    case (.halfHandshake, 1): words = "STARTTLS\r\n"
    case (.halfHandshake, _): return
    }
    shield.driver.say(clients[k].slot, words)
  }
}

/// `scripts/test --fast` runs fewer seeds of what is random here; the whole run has all of them.
private let isFast = getenv("SLUICE_TESTS_FAST") != nil

@Suite("A crowd without a bad sign keeps nobody out")
struct CrowdTests {
  /// The proportions of what ships, a fifth of it.
  private static let room = limits {
    $0.connections = 2_000
    $0.sessions = 400
    $0.downstreamConnections = 200
    $0.tlsSessions = 800
    $0.inputBytes = 4_096
    $0.sources = 4_096
  }

  /// How many of 20 strangers, each of an address of its own, get what they came for beside a crowd that has had two
  /// minutes to fill the place.
  private func served(_ habit: Crowd.Habit, from addresses: Int, _ mode: Mode) -> Int {
    var shield = shield(
      shippedShares {
        $0.mode = mode
        $0.listeners[0].tls = .starttls
      }, Self.room)
    shield.driver.handshakeStands = true
    let wanted =
      switch habit {
      case .mailAndReset, .trickle: 250
      case .idle, .halfHandshake: 450
      case .silent: 2_100
      }
    var crowd = Crowd(habit, addresses: addresses, wanted: wanted)
    for _ in 0..<40 {
      crowd.act(&shield)
      shield.advance(by: .seconds(3))
    }
    var served = 0
    for number in 0..<20 {
      crowd.act(&shield)
      served += attempt(&shield, number, habit) ? 1 : 0
      shield.advance(by: .seconds(3))
      _ = shield.events()
    }
    #expect(shield.downstream.breaches == 0)
    return served
  }

  private func attempt(_ shield: inout VirtualShield, _ number: Int, _ habit: Crowd.Habit) -> Bool {
    guard let client = shield.arrive("198.51.\(number).9"), shield.banner(client) != nil
    else { return false }
    defer { shield.driver.end(client) }
    if habit != .halfHandshake { return shield.deliver(client).hasPrefix("250") }
    return shield.ask(client, "EHLO client.example.org\r\n").hasPrefix("250")
      && shield.ask(client, "STARTTLS\r\n").hasPrefix("220")
  }

  @Test(
    "one address, three, ten or a hundred beside strangers: all strangers are served",
    arguments: Crowd.Habit.allCases, [Mode.observe, .enforce])
  fileprivate func strangers(habit: Crowd.Habit, mode: Mode) {
    let all = [1, 3, 10, 100]
    let place = (Crowd.Habit.allCases.firstIndex(of: habit) ?? 0) + (mode == .enforce ? 2 : 0)
    for addresses in isFast ? [all[place % 4]] : all {
      let served = served(habit, from: addresses, mode)
      print("crowd: \(habit) \(mode.name) from \(addresses): \(served) of 20")
      #expect(served == 20, "\(habit) from \(addresses)")
    }
  }
}

@Suite("What one source may hold")
struct ShareTests {
  /// 400 slots, of which a share is 20; of the others 100: a share is ten, and of a network twenty.
  private func shield(_ change: (inout Policy) -> Void = { _ in }) -> VirtualShield {
    ShieldTests.shield(
      shippedShares {
        $0.mode = .observe
        $0.listeners[0].tls = .starttls
        change(&$0)
      },
      limits {
        $0.connections = 400
        $0.sessions = 100
        $0.downstreamConnections = 100
        $0.tlsSessions = 100
      })
  }

  private func greeted(_ shield: inout VirtualShield, _ address: String) -> Int? {
    guard let client = shield.arrive(address), shield.banner(client) != nil else { return nil }
    return shield.ask(client, "EHLO client.example.org\r\n").hasPrefix("250") ? client : nil
  }

  @Test(
    "over its share an address hears 421, others do not, and what it gives back it may have again")
  func slots() throws {
    var shield = shield()
    var clients: [Int] = []
    for _ in 0..<24 { if let client = shield.arrive("192.0.2.1") { clients.append(client) } }
    #expect(clients.count == 20)
    #expect(shield.arrive("192.0.2.2") != nil)
    let entry = try #require(shield.events().first { $0.event == .share })
    #expect(entry.subject == .slotsOfAddress && entry.reply == 421)
    #expect(shield.driver.engine.core.counters.overShareSlots == 4)
    shield.driver.end(clients[0])
    shield.settle()
    #expect(shield.arrive("192.0.2.1") != nil)
  }

  @Test("a session, a downstream connection and a place for TLS over the share: 421, 451, 454")
  func others() throws {
    var shield = shield()
    var clients: [Int] = []
    for _ in 0..<10 { clients.append(try #require(greeted(&shield, "192.0.2.1"))) }
    #expect(greeted(&shield, "192.0.2.1") == nil)
    let refused = try #require(shield.events().first { $0.event == .share })
    #expect(refused.subject == .sessionsOfAddress && refused.reply == 421)
    // Half of the network is left.
    for _ in 0..<10 { clients.append(try #require(greeted(&shield, "192.0.2.2"))) }
    #expect(greeted(&shield, "192.0.2.3") == nil)
    #expect(shield.events().contains { $0.event == .share && $0.subject == .sessionsOfNetwork })
    let stranger = try #require(greeted(&shield, "198.51.100.1"))
    #expect(shield.deliver(stranger).hasPrefix("250"))
  }

  @Test("IPv6: a /64 is one address, a /48 a network")
  func version6() throws {
    var shield = shield()
    for k in 1...10 { #expect(greeted(&shield, "2001:db8:1:1::\(k)") != nil) }
    #expect(greeted(&shield, "2001:db8:1:1::99") == nil)
    for k in 1...10 { #expect(greeted(&shield, "2001:db8:1:2::\(k)") != nil) }
    #expect(greeted(&shield, "2001:db8:1:3::1") == nil)
    #expect(greeted(&shield, "2001:db8:2:3::1") != nil)
  }

  @Test("451 for one downstream connection too many, and the session goes on")
  func links() throws {
    var shield = ShieldTests.shield(
      shippedShares { $0.mode = .observe },
      limits {
        $0.sessions = 60
        $0.downstreamConnections = 20
      })
    var clients: [Int] = []
    for _ in 0..<5 { clients.append(try #require(greeted(&shield, "192.0.2.1"))) }
    for client in clients.prefix(4) {
      #expect(shield.ask(client, "MAIL FROM:<a@b.c>\r\n").hasPrefix("250"))
    }
    #expect(shield.ask(clients[4], "MAIL FROM:<a@b.c>\r\n").hasPrefix("451 4.7.0"))
    #expect(shield.driver.engine.core.counters.overShareLinks == 1)
    // Given back only when the connection is closed.
    _ = shield.ask(clients[0], "QUIT\r\n")
    shield.advance(by: .seconds(10))
    #expect(shield.ask(clients[4], "MAIL FROM:<a@b.c>\r\n").hasPrefix("250"))
  }

  @Test(
    "half-done handshakes have a quarter of the places, and 454 is said to the source that has its part"
  )
  func handshakes() throws {
    var shield = shield()
    shield.driver.handshakeStands = true
    for k in 0..<6 {
      let client = try #require(greeted(&shield, "192.0.2.1"))
      #expect(shield.ask(client, "STARTTLS\r\n").hasPrefix(k < 5 ? "220" : "454"))
    }
    let stranger = try #require(greeted(&shield, "198.51.100.1"))
    #expect(shield.ask(stranger, "STARTTLS\r\n").hasPrefix("220"))
    #expect(shield.driver.engine.core.counters.overShareTLS == 1)
  }

  @Test("who is trusted has no share, and who has delivered four times as much")
  func exempt() throws {
    var shield = ShieldTests.shield(
      shippedShares(access: "192.0.2.1/32 trusted\n") { $0.mode = .observe },
      limits {
        $0.connections = 200
        $0.sessions = 200
      })
    for _ in 0..<30 { #expect(greeted(&shield, "192.0.2.1") != nil) }
    let sender = try #require(greeted(&shield, "198.51.100.1"))
    #expect(shield.deliver(sender).hasPrefix("250"))
    for _ in 0..<30 { #expect(greeted(&shield, "198.51.100.1") != nil) }
    // A neighbour of the trusted one has what it would have without it.
    for _ in 0..<10 { #expect(greeted(&shield, "192.0.2.2") != nil) }
  }

  @Test("when all are gone nothing is held")
  func audit() throws {
    var shield = shield()
    var clients: [Int] = []
    for k in 0..<40 {
      guard let client = greeted(&shield, "192.0.\(k % 4).1") else { continue }
      clients.append(client)
      if k % 3 == 0 { _ = shield.ask(client, "MAIL FROM:<a@b.c>\r\n") }
      if k % 3 == 1 { _ = shield.ask(client, "STARTTLS\r\n") }
    }
    #expect(shield.driver.engine.sharesAreEmpty == false)
    for client in clients { shield.driver.reset(client) }
    shield.advance(by: .seconds(10))
    #expect(shield.driver.engine.heldCount == 0 && shield.driver.engine.linkCount == 0)
    #expect(shield.driver.engine.sharesAreEmpty == true)
  }
}
