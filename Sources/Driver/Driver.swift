// SPDX-License-Identifier: Apache-2.0
//
// The engine's hands: turns completions of one ring into facts and orders into submissions. It decides
// nothing about mail. What it is made of answers it and knows no engine: `Wire` (the ring and its slots), `Doors`
// (how clients come in), `Dialler` (the way to downstreams), `TLSPort` and `ListDesk` (DNS look-ups). Kept: the engine is told by this file alone, in
// the order in which things happened, and a slot is given back to it only when nothing of it is in flight.

import Glibc
package import Policy
package import Reputation
import Resolver
package import Shield
import Structures
package import TLS
package import Uring

package struct Driver: ~Copyable {
  package var engine: Engine
  private var wire: Wire
  private var doors: Doors
  private var dialler: Dialler
  private var tls: TLSPort
  /// Only where DNS lists are asked.
  private var lists: ListDesk?
  /// How many desks there have been.
  private var listDesks: UInt32 = 0
  private let testsLists: Bool
  private var counts = DriverCounters()
  /// What went wrong while orders were carried out, to be told when they are.
  private var troubles = Troubles()
  private var effects = Moment(capacity: 256)
  private var hasSecureWork = false
  private var plainDrips: [Int] = []
  private let origin: Int64
  private var pause: PauseWatch
  /// When there was mail last.
  private var mailAt = Instant.origin

  /// How many rounds of completions come before timers after a pause, at most.
  private static let catchUpRounds = 32
  /// Slots of TLS that are looked at in one turn without a completion of theirs, at most.
  private static let openedAtOnce = 1_024

  /// Made on the worker's own thread, because the ring belongs to the thread that made it.
  ///
  /// - Parameters:
  ///   - listeners: plain descriptors of listening sockets; the number in the array is the listener's.
  ///   - ringEntries: of the submission queue; the completion queue has four times as many.
  ///   - origin: the clock reading, in microseconds, that is the engine's instant 0.
  ///   - lists: what all workers know of the DNS lists; nil where none are asked.
  ///   - testsLists: whether this worker tests the lists' zones, for all.
  ///   - handOver: gives a client and its descriptor to the worker it belongs to; nil where there is none.
  package init(
    engine: consuming Engine, listeners: [Int32], origin: Int64, ringEntries: Int,
    tls: TLSContexts = TLSContexts(), lists: ListBook? = nil, testsLists: Bool = true,
    handOver: (@Sendable (Int, Peer, Int32) -> Void)? = nil
  ) throws(RingError) {
    let slots = engine.slotCount
    let ring = try Ring(entries: ringEntries, completions: 4 * ringEntries, slots: slots)
    let buffers = try BufferRing(
      ring, group: 1, count: engine.limits.receiveBuffers, bytesEach: DriverSizes.buffer)
    self.tls = try TLSPort(
      tls,
      slots: engine.limits.tlsSessions
        + (tls.client == nil ? 0 : engine.limits.downstreamConnections), ring)
    wire = Wire(ring, buffers: buffers, slots: slots)
    doors = Doors(listeners, handOver: handOver)
    dialler = Dialler(engine.servers)
    self.engine = engine
    self.origin = origin
    self.testsLists = testsLists
    pause = PauseWatch(now: Instant(microseconds: MonotonicClock.now() - origin))
    doors.open(&wire.ring)
    adopt(lists)
  }

  /// What the driver has counted.
  package var counters: DriverCounters {
    var counters = counts
    counters.outOfMemory = tls.outOfMemory
    switch lists {
    case .some(let desk): counters.lookUps.add(desk.counters)
    case nil: break
    }
    return counters
  }

  /// What the ring has counted.
  package var ringCounters: RingCounters { wire.ring.counters }

  private func now() -> Instant { Instant(microseconds: MonotonicClock.now() - origin) }

  // MARK: Orders from the worker

  /// Arms the wake-up by which other threads reach this worker.
  package mutating func arm(_ wakeUp: WakeUp) {
    wire.ring.pollAdd(descriptor: wakeUp.descriptor, mask: 1, token: Token(.wake))
  }

  /// Open TLS sessions keep the context that they began with.
  package mutating func adopt(
    _ policy: Policy, _ contexts: TLSContexts, lists: ListBook? = nil
  ) {
    engine.adopt(policy)
    tls.adopt(contexts, wire.ring)
    adopt(lists)
  }

  /// Look-ups of other lists than these are dropped, and their clients are not told.
  private mutating func adopt(_ book: ListBook?) {
    let terms = engine.policy.lists
    if let book, let terms, lists?.book === book {
      lists?.terms = terms
      return
    }
    if let found = lists?.counters { counts.lookUps.add(found) }
    lists?.shut(&wire.ring)
    lists = nil
    guard let book, let terms else { return }
    listDesks &+= 1
    // The book has tried such a resolver. Where there is no memory for one now, each look-up is counted as turned away.
    lists = try? ListDesk(
      book, terms, edition: listDesks, isTester: testsLists, now: now())
  }

  /// The downstreams are there from now on; connections that stand stay as they are.
  package mutating func adopt(_ servers: [Server]) {
    dialler.adopt(servers)
    engine.adopt(servers, now: now())
  }

  package mutating func drain() {
    doors.shut(&wire.ring)
    engine.drain(now: now(), into: &effects)
    carryOut()
  }

  /// A client of ours came to another worker, which has read its PROXY header.
  package mutating func take(_ peer: Peer, descriptor: Int32) {
    arrived(peer, descriptor, now: now())
    if doors.hasArrivals { install() }
    carryOut()
  }

  /// Something was learnt elsewhere.
  package mutating func learn(_ changes: [Change]) {
    let now = now()
    for change in changes { engine.learn(change, now: now) }
  }

  // MARK: The loop

  /// One turn: what is due, one submission, one wait, what has completed.
  ///
  /// - Returns: whether the wake-up fired.
  package mutating func turn(longest: Int64) throws(RingError) -> Bool {
    var woken = false
    var time = now()
    if pause.hasPaused(now: time) {
      woken = try catchUp()
      time = now()
    }
    // Where there is mail, or was a moment ago, the drips of one moment go out in parts, and what has completed
    // has its turn between them; otherwise all of them are one submission.
    // Before timers: what the lists have answered can end a client's wait for its banner.
    if lists?.hasNews == true { tellLookUps(now: time) }
    if engine.leasedSessions > 0 { mailAt = time }
    let hasMail = time.microseconds - mailAt.microseconds < 1_000_000
    effects.dripLimit = hasMail ? 32 : 256
    var isBehind = engine.timeReached(time, into: &effects)
    carryOut()
    while isBehind && !hasMail {
      isBehind = engine.timeReached(time, into: &effects)
      carryOut()
    }
    if hasTroubles { tellTroubles(now: time) }
    lists?.timeReached(time, &wire.ring)
    let hasNews = lists?.hasNews == true
    var due =
      isBehind || hasSecureWork || hasTroubles || hasNews || woken
      ? 0 : engine.nextDeadline(now: time).microseconds - time.microseconds
    if let next = lists?.nextDeadline {
      due = min(due, next.microseconds - time.microseconds)
    }
    if tls.handshakes.hasLast {
      due = min(due, tls.handshakes.nextAt.microseconds - time.microseconds)
    }
    let longestNow = min(max(due, 0), longest)
    let latest = time.after(microseconds: longestNow)
    try wire.ring.submitAndWait(timeoutMicroseconds: longestNow)
    time = now()
    pause.waited(until: time, latest: latest)
    return takeCompletions(now: time) || woken
  }

  /// After a pause: what arrived in it before what was due in it. A reply that is in the socket must not lose to the
  /// time-out that it kept. A round may lead to the next: what a poll announces is received by another.
  ///
  /// - Returns: whether the wake-up fired.
  private mutating func catchUp() throws(RingError) -> Bool {
    counts.pauses += 1
    var woken = false
    for _ in 0..<Driver.catchUpRounds {
      try wire.ring.submitAndWait(timeoutMicroseconds: 0)
      let before = wire.ring.counters.completions
      if takeCompletions(now: now()) { woken = true }
      if wire.ring.counters.completions == before { break }
    }
    return woken
  }

  /// What has completed, and what that leads to.
  ///
  /// - Returns: whether the wake-up fired.
  private mutating func takeCompletions(now time: Instant) -> Bool {
    var woken = false
    let count = wire.ring.completions()
    for k in 0..<count {
      let completion = wire.ring.completion(at: k)
      if completion.token.operation == .accept {
        accepted(completion, now: time)
        continue
      }
      if doors.hasArrivals { install() }
      switch completion.token.operation {
      case .wake: woken = true
      case .lookUp: lists?.polled(completion, now: time, &wire.ring)
      default: completed(completion, now: time)
      }
      carryOut()
    }
    if doors.hasArrivals { install() }
    wire.ring.advance(count)
    // A queue of handshakes whose slots are gone must be emptied, too: it sets the time to wake up.
    let mayHaveWork = !tls.isEmpty || hasTroubles || tls.handshakes.hasLast
    hasSecureWork = mayHaveWork && goOnSecurely(now: time)
    if wire.hasStarved { wire.feedStarved { engine.generation(of: $0) } }
    if doors.hasRested { doors.openRested(&wire.ring, now: time.microseconds) }
    return woken
  }

  // MARK: Clients coming

  private mutating func accepted(_ completion: Completion, now: Instant) {
    guard
      let (peer, descriptor) = doors.accepted(
        completion, &wire.ring, &counts, now: now.microseconds)
    else { return }
    arrived(peer, descriptor, now: now)
  }

  private mutating func arrived(_ peer: Peer, _ descriptor: Int32, now: Instant) {
    switch engine.accepted(peer, now: now, into: &effects) {
    case .held(let slot):
      let isFull = doors.add(slot, descriptor)
      if isFull || effects.isNearlyFull { install() }
    case .refused(let region):
      SyncSend.refuse(descriptor, with: engine.core.arena.span(region))
    case .dropped: PlainSocket.close(descriptor)
    }
  }

  /// Moves the accepted descriptors into the ring's table, and only then carries out what the engine ordered for them.
  private mutating func install() {
    doors.install(&wire, &counts, &troubles) { engine.awaitsHeader($0) }
    carryOut()
  }

  /// A slot that waits for no header any more needs its plain descriptor no more.
  private mutating func letGo(_ slot: Slot) {
    if doors.keepsAny && !engine.awaitsHeader(slot) { doors.letGo(slot) }
  }

  // MARK: Orders of the engine

  private mutating func carryOut() {
    if effects.dripCount > 0 { sendDrips() }
    var k = 0
    while k < effects.count {
      switch effects[k] {
      case .listen(let slot) where wire.isSecure(Int(slot.index)): tls.open(slot, into: nil, &wire)
      case .listen(let slot): wire.listen(slot)
      case .fill(let slot, let region) where wire.isSecure(Int(slot.index)):
        tls.open(slot, into: region, &wire)
      case .fill(let slot, let region):
        wire.fill(slot, engine.core.arena.base + region.offset, count: region.count)
      case .watch(let slot) where wire.isSecure(Int(slot.index)): tls.watch(slot, &wire)
      case .watch(let slot): wire.watch(slot)
      case .send(let slot, let region) where wire.isSecure(Int(slot.index)):
        tell(tls.seal(slot, region, engine.core.arena.base, &wire), slot, now: now())
      case .send(let slot, let region):
        wire.send(slot, engine.core.arena.base + region.offset, count: region.count)
      case .connect(let slot, let server):
        if !dialler.connect(slot, server, &wire, &counts) { troubles.note(slot) }
      case .narrow(let slot): wire.narrow(slot)
      case .widen(let slot): wire.widen(slot)
      case .secure(let slot, let handshake):
        let listener = engine.listener(of: slot)
        tell(tls.secure(slot, handshake, listener: listener, &wire), slot, now: now())
      case .lookUp(let slot): lookUp(slot)
      case .finish(let slot) where wire.isSecure(Int(slot.index)):
        tell(tls.finish(slot, engine.core.arena.base, &wire), slot, now: now())
      case .finish(let slot): wire.finish(slot)
      case .hand(let slot, let worker): doors.hand(slot, engine.announcedPeer(slot), to: worker)
      case .close(let slot):
        letGo(slot)
        wire.beginClosing(slot)
        if wire.isSecure(Int(slot.index)) { tls.sayGoodbye(slot, &wire) }
        wire.closeWhenQuiet(slot)
      }
      k += 1
    }
    effects.removeAll()
  }

  private mutating func sendDrips() {
    if !tls.isEmpty {
      sendMixedDrips()
      return
    }
    wire.sendDrips(count: effects.dripCount) { effects.drip(at: $0) }
  }

  /// The same where some of them may be TLS.
  private mutating func sendMixedDrips() {
    plainDrips.removeAll(keepingCapacity: true)
    for k in 0..<effects.dripCount {
      let drip = effects.drip(at: k)
      if wire.isSecure(Int(drip.slot.index)) {
        tell(tls.seal(drip, engine.core.arena.base, &wire), drip.slot, now: now())
      } else {
        plainDrips.append(k)
      }
    }
    wire.sendDrips(count: plainDrips.count) { effects.drip(at: plainDrips[$0]) }
  }

  private mutating func lookUp(_ slot: Slot) {
    let now = now()
    let isTaken: Void? = lists?.lookUp(slot, engine.address(of: slot), now: now, &wire.ring)
    if isTaken == nil { counts.lookUps.turnedAway += 1 }
  }

  // MARK: Facts for the engine

  private mutating func completed(_ completion: Completion, now: Instant) {
    let token = completion.token
    let i = Int(token.index)
    guard i < wire.slotCount else {
      // The cancelling of an accept, when draining.
      return
    }
    let slot = Slot(index: token.index, generation: token.generation)
    if token.operation == .drip {
      // Only failures of drips complete, and they are not counted as in flight.
      if engine.generation(of: i) != token.generation {
        counts.stale += 1
      } else if !wire.isClosing(i) {
        engine.failed(slot, now: now, into: &effects)
      }
      return
    }
    invariant(
      engine.generation(of: i) == token.generation,
      "a completion (\(token.operation)) outlived its slot \(slot)")
    wire.landed(i)
    if completion.result == -ECANCELED { counts.canceled += 1 }
    switch token.operation {
    case .poll: tell(wire.polled(slot, completion.result), slot, now: now)
    case .hangup: tell(wire.polledHangup(slot, completion.result), slot, now: now)
    case .receive:
      tell(wire.received(slot, completion.result, isProvided: false), slot, now: now)
      // After the orders: one of them may be to hand it over.
      if doors.keepsAny {
        carryOut()
        letGo(slot)
      }
    case .receiveProvided:
      let buffer = wire.claim(completion)
      tell(
        wire.received(slot, completion.result, isProvided: buffer != nil), slot, in: buffer,
        now: now)
      if let buffer { wire.recycle(buffer) }
    case .receiveSecure:
      wire.received(i)
      tell(tls.received(slot, completion, engine.core.arena.base, &wire), slot, now: now)
    case .send: sent(slot, completion.result, now: now)
    case .connect:
      wire.connected(i)
      if wire.isClosing(i) { break }
      if completion.result == 0 {
        engine.connected(slot, now: now, into: &effects)
      } else {
        engine.failed(slot, now: now, into: &effects)
      }
    case .close:
      if wire.isSecure(i) { tls.remove(i) }
      wire.closed(i)
      engine.closed(slot, now: now, into: &effects)
      return
    default: break
    }
    wire.closeWhenQuiet(slot)
  }

  private mutating func sent(_ slot: Slot, _ result: Int32, now: Instant) {
    let i = Int(slot.index)
    wire.sent(i)
    if wire.isClosing(i) { return }
    if wire.isSecure(i) {
      tell(tls.sent(slot, result, engine.core.arena.base, &wire), slot, now: now)
    } else if result >= 0 {
      engine.sent(slot, Int(result), now: now, into: &effects)
    } else {
      engine.failed(slot, now: now, into: &effects)
    }
  }

  @inline(__always)
  private mutating func tell(
    _ input: Wire.Input, _ slot: Slot, in buffer: UInt16? = nil, now: Instant
  ) {
    switch input {
    case .nothing: break
    case .filled(let count): engine.filled(slot, count, now: now, into: &effects)
    case .provided(let count):
      guard let buffer else { break }
      let start = wire.pointer(for: buffer).assumingMemoryBound(to: UInt8.self)
      let bytes = Span(_unsafeStart: UnsafePointer(start), count: count)
      engine.received(slot, bytes, now: now, into: &effects)
    case .ended: engine.ended(slot, now: now, into: &effects)
    case .failed: engine.failed(slot, now: now, into: &effects)
    }
  }

  private mutating func tell(_ news: consuming TLSPort.News, _ slot: Slot, now: Instant) {
    switch news.heard {
    case nil: break
    case .filled(let count): engine.filled(slot, count, now: now, into: &effects)
    case .text(let count):
      let start = tls.scratch.assumingMemoryBound(to: UInt8.self)
      let bytes = Span(_unsafeStart: UnsafePointer(start), count: count)
      engine.received(slot, bytes, now: now, into: &effects)
    case .ended: engine.ended(slot, now: now, into: &effects)
    case .failed: engine.failed(slot, now: now, into: &effects)
    case .established(let info):
      let i = Int(slot.index)
      let facts = tls.facts(i, info, isClient: engine.isClient(i))
      engine.secured(slot, facts, now: now, into: &effects)
    case .notSecured(let why): engine.notSecured(slot, why, now: now, into: &effects)
    }
    if news.sent > 0 { engine.sent(slot, news.sent, now: now, into: &effects) }
  }

  // MARK: What waits for no completion

  private var hasTroubles: Bool { !troubles.isEmpty || !tls.troubles.isEmpty }

  /// Tells of what went wrong while orders were carried out.
  private mutating func tellTroubles(now: Instant) {
    for trouble in troubles.take() + tls.takeTroubles() {
      let (slot, why) = trouble
      let i = Int(slot.index)
      guard engine.generation(of: i) == slot.generation, !wire.isClosing(i) else { continue }
      if let why {
        engine.notSecured(slot, why, now: now, into: &effects)
      } else {
        engine.failed(slot, now: now, into: &effects)
      }
      carryOut()
    }
  }

  /// Tells what look-ups came to. A client that has left is nobody's any more.
  private mutating func tellLookUps(now: Instant) {
    while let notice = lists?.takeNotice() {
      engine.zoneChanged(notice.zone, notice.notice, now: now)
    }
    while let (slot, matched) = lists?.takeDecided() {
      let i = Int(slot.index)
      guard engine.generation(of: i) == slot.generation, !wire.isClosing(i) else { continue }
      engine.lookedUp(slot, matched, now: now, into: &effects)
      carryOut()
    }
  }

  /// Text that is opened already, slots that found no buffer, handshakes in turn.
  ///
  /// - Returns: whether there is more, so that the loop must not wait.
  private mutating func goOnSecurely(now: Instant) -> Bool {
    var k = 0
    // What the facts of these add comes in this same turn, but for no longer than a turn may take.
    while k < tls.openableCount && k < Driver.openedAtOnce {
      let base = engine.core.arena.base
      if let (slot, news) = tls.openNext(k, base, &wire, { engine.generation(of: $0) }) {
        tell(news, slot, now: now)
        carryOut()
      }
      k += 1
    }
    tls.forgetOpenable(k)
    tls.feedStarved(&wire) { engine.generation(of: $0) }
    tls.handshakes.beginTurn()
    shakeHandsInTurn(now: now)
    if hasTroubles { tellTroubles(now: now) }
    return tls.openableCount > 0 || tls.handshakes.isPressing
  }

  /// Those whose turn it is, in each turn of the loop: sources without credit do not stand before those with it.
  private mutating func shakeHandsInTurn(now: Instant) {
    var budget = Handshakes.atOnce
    while budget > 0, let slot = tls.handshakes.nextFirst() {
      if goOnShaking(slot, now: now) { budget -= 1 }
    }
    if !tls.handshakes.hasLast { return }
    let start = self.now()
    if start < tls.handshakes.nextAt { return }
    budget = Handshakes.inTurn
    while budget > 0, let slot = tls.handshakes.nextLast() {
      if goOnShaking(slot, now: now) { budget -= 1 }
    }
    tls.handshakes.rest(since: start, until: self.now())
  }

  /// - Returns: false if that one is gone.
  private mutating func goOnShaking(_ slot: Slot, now: Instant) -> Bool {
    guard engine.generation(of: Int(slot.index)) == slot.generation,
      let news = tls.goOnShaking(slot, &wire)
    else { return false }
    tell(news, slot, now: now)
    carryOut()
    return true
  }
}
