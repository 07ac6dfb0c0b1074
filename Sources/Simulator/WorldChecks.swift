// SPDX-License-Identifier: Apache-2.0
package import Personas
import Policy
import Shield
import Structures
import Suspicion

/// What is looked at in every run, whatever it is for.
package struct Checks: Sendable {
  package var release = Check("no reply before its release time")
  package var ceiling = Check("no delay beyond its ceiling")
  package var acknowledgements = Check("no message acknowledged that was not accepted behind")
  package var slots = Check("each slot is freed when its connection has ended")
  package var memory = Check("every table within its bound")
  package var honest = Check("no honest mail lost")
  package var reasons = Check("no verdict without a reason")
  package init() {}

  package var all: [Check] {
    [release, ceiling, acknowledgements, slots, memory, honest, reasons]
  }

  /// Whether no table has more in it than its limit, at a moment in milliseconds.
  mutating func lookAtTables(
    held: Int, sessions: Int, links: Int, _ limits: Limits, now: Int64
  ) {
    memory.looked += 1
    if held > limits.connections || sessions > limits.sessions
      || links > limits.downstreamConnections
    {
      memory.fail(
        "at \(now) ms: \(held) held, \(sessions) sessions, \(links) downstream connections")
    }
  }
}

extension Check {
  mutating func fail(_ text: @autoclosure () -> String) {
    broken += 1
    if first == nil { first = text() }
  }
}

// What is seen of a run, and what it is held to.
extension World {
  /// An entry of the engine's journal: what it decided, and why.
  mutating func journal(_ entry: JournalEntry) {
    let k = Int(entry.session & 0xFF_FFFF)
    note(7, k, UInt64(entry.event.rawValue))
    if traced != 0, k < engine.limits.connections, sockets[k].bot >= 0 {
      if isTraced(Int(sockets[k].bot)) {
        let names = entry.signals.members.map(\.name).joined(separator: ",")
        tell(
          "\(entry.event.word) \(entry.tier.name) stage \(entry.stage.name) "
            + "\(Double(entry.micros / 1_000) / 1_000) s signals [\(names)]")
      }
    }
    switch entry.event {
    case .delay:
      checks.ceiling.looked += 1
      if entry.micros > engine.policy.delays[entry.stage].ceiling {
        checks.ceiling.fail("\(entry.stage.name): \(entry.micros) us for \(entry.address)")
      }
      // While a slow reader takes in what was sent before, replies that came due earlier still wait behind that,
      // and cannot be told from the delayed one.
      if k < engine.limits.connections && entry.stage != .body && entry.stage != .endOfData
        && sockets[k].sending == 0
      {
        sockets[k].notBefore = entry.at.microseconds + entry.micros
      }
    case .tarpit, .reject, .denylisted, .rateLimit, .limit, .shed:
      checks.reasons.looked += 1
      if entry.signals.rawValue == 0 && entry.accessRule == 0 && entry.rateRule == 0
        && entry.subject == .none && entry.reply < 400
      {
        checks.reasons.fail("\(entry.event.word) of \(entry.address) has none")
      }
    default: break
    }
    // In the tarpit the drip's own pace holds, not the delay that was promised before.
    if entry.event == .tarpit && k < engine.limits.connections { sockets[k].notBefore = 0 }
  }

  /// A text goes to the client in slot `k`: not before the delay that was promised for it is over. Refusals of
  /// the moment (42x, 451) may come at any time.
  mutating func checkRelease(_ k: Int, _ region: Region) {
    guard sockets[k].notBefore > 0, region.count > 2 else { return }
    let first = engine.core.arena[region.offset]
    let second = engine.core.arena[region.offset + 1]
    if first == UInt8(ascii: "4") && second != UInt8(ascii: "5")
      || first == UInt8(ascii: "4") && engine.core.arena[region.offset + 2] == UInt8(ascii: "1")
    {
      return
    }
    checks.release.looked += 1
    // The wheel's tick is 10 ms, and a deadline is rounded up to it.
    let early = sockets[k].notBefore - now * 1_000
    if early > 10_000 {
      let now = now
      checks.release.fail("slot \(k): \(early) us too early at \(now) ms")
    }
    sockets[k].notBefore = 0
  }

  mutating func sample() {
    engine.measure()
    var sample = Sample()
    let seconds = Double(sampleEvery) / 1_000
    sample.at = Double(now) / 1_000
    sample.offered = Double(offered - lastOffered) / seconds
    sample.letThrough = Double(through - lastThrough) / seconds
    lastOffered = offered
    lastThrough = through
    sample.recipients = Double(server.recipients - lastRecipients) / seconds
    lastRecipients = server.recipients
    sample.held = engine.heldCount
    sample.waiting = Int(engine.core.counters.waiting)
    sample.dripping = Int(engine.core.counters.dripping)
    sample.talking = Int(engine.core.counters.talking)
    sample.downstream = server.open
    samples.append(sample)
    checks.lookAtTables(
      held: engine.heldCount, sessions: engine.leasedSessions, links: engine.linkCount,
      engine.limits, now: now)
    if Double(now) < population.scenario.duration * 1_000 {
      add(.sample, at: now + sampleEvery, 0)
    }
  }

  /// What can only be seen at the end.
  mutating func finish() {
    checks.slots.looked += 1
    var held = 0
    for i in 0..<bots.count where bots[i].isTaken {
      if bots[i].slot >= 0 { held += 1 }
      if !bots[i].hasEnded {
        population.stillThere(
          bots[i].client, bots[i].actor, letThrough: bots[i].actor.isLetThrough, now: now * 1_000)
      }
    }
    if held != engine.heldCount {
      checks.slots.fail("\(engine.heldCount) slots are taken, \(held) connections are there")
    }
    for findings in population.findings where findings.kind == Persona.Kind.sender.rawValue {
      checks.honest.looked += findings.clients
      let lost = findings.lost.values.reduce(0, +) - findings.lostByFault
      checks.honest.broken += lost
      if lost > 0 && checks.honest.first == nil {
        let reasons = findings.lost.keys.sorted().joined(separator: "; ")
        checks.honest.first = "\(findings.id): \(lost), \(reasons)"
      }
    }
    trace = trace ^ UInt64(server.messages)
  }

  func isTraced(_ i: Int) -> Bool { traced != 0 && bots[i].client.number == traced }

  /// Writes down a fact or an order of the client that is traced.
  mutating func tell(_ text: String) { lines.append("\(Double(now) / 1_000) s: \(text)") }

  func text(_ region: Region) -> String {
    let bytes = engine.core.arena.span(region)
    var text = ""
    for k in 0..<bytes.count where bytes[k] != 13 {
      text += bytes[k] == 10 ? " | " : String(UnicodeScalar(bytes[k]))
    }
    return text
  }

  /// The bytes of memory that the simulation has for each client that was there at once, be it with a connection or
  /// between two: its records of both, its deadline, what it has said, its end of the shield's socket, and everything
  /// on its way to or from anybody. All that was allocated counts, also what was idle at the end. Not the engine's
  /// own memory, the mail server's, and findings and samples, which do not grow with the clients.
  package var bytesEach: Double {
    let clients = max(bots.count + waiting.count, 1)
    let bytes =
      bots.footprint + timers.footprint + said.footprint + letters.footprint + waiting.footprint
      + events.footprint + min(bots.count, clientSlots) * MemoryLayout<Socket>.stride
    return Double(bytes) / Double(clients)
  }

  /// What the run showed.
  package func report(configuration: String, took: Double) -> RunReport {
    var report = RunReport(
      kind: "simulated", scenario: population.scenario.name, configuration: configuration)
    report.seed = population.seed
    report.lists = population.scenario.listedAre
    report.duration = population.scenario.duration
    report.after = max(Double(horizon) / 1_000 - report.duration, 0)
    report.took = took
    report.events = eventCount
    report.trace = String(trace, radix: 16)
    report.bytesEach = bytesEach
    report.personas = population.findings
    report.samples = samples
    report.checks = checks.all
    return report
  }
}
