// SPDX-License-Identifier: Apache-2.0
import Policy
import Flow
import Reputation
import Structures
import Suspicion

// How long a stage is delayed, and what a client has of having left during one.
extension Judge {
  /// How long this stage is to be delayed for this peer, in microseconds, and adds it to its account.
  ///
  /// Order: the curve, the rate table's own delay at the banner, the stage's ceiling, the second
  /// chance, the shrinking under load, the sum of the session. T3 never gets here: the tarpit has it.
  ///
  /// - Parameters:
  ///   - count: which rejection or failed log-in this is.
  ///   - least: a wait a rate rule asks for; held under the stage's ceiling like all else. No second
  ///     chance shortens it: leaving does not lift a limit.
  ///   - most: what the stage's own account has left, for what no rule asks for.
  mutating func delay(
    _ stage: Stage, _ i: ClientIndex, count: Int = 1, least: Int64 = 0, most: Int64 = .max,
    _ clients: inout Clients, _ core: inout Core, now: Instant
  ) -> Int64 {
    let connection = clients.connections[i]
    let tier = connection.tier
    guard tier != .bad, core.policy.mode == .enforce || !connection.wouldBeTurnedAway else {
      return 0
    }
    let ceiling = core.policy.delays[stage].ceiling
    let isRuled = stage == .banner && !connection.flags.contains(.trusted)
    var delay = core.policy.delay(
      stage, tier: tier, score: core.policy.score(connection.signals), count: count,
      greeting: isRuled ? core.policy.rates.lookup(connection.address)?.greetingDelay : nil)
    delay = min(delay, ceiling, max(most, 0))
    if delay == 0 && least == 0 { return 0 }
    if delay > 0 && core.policy.secondChance && tier != .known {
      let divisor = secondChance(stage, i, clients, core, now: now)
      if divisor != 1 { core.counters.secondChances += 1 }
      delay = divisor == 0 ? 0 : delay / divisor
    }
    if tier == .suspicious {
      let room = 1 - core.occupancy
      let shed = 1 - core.policy.shedAt
      if room < shed && shed > 0 { delay = Int64(Double(delay) * max(room, 0) / shed) }
    }
    delay = max(delay, min(least, ceiling))
    let spent = Int64(connection.delayed) * 10_000
    // A wait that a rate rule asks for may go up to the ceiling of all sums.
    let sum = least > 0 ? core.policy.delays.sumMost : core.policy.delaySum(tier)
    delay = min(delay, max(sum - spent, 0))
    if delay < 10_000 { return 0 }
    return account(delay, stage, i, &clients, &core, now: now)
  }

  /// Adds a delay to a client's account.
  ///
  /// - Returns: the delay; in observe mode, where it is only written down, 0.
  private func account(
    _ delay: Int64, _ stage: Stage, _ i: ClientIndex, _ clients: inout Clients,
    _ core: inout Core, now: Instant
  ) -> Int64 {
    let sum = UInt16(clamping: Int64(clients.connections[i].delayed) + delay / 10_000)
    if core.policy.mode == .observe {
      core.counters.wouldDelay += 1
      note(.wouldDelay, delay, stage, i, clients, &core, now: now)
      // What would have been spent counts, so that observed sums are the ones enforced sums would be.
      clients.connections[i].delayed = sum
      return 0
    }
    core.counters.delays += 1
    core.counters.delayedMicros += UInt64(delay)
    clients.connections[i].delayed = sum
    if delay >= 1_000_000 { note(.delay, delay, stage, i, clients, &core, now: now) }
    return delay
  }

  private func note(
    _ event: Event, _ delay: Int64, _ stage: Stage, _ i: ClientIndex,
    _ clients: borrowing Clients, _ core: inout Core, now: Instant
  ) {
    var entry = clients.entry(event, i, core, now: now)
    entry.stage = stage
    entry.micros = delay
    core.journal.append(entry)
  }

  private func secondChance(
    _ stage: Stage, _ i: ClientIndex, _ clients: borrowing Clients, _ core: borrowing Core,
    now: Instant
  ) -> Int64 {
    let after = core.policy.secondChanceAfter
    var best = memory.divisor(
      Self.network(clients.connections[i].address), stage: stage.rawValue, after: after, now: now)
    if let domain = heloDomain(i, clients, core) {
      let other = memory.divisor(domain, stage: stage.rawValue, after: after, now: now)
      // 0 lifts the delay, 2 halves it, 1 leaves it: the kindest of the two keys counts.
      if other == 0 || (other == 2 && best == 1) { best = other }
    }
    return best
  }

  /// A peer that may be legitimate left while we delayed it: its next try is treated better.
  mutating func leftWhileDelayed(
    _ stage: Stage, _ i: ClientIndex, _ clients: borrowing Clients, _ core: borrowing Core,
    now: Instant
  ) {
    var stages = Self.bit(stage)
    let s = clients.connections[i].session
    if s.exists {
      // What is spent ahead of its stage is lifted with the one it is spent at.
      if clients.sessions[s].envelope.hasPaidRecipient { stages |= Self.bit(.recipientAccepted) }
      if clients.sessions[s].envelope.hasPaidData { stages |= Self.bit(.data) }
    }
    let tier = clients.connections[i].tier
    guard tier == .clean || tier == .suspicious, core.policy.mode == .enforce else { return }
    let after = core.policy.secondChanceAfter
    let network = Self.network(clients.connections[i].address)
    memory.learn(.left, of: network, stages: stages, chanceAfter: after, now: now)
    if let domain = heloDomain(i, clients, core) {
      memory.learn(.left, of: domain, stages: stages, chanceAfter: after, now: now)
    }
  }

  /// The place of a stage among those that have chances; 0 for one that has none.
  private static func bit(_ stage: Stage) -> UInt8 {
    stage.rawValue < 8 ? 1 << stage.rawValue : 0
  }
}

extension Core {
  /// Share of client slots in use, 0…1.
  var occupancy: Double {
    Double(limits.connections - places.clients.free) / Double(max(limits.connections, 1))
  }

  /// How long a T3 peer may be held as things are, in microseconds: when room runs out the worst go first,
  /// at the first mark after 30 s, at the second at once.
  var tarpitTime: Int64 {
    let room = occupancy
    if room >= policy.shedAt { return 0 }
    return room >= policy.shrinkAt ? min(30_000_000, policy.badSession) : policy.badSession
  }
}
