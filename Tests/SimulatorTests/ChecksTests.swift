// SPDX-License-Identifier: Apache-2.0
import Personas
import Policy
import Shield
import Structures
import Suspicion
import TestServer
import Testing

@testable import Simulator

/// A check that cannot fail proves nothing. Each is broken here on purpose: by a policy where one can break it,
/// else by a journal entry or a state that only an engine with a fault would give.
@Suite("The checks of a run can fail")
struct ChecksTests {
  /// One honest client in the middle of its wait for the banner, which comes after 4 s.
  private func waiting() -> World {
    var world = world([(honest(), rate: 1)], duration: 5)
    world.begin(0)
    world.advance(to: 1_000)
    return world
  }

  private func entry(_ event: Event, _ world: borrowing World) -> JournalEntry {
    var entry = JournalEntry(event, at: world.course.instant)
    // The session's low bits are the slot: the first client's is known to the bot.
    entry.session = UInt64(world.crowd.slot(0))
    return entry
  }

  private func broken(_ checks: Checks) -> [String] {
    checks.all.filter { $0.broken > 0 }.map(\.name)
  }

  @Test("nothing is broken in the world that the others break")
  func sound() {
    var world = waiting()
    world.advance(to: 60_000)
    world.finish()
    #expect(broken(world.checks) == [])
    #expect(world.checks.release.looked > 0 && world.checks.ceiling.looked > 0)
    #expect(world.checks.acknowledgements.looked > 0 && world.checks.slots.looked > 0)
  }

  @Test("a reply before its release time")
  func release() {
    var world = waiting()
    var promised = entry(.delay, world)
    promised.micros = 20_000_000
    world.journal(promised)
    // The banner comes at 4 s, 17 s before what was promised.
    world.advance(to: 60_000)
    #expect(broken(world.checks) == [Checks().release.name])
    #expect(world.checks.release.first?.contains("too early") == true)
  }

  @Test("a delay beyond its stage's ceiling")
  func ceiling() {
    var world = waiting()
    var delay = entry(.delay, world)
    // At the end of a message no release is looked at, so this check stands alone.
    delay.stage = .endOfData
    delay.micros = world.engine.policy.delays[.endOfData].ceiling
    world.journal(delay)
    #expect(broken(world.checks) == [])
    delay.micros += 1
    world.journal(delay)
    #expect(broken(world.checks) == [Checks().ceiling.name])
  }

  @Test("an acknowledgement that the mail server never gave")
  func acknowledgements() {
    var world = waiting()
    // As if the shield had said 250 to a message once before.
    world.observer.left(client: 0, acknowledged: 1, accepted: 1)
    world.advance(to: 60_000)
    #expect(world.population.findings[0].delivered == 1)
    #expect(broken(world.checks) == [Checks().acknowledgements.name])
  }

  @Test("a slot that nobody has")
  func slots() {
    var world = waiting()
    _ = world.engine.accepted(
      Peer(address: Address(v4: 0x0A63_6363), port: 1_025, listener: 0), now: world.course.instant,
      into: &world.effects)
    world.effects.removeAll()
    world.finish()
    #expect(broken(world.checks) == [Checks().slots.name])
  }

  @Test("a slot that was given back while its client is there")
  func slotTooFew() {
    var world = waiting()
    let other = world.crowd.connect(world.crowd.client(0)).i
    world.crowd.isHeld(other, inSlot: 77)
    world.finish()
    #expect(broken(world.checks) == [Checks().slots.name])
  }

  @Test(
    "a table beyond its bound",
    arguments: [
      (held: 8, sessions: 4, links: 4, true), (9, 4, 4, false), (8, 5, 4, false), (8, 4, 5, false),
    ])
  func memory(held: Int, sessions: Int, links: Int, isWithin: Bool) {
    var limits = Limits()
    limits.connections = 8
    limits.sessions = 4
    limits.downstreamConnections = 4
    var checks = Checks()
    checks.lookAtTables(held: held, sessions: sessions, links: links, limits, now: 1)
    #expect(broken(checks) == (isWithin ? [] : [Checks().memory.name]))
  }

  @Test("honest mail lost, by a delay beyond its patience")
  func honestMail() {
    var scenario = Scenario(name: "lost")
    scenario.duration = 20
    scenario.entries = [Scenario.Entry(persona: "L5", rate: 1)]
    var run = Experiment(
      personas: [honest("L5", patience: 30)], scenario: scenario, policy: policy())
    run.fix(.banner, seconds: 31)
    run.policy.secondChance = false
    run.after = 100_000
    let lost = run.run().checks.filter { $0.broken > 0 }
    #expect(lost.map(\.name) == [Checks().honest.name])
    #expect(lost.first?.first?.hasPrefix("L5: ") == true)
    #expect(lost.first?.first?.hasSuffix(", left: banner") == true)
    // The same delay with the second chance, which is there for that.
    run.policy.secondChance = true
    #expect(run.run().checks.allSatisfy { $0.broken == 0 })
  }

  @Test(
    "mail that a broken mail server cost its only try is lost, but not by the shield",
    arguments: [(tries: 1, patience: 30.0, false), (2, 30, true), (1, 1, true)])
  func faults(tries: Int, patience: Double, isBroken: Bool) {
    var scenario = Scenario(name: "faults")
    scenario.duration = 20
    scenario.entries = [Scenario.Entry(persona: "L9", rate: 1)]
    scenario.downstream.breaks = 1
    var sender = honest("L9", patience: patience)
    sender.retries = Array(repeating: 60, count: tries - 1)
    var run = Experiment(personas: [sender], scenario: scenario, policy: policy())
    // With a second of patience it is not the mail server whom most of them leave.
    run.fix(.banner, seconds: 5)
    run.policy.secondChance = false
    run.after = 1_000
    let report = run.run()
    #expect(report.personas.allSatisfy { !$0.lost.isEmpty })
    #expect(report.checks.contains { $0.name == Checks().honest.name && $0.broken > 0 } == isBroken)
    #expect(report.personas.allSatisfy { ($0.lostByFault > 0) == (tries == 1 && patience == 30) })
  }

  @Test(
    "a verdict without a reason",
    arguments: [Event.tarpit, .reject, .denylisted, .rateLimit, .limit, .shed])
  func reasons(event: Event) {
    var world = waiting()
    var verdict = entry(event, world)
    world.journal(verdict)
    #expect(broken(world.checks) == [Checks().reasons.name])
    // Each of these is one.
    world = waiting()
    verdict.signals = SignalSet(.pregreet)
    world.journal(verdict)
    verdict.signals = SignalSet()
    verdict.accessRule = 1
    world.journal(verdict)
    verdict.accessRule = 0
    verdict.rateRule = 1
    world.journal(verdict)
    verdict.rateRule = 0
    verdict.subject = .recipients
    world.journal(verdict)
    verdict.subject = .none
    verdict.reply = 554
    world.journal(verdict)
    #expect(broken(world.checks) == [])
    #expect(world.checks.reasons.looked >= 5)
  }

  @Test("a random world tells each promise but honest mail, which its small tables may lose")
  func swarm() {
    #expect(
      Swarm.failures(of: [
        Check("a"),
        {
          var b = Check("b"); b.fail("so"); return b
        }(),
      ])
        == ["b: 1 of 0, first: so"])
    var honest = Checks().honest
    honest.fail("L5: left: banner")
    #expect(Swarm.failures(of: [honest]) == [])
  }
}
