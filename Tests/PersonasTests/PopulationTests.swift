// SPDX-License-Identifier: Apache-2.0
import Structures
import Testing

@testable import Personas

/// What became of one connection: an actor that has heard these replies and then lost patience or its peer.
private func actor(_ persona: Persona, hearing replies: [String], leavesAt: Double? = nil) -> Actor
{
  let persona = SharedPersona(persona)
  var actor = Actor()
  _ = actor.opened(persona, seed: 1, now: 0)
  for reply in replies {
    let bytes = Array((reply + "\r\n").utf8)
    _ = actor.heard(bytes.span, persona, now: 1_000)
  }
  if let leavesAt { _ = actor.timer(persona, now: Int64(leavesAt * 1_000_000)) }
  return actor
}

private let accepted = ["220 a", "250 a", "250 a", "250 a", "354 a", "250 a", "221 a"]

private func population(
  _ persona: Persona, rate: Double = 1, duration: Double = 600, seed: UInt64 = 1,
  _ change: (inout Scenario) -> Void = { _ in }
) -> Population {
  var scenario = Scenario(name: "test")
  scenario.duration = duration
  scenario.entries = [Scenario.Entry(persona: persona.id, rate: rate)]
  change(&scenario)
  return Population(personas: [persona], scenario: scenario, seed: seed)
}

/// All arrivals of the first entry, in seconds.
private func arrivals(_ population: inout Population) -> [Double] {
  var times: [Double] = []
  var now: Int64 = 0
  while let next = population.nextArrival(0, after: now) {
    times.append(Double(next) / 1e6)
    now = next
  }
  return times
}

struct ArrivalTests {
  @Test(
    "arrivals are Poisson's: the rate within 3 %, as much variance as mean",
    arguments: 1...5 as ClosedRange<UInt64>)
  func poisson(seed: UInt64) {
    var crowd = population(Persona(id: "B"), rate: 50, duration: 600, seed: seed)
    let times = arrivals(&crowd)
    #expect(abs(Double(times.count) / 30_000 - 1) < 0.03, "seed \(seed): \(times.count)")
    var counts = [Double](repeating: 0, count: 600)
    for time in times { counts[Int(time)] += 1 }
    let mean = counts.reduce(0, +) / 600
    let variance = counts.reduce(0) { $0 + ($1 - mean) * ($1 - mean) } / 600
    #expect(abs(variance / mean - 1) < 0.3, "seed \(seed): variance \(variance), mean \(mean)")
  }

  @Test("in a burst bots come ten times as often, and nobody else", arguments: [true, false])
  func bursts(isBot: Bool) {
    var persona = Persona(id: "X")
    persona.kind = isBot ? .bot : .sender
    var crowd = population(persona, rate: 20, duration: 900) {
      $0.bursts = [Scenario.Burst(at: 300, lasting: 300, times: 10)]
    }
    let times = arrivals(&crowd)
    let (before, during, after) = (
      times.count { $0 < 300 }, times.count { $0 >= 300 && $0 < 600 }, times.count { $0 >= 600 }
    )
    #expect(abs(Double(before) / 6_000 - 1) < 0.05)
    #expect(abs(Double(during) / (isBot ? 60_000 : 6_000) - 1) < 0.05)
    #expect(abs(Double(after) / 6_000 - 1) < 0.05)
  }

  @Test("nobody comes at no rate, nor after the end")
  func ends() {
    var none = population(Persona(id: "B"), rate: 0)
    let first = none.nextArrival(0, after: 0)
    #expect(first == nil)
    var some = population(Persona(id: "B"), rate: 10, duration: 60)
    let times = arrivals(&some)
    #expect(times.allSatisfy { $0 < 60 })
  }
}

struct ComingBackTests {
  private static let published = [0.619, 0.168, 0.093, 0.035, 0.064, 0.013, 0.007]

  @Test(
    "a refused bot tries as often as 24,256 addresses did in a week",
    arguments: 1...5 as ClosedRange<UInt64>)
  func attempts(seed: UInt64) {
    var persona = Persona(id: "B1")
    persona.tries = Self.published
    var crowd = population(persona, seed: seed)
    var counts = [Double](repeating: 0, count: 7)
    let clients = 24_256
    for _ in 0..<clients {
      switch crowd.begin(0, now: 0).attemptsMost {
      case let few where few <= 4: counts[Int(few) - 1] += 1
      case 5...10: counts[4] += 1
      case 11...20: counts[5] += 1
      default: counts[6] += 1
      }
    }
    let sum = Self.published.reduce(0, +)
    var square = 0.0
    for (count, share) in zip(counts, Self.published) {
      let expected = share / sum * Double(clients)
      square += (count - expected) * (count - expected) / expected
    }
    // Six degrees of freedom: 22.5 is passed by chance once in a thousand times.
    #expect(square < 22.5, "seed \(seed): \(counts)")
  }

  @Test(
    "tries may be a number, a distribution, or without end",
    arguments: [
      (Distribution.const(17), 17...17), (.uniform(1.5, 5.5), 2...5),
      (.const(65_535), 65_535...65_535),
      (.const(0), 1...1),
    ])
  func numbers(attempts: Distribution, range: ClosedRange<Int>) {
    var persona = Persona(id: "B")
    persona.attempts = attempts
    var crowd = population(persona)
    var seen: Set<Int> = []
    for _ in 0..<1_000 { seen.insert(Int(crowd.begin(0, now: 0).attemptsMost)) }
    #expect(seen.min() == range.lowerBound && seen.max() == range.upperBound)
  }

  @Test("a bot comes back so often and then has given up; one that had success has not")
  func bots() {
    var persona = Persona(id: "B")
    persona.attempts = .const(3)
    persona.again = .const(12)
    persona.quits = 0
    for isTaken in [false, true] {
      var crowd = population(persona)
      var client = crowd.begin(0, now: 0)
      var rounds = 0
      var now: Int64 = 0
      while true {
        _ = crowd.connects(&client)
        rounds += 1
        let replies = isTaken && rounds == 1 ? accepted : ["554 no"]
        let end = actor(persona, hearing: replies)
        guard let next = crowd.ended(&client, end, letThrough: isTaken, now: now) else { break }
        #expect(next - now == 12_000_000)
        now = next
      }
      #expect(rounds == 3)
      #expect(crowd.findings[0].connections == 3)
      #expect(crowd.findings[0].gaveUp == (isTaken ? 0 : 1))
    }
  }

  @Test("connections that a client opens at once have chances of their own")
  func lanes() {
    var crowd = population(Persona(id: "B"))
    let client = crowd.begin(0, now: 0)
    var seeds: Set<UInt64> = []
    for _ in 0..<300 {
      var copy = client
      seeds.insert(crowd.connects(&copy))
    }
    #expect(seeds.count == 300)
  }

  @Test("a bot without end is never through")
  func endless() {
    var persona = Persona(id: "B")
    persona.attempts = .const(65_535)
    var crowd = population(persona)
    var client = crowd.begin(0, now: 0)
    let end = actor(persona, hearing: ["554 no"])
    for _ in 0..<70_000 {
      _ = crowd.connects(&client)
      let next = crowd.ended(&client, end, letThrough: false, now: 0)
      if next == nil { Issue.record("through after \(client.attempt)"); break }
    }
  }

  @Test("who comes back without end stops when the scenario does; who has tries left goes on")
  func endlessEnds() {
    for (attempts, goesOn) in [(65_535.0, false), (10, true)] {
      var persona = Persona(id: "B")
      persona.attempts = .const(attempts)
      persona.again = .const(100)
      var crowd = population(persona, duration: 600)
      var client = crowd.begin(0, now: 0)
      let end = actor(persona, hearing: ["554 no"])
      _ = crowd.connects(&client)
      let before = crowd.ended(&client, end, letThrough: false, now: 499_000_000)
      #expect(before == 599_000_000)
      let behind = crowd.ended(&client, end, letThrough: false, now: 500_000_000)
      #expect(behind == (goesOn ? 600_000_000 : nil))
      #expect(crowd.findings[0].gaveUp == 0)
    }
  }

  @Test("who remembers a slow server leaves it alone, but not after a refusal")
  func remembering() {
    var persona = Persona(id: "B14")
    persona.attempts = .const(5)
    persona.remembersSlow = 86_400
    persona.patienceOtherwise = .const(2)
    persona.clock = .session
    var crowd = population(persona)
    var client = crowd.begin(0, now: 0)
    _ = crowd.connects(&client)
    let refused = crowd.ended(
      &client, actor(persona, hearing: ["554 no"]), letThrough: false, now: 0)
    #expect(refused != nil)
    _ = crowd.connects(&client)
    let slowed = crowd.ended(
      &client, actor(persona, hearing: [], leavesAt: 2), letThrough: false, now: 2_000_000)
    #expect(slowed == nil)
    #expect(crowd.findings[0].gaveUp == 1)
    #expect(crowd.findings[0].endings["left: banner"] == 1)
  }

  @Test("the factor from clients to connections counts retries that are in time")
  func each() {
    var persona = Persona(id: "B")
    persona.tries = Self.published
    persona.again = .const(4)
    persona.concurrency = .uniform(0.5, 3.5)
    // Far from the end: twice the mean of tries, 2.2.
    #expect(abs(persona.connectionsEach(within: 1e7) - 4.405) < 0.02)
    persona.tries = []
    persona.attempts = .const(65_535)
    persona.again = .const(99)
    persona.concurrency = .const(300)
    // Every 100 s until the end, for clients that begin evenly over 600 s: 3.5 each.
    #expect(abs(persona.connectionsEach(within: 600) - 300 * 3.5) < 1e-6)
    persona.kind = .sender
    persona.concurrency = .const(1)
    #expect(persona.connectionsEach(within: 600) == 1)
  }
}

struct SenderTests {
  private static func sender(_ change: (inout Persona) -> Void = { _ in }) -> Persona {
    var persona = Persona(id: "L")
    persona.kind = .sender
    persona.patienceOtherwise = .const(30)
    persona.retries = [300, 600, 1_200]
    change(&persona)
    return persona
  }

  /// Tries until it is through.
  ///
  /// - Returns: the times of the tries, in seconds, and what was found.
  private static func play(
    _ persona: Persona, _ end: (Int) -> Actor
  ) -> (tries: [Double], findings: PersonaFindings) {
    var crowd = population(persona)
    var client = crowd.begin(0, now: 0)
    var now: Int64 = 0
    var tries: [Double] = []
    while true {
      _ = crowd.connects(&client)
      tries.append(Double(now) / 1e6)
      guard let next = crowd.ended(&client, end(tries.count), letThrough: false, now: now) else {
        return (tries, crowd.findings[0])
      }
      now = next
    }
  }

  @Test(
    "a message that is put off is tried by its schedule, give or take 10 %, and then lost with its reason"
  )
  func schedule() {
    let persona = Self.sender()
    let (tries, found) = Self.play(persona) { _ in
      actor(persona, hearing: ["220 a", "250 a", "250 a", "450 later", "221 a"])
    }
    #expect(tries.count == 4)
    for (gap, planned) in zip(zip(tries.dropFirst(), tries).map { $0 - $1 }, persona.retries) {
      #expect(abs(gap / planned - 1) <= 0.1)
    }
    #expect(found.lost == ["deferred (4xx), 450 at rcpt": 1])
    #expect(found.delay.total == 0)
  }

  @Test("impatience is a reason with its stage")
  func impatience() {
    let persona = Self.sender()
    let (tries, found) = Self.play(persona) { _ in actor(persona, hearing: [], leavesAt: 31) }
    #expect(tries.count == 4)
    #expect(found.lost == ["left: banner": 1])
    #expect(found.endings == ["left: banner": 4])
  }

  @Test("a message taken at the third try has its delay from the first")
  func delay() {
    let persona = Self.sender()
    let (tries, found) = Self.play(persona) { round in
      actor(persona, hearing: round < 3 ? ["450 later", "221 a"] : accepted)
    }
    #expect(tries.count == 3)
    #expect(found.lost == [:])
    #expect(found.delay.total == 1)
    #expect(abs(found.delay.mean - tries[2]) < 0.01)
    #expect(found.delivered == 1)
  }

  @Test("a message that is refused for good is lost at once")
  func refused() {
    let persona = Self.sender()
    let (tries, found) = Self.play(persona) { _ in actor(persona, hearing: ["554 no", "221 a"]) }
    #expect(tries.count == 1)
    #expect(found.lost == ["rejected (5xx), 554 at banner": 1])
  }

  @Test("no try comes after the message's life: of five minutes, one 4xx is the end")
  func life() {
    let persona = Self.sender {
      $0.retries = [1_200, 2_400]
      $0.life = 300
    }
    let (tries, found) = Self.play(persona) { _ in actor(persona, hearing: ["450 later", "221 a"]) }
    #expect(tries.count == 1)
    #expect(found.lost.count == 1)
  }

  @Test("who rotates comes from another address each time, who does not from the same")
  func rotation() {
    for rotates in [false, true] {
      let persona = Self.sender {
        $0.rotates = rotates
        $0.addresses = 50
        $0.perNetwork = 5
      }
      var crowd = population(persona)
      var client = crowd.begin(0, now: 0)
      var seen: Set<Address> = []
      for _ in 0..<100 {
        _ = crowd.connects(&client)
        seen.insert(client.address)
      }
      #expect(rotates ? (35...50).contains(seen.count) : seen.count == 1)
    }
  }

  @Test("a probe that is not answered is a loss")
  func probe() {
    var persona = Persona(id: "P")
    persona.kind = .probe
    persona.aim = .banner
    persona.patienceOtherwise = .const(5)
    let (_, lost) = Self.play(persona) { _ in actor(persona, hearing: [], leavesAt: 5) }
    #expect(lost.lost == ["left: banner": 1])
    let (_, fine) = Self.play(persona) { _ in actor(persona, hearing: ["220 a", "221 a"]) }
    #expect(fine.lost == [:])
  }
}

struct AddressTests {
  private static func zombie(_ change: (inout Persona) -> Void = { _ in }) -> Persona {
    var persona = Persona(id: "B1")
    persona.addresses = 50_000
    persona.perNetwork = 5
    persona.zipf = 1
    persona.listed = 0.88
    change(&persona)
    return persona
  }

  /// The networks and hosts that block lists know.
  private static func listed(_ population: Population) -> Set<String> {
    Set(population.listedLines.split(separator: "\n").map { String($0.split(separator: " ")[0]) })
  }

  @Test(
    "the first network has the share that Zipf's law gives it, and the first tenth three quarters")
  func zipf() {
    let persona = Self.zombie()
    var crowd = population(persona)
    var counts: [Address: Int] = [:]
    let clients = 50_000
    for _ in 0..<clients { counts[crowd.begin(0, now: 0).address.network(24), default: 0] += 1 }
    let sorted = counts.values.sorted(by: >)
    // The continuous form: ln 2 / ln 10,001, and ln 1,001 / ln 10,001.
    #expect(abs(Double(sorted[0]) / Double(clients) - 0.0753) < 0.005)
    let tenth = sorted.prefix(1_000).reduce(0, +)
    #expect(abs(Double(tenth) / Double(clients) - 0.75) < 0.03)
  }

  @Test("without Zipf all networks are alike")
  func even() {
    let persona = Self.zombie {
      $0.zipf = 0
      $0.addresses = 500
    }
    var crowd = population(persona)
    var counts: [Address: Int] = [:]
    for _ in 0..<50_000 { counts[crowd.begin(0, now: 0).address.network(24), default: 0] += 1 }
    #expect(counts.count == 100)
    #expect(counts.values.allSatisfy { (400...600).contains($0) })
  }

  @Test("block lists know 88 % of the networks and of the clients", arguments: [0.0, 0.7, 1.0])
  func coverage(zipf: Double) {
    let persona = Self.zombie { $0.zipf = zipf }
    var crowd = population(persona) { $0.listedAre = "bad" }
    let listed = Self.listed(crowd)
    #expect(abs(Double(listed.count) / 10_000 - 0.88) < 0.01, "\(listed.count) networks")
    var known = 0
    let clients = 50_000
    for _ in 0..<clients {
      let network = crowd.begin(0, now: 0).address.network(24)
      known += listed.contains("\(network)/24") ? 1 : 0
    }
    #expect(abs(Double(known) / Double(clients) - 0.88) < 0.01, "\(known) clients")
  }

  @Test("where all addresses are in one network, single hosts are known")
  func hosts() {
    let persona = Self.zombie {
      $0.addresses = 254
      $0.perNetwork = 254
      $0.listed = 0.2
    }
    let listed = Self.listed(population(persona) { $0.listedAre = "bad" })
    #expect(abs(listed.count - 51) <= 1)
    #expect(listed.allSatisfy { $0.hasSuffix("/32") })
  }

  @Test("nothing is listed unless the scenario says as what")
  func unlisted() {
    #expect(population(Self.zombie()).listedLines.isEmpty)
  }

  @Test("the share of IPv6 is as asked, and its listed networks are /64")
  func ipv6() {
    let persona = Self.zombie { $0.ipv6 = 0.11 }
    var crowd = population(persona) { $0.listedAre = "bad" }
    var six = 0
    let listed = Self.listed(crowd)
    var known = 0
    for _ in 0..<20_000 {
      let address = crowd.begin(0, now: 0).address
      if !address.isIPv4 {
        six += 1
        known += listed.contains("\(address.network(64))/64") ? 1 : 0
      }
    }
    #expect(abs(Double(six) / 20_000 - 0.11) < 0.01)
    #expect(abs(Double(known) / Double(six) - 0.88) < 0.03)
  }
}

struct SameClientsTests {
  @Test("clients and their connections are the same, in whatever order they are asked for and end")
  func order() {
    var persona = Persona(id: "B")
    persona.concurrency = .uniform(1, 4)
    persona.addresses = 500
    persona.tries = [0.5, 0.3, 0.2]
    persona.rotates = true
    /// Moments, addresses and seeds of the first connections.
    func run(_ disturb: Bool) -> [[UInt64]] {
      var crowd = population(persona, rate: 5, duration: 60, seed: 3)
      var found: [[UInt64]] = []
      var now: Int64 = 0
      while let next = crowd.nextArrival(0, after: now) {
        now = next
        let client = crowd.begin(0, now: now)
        var row = [UInt64(now), client.address.low, UInt64(client.attemptsMost)]
        for _ in 0..<crowd.concurrency(client) {
          var copy = client
          row.append(crowd.connects(&copy))
          // A run in which somebody ends in between.
          if disturb { _ = crowd.ended(&copy, Actor(), letThrough: false, now: now) }
          if disturb && copy.attempt < copy.attemptsMost { _ = crowd.connects(&copy) }
        }
        found.append(row)
      }
      return found
    }
    let calm = run(false)
    #expect(calm.count > 200 && calm == run(true))
    let seeds = calm.flatMap { $0.dropFirst(3) }
    #expect(Set(seeds).count == seeds.count)
  }
}

struct LineTests {
  @Test("the network does to a share of connections what the scenario says, by their seed")
  func shares() {
    var scenario = Scenario(name: "test")
    scenario.latency = .uniform(0.01, 0.12)
    scenario.resets = 0.1
    scenario.slowReaders = 0.3
    let lines = (0..<20_000).map { LineFaults(scenario, seed: 7 ^ UInt64($0) << 20) }
    #expect(lines == (0..<20_000).map { LineFaults(scenario, seed: 7 ^ UInt64($0) << 20) })
    let (slow, broken) = (lines.filter(\.isSlow), lines.filter { $0.resetAfter >= 0 })
    #expect(abs(Double(slow.count) / 20_000 - 0.3) < 0.015, "\(slow.count)")
    #expect(abs(Double(broken.count) / 20_000 - 0.1) < 0.01, "\(broken.count)")
    // One does not follow from the other.
    #expect(abs(Double(slow.filter { $0.resetAfter >= 0 }.count) / 20_000 - 0.03) < 0.006)
    #expect(lines.allSatisfy { (10...120).contains($0.latency) && $0.resetAfter < 60_000 })
    let mean = lines.reduce(0) { $0 + Int($1.latency) } / lines.count
    #expect((63...67).contains(mean))
  }

  @Test("without faults there are none")
  func none() {
    var scenario = Scenario(name: "test")
    scenario.latency = .const(0)
    for seed in 0..<1_000 as Range<UInt64> {
      let line = LineFaults(scenario, seed: seed)
      #expect(line.latency == 0 && !line.isSlow && line.resetAfter == -1)
    }
  }

  @Test("who is still there at the end counts for Little's law as far as it was there")
  func stillThere() {
    let persona = Persona(id: "B")
    var crowd = population(persona, duration: 100)
    var client = crowd.begin(0, now: 0)
    _ = crowd.connects(&client)
    crowd.stillThere(
      client, actor(persona, hearing: []), letThrough: false, now: 150_000_000)
    let found = crowd.findings[0]
    #expect(found.begunWithin == 1 && found.secondsWithin == 100)
    #expect(found.held.total == 0 && found.endings == ["still there": 1])
  }
}
