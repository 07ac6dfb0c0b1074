// SPDX-License-Identifier: Apache-2.0
import Personas
import Policy
import Shield
import Structures
import Suspicion

/// What is seen of a run, and what it is held to: a sample each second or so, the promises that are looked at, and the
/// story of one client. It changes nothing in the world.
struct Observer {
  /// How much there was of everything when a sample was taken; of `offered`, `letThrough` and `recipients` since the
  /// start.
  struct Count {
    var offered = 0
    var letThrough = 0
    var recipients = 0
    var held = 0
    var waiting = 0
    var dripping = 0
    var talking = 0
    var downstream = 0
  }

  private(set) var samples: [Sample] = []
  private(set) var checks = Checks()
  /// What happened to the client that is traced.
  private(set) var lines: [String] = []
  /// The number of that client; 0: nobody.
  var traced: UInt32 = 0
  private let sampleEvery: Int64
  private var last = Count()
  /// Messages of which clients were told that they are accepted.
  private var acknowledged = 0

  /// - Parameter sampleEvery: in milliseconds.
  init(sampleEvery: Int64) { self.sampleEvery = sampleEvery }

  @inline(__always)
  func isTraced(_ number: UInt32) -> Bool { traced != 0 && number == traced }

  /// Writes down a fact or an order of the client that is traced.
  mutating func tell(_ text: String, now: Int64) {
    lines.append("\(Double(now) / 1_000) s: \(text)")
  }

  /// The same of what the engine decided.
  mutating func tell(_ entry: JournalEntry, now: Int64) {
    let names = entry.signals.members.map(\.name).joined(separator: ",")
    tell(
      "\(entry.event.word) \(entry.tier.name) stage \(entry.stage.name) "
        + "\(Double(entry.micros / 1_000) / 1_000) s signals [\(names)]", now: now)
  }

  mutating func sample(_ count: Count, now: Int64) {
    var sample = Sample()
    let seconds = Double(sampleEvery) / 1_000
    sample.at = Double(now) / 1_000
    sample.offered = Double(count.offered - last.offered) / seconds
    sample.letThrough = Double(count.letThrough - last.letThrough) / seconds
    sample.recipients = Double(count.recipients - last.recipients) / seconds
    sample.held = count.held
    sample.waiting = count.waiting
    sample.dripping = count.dripping
    sample.talking = count.talking
    sample.downstream = count.downstream
    last = count
    samples.append(sample)
  }

  // MARK: Promises

  /// A delay was decided that may be `ceiling` microseconds at most.
  mutating func delayed(_ entry: JournalEntry, ceiling: Int64) {
    checks.ceiling.looked += 1
    if entry.micros > ceiling {
      checks.ceiling.fail("\(entry.stage.name): \(entry.micros) us for \(entry.address)")
    }
  }

  /// A verdict against a client was given.
  mutating func judged(_ entry: JournalEntry) {
    checks.reasons.looked += 1
    if entry.signals.rawValue == 0 && entry.accessRule == 0 && entry.rateRule == 0
      && entry.subject == .none && entry.reply < 400
    {
      checks.reasons.fail("\(entry.event.word) of \(entry.address) has none")
    }
  }

  /// A reply went out that was promised for a moment in microseconds.
  mutating func replied(slot: Int, promised: Int64, now: Int64) {
    checks.release.looked += 1
    // The wheel's tick is 10 ms, and a deadline is rounded up to it.
    let early = promised - now * 1_000
    if early > 10_000 {
      checks.release.fail("slot \(slot): \(early) us too early at \(now) ms")
    }
  }

  /// A client leaves that was told of so many messages that they are accepted; the mail server has accepted
  /// `accepted` of all clients.
  mutating func left(client: UInt32, acknowledged count: Int, accepted: Int) {
    acknowledged += count
    checks.acknowledgements.looked += 1
    if acknowledged > accepted {
      checks.acknowledgements.fail(
        "client \(client): \(acknowledged) acknowledged, \(accepted) accepted behind")
    }
  }

  mutating func filled(held: Int, sessions: Int, links: Int, _ limits: Limits, now: Int64) {
    checks.lookAtTables(held: held, sessions: sessions, links: links, limits, now: now)
  }

  /// What can only be seen at the end: so many slots are taken, so many connections are there.
  mutating func finish(slots: Int, connections: Int, _ findings: [PersonaFindings]) {
    checks.slots.looked += 1
    if slots != connections {
      checks.slots.fail("\(slots) slots are taken, \(connections) connections are there")
    }
    for findings in findings where findings.kind == Persona.Kind.sender.rawValue {
      checks.honest.looked += findings.clients
      let lost = findings.lost.values.reduce(0, +) - findings.lostByFault
      checks.honest.broken += lost
      if lost > 0 && checks.honest.first == nil {
        let reasons = findings.lost.keys.sorted().joined(separator: "; ")
        checks.honest.first = "\(findings.id): \(lost), \(reasons)"
      }
    }
  }
}
