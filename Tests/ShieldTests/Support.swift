// SPDX-License-Identifier: Apache-2.0
import Flow
import Policy
import Shield
import Simulator
import Structures
import Suspicion

/// A policy in force, with tables given as text.
func policy(access: String = "", rates: String = "", _ change: (inout Policy) -> Void = { _ in })
  -> Policy
{
  var policy = Policy(
    access: AccessTable.load(content: Array(access.utf8), file: "access.cidr").table,
    rates: RateTable.load(content: Array(rates.utf8), file: "rates.cidr").table)
  policy.mode = .enforce
  policy.hostname = "mx.example.test"
  // Here one address plays many clients; what it may hold is tested with the shares that ship.
  policy.sharePerAddress = 1
  policy.sharePerNetwork = 1
  change(&policy)
  return policy
}

/// The same with the shares that ship.
func shippedShares(
  rates: String = "", access: String = "", _ change: (inout Policy) -> Void = { _ in }
)
  -> Policy
{
  policy(access: access, rates: rates) {
    let shipped = Policy(access: $0.access, rates: $0.rates)
    $0.sharePerAddress = shipped.sharePerAddress
    $0.sharePerNetwork = shipped.sharePerNetwork
    change(&$0)
  }
}

func limits(_ change: (inout Limits) -> Void = { _ in }) -> Limits {
  var limits = Limits()
  limits.connections = 64
  limits.sessions = 32
  limits.downstreamConnections = 32
  limits.buckets = 1_024
  limits.sources = 1_024
  limits.journal = 1_024
  change(&limits)
  return limits
}

/// A shield on a virtual network whose downstream has been asked what it offers.
func shield(_ policy: Policy, _ limits: Limits = limits(), seed: UInt64 = 1) -> VirtualShield {
  var shield = VirtualShield(
    driver: VirtualDriver(engine: Engine(policy: policy, limits: limits, seed: seed)))
  shield.advance(by: .seconds(1))
  return shield
}

extension VirtualDriver {
  /// How the downstream is spoken to from now on.
  mutating func speak(tls: DownstreamTLS, implicit: Bool = false) {
    var server = engine.servers[0]
    server.terms.tls = tls
    server.terms.isImplicitTLS = implicit
    engine.adopt([server], now: now)
  }

  /// So many addresses the downstream has from now on.
  mutating func move(toAddresses count: Int) {
    let addresses = (1...count).map { Address(v4: 0x7F00_0000 + UInt32($0)) }
    engine.adopt(engine.servers.map { $0.moved(to: addresses) }, now: now)
  }
}

extension VirtualShield {
  /// Connects from an address; nil if turned away.
  mutating func arrive(_ address: String, port: UInt16 = 40_000) -> Int? {
    guard let address = Address(address) else { return nil }
    return driver.connect(Peer(address: address, port: port, listener: 0))
  }

  /// Everything a client has heard since last asked.
  mutating func heard(_ client: Int) -> String {
    settle()
    return String(decoding: driver.heard(client).bytes, as: UTF8.self)
  }

  /// Says something and gives what comes back within a while.
  mutating func ask(_ client: Int, _ text: String, within: Duration = .seconds(130)) -> String {
    driver.say(client, text)
    settle()
    let end = driver.now + within
    var answer = heard(client)
    while answer.isEmpty && driver.now < end && driver.sockets[client].isOpen {
      let due = driver.engine.nextDeadline(now: driver.now)
      advance(to: min(max(due, driver.now + .milliseconds(1)), end))
      answer += heard(client)
    }
    return answer
  }

  /// Waits for the banner; gives how long it took in seconds, or nil if none came.
  mutating func banner(_ client: Int, within: Duration = .seconds(300)) -> Double? {
    let start = driver.now
    let text = ask(client, "", within: within)
    return text.hasPrefix("220") ? (driver.now - start).inSeconds : nil
  }

  /// Delivers one message as a patient sender; gives the reply to the final dot.
  mutating func deliver(_ client: Int, helo: String = "client.example.org") -> String {
    for line in ["HELO \(helo)\r\n", "MAIL FROM:<a@b.c>\r\n", "RCPT TO:<d@e.f>\r\n", "DATA\r\n"] {
      let answer = ask(client, line)
      if !(answer.hasPrefix("2") || answer.hasPrefix("3")) { return answer }
    }
    return ask(client, "hello\r\n.\r\n")
  }

  /// All that was written into the journal since last asked.
  mutating func events() -> [JournalEntry] {
    var entries: [JournalEntry] = []
    while let entry = driver.engine.core.journal.next() { entries.append(entry) }
    return entries
  }
}
