// SPDX-License-Identifier: Apache-2.0
import Policy
import SMTP
import Structures

/// A connection whose PROXY header is not whole yet.
struct PendingHeader: BitwiseCopyable, Sendable {
  /// The load balancer: the peer of the connection, until the header names another.
  var balancer = Address(high: 0, low: 0)
  /// Octets of the header that are in its region.
  var count: UInt8 = 0
  /// The client is known, and what is left of the header means nothing to us.
  var isSkipping = false
  /// Octets of that rest.
  var skip: UInt16 = 0
}

// Listeners that stand behind a load balancer: who connects there must be listed and must say by a PROXY header
// for whom, before anything is judged. Nothing is guessed: what is no header, or comes too late, is refused with
// 421, because the mistake is ours or the balancer's and the sender's mail must not bounce for it.
//
// The header is read to its last octet and not one further, so that what follows (SMTP said too early, a TLS
// hello) stays in the kernel for whoever is to read it, also when that is another worker.
extension Engine {
  /// The longest that a header may take, in microseconds. The specification wants room for a lost segment: 3 s.
  static var headerTimeout: Int64 { 3_000_000 }
  private func headerKey(_ balancer: Address) -> UInt64 {
    hash(3 << 32, balancer.high, balancer.low)
  }

  /// Whether a slot still waits for its PROXY header.
  package func awaitsHeader(_ slot: Slot) -> Bool {
    isCurrent(slot) && isClient(Int(slot.index))
      && connections[Int(slot.index)].state == .announced
  }

  /// Who a slot that is handed to another worker is.
  package func announcedPeer(_ slot: Slot) -> Peer {
    var peer = peer(Int(slot.index))
    peer.via = headers[connections[Int(slot.index)].headerPlace].balancer
    return peer
  }

  func peer(_ i: Int) -> Peer {
    Peer(
      address: connections[i].address, port: connections[i].port,
      listener: connections[i].listener)
  }

  /// Somebody connected to a listener behind a load balancer.
  mutating func acceptedBehind(
    _ balancers: PrefixTable, _ peer: Peer, now: Instant, into effects: inout EffectQueue
  ) -> Admission {
    guard balancers.find(peer.address) != nil else {
      refuseHeader(.unlistedBalancer, peer, now: now)
      return turnedAway(.shed, peer)
    }
    let key = headerKey(peer.address)
    guard !isDraining, headerCounts.count(key) < max(limits.proxyHeaders / 4, 1),
      let place = headerIndexes.take()
    else {
      if !isDraining { refuseHeader(.headersWaiting, peer, now: now) }
      return isDraining ? .dropped : turnedAway(.busy, peer)
    }
    guard let i = clientIndexes.take() else {
      headerIndexes.release(place)
      counters.shed += 1
      return turnedAway(.busy, peer)
    }
    let counted = headerCounts.increment(key)
    invariant(counted != nil, "more balancers wait than headers do")
    headers[place] = PendingHeader(balancer: peer.address)
    install(peer, in: i, now: now)
    connections[i].state = .announced
    connections[i].headerPlace = place
    connections[i].flags.insert(.announced)
    wheel.set(i, at: now.after(microseconds: Engine.headerTimeout))
    effects.append(
      .fill(slot(client: i), headerRegion(place).prefix(ProxyHeader.shortest)))
    return .held(slot(client: i))
  }

  mutating func refuseHeader(_ why: Subject, _ peer: Peer, now: Instant) {
    counters.proxyRefused += 1
    var entry = JournalEntry(.proxyRefused, at: now)
    entry.address = peer.address
    entry.port = peer.port
    entry.listener = peer.listener
    entry.subject = why
    journal.append(entry)
  }

  /// Part of a header has come.
  mutating func heardHeader(
    _ i: Int, _ count: Int, now: Instant, into effects: inout EffectQueue
  ) {
    let place = connections[i].headerPlace
    let region = headerRegion(place)
    if headers[place].isSkipping {
      headers[place].skip -= UInt16(count)
    } else {
      headers[place].count += UInt8(count)
    }
    let have = Int(headers[place].count)
    let step = ProxyHeader.read(arena.span(region.prefix(have)))
    switch step {
    case .malformed:
      let isTooLong = ProxyHeader.isTooLong(arena.span(region.prefix(have)))
      noHeader(i, isTooLong ? .headerTooLong : .headerMalformed, now: now, into: &effects)
    case .needMore(let more):
      effects.append(.fill(slot(client: i), region.from(have).prefix(more)))
    case .complete(let source, let skip):
      if !headers[place].isSkipping {
        headers[place].isSkipping = true
        headers[place].skip = UInt16(skip)
      }
      let left = Int(headers[place].skip)
      if left > 0 {
        let room = region.from(Layout.headerKept)
        effects.append(.fill(slot(client: i), room.prefix(min(left, room.count))))
      } else {
        announced(i, source, now: now, into: &effects)
      }
    }
  }

  /// A header is whole: the client is known, and only now is it judged.
  private mutating func announced(
    _ i: Int, _ source: ProxyHeader.Source, now: Instant, into effects: inout EffectQueue
  ) {
    var peer = peer(i)
    peer.via = peer.address
    if case .client(let address, let port) = source {
      peer.address = address
      peer.port = port
      let home = workers > 1 ? Steering.worker(for: address, of: UInt32(workers)) : worker
      if home != worker {
        connections[i].address = address
        connections[i].port = port
        connections[i].state = .closing
        wheel.cancel(i)
        effects.append(.hand(slot(client: i), worker: home))
        effects.append(.close(slot(client: i)))
        return
      }
    } else {
      // Its own health check: nobody spoke for anybody.
      peer.via = nil
      peer.isNobody = true
    }
    releaseHeader(i)
    wheel.cancel(i)
    enter(peer, in: i, now: now, into: &effects)
  }

  /// What came is no header, or none came in time.
  mutating func noHeader(
    _ i: Int, _ why: Subject, now: Instant, into effects: inout EffectQueue
  ) {
    refuseHeader(why, peer(i), now: now)
    // The line just written is its closing line.
    connections[i].flags.insert(.logged)
    refuse(i, .shed, now: now, into: &effects)
  }

  /// The balancer closed before its header was whole. Without a word it has only looked whether we are there.
  mutating func leftWithoutHeader(_ i: Int, now: Instant, into effects: inout EffectQueue) {
    if headers[connections[i].headerPlace].count > 0 {
      refuseHeader(.headerMalformed, peer(i), now: now)
    }
    connections[i].flags.insert(.logged)
    close(i, now: now, into: &effects)
  }

  /// Gives a header's place back; nothing may be in flight into it.
  mutating func releaseHeader(_ i: Int) {
    guard connections[i].flags.contains(.announced) else { return }
    connections[i].flags.remove(.announced)
    let place = connections[i].headerPlace
    headerCounts.decrement(headerKey(headers[place].balancer))
    headerIndexes.release(place)
    connections[i].headerPlace = 0
  }
}
