// SPDX-License-Identifier: Apache-2.0
import Policy
import Flow
import Reputation
import Structures
import Suspicion

// Rates and counts by source.
extension Judge {
  /// What a limit asks for now.
  enum Excess {
    case within
    /// Over, and the rule says to slow down: wait this long, in microseconds.
    case slow(Int64)
    case tempfail, refuse, drop
  }

  /// The connection rate and the concurrency of the peer's rate rule.
  mutating func connectionExcess(
    _ i: ClientIndex, _ clients: inout Clients, _ core: inout Core, now: Instant
  ) -> Excess {
    guard let rule = clients.rateRule(i, core), !clients.connections[i].flags.contains(.trusted)
    else {
      return .within
    }
    let rate = take(.connections, .connections, i, &clients, &core, now: now)
    if let key = concurrencyKey(clients.connections[i].address, rule) {
      let count = open.increment(key)
      if count != nil { clients.connections[i].flags.insert(.counted) }
      // Not counted: the table is full, which is no fault of this key, or the key is at what can be counted.
      if count ?? open.count(key) > rule.concurrency {
        // A fifth of a minute is long enough to thin out a crowd, and below every ceiling.
        let more = exceeded(.concurrency, rule, i, wait: 12_000_000, &clients, &core, now: now)
        if case .within = rate { return more }
      }
    }
    return rate
  }

  /// Takes one unit of a rule's limit.
  mutating func take(
    _ limited: LimitKind, _ subject: Subject, _ i: ClientIndex, units: UInt64 = 1,
    _ clients: inout Clients, _ core: inout Core, now: Instant
  ) -> Excess {
    guard !clients.connections[i].flags.contains(.trusted), let rule = clients.rateRule(i, core),
      let rate = rule.rate(limited)
    else { return .within }
    let key = rule.key(for: clients.connections[i].address, limited)
    var wait: Int64 = 0
    if rule.over == .slow {
      wait = (buckets.earliest(key, units, rate, now: now) - now).microseconds
      // If no allowed delay is long enough, the command is deferred. Otherwise the longest delay would lift the limit.
      let spent = Int64(clients.connections[i].delayed) * 10_000
      let left = min(core.policy.delays[.mail].ceiling, core.policy.delays.sumMost - spent)
      if wait > left && core.policy.mode == .enforce {
        return exceeded(
          subject, rule, i, wait: wait, asking: .tempfail, &clients, &core, now: now)
      }
      // Slowed, not refused: the attempt happens, so it counts.
      _ = buckets.charge(key, units, rate, now: now)
      if wait <= 0 { return .within }
      if wait > left {
        return exceeded(
          subject, rule, i, wait: wait, asking: .tempfail, &clients, &core, now: now)
      }
    } else {
      guard case .over(let retryAfter) = buckets.take(key, units, rate, now: now) else {
        return .within
      }
      wait = retryAfter.microseconds
    }
    return exceeded(subject, rule, i, wait: wait, &clients, &core, now: now)
  }

  /// A rule of the rate table is exceeded: notes it, and says what the rule wants done.
  ///
  /// - Parameter action: what is done about it, where that is not what the rule says.
  private mutating func exceeded(
    _ subject: Subject, _ rule: RateRule, _ i: ClientIndex, wait: Int64,
    asking action: OverAction? = nil, _ clients: inout Clients, _ core: inout Core, now: Instant
  ) -> Excess {
    let action = action ?? rule.over
    let isArrival = subject == .connections || subject == .concurrency
    if core.policy.mode == .observe && action != .slow {
      let s = clients.connections[i].session
      if isArrival {
        clients.connections[i].wouldTurnAway()
      } else if s.exists {
        clients.sessions[s].ending = .wouldRefuse
      }
    }
    core.counters.rateLimited += 1
    note(.rateExcess, i, &clients, &core, now: now)
    var entry = clients.entry(.rateLimit, i, core, now: now)
    entry.subject = subject
    entry.micros = wait
    entry.over = rule.over
    entry.reply =
      switch action {
      case .slow: 0
      // Errors over their rate end the session.
      case _ where subject == .errors: 421
      case .drop: 0
      case .tempfail: isArrival ? 421 : 450
      case .refuse: 554
      }
    core.journal.append(entry)
    if core.policy.mode == .observe { return .within }
    switch action {
    case .slow: return .slow(wait)
    case .tempfail: return .tempfail
    case .refuse: return .refuse
    case .drop: return .drop
    }
  }

  // MARK: Bytes

  /// How many bytes the source may send now; nil where no rule says.
  func credit(
    _ i: ClientIndex, _ clients: borrowing Clients, _ core: borrowing Core, now: Instant
  ) -> Int? {
    guard core.policy.mode == .enforce, let rule = clients.rateRule(i, core), let rate = rule.bytes,
      !clients.connections[i].flags.contains(.trusted)
    else { return nil }
    let key = rule.key(for: clients.connections[i].address, .bytes)
    // A quarter of the burst at a time: clients that share a bucket take turns at it.
    let turn = max(rate.burst / 4, 2_048)
    return Int(clamping: min(buckets.peek(key, rate, now: now), turn))
  }

  /// When a source without credit may go on: with a piece worth reading, but never later than a stall may last (half its
  /// ceiling). Nil where no rule says.
  func creditDue(
    _ i: ClientIndex, _ clients: borrowing Clients, _ core: borrowing Core, now: Instant
  ) -> Instant? {
    guard let rule = clients.rateRule(i, core), let rate = rule.bytes else { return nil }
    let key = rule.key(for: clients.connections[i].address, .bytes)
    let due = buckets.earliest(key, min(rate.burst, 2_048), rate, now: now)
    let latest = now.after(microseconds: core.policy.delays[.body].ceiling / 2)
    return min(max(due, now.after(microseconds: 10_000)), latest)
  }

  /// Charges received bytes to the source's byte rate.
  mutating func spend(
    _ i: ClientIndex, _ count: Int, _ clients: borrowing Clients, _ core: borrowing Core,
    now: Instant
  ) {
    guard let rule = clients.rateRule(i, core), let rate = rule.bytes,
      !clients.connections[i].flags.contains(.trusted)
    else { return }
    _ = buckets.charge(
      rule.key(for: clients.connections[i].address, .bytes), UInt64(count), rate, now: now)
  }

  // MARK: Counts

  /// Under which key a client counts in the concurrency of its rule, if that has one.
  private func concurrencyKey(_ address: Address, _ rule: RateRule?) -> UInt64? {
    guard let rule, rule.concurrency > 0 else { return nil }
    let key = rule.key(for: address)
    return hash(key.tag | 1 << 32, key.high, key.low)
  }

  /// Under which key a source's tarpit sessions are counted.
  private func badKey(_ address: Address) -> UInt64 {
    let source = address.isIPv4 ? address : address.network(64)
    return hash(2 << 32, source.high, source.low)
  }

  /// A client comes into the tarpit.
  ///
  /// - Returns: how many of its source are there; nil if that cannot be counted.
  mutating func countBad(_ i: ClientIndex, _ clients: inout Clients) -> UInt32? {
    let held = open.increment(badKey(clients.connections[i].address))
    if held != nil { clients.connections[i].flags.insert(.countedBad) }
    return held
  }

  /// A client's connection ends.
  mutating func uncount(_ i: ClientIndex, _ clients: inout Clients, _ core: borrowing Core) {
    if clients.connections[i].flags.contains(.counted),
      let key = concurrencyKey(clients.connections[i].address, clients.rateRule(i, core))
    {
      open.decrement(key)
    }
    if clients.connections[i].flags.contains(.countedBad) {
      open.decrement(badKey(clients.connections[i].address))
    }
    clients.connections[i].flags.remove(.counts)
  }

  /// Counts all open connections anew, under the rules of a new policy: some 0.2 µs a connection.
  ///
  /// - Parameter beginsToAct: what would have been spent has not been.
  mutating func recount(
    beginsToAct: Bool, _ clients: inout Clients, _ core: borrowing Core
  ) {
    open.removeAll()
    for n in 0..<clients.capacity {
      let i = ClientIndex(n)
      if clients.connections[i].state == .free { continue }
      if beginsToAct && !clients.connections[i].flags.contains(.countedBad) {
        clients.connections[i].delayed = 0
      }
      if clients.connections[i].flags.contains(.counted) {
        clients.connections[i].flags.remove(.counted)
        if let key = concurrencyKey(clients.connections[i].address, clients.rateRule(i, core)),
          open.increment(key) != nil
        {
          clients.connections[i].flags.insert(.counted)
        }
      }
      if clients.connections[i].flags.contains(.countedBad) {
        if open.increment(badKey(clients.connections[i].address)) == nil {
          clients.connections[i].flags.remove(.countedBad)
        }
      }
    }
  }
}

extension Clients {
  /// The rule of the rate table that holds for a client.
  func rateRule(_ i: ClientIndex, _ core: borrowing Core) -> RateRule? {
    core.policy.rates.lookup(connections[i].address)
  }
}
