// SPDX-License-Identifier: Apache-2.0
package import DNSLists
package import Policy
package import Reputation
package import Structures
import Suspicion

// What operators and other workers ask of an engine, and what they may know of it.
extension Engine {
  // MARK: Lists

  /// The client of a slot, about whom the lists are asked.
  package func address(of slot: Slot) -> Address {
    clients.connections[ClientIndex(Int(slot.index))].address
  }

  /// A zone of the lists does not count any more, or counts again.
  package mutating func zoneChanged(_ zone: Int, _ notice: HealthNotice, now: Instant) {
    var entry = JournalEntry(.zoneFailed, at: now)
    switch notice {
    case .alarm(let outcome): entry.outcome = outcome
    case .recovered: entry.event = .zoneRecovered
    }
    entry.zone = UInt8(clamping: zone)
    core.journal.append(entry)
  }

  // MARK: Orders

  /// Puts a new policy in force. Open connections are judged by it from their next step on.
  ///
  /// What a connection counts under comes from its rule, so the concurrency counts are made anew: some
  /// 0.2 µs a connection.
  package mutating func adopt(_ policy: Policy) {
    let before = core.policy
    core.policy = policy
    let beginsToAct = policy.mode == .enforce && before.mode == .observe
    judge.recount(beginsToAct: beginsToAct, &clients, core)
    if policy.lists?.sites.items != before.lists?.sites.items {
      // Items may have other numbers now.
      clients.matches.prepare(connections: policy.lists == nil ? 0 : core.limits.connections)
    }
    let texts = core.texts
    let isRenamed = policy.hostname != before.hostname || policy.offersTLS != before.offersTLS
    if isRenamed { core.texts.turn() }
    core.prepareTexts()
    if isRenamed { clients.changeTexts(from: texts, core) }
  }

  /// Begins to stop: no new clients, idle clients get 421, transactions may end.
  package mutating func drain(now: Instant, into m: inout Moment) {
    m.now = now
    core.beginDraining()
    // One by one through the timers, so that no single fact causes more orders than the queue takes.
    for n in 0..<clients.capacity {
      let i = ClientIndex(n)
      switch clients.connections[i].state {
      case .announced, .waiting, .idle, .dripping, .pit: core.timers.set(i, at: m.now)
      case .talking where clients.sessions[clients.connections[i].session].isBetweenMessages:
        core.timers.set(i, at: m.now)
      case .free, .banner, .talking, .refusing, .draining, .closing, .securing: break
      }
    }
  }

  /// Something was learnt elsewhere, or before this process began.
  package mutating func learn(_ change: Change, now: Instant) {
    judge.learn(change, &core, now: now)
  }

  /// Puts new terms of the downstreams in force: there is only one so far.
  package mutating func adopt(_ servers: [Server], now: Instant) {
    downstream.adopt(servers, now: now)
  }

  // MARK: Questions

  package var policy: Policy { core.policy }
  package var limits: Limits { core.limits }
  package var isDraining: Bool { core.isDraining }
  package var isDownstreamUp: Bool? { downstream.isUp }
  /// The downstreams as they are now.
  package var servers: [Server] { [downstream.server] }

  /// What a clock on the wall said at instant 0, in microseconds since 1970.
  package var wallClock: Int64 {
    get { downstream.wallClock }
    set { downstream.wallClock = newValue }
  }

  /// How many client connections there are.
  package var heldCount: Int { core.limits.connections - core.places.clients.free }
  package var linkCount: Int { core.limits.downstreamConnections - core.places.links.free }
  /// How many sessions are leased.
  package var leasedSessions: Int { core.limits.sessions - core.places.sessions.free }
  /// Whether all places of all pools are free, as they must be without clients.
  package var sharesAreEmpty: Bool { judge.shares.isEmpty }

  /// The client that downstream connection `l` serves, if there is one.
  package func client(ofLink l: Int) -> Int? {
    let s = downstream.links[LinkIndex(l)].session
    return s.exists && clients.sessions[s].owner.exists ? clients.sessions[s].owner.number : nil
  }

  /// Whether a slot, 0 ..< slotCount, is a client's; the others are downstream connections.
  package func isClient(_ slot: Int) -> Bool { ports.isClient(slot) }

  /// The number of the listener that a client came to.
  package func listener(of slot: Slot) -> Int {
    isClient(Int(slot.index)) ? Int(clients.connections[ClientIndex(Int(slot.index))].listener) : 0
  }

  /// Whether a slot still waits for its PROXY header.
  package func awaitsHeader(_ slot: Slot) -> Bool {
    guard isClient(Int(slot.index)) else { return false }
    let connection = clients.connections[ClientIndex(Int(slot.index))]
    return connection.generation == slot.generation && connection.state == .announced
  }

  /// The peer of a slot that is handed to another worker.
  package func announcedPeer(_ slot: Slot) -> Peer {
    let i = ClientIndex(Int(slot.index))
    var peer = clients.peer(i)
    peer.via = headers[clients.connections[i].headerPlace].balancer
    return peer
  }

  /// Brings the gauges up to date. Walks every connection: for a snapshot once a second, not per event.
  package mutating func measure() {
    var (waiting, dripping, talking) = (UInt64(0), UInt64(0), UInt64(0))
    for n in 0..<clients.capacity {
      switch clients.connections[ClientIndex(n)].state {
      case .announced, .waiting: waiting += 1
      case .dripping, .pit: dripping += 1
      case .talking, .banner, .idle, .securing: talking += 1
      case .free, .refusing, .draining, .closing: break
      }
    }
    core.counters.held = UInt64(heldCount)
    core.counters.waiting = waiting
    core.counters.dripping = dripping
    core.counters.talking = talking
    core.counters.links = UInt64(linkCount)
    core.counters.tlsSessions = UInt64(clients.secured.count)
  }
}
