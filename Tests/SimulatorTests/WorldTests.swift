// SPDX-License-Identifier: Apache-2.0
import Flow
import Glibc
import Personas
import Policy
import Shield
import Suspicion
import Synchronization
import Testing

@testable import Simulator

/// `scripts/test --fast` runs fewer seeds of what is random here; the whole run has all of them.
private let isFast = getenv("SLUICE_TESTS_FAST") != nil

/// A bot of a constant patience, an honest server, and who else the tests need.
func bot(_ id: String, patience: Distribution, clock: PatienceClock = .reply) -> Persona {
  var persona = Persona(id: id)
  persona.patienceOtherwise = patience
  persona.clock = clock
  persona.tries = [1]
  persona.quits = 0
  persona.addresses = 5_000
  return persona
}

func honest(_ id: String = "L3", patience: Double = 300) -> Persona {
  var persona = Persona(id: id)
  persona.kind = .sender
  persona.patienceOtherwise = .const(patience)
  persona.pipelines = 1
  persona.retries = [300, 600, 1_200, 2_400, 4_000, 4_000, 4_000]
  persona.addresses = 50
  return persona
}

func policy(access: String = "", _ change: (inout Policy) -> Void = { _ in }) -> Policy {
  var policy = Policy(
    access: AccessTable.load(content: Array(access.utf8), file: "access.cidr").table,
    rates: RateTable.load(content: [], file: "rates.cidr").table)
  policy.mode = .enforce
  policy.hostname = "mx.example.test"
  change(&policy)
  return policy
}

func world(
  _ personas: [(Persona, rate: Double)], duration: Double, seed: UInt64 = 1,
  policy: Policy = policy(), _ change: (inout Scenario) -> Void = { _ in }
) -> World {
  var scenario = Scenario(name: "test")
  scenario.duration = duration
  scenario.entries = personas.map { Scenario.Entry(persona: $0.0.id, rate: $0.rate) }
  change(&scenario)
  let population = Population(personas: personas.map(\.0), scenario: scenario, seed: seed)
  return World(policy: policy, limits: Limits(), population: population, seed: seed)
}

@Suite("The simulated world")
struct WorldTests {
  @Test(
    "whoever asks how far a run is changes nothing, and what began in it is told apart from retries"
  )
  func progress() {
    func run(_ progress: (@Sendable (Double) -> Void)?) -> World {
      var world = world(
        [(bot("B", patience: .uniform(1, 40)), rate: 3), (honest(patience: 3), rate: 1)],
        duration: 100)
      world.run(after: 20_000, progress: progress)
      return world
    }
    let told = Mutex([Double]())
    let plain = run(nil)
    let asked = run { seconds in told.withLock { $0.append(seconds) } }
    #expect(plain.trace == asked.trace && plain.eventCount == asked.eventCount)
    let moments = told.withLock { $0 }
    #expect(moments == moments.sorted() && moments.contains(100) && moments.last == 20_100)

    let sender = plain.population.findings[1]
    // Who waits 3 s for a banner that takes 4 gets through with a later try only, when the scenario is over.
    #expect(sender.delivered > 50 && sender.connections > sender.begunWithin)
    #expect(sender.letThroughWithin < sender.letThrough)
    #expect(sender.deliveredWithin <= sender.letThroughWithin)
    let reach = plain.report(configuration: "", took: 0).reach
    let bots = plain.population.findings[0]
    #expect(reach.botMessages == bots.deliveredWithin && bots.deliveredWithin > 20)
    #expect(reach.messages == bots.deliveredWithin + sender.deliveredWithin)
  }

  @Test("honest mail all arrives, each slot is freed, and nothing is promised in vain")
  func honestDay() {
    var world = world([(honest(), rate: 2)], duration: 300)
    world.run(after: 20_000)
    let found = world.population.findings[0]
    #expect(
      found.clients > 500 && found.delivered == found.clients, "\(found.endings) \(found.lost)")
    for check in world.checks.all {
      #expect(check.broken == 0, "\(check.name): \(check.first ?? "")")
    }
    #expect(world.engine.heldCount == 0 && world.engine.linkCount == 0)
  }

  @Test("the same seed gives the same run, another seed another")
  func sameSeed() {
    func trace(_ seed: UInt64) -> (UInt64, Int) {
      var world = world(
        [(bot("B", patience: .lognormal(4, 0.4)), rate: 20), (honest(), rate: 1)], duration: 60,
        seed: seed
      ) {
        $0.resets = 0.05
        $0.slowReaders = 0.05
        $0.downstream.breaks = 0.02
      }
      world.run(after: 600)
      return (world.trace, world.eventCount)
    }
    let first = trace(7)
    #expect(trace(7) == first)
    #expect(trace(8) != first)
  }

  @Test("who has closed answers a reply with a reset, so what it sent ahead is not gone through")
  func closed() {
    var harvester = bot("B", patience: .const(60))
    harvester.aim = .harvest
    harvester.pipelinesEarly = 1
    harvester.recipients = .const(20)
    harvester.unknown = 1
    harvester.slowStrikes = 2
    harvester.slowReply = 0.9
    harvester.tries = [1]
    var world = world([(harvester, rate: 2)], duration: 30)
    // It leaves at the first slow replies; those to its recipients would take a second each, and more.
    world.run(after: 15)
    let found = world.population.findings[0]
    #expect(
      found.connections > 30 && found.leftAfter.total == found.connections, "\(found.endings)")
    #expect(world.engine.heldCount == 0 && world.engine.linkCount == 0)
    for check in world.checks.all { #expect(check.broken == 0, "\(check.name)") }
  }

  @Test("clients come as often as the scenario says, many a millisecond too")
  func rate() {
    var quick = bot("B", patience: .const(1))
    quick.tries = [1]
    var world = world([(quick, rate: 2_000)], duration: 20)
    world.run()
    let found = world.population.findings[0]
    #expect(abs(Double(found.clients) / 40_000 - 1) < 0.02, "\(found.clients)")
  }

  @Test(
    "who is less patient with a later reply leaves when that patience ends, not when the first would"
  )
  func laterStage() {
    var early = bot("B", patience: .const(200))
    early.patience = [.rcpt: .const(3)]
    early.bytes = .const(100)
    var world = world(
      [(early, rate: 2)], duration: 60,
      policy: policy {
        $0.delays[.banner].clean = 0; $0.secondChance = false
      }
    ) {
      $0.latency = .const(0.01)
      $0.downstream.reply = .const(30)
    }
    world.run(after: 300)
    let found = world.population.findings[0]
    #expect(found.endings["left: rcpt"] == found.connections, "\(found.endings)")
    // The server takes half a minute for each reply. Its banner, EHLO and MAIL have come before, and to clients that come
    // before any probe is through its banner and EHLO for their own EHLO: five replies.
    #expect(found.leftAfter.quantile(0.99) < 160, "\(found.leftAfter.quantile(0.99)) s")
  }

  @Test("impatient bots leave before the banner, and the mail server never sees them")
  func impatient() {
    var world = world([(bot("B", patience: .const(2)), rate: 50)], duration: 100)
    world.run(after: 100)
    let found = world.population.findings[0]
    #expect(found.connections > 4_000)
    #expect(found.endings["left: banner"] == found.connections, "\(found.endings)")
    #expect(found.letThrough == 0 && world.engine.heldCount == 0)
  }
}

@Suite("TLS in the simulated world")
struct WorldTLSTests {
  private static let offered = policy {
    $0.listeners[0].tls = .starttls
    $0.handshakes = .unlimited
  }

  private func sender(tls: Double) -> Persona {
    var persona = honest()
    persona.tls = tls
    return persona
  }

  @Test("as many shake hands as the personas say, no mail is lost, and no slot")
  func share() {
    var impatient = bot("B", patience: .const(60))
    impatient.tls = 0.5
    impatient.quits = 1
    var world = world(
      [(sender(tls: 0.9), rate: 2), (impatient, rate: 4)], duration: 500, policy: Self.offered)
    world.run(after: 20_000)
    for (found, share) in zip(world.population.findings, [0.9, 0.5]) {
      // Of a thousand and more connections, three standard deviations.
      let most = 3 * (share * (1 - share) / Double(found.connections)).squareRoot()
      let seen = Double(found.handshakes) / Double(found.connections)
      #expect(found.connections > 900 && abs(seen - share) < most, "\(found.id): \(seen)")
      #expect(found.handshakesFailed == 0)
      #expect(found.delivered == found.clients, "\(found.endings) \(found.lost)")
    }
    let all = world.population.findings.reduce(0) { $0 + $1.handshakes }
    #expect(world.engine.core.counters.handshakes == UInt64(all))
    #expect(world.engine.core.counters.handshakesFailed == 0)
    for check in world.checks.all {
      #expect(check.broken == 0, "\(check.name): \(check.first ?? "")")
    }
    world.engine.measure()
    #expect(world.engine.heldCount == 0 && world.engine.core.counters.tlsSessions == 0)
  }

  @Test("a server that offers no STARTTLS sees the same run, whatever its clients want")
  func notOffered() {
    func trace(_ tls: Double) -> UInt64 {
      var world = world([(sender(tls: tls), rate: 5)], duration: 100)
      world.run(after: 600)
      #expect(world.population.findings[0].handshakes == 0)
      return world.trace
    }
    #expect(trace(0) == trace(1))
  }

  @Test("a handshake takes a round trip of the wire, and the mail comes in later by so much")
  func roundTrip() {
    func delay(_ tls: Double) -> Double {
      var world = world(
        [(sender(tls: tls), rate: 1)], duration: 100,
        policy: policy {
          $0.listeners[0].tls = .starttls
          $0.handshakes = .unlimited
          for stage in Stage.allCases { $0.delays[stage].clean = 0 }
        }
      ) { $0.latency = .const(0.5) }
      world.run(after: 600)
      let delay = world.population.findings[0].delay
      return delay.sum / Double(delay.total)
    }
    // STARTTLS and its reply, the handshake, and EHLO and its reply: three of a second each.
    let more = delay(1) - delay(0)
    #expect(abs(more - 3) < 0.05, "\(more) s")
  }

  @Test("the same seed gives the same run, faults of the network and all")
  func sameSeed() {
    func trace(_ seed: UInt64) -> (UInt64, Int) {
      var burner = bot("B13", patience: .const(30))
      burner.aim = .tls
      burner.concurrency = .const(5)
      burner.addresses = 3
      var world = world(
        [(sender(tls: 0.9), rate: 2), (burner, rate: 2)], duration: 60, seed: seed,
        policy: Self.offered
      ) {
        $0.resets = 0.2
        $0.slowReaders = 0.2
      }
      world.run(after: 20_000)
      for check in world.checks.all where check.name != world.checks.honest.name {
        #expect(check.broken == 0, "\(check.name): \(check.first ?? "")")
      }
      world.engine.measure()
      #expect(world.engine.heldCount == 0 && world.engine.core.counters.tlsSessions == 0)
      let found = world.population.findings[1]
      #expect(found.handshakes > 400 && found.endings["done"] ?? 0 > 300, "\(found.endings)")
      // They leave before their own end of it: to the shield each is a failed one, but for resets by the network.
      let left = found.endings["done"] ?? 0
      #expect(world.engine.core.counters.handshakesFailed > UInt64(left * 9 / 10))
      return (world.trace, world.eventCount)
    }
    let first = trace(3)
    #expect(trace(3) == first)
    #expect(trace(4) != first)
  }

  @Test("who loses patience in the middle of a handshake gives its slot back")
  func impatient() {
    var hasty = bot("B", patience: .const(60))
    hasty.tls = 1
    hasty.patience = [.startTLS: .const(1)]
    hasty.quitsImpatient = 1
    var world = world([(hasty, rate: 2)], duration: 50, policy: Self.offered) {
      // The reply is there after 0.9 s, and the handshake as long after that; or later, both.
      $0.latency = .uniform(0.4, 0.6)
    }
    world.run(after: 100)
    let found = world.population.findings[0]
    #expect(found.endings["left: starttls"] ?? 0 > 20, "\(found.endings)")
    #expect(found.handshakes > 10 && found.handshakesFailed == 0)
    world.engine.measure()
    #expect(world.engine.heldCount == 0 && world.engine.core.counters.tlsSessions == 0)
    for check in world.checks.all { #expect(check.broken == 0, "\(check.name)") }
  }

  @Test("where every place for TLS is taken mail goes in clear")
  func full() {
    var scenario = Scenario(name: "test")
    scenario.duration = 100
    scenario.entries = [Scenario.Entry(persona: "L3", rate: 10)]
    let population = Population(personas: [sender(tls: 1)], scenario: scenario, seed: 1)
    var limits = Limits()
    limits.tlsSessions = 4
    var world = World(policy: Self.offered, limits: limits, population: population, seed: 1)
    world.run(after: 20_000)
    let found = world.population.findings[0]
    #expect(found.delivered == found.clients, "\(found.endings) \(found.lost)")
    #expect(found.handshakes > 50 && found.handshakes < found.connections / 2)
  }
}

@Suite("The memory of a simulation")
struct MemoryTests {
  @Test("is 200 bytes for each client with a connection, counted the same in each run")
  func connected() {
    func bytes() -> Double {
      var patient = bot("B", patience: .const(60))
      patient.aim = .hold
      patient.trickle = .const(1e6)
      var world = world([(patient, rate: 110)], duration: 90)
      world.run()
      let most = world.samples.map(\.held).max() ?? 0
      #expect(most > 6_000 && world.crowd.count >= most)
      #expect(world.crowd.waitingCount == 0)
      return world.bytesEach
    }
    let first = bytes()
    #expect(first <= 200, "\(first) bytes")
    #expect(first >= Double(MemoryLayout<Crowd.Bot>.stride + MemoryLayout<Sockets.Socket>.stride))
    #expect(bytes() == first)
  }

  @Test("is 200 bytes for each client that waits to come back")
  func waiting() {
    var again = bot("B", patience: .const(1))
    again.again = .const(3_000)
    again.attempts = .const(3)
    again.tries = []
    var world = world([(again, rate: 150)], duration: 60)
    world.run(after: 4_000)
    #expect(world.crowd.waitingCount > 8_000)
    #expect(world.bytesEach <= 200, "\(world.bytesEach) bytes")
  }
}

@Suite("Random worlds")
struct SwarmTests {
  /// Kinds that differ in what they do; the shipped ones are in the files.
  static let kinds: [Persona] = {
    var early = bot("early", patience: .const(60))
    early.tls = 0.3
    early.pregreet = 0.7
    early.bareHelo = 0.5
    var harvester = bot("harvester", patience: .const(20))
    harvester.aim = .harvest
    harvester.recipients = .const(100)
    harvester.unknown = 0.95
    harvester.slowStrikes = 3
    var rusher = bot("rusher", patience: .normal(21, 0.3), clock: .read)
    rusher.pipelinesEarly = 0.5
    rusher.messages = .uniform(1, 5)
    rusher.recipients = .uniform(1, 12)
    var scanner = bot("scanner", patience: .uniform(2, 6), clock: .session)
    scanner.aim = .banner
    var slow = bot("slowloris", patience: .const(1e9))
    slow.aim = .hold
    slow.trickle = .uniform(1, 10)
    slow.concurrency = .const(5)
    var foreign = bot("foreign", patience: .const(30))
    foreign.nonSMTP = 1
    var guesser = bot("guesser", patience: .const(8))
    guesser.aim = .auth
    guesser.logins = .const(5)
    guesser.tls = 0.9
    guesser.tries = [0, 0, 0, 0, 1]
    guesser.again = .const(1)
    var callout = honest("callout", patience: 30)
    callout.kind = .probe
    callout.aim = .callout
    var bulk = honest("bulk", patience: 60)
    bulk.messages = .uniform(1, 5)
    bulk.recipients = .uniform(1, 8)
    bulk.unknown = 0.1
    bulk.concurrency = .uniform(1, 3)
    bulk.bytes = .lognormal(1_500, 1)
    bulk.tls = 0.9
    var burner = bot("burner", patience: .const(30))
    burner.aim = .tls
    burner.concurrency = .const(10)
    return [
      burner, early, harvester, rusher, scanner, slow, foreign, guesser, callout, bulk, honest(),
      bot("impatient", patience: .lognormal(4, 0.4)), bot("patient", patience: .const(300)),
    ]
  }()

  @Test("keep every promise, whatever fails", arguments: 1...(isFast ? 6 : 24))
  func swarm(seed: Int) {
    let failures = Swarm.failures(
      seed: UInt64(seed), personas: Self.kinds, policy: policy())
    #expect(failures == [])
  }
}
