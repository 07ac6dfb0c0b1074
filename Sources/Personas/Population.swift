// SPDX-License-Identifier: Apache-2.0
public import Structures

/// A client of a persona, from its first connection to its last: a bot, or a message on its way.
public struct Client: Sendable, BitwiseCopyable {
  /// Which entry of the scenario it belongs to.
  public var entry: UInt16
  /// Index among the personas.
  public var persona: UInt16
  /// Connections so far.
  public var attempt: UInt16 = 0
  /// How many connections there will be at most; 65,535 and more: without end.
  public var attemptsMost: UInt16
  /// From 1, in the order in which they began.
  public var number: UInt32
  /// Which of those it is that the client opened at once, each with its own retries.
  var copy: UInt16 = 0
  /// Whether it ever got something through.
  public var hasDelivered = false
  /// Microseconds of the run.
  public var firstAt: Int64
  /// Where it comes from, at this try.
  public var address: Address

  /// Nobody, from nowhere: what a table of clients is full of at first.
  public static let nobody = Client(
    entry: 0, persona: 0, attemptsMost: 0, number: 0, firstAt: 0,
    address: Address(high: 0, low: 0))
}

/// All clients of a scenario: which begin when and from where, which come back, and what became of them. Without
/// I/O and without a clock; the simulator and the flood ask it the same questions.
///
/// Times are microseconds of the run.
public struct Population: Sendable {
  /// All that the scenario may name.
  public let personas: [Persona]
  /// The same by reference, as actors want them.
  public let shared: [SharedPersona]
  /// As it was given.
  public let scenario: Scenario
  /// Index of the persona of each entry of the scenario.
  public let personaOf: [Int]
  /// All findings by entry, but how connections ended: that is counted by number, which is cheaper than by name.
  private var found: [PersonaFindings]
  private var endings: [Int]
  private let plan: AddressPlan
  private var random: SeededGenerator
  /// By entry, for when clients begin and for what they are. Chances of their own, because a simulated run and a
  /// real one ask in another order: both have the same clients at the same moments.
  private var arriving: [SeededGenerator]
  private var beginning: [SeededGenerator]
  /// Everything that happens by chance follows from it.
  public let seed: UInt64
  private var begun: UInt32 = 0
  /// Connections that the last client opened at once.
  private var copies: UInt16 = 0

  /// - Parameters:
  ///   - scenario: its entries name personas; one that is not among them ends the process, so check before.
  ///   - firstOctet: the IPv4 network /8 that all addresses are in: 10 in a simulation, 127 on loopback.
  public init(personas: [Persona], scenario: Scenario, seed: UInt64, firstOctet: UInt8 = 10) {
    self.personas = personas
    shared = personas.map { SharedPersona($0) }
    self.scenario = scenario
    self.seed = seed
    personaOf = scenario.entries.map { entry in
      guard let index = personas.firstIndex(where: { $0.id == entry.persona }) else {
        invariantFailed(
          "the scenario \(scenario.name) has a persona \(entry.persona) that is not there")
      }
      return index
    }
    found = personaOf.map {
      PersonaFindings(
        id: personas[$0].id, name: personas[$0].name, kind: personas[$0].kind.rawValue)
    }
    endings = Array(repeating: 0, count: found.count * Self.endingsEach)
    plan = AddressPlan(personas: personaOf.map { personas[$0] }, firstOctet: firstOctet)
    random = SeededGenerator(seed: seed)
    arriving = scenario.entries.map { _ in SeededGenerator(seed: 0) }
    beginning = arriving
    for entry in arriving.indices {
      arriving[entry] = SeededGenerator(seed: random.next())
      beginning[entry] = SeededGenerator(seed: random.next())
    }
  }

  /// By entry of the scenario.
  public var findings: [PersonaFindings] {
    var all = found
    for entry in all.indices {
      for ending in Ending.allCases where ending != .impatient {
        all[entry].endings[ending.name] = count(entry, Int(ending.rawValue))
      }
      for stage in Awaited.allCases {
        all[entry].endings[Self.left(at: stage)] = count(
          entry, Ending.allCases.count + Int(stage.rawValue))
      }
    }
    return all
  }

  /// Of each ending, and of those that lost patience by stage.
  private static let endingsEach = Ending.allCases.count + Awaited.allCases.count

  /// Nil instead of 0, which is not listed.
  private func count(_ entry: Int, _ place: Int) -> Int? {
    let count = endings[entry * Self.endingsEach + place]
    return count > 0 ? count : nil
  }

  private static func left(at stage: Awaited) -> String {
    "\(Ending.impatient.name): \(stage.name)"
  }

  private static func draw(_ random: inout SeededGenerator) -> Double {
    Double(random.next() >> 11) * 0x1p-53
  }
  private mutating func draw() -> Double { Self.draw(&random) }

  /// What kind of client it is.
  public func persona(_ client: Client) -> Persona { personas[Int(client.persona)] }

  /// Lines of an access table that block lists would amount to, in `cidr_table(5)` syntax: "10.1.2.0/24 bad".
  public var listedLines: String {
    scenario.listedAre.isEmpty ? "" : plan.listed(action: scenario.listedAre)
  }

  /// When the next client of an entry begins, after `now`; nil if none does before the scenario ends.
  public mutating func nextArrival(_ entry: Int, after now: Int64) -> Int64? {
    let rate = scenario.entries[entry].rate
    guard rate > 0 else { return nil }
    let isBot = shared[personaOf[entry]].value.kind == .bot
    var time = Double(now) / 1_000_000
    // Arrivals are Poisson's: at each change of the rate one may draw anew.
    while time < scenario.duration {
      var factor = 1.0
      var change = scenario.duration
      for burst in scenario.bursts where isBot {
        let end = burst.at + burst.lasting
        if time >= burst.at && time < end { factor *= burst.times }
        for edge in [burst.at, end] where edge > time { change = min(change, edge) }
      }
      let wait = -Distribution.log(max(1 - Self.draw(&arriving[entry]), 1e-300)) / (rate * factor)
      if time + wait < change { return Int64((time + wait) * 1_000_000) }
      time = change
    }
    return nil
  }

  /// A client of an entry begins. How many connections it opens at once is `concurrency` of its persona.
  public mutating func begin(_ entry: Int, now: Int64) -> Client {
    begun += 1
    copies = 0
    found[entry].clients += 1
    func draw() -> Double { Self.draw(&beginning[entry]) }
    var client = Client(
      entry: UInt16(entry), persona: UInt16(personaOf[entry]), attemptsMost: 1, number: begun,
      firstAt: now, address: plan.address(entry, draw(), draw(), draw()))
    client.attemptsMost = Self.attempts(shared[personaOf[entry]], &beginning[entry])
    return client
  }

  private static func attempts(_ persona: SharedPersona, _ random: inout SeededGenerator) -> UInt16
  {
    func draw() -> Double { Self.draw(&random) }
    if persona.value.tries.isEmpty {
      if persona.value.attempts == .const(0) {
        return UInt16(min(persona.value.retries.count + 1, 65_535))
      }
      return UInt16(min(max(persona.value.attempts.value(at: draw()).rounded(), 1), 65_535))
    }
    let sum = persona.value.tries.reduce(0, +)
    var left = draw() * sum
    for (k, share) in persona.value.tries.enumerated() {
      left -= share
      // The files' last classes are 5 to 10, 11 to 20 and more: see tuning/personas.
      if left < 0 {
        switch k {
        case 0..<4: return UInt16(k + 1)
        case 4: return UInt16(5 + draw() * 6)
        case 5: return UInt16(11 + draw() * 10)
        default: return 21
        }
      }
    }
    return 1
  }

  /// How many connections a client opens at once.
  public mutating func concurrency(_ client: Client) -> Int {
    let draw = Self.draw(&beginning[Int(client.entry)])
    let concurrency = shared[Int(client.persona)].value.concurrency
    let count = max(1, Int(concurrency.value(at: draw).rounded()))
    found[Int(client.entry)].series += count
    return count
  }

  /// A connection of a client begins.
  ///
  /// - Returns: the seed of its actor.
  public mutating func connects(_ client: inout Client) -> UInt64 {
    if client.attempt == 0 {
      // Connections that a client opens at once are copies of it: each has chances of its own.
      client.copy = copies
      copies &+= 1
    }
    client.attempt += client.attempt < 65_535 ? 1 : 0
    found[Int(client.entry)].connections += 1
    if shared[Int(client.persona)].value.rotates && client.attempt > 1 {
      client.address = plan.address(Int(client.entry), draw(), draw(), draw())
    }
    let place = UInt64(client.number) << 32 | UInt64(client.copy) << 16 | UInt64(client.attempt)
    return seed &* 0x9E37_79B9_7F4A_7C15 ^ place
  }

  /// A TLS handshake of a client begins.
  public mutating func secures(_ client: Client) { found[Int(client.entry)].handshakes += 1 }

  /// The run is over and this connection was still there: how long it would have lasted nobody knows.
  public mutating func stillThere(_ client: Client, _ actor: Actor, letThrough: Bool, now: Int64) {
    let entry = Int(client.entry)
    within(entry, actor, letThrough, now)
    endings[entry * Self.endingsEach + Int(Ending.none.rawValue)] += 1
    found[entry].delivered += Int(actor.delivered)
    if letThrough { found[entry].letThrough += 1 }
    if actor.greetedAt >= 0 {
      found[entry].banner.add(Double(actor.greetedAt - actor.openedAt) / 1_000_000)
    }
  }

  /// How much of a connection lies within the scenario, and what came of one that began in it.
  private mutating func within(_ entry: Int, _ actor: Actor, _ letThrough: Bool, _ now: Int64) {
    let end = Int64(scenario.duration * 1_000_000)
    if actor.openedAt < end {
      found[entry].begunWithin += 1
      found[entry].letThroughWithin += letThrough ? 1 : 0
      found[entry].deliveredWithin += Int(actor.delivered)
      found[entry].secondsWithin += Double(min(now, end) - actor.openedAt) / 1_000_000
    }
  }

  /// A connection has ended.
  ///
  /// - Parameters:
  ///   - letThrough: whether the mail server behind judged a recipient of it.
  ///   - byFault: whether the network or the mail server broke in the middle of it, as the scenario has it.
  /// - Returns: when the client connects again; nil if it is through with it.
  public mutating func ended(
    _ client: inout Client, _ actor: Actor, letThrough: Bool, byFault: Bool = false, now: Int64
  ) -> Int64? {
    let entry = Int(client.entry)
    let ending = actor.ending
    let seconds = Double(now - actor.openedAt) / 1_000_000
    let place =
      ending == .impatient
      ? Ending.allCases.count + Int(actor.endedAt.rawValue) : Int(ending.rawValue)
    endings[entry * Self.endingsEach + place] += 1
    found[entry].held.add(seconds)
    within(entry, actor, letThrough, now)
    if ending == .impatient { found[entry].leftAfter.add(seconds) }
    if actor.greetedAt >= 0 {
      found[entry].banner.add(Double(actor.greetedAt - actor.openedAt) / 1_000_000)
    }
    if letThrough { found[entry].letThrough += 1 }
    found[entry].delivered += Int(actor.delivered)
    if actor.isShakingHands && (ending == .broken || ending == .cutOff) {
      found[entry].handshakesFailed += 1
    }
    if actor.delivered > 0 { client.hasDelivered = true }
    return next(&client, actor, shared[Int(client.persona)], byFault, now)
  }

  /// When a client connects again whose connection has ended; notes what it has lost if it does not.
  private mutating func next(
    _ client: inout Client, _ actor: Actor, _ persona: SharedPersona, _ byFault: Bool, _ now: Int64
  ) -> Int64? {
    let entry = Int(client.entry)
    let ending = actor.ending
    switch persona.value.kind {
    case .sender:
      if actor.delivered > 0 {
        found[entry].delay.add(Double(now - client.firstAt) / 1_000_000)
        return nil
      }
      let next = Int(client.attempt) - 1
      if ending != .rejected, client.attempt < client.attemptsMost,
        next < persona.value.retries.count
      {
        let at = now + Int64(persona.value.retries[next] * (0.9 + 0.2 * draw()) * 1_000_000)
        if Double(at - client.firstAt) / 1_000_000 <= persona.value.life { return at }
      }
      let reason =
        ending == .impatient
        ? Self.left(at: actor.endedAt)
        : "\(ending.name), \(actor.lastWord) at \(actor.endedAt.name)"
      found[entry].lost[reason, default: 0] += 1
      // A client that tries only once loses mail when its connection breaks; no shield could have saved it.
      if byFault && client.attempt == 1 { found[entry].lostByFault += 1 }
      return nil
    case .probe:
      if ending != .done && ending != .delivered {
        let reason = ending == .impatient ? Self.left(at: actor.endedAt) : ending.name
        found[entry].lost[reason, default: 0] += 1
      }
      return nil
    case .bot:
      let isSlow = ending == .impatient && persona.value.remembersSlow > 0
      let isEndless = client.attemptsMost == 65_535
      if client.attempt < client.attemptsMost || isEndless, !isSlow {
        let at = now + Int64(persona.value.again.value(at: draw()) * 1_000_000)
        // A client that returns endlessly stops at the scenario's end.
        return isEndless && Double(at) >= scenario.duration * 1_000_000 ? nil : at
      }
      if !client.hasDelivered { found[entry].gaveUp += 1 }
      return nil
    }
  }
}

/// Which addresses the clients of each entry come from.
///
/// Each entry has networks of its own, one after the other: /24 of IPv4 in one /8, /64 of IPv6.
struct AddressPlan: Sendable {
  private struct Part: Sendable {
    var first: Int
    var networks: Int
    var perNetwork: Int
    var zipf: Double
    var ipv6: Double
    var listed: Double
  }

  private var parts: [Part] = []
  private let firstOctet: UInt8

  init(personas: [Persona], firstOctet: UInt8) {
    self.firstOctet = firstOctet
    var next = 1
    for persona in personas {
      let each = min(max(persona.perNetwork, 1), 254)
      let networks = max(1, (persona.addresses + each - 1) / each)
      parts.append(
        Part(
          first: next, networks: networks, perNetwork: each, zipf: persona.zipf, ipv6: persona.ipv6,
          listed: persona.listed))
      next += networks
    }
  }

  /// Three draws choose the family, the network and the host.
  func address(_ entry: Int, _ family: Double, _ place: Double, _ host: Double) -> Address {
    let part = parts[entry]
    let network = part.first + Self.zipf(place, part.networks, part.zipf)
    let number = 1 + Int(host * Double(part.perNetwork))
    if family < part.ipv6 {
      return Address(
        high: 0xFD00_0000_0000_0000 | UInt64(truncatingIfNeeded: network), low: UInt64(number))
    }
    // After 65,535 networks they come round.
    let bits = UInt32(firstOctet) << 24 | UInt32(network & 0xFFFF) << 8 | UInt32(number)
    return Address(v4: bits)
  }

  /// Which share of all clients are in the first `rank` of `count` networks, 0…1.
  static func reach(_ rank: Int, _ count: Int, _ exponent: Double) -> Double {
    let (x, n) = (Double(rank), Double(count))
    if exponent <= 0 { return x / n }
    if abs(exponent - 1) < 1e-6 { return Distribution.log(x + 1) / Distribution.log(n + 1) }
    let power = 1 - exponent
    let part = Distribution.exp(power * Distribution.log(x + 1)) - 1
    return part / (Distribution.exp(power * Distribution.log(n + 1)) - 1)
  }

  /// The rank, from 0, of the place `draw` in Zipf's law with this exponent, by its continuous form.
  static func zipf(_ draw: Double, _ count: Int, _ exponent: Double) -> Int {
    let n = Double(count)
    let x: Double
    if exponent <= 0 {
      x = draw * n
    } else if abs(exponent - 1) < 1e-6 {
      x = Distribution.exp(draw * Distribution.log(n + 1)) - 1
    } else {
      let power = 1 - exponent
      let top = Distribution.exp(power * Distribution.log(n + 1)) - 1
      x = Distribution.exp(Distribution.log(draw * top + 1) / power) - 1
    }
    return min(max(Int(x), 0), count - 1)
  }

  /// Which networks of a part block lists know: a fixed choice, so that both of the networks and of the clients
  /// in them the share that was asked for is known, though a few networks have most of the clients.
  private func listed(_ part: Part) -> [Int] {
    var found: [Int] = []
    var excess = 0.0
    for rank in 0..<part.networks {
      let weight =
        Self.reach(rank + 1, part.networks, part.zipf) - Self.reach(rank, part.networks, part.zipf)
      let (with, without) = (excess + (1 - part.listed) * weight, excess - part.listed * weight)
      if abs(with) <= abs(without) {
        found.append(part.first + rank)
        excess = with
      } else {
        excess = without
      }
    }
    return found
  }

  private func hosts(_ part: Part, _ action: String) -> String {
    var lines = ""
    var excess = 0.0
    for network in part.first..<(part.first + part.networks) {
      for host in 1...part.perNetwork {
        excess += part.listed
        if excess < 0.5 { continue }
        excess -= 1
        if part.ipv6 < 1 {
          lines += "\(firstOctet).\(network >> 8 & 255).\(network & 255).\(host)/32 \(action)\n"
        }
        if part.ipv6 > 0 {
          lines += "fd00:0:\(hex(network))::\(String(host, radix: 16)) \(action)\n"
        }
      }
    }
    return lines
  }

  /// The two groups of a network's number.
  private func hex(_ network: Int) -> String {
    "\(String(network >> 16, radix: 16)):\(String(network & 0xFFFF, radix: 16))"
  }

  func listed(action: String) -> String {
    var lines = ""
    for part in parts where part.listed > 0 {
      // Few networks cannot be divided by shares: their hosts are.
      if part.networks < 20 {
        lines += hosts(part, action)
        continue
      }
      for network in listed(part) {
        if part.ipv6 < 1 {
          lines += "\(firstOctet).\(network >> 8 & 255).\(network & 255).0/24 \(action)\n"
        }
        if part.ipv6 > 0 {
          lines += "fd00:0:\(hex(network))::/64 \(action)\n"
        }
      }
    }
    return lines
  }
}
