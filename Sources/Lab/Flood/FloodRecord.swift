// SPDX-License-Identifier: Apache-2.0
// What becomes of a thread's clients, for whoever looks: the tally of the moment, the promises that were looked at, and
// what `Population` finds of each persona. It decides nothing but whether a client comes again.

import Configuration
import Glibc
import Personas
import Structures

/// The books of one thread.
struct FloodRecord {
  var population: Population
  private(set) var tally: FloodTally
  private var checks = FloodChecks()

  init(_ population: Population) {
    self.population = population
    tally = FloodTally(entries: population.scenario.entries.count)
  }

  func persona(_ client: Client) -> SharedPersona { population.shared[Int(client.persona)] }

  /// Connections that there are.
  private(set) var there = 0

  // MARK: - Facts

  /// Something happened, so long after it was due.
  mutating func late(by lag: Int64) { tally.lagMost = max(tally.lagMost, lag) }

  /// Bytes, lines, connections, timers.
  mutating func happened() { tally.events += 1 }

  /// Connections that were not made because of the bound on them.
  mutating func missed(_ count: Int = 1) { tally.missed += count }

  /// A connection begins.
  ///
  /// - Returns: the seed of its actor.
  mutating func came(_ client: inout Client, by targets: FloodTargets) -> UInt64 {
    let seed = population.connects(&client)
    tally.rows[Int(client.entry)].connections += 1
    tally.events += 1
    if !client.address.isIPv4 {
      let target = targets.way(client.address).target
      if target.address.isIPv4 {
        tally.byIPv4 += 1
      } else if target.address.isLoopback {
        tally.fromOne += 1
      }
    }
    return seed
  }

  /// It is on its way.
  mutating func stands(_ client: Client) {
    there += 1
    tally.rows[Int(client.entry)].there += 1
    tally.waiting += 1
    tally.thereMost = max(tally.thereMost, there)
  }

  mutating func failed(_ what: String, _ number: Int32) {
    tally.errors += 1
    if tally.errors == 1 {
      StandardError.write("\(what) could not be opened: \(String(cString: strerror(number)))")
    }
  }

  /// A handshake begins.
  mutating func secures(_ client: Client) {
    tally.events += 1
    tally.handshakes += 1
    population.secures(client)
  }

  /// A client hears bytes.
  mutating func heard(_ bytes: Span<UInt8>, _ watch: inout ReplyWatch, _ client: Client) {
    for k in 0..<bytes.count { watch.heard(bytes[k], &checks, client.number) }
  }

  /// What hearing them did to it.
  mutating func changed(from before: Actor, to after: Actor) {
    if before.greetedAt < 0 && after.greetedAt >= 0 { tally.waiting -= 1 }
    if !before.isLetThrough && after.isLetThrough { tally.letThrough += 1 }
  }

  /// A client is no longer there.
  mutating func left(_ client: Client, _ actor: Actor) {
    if actor.greetedAt < 0 { tally.waiting -= 1 }
    tally.rows[Int(client.entry)].there -= 1
  }

  /// A connection's slot is free again.
  mutating func closed() { there -= 1 }

  /// A connection is over for its client, which may never have stood.
  ///
  /// - Returns: when the client comes again; nil if it does not.
  mutating func over(_ client: inout Client, _ actor: Actor, now: Int64) -> Int64? {
    let entry = Int(client.entry)
    tally.events += 1
    tally.rows[entry].delivered += Int(actor.delivered)
    switch actor.ending {
    case .impatient: tally.rows[entry].left += 1
    case .deferred, .rejected, .refusedAtConnect: tally.rows[entry].refused += 1
    case .cutOff, .broken: tally.rows[entry].cutOff += 1
    default: break
    }
    return population.ended(&client, actor, letThrough: actor.isLetThrough, now: now)
  }

  /// The run has ended, and the client was still there.
  mutating func stillThere(_ client: Client, _ actor: Actor, now: Int64) {
    population.stillThere(client, actor, letThrough: actor.isLetThrough, now: now)
    tally.rows[Int(client.entry)].delivered += Int(actor.delivered)
    left(client, actor)
  }

  // MARK: - Figures

  /// The tally as it may be published.
  mutating func tally(away: Int, bytes: Int, isDone: Bool) -> FloodTally {
    tally.away = away
    tally.bytes = bytes
    tally.isDone = isDone
    return tally
  }

  var result: ([PersonaFindings], FloodChecks) {
    var checks = checks
    for findings in population.findings where findings.kind == Persona.Kind.sender.rawValue {
      checks.honest.looked += findings.clients
      for (reason, count) in findings.lost.sorted(by: { $0.key < $1.key }) {
        checks.honest.broken += count
        if checks.honest.first == nil { checks.honest.first = "\(findings.id): \(reason)" }
      }
    }
    return (population.findings, checks)
  }
}
