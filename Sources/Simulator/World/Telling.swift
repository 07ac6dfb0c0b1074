// SPDX-License-Identifier: Apache-2.0
import Policy
import Shield
import Structures
import Suspicion

// The engine is told what happened at its slots, one fact at a time, and its journal is read. What it orders then is
// carried out before the next one.
extension World {
  /// Carries out orders and hands over facts until nothing more happens at this moment.
  mutating func settle() {
    carryOut()
    while let k = sockets.nextReady() {
      deliver(k)
      carryOut()
    }
    // An entry is large, and to ask for one that is not there as dear as to take it.
    while engine.core.journal.count > 0, let entry = engine.core.journal.next() { journal(entry) }
  }

  /// Something happens between the shield and the mail server, or a slow reader has taken in what it was sent.
  mutating func happen(_ event: SimEvent, atSlot k: Int) {
    let l = k - sockets.clientSlots
    let current = UInt16(truncatingIfNeeded: engine.generation(of: k))
    switch event.kind {
    case .linkUp where current == UInt16(truncatingIfNeeded: event.payload):
      sockets.isUp(k)
      server.connected(l, now: course.now * 1_000)
      takeAnswers()
    case .linkDown where current == UInt16(truncatingIfNeeded: event.payload):
      fault(behind: l)
      sockets.fail(k)
    case .taken where current == UInt16(truncatingIfNeeded: event.payload): sockets.taken(k)
    case .linkReply where current == event.generation:
      server.arrived(l, Int(event.payload))
      sockets.makeReady(k)
    case .linkEnd where current == event.generation: sockets.fail(k)
    default: break
    }
  }

  /// Hands over a fact that a slot waits for: the orders it causes may change the others.
  private mutating func deliver(_ k: Int) {
    let slot = Slot(index: UInt32(k), generation: engine.generation(of: k))
    switch sockets.stage(k) {
    case .closing: close(k, slot)
    case .securing: shakeHands(k, slot)
    case .open where k < sockets.clientSlots: deliver(k, slot)
    case .open: deliverBehind(k, slot)
    }
  }

  private mutating func deliver(_ k: Int, _ slot: Slot) {
    tellClient(k, slot)
    let i = sockets.bot(k)
    if i < 0 ? sockets.stage(k) == .closing : sockets.hasMore(k, crowd.seen(i)) {
      sockets.makeReady(k)
    }
  }

  /// The shield's part of a handshake: one flight, which answers the hello, and then it waits for the end.
  private mutating func shakeHands(_ k: Int, _ slot: Slot) {
    let i = sockets.bot(k)
    if k >= sockets.clientSlots || engine.policy.tls(ofListener: 0) == .implicit {
      // No client of ours does its part of this one: it takes no time.
      return secured(k, slot)
    }
    if i < 0 { return }
    let seen = crowd.seen(i)
    if seen.isReset || sockets.hasFailed(k) {
      sockets.drop(k)
      return tellClient(k, slot)
    }
    let handshake = crowd.handshake(i)
    if handshake == .finished { return secured(k, slot) }
    if seen.hasSaid || seen.hasEnded {
      sockets.answer(k, .notSecured, slot)
      engine.notSecured(
        slot, seen.hasSaid ? .notTLS : .alert, now: course.instant, into: &effects)
    } else if handshake == .hello {
      crowd.helloAnswered(i)
      send(.helloAnswer, i)
    }
  }

  private mutating func secured(_ k: Int, _ slot: Slot) {
    sockets.answer(k, .secured, slot)
    engine.secured(slot, TLSFacts(), now: course.instant, into: &effects)
    sockets.makeReady(k)
  }

  /// Tells the next fact of a client's slot.
  private mutating func tellClient(_ k: Int, _ slot: Slot) {
    let i = sockets.bot(k)
    guard i >= 0 else { return }
    switch sockets.next(k, slot, crowd.seen(i)) {
    case .nothing: break
    case .filled(let region):
      read(i, atMost: region.count)
      Self.copy(crowd.words, to: &engine.core.arena, at: region.offset)
      engine.filled(slot, crowd.words.count, now: course.instant, into: &effects)
    case .received:
      read(i, atMost: 512)
      let bytes = crowd.words
      engine.received(slot, bytes.span, now: course.instant, into: &effects)
    case .sent(let count): engine.sent(slot, count, now: course.instant, into: &effects)
    case .connected: engine.connected(slot, now: course.instant, into: &effects)
    case .ended: engine.ended(slot, now: course.instant, into: &effects)
    case .failed: engine.failed(slot, now: course.instant, into: &effects)
    }
  }

  private static func copy(_ bytes: [UInt8], to arena: inout Arena, at offset: Int) {
    arena.write(bytes.span, at: offset)
  }

  @inline(__always)
  private mutating func read(_ i: Int, atMost most: Int) {
    crowd.read(i, atMost: most)
    course.note(8, i, UInt64(crowd.words.count))
  }

  /// Tells the next fact of a connection to the mail server.
  private mutating func deliverBehind(_ k: Int, _ slot: Slot) {
    let l = k - sockets.clientSlots
    switch sockets.next(k, slot, hasArrived: server.hasArrived(l)) {
    case .nothing, .received: break
    case .filled(let region):
      let count = server.move(l, to: &engine.core.arena, region)
      engine.filled(slot, count, now: course.instant, into: &effects)
    case .sent(let count): engine.sent(slot, count, now: course.instant, into: &effects)
    case .connected: engine.connected(slot, now: course.instant, into: &effects)
    case .ended: engine.ended(slot, now: course.instant, into: &effects)
    case .failed: engine.failed(slot, now: course.instant, into: &effects)
    }
    if sockets.hasMore(k, hasArrived: server.hasArrived(l)) { sockets.makeReady(k) }
  }

  private mutating func close(_ k: Int, _ slot: Slot) {
    let i = sockets.bot(k)
    sockets.close(k, slot)
    if k >= sockets.clientSlots {
      server.gone(k - sockets.clientSlots)
    } else if i >= 0 {
      crowd.closed(i)
      course.note(6, i, 0)
      if crowd.hasEnded(i) {
        crowd.free(i)
      } else {
        send(.seeEnd, i)
      }
    }
    engine.closed(slot, now: course.instant, into: &effects)
  }

  /// An entry of the engine's journal: what it decided, and why.
  mutating func journal(_ entry: JournalEntry) {
    let k = Int(entry.session & 0xFF_FFFF)
    let isClient = k < sockets.clientSlots
    course.note(7, k, UInt64(entry.event.rawValue))
    if observer.traced != 0, isClient, sockets.bot(k) >= 0, isTraced(sockets.bot(k)) {
      observer.tell(entry, now: course.now)
    }
    switch entry.event {
    case .delay:
      observer.delayed(entry, ceiling: engine.policy.delays[entry.stage].ceiling)
      if isClient && entry.stage != .body && entry.stage != .endOfData {
        sockets.promise(k, until: entry.at.microseconds + entry.micros)
      }
    case .tarpit, .reject, .denylisted, .rateLimit, .limit, .shed: observer.judged(entry)
    default: break
    }
    // In the tarpit the drip's own pace holds, not the delay that was promised before.
    if entry.event == .tarpit && isClient { sockets.releasePromise(k) }
  }
}
