// SPDX-License-Identifier: Apache-2.0
//
// The driver's way through TLS. A secured slot has the same orders and facts as every other; here its octets are
// sealed on the way out and opened on the way in. Receives take one of a few large buffers, never one of the slot's;
// what a record holds beyond what was asked for waits in the slot's stash, and nothing more is received until it is
// gone.

import Glibc
import Shield
import Structures
import TLS
import Uring

extension Driver {
  /// A record is 16 KB and a bit; several receives of half as much would cost more than their memory saves.
  package static let secureBufferBytes = 16_384
  package static let secureBufferCount = 32
  /// Steps of handshakes in one turn of the loop: of sources with credit, and of those without. The dearest costs
  /// about a millisecond.
  private static let handshakesAtOnce = 4
  private static let handshakesInTurn = 1
  /// Handshakes without credit get a quarter of the time: after each step so many times its length belongs to others.
  private static let restAfterStep: Int64 = 3
  /// A drip that finds so much waiting has a peer that takes nothing.
  private static let dripsWaitingMost = 8_192

  func isSecure(_ i: Int) -> Bool { places[i].flags.contains(.secure) }

  // MARK: Orders

  /// Begins a handshake.
  mutating func secure(_ slot: Slot, _ handshake: Handshake) {
    let i = Int(slot.index)
    // A receive of clear text that is in flight would take what belongs to the handshake.
    guard !places[i].flags.contains(.receiving), let tls = channel(slot, handshake),
      secures.insert(tls, at: i)
    else {
      troubles.note(slot, handshake: .handshake)
      return
    }
    places[i].flags.insert(.secure)
    places[i].flags.remove(.starved)
    places[i].want = .nothing
    if handshake == .connect {
      shakeHands(slot, UnsafeRawBufferPointer(start: nil, count: 0), now: now())
    } else {
      seekRecords(slot)
    }
  }

  private mutating func channel(_ slot: Slot, _ handshake: Handshake) -> SecureSlot? {
    if handshake == .connect {
      guard let context = tls.client else { return nil }
      return secureSlot(TLSChannel(context), inTurn: false)
    }
    let listener = engine.listener(of: slot)
    guard listener < tls.servers.count, let context = tls.servers[listener] else { return nil }
    return secureSlot(TLSChannel(context), inTurn: handshake == .acceptInTurn)
  }

  private mutating func secureSlot(
    _ channel: consuming TLSChannel?, inTurn: Bool
  ) -> SecureSlot? {
    guard let channel = consume channel else {
      counters.outOfMemory += 1
      return nil
    }
    return SecureSlot(channel, inTurn: inTurn)
  }

  /// Ends a connection for whose TLS there is no memory.
  private mutating func outOfMemory(_ slot: Slot) {
    counters.outOfMemory += 1
    troubles.note(slot, handshake: secures[Int(slot.index)].isShakingHands ? .handshake : nil)
  }

  /// Wants plain text of a secured slot: into a region, or as it comes.
  mutating func open(_ slot: Slot, into region: Region?) {
    let i = Int(slot.index)
    places[i].want = region == nil ? .listen : .fill
    if let region { secures[i].region = (region.offset, region.count) }
    if places[i].flags.contains(.closing) { return }
    // Not at once: the fact would come in the middle of the orders of another one. A close_notify that came with the
    // last text has been read already, and the wire may stay silent for ever.
    if secures[i].stashed.count > 0 || secures[i].channel.holdsInput || secures[i].inputEnded
      || secures[i].channel.hasEnded
    {
      openable.append(slot.index)
    } else {
      seekRecords(slot)
    }
  }

  /// Wants to know of a secured slot's end alone. A receive that is armed tells, too.
  mutating func watchSecurely(_ slot: Slot) {
    let i = Int(slot.index)
    places[i].want = .watch
    if secures[i].inputEnded {
      openable.append(slot.index)
    } else if places[i].flags.isDisjoint(with: [
      .receiving, .pollingInput, .pollingHangup, .closing,
    ]) {
      poll(slot, input: false)
    }
  }

  mutating func seal(_ slot: Slot, _ region: Region) {
    let i = Int(slot.index)
    secures[i].textOffset = region.offset
    secures[i].textLeft = region.count
    secures[i].textCount = region.count
    pushOut(slot)
  }

  /// A byte is a record.
  mutating func sealDrip(_ drip: Drip) {
    let i = Int(drip.slot.index)
    if places[i].flags.contains(.closing) { return }
    guard secures[i].channel.pendingOutput <= Driver.dripsWaitingMost,
      case .accepted = secures[i].channel.write(drip.byte)
    else {
      troubles.note(drip.slot)
      return
    }
    pushOut(drip.slot)
  }

  mutating func finishSecurely(_ slot: Slot) {
    secures[Int(slot.index)].isFinishing = true
    secures[Int(slot.index)].channel.closeNotify()
    pushOut(slot)
  }

  /// Says goodbye, if that can be done without waiting.
  mutating func closeSecurely(_ slot: Slot) {
    let i = Int(slot.index)
    guard secures.contains(i), !places[i].flags.contains(.sending) else { return }
    if secures[i].textLeft == 0 { secures[i].channel.closeNotify() }
    guard secures[i].takeOutput() == .taken, let out = secures[i].out else { return }
    submitted(slot)
    places[i].flags.insert(.sending)
    ring.send(
      slot: Int32(slot.index), out, count: secures[i].outCount, flags: Int32(MSG_DONTWAIT),
      token: token(.send, slot))
  }

  // MARK: Out

  /// Seals what is to be sent and sends what is sealed, one send at a time.
  mutating func pushOut(_ slot: Slot) {
    let i = Int(slot.index)
    guard places[i].flags.isDisjoint(with: [.sending, .closing]) else { return }
    while secures[i].textLeft > 0 {
      let text = UnsafeRawBufferPointer(
        start: engine.core.arena.base + secures[i].textOffset, count: secures[i].textLeft)
      guard case .accepted(let count) = secures[i].channel.write(text) else {
        secures[i].textLeft = 0
        secures[i].textCount = 0
        troubles.note(slot)
        break
      }
      secures[i].textOffset += count
      secures[i].textLeft -= count
      if count == 0 || secures[i].channel.pendingOutput >= TLSChannel.outputBytesMax { break }
    }
    switch secures[i].takeOutput() {
    case .taken:
      submitted(slot)
      places[i].flags.insert(.sending)
      sendRest(slot)
      return
    case .noMemory:
      secures[i].textLeft = 0
      secures[i].textCount = 0
      outOfMemory(slot)
      return
    case .nothing: break
    }
    if secures[i].textCount > 0 {
      let count = secures[i].textCount
      secures[i].textCount = 0
      engine.sent(slot, count, now: now(), into: &effects)
    }
    if secures[i].isFinishing {
      secures[i].isFinishing = false
      submitted(slot)
      ring.shutdown(slot: Int32(slot.index), how: Int32(SHUT_WR), token: token(.shutdown, slot))
    }
  }

  private mutating func sendRest(_ slot: Slot) {
    let i = Int(slot.index)
    guard let out = secures[i].out else { return }
    ring.send(
      slot: Int32(slot.index), out + secures[i].outSent,
      count: secures[i].outCount - secures[i].outSent, token: token(.send, slot))
  }

  /// A send of a secured slot has completed; it is not in flight any more.
  mutating func sealedSent(_ slot: Slot, _ result: Int32) {
    let i = Int(slot.index)
    guard result >= 0 else {
      engine.failed(slot, now: now(), into: &effects)
      return
    }
    if secures[i].sent(Int(result)) {
      pushOut(slot)
    } else {
      submitted(slot)
      places[i].flags.insert(.sending)
      sendRest(slot)
    }
    if secures[i].isReadWaiting {
      secures[i].isReadWaiting = false
      openable.append(slot.index)
    }
  }

  // MARK: In

  /// Receives what comes next of the wire, unless that is under way.
  mutating func seekRecords(_ slot: Slot) {
    let i = Int(slot.index)
    if !places[i].flags.isDisjoint(with: [.receiving, .starved, .closing]) { return }
    // An idle session has no buffers but the ring's.
    secures[i].channel.giveBack()
    places[i].flags.insert(.receiving)
    places[i].flags.insert(.filling)
    submitted(slot)
    ring.receive(
      slot: Int32(slot.index), group: secureBuffers.group, bytesMax: secureBuffers.bytesEach,
      token: token(.receiveSecure, slot))
  }

  /// Octets of a secured slot have come, or the end of them.
  mutating func receivedRecords(_ slot: Slot, _ completion: Completion, now: Instant) {
    let i = Int(slot.index)
    let buffer = secureBuffers.claim(completion)
    defer { if let buffer { secureBuffers.recycle(buffer) } }
    if places[i].flags.contains(.closing) { return }
    switch completion.result {
    case 1...:
      guard let buffer else { return }
      let bytes = UnsafeRawBufferPointer(
        start: secureBuffers.pointer(for: buffer), count: Int(completion.result))
      if secures[i].isShakingHands {
        takeTurn(slot, bytes, now: now)
      } else {
        openRecords(slot, bytes, now: now)
        if places[i].want == .watch { watchSecurely(slot) }
      }
    case 0:
      secures[i].inputEnded = true
      if secures[i].isShakingHands {
        engine.notSecured(slot, .alert, now: now, into: &effects)
      } else if places[i].want != .nothing {
        tellEnded(slot, now: now)
      }
    case -ENOBUFS:
      ring.counters.noBuffers += 1
      places[i].flags.insert(.starved)
      starvedSecurely.append(slot.index)
    case -EAGAIN, -EINTR: seekRecords(slot)
    case -ECANCELED: break
    default: engine.failed(slot, now: now, into: &effects)
    }
  }

  private mutating func tellEnded(_ slot: Slot, now: Instant) {
    places[Int(slot.index)].want = .nothing
    secures[Int(slot.index)].region = nil
    engine.ended(slot, now: now, into: &effects)
  }

  /// Hands over plain text, one fact of it, from what waited and what has just come.
  mutating func openRecords(_ slot: Slot, _ fresh: UnsafeRawBufferPointer, now: Instant) {
    let i = Int(slot.index)
    let isStashed = secures[i].stashed.count > 0
    if isStashed && !secures[i].keep(fresh) { return outOfMemory(slot) }
    var input = isStashed ? secures[i].stashed : fresh
    defer {
      if isStashed {
        secures[i].drop(keeping: input.count)
      } else if !secures[i].keep(input) {
        outOfMemory(slot)
      }
    }
    let region = secures[i].region
    let found: TLSRead
    if let region {
      found = secures[i].channel.read(
        &input,
        into: UnsafeMutableRawBufferPointer(
          start: engine.core.arena.base + region.offset, count: region.count))
    } else if places[i].want == .listen {
      found = secures[i].channel.read(
        &input,
        into: UnsafeMutableRawBufferPointer(start: scratch, count: Driver.bufferBytes))
    } else {
      if places[i].want == .watch && secures[i].inputEnded { tellEnded(slot, now: now) }
      return
    }
    switch found {
    case .bytes(let count):
      places[i].want = .nothing
      secures[i].region = nil
      if region != nil {
        engine.filled(slot, count, now: now, into: &effects)
      } else {
        let bytes = Span(
          _unsafeStart: UnsafePointer(scratch.assumingMemoryBound(to: UInt8.self)), count: count)
        engine.received(slot, bytes, now: now, into: &effects)
      }
    case .needsMore:
      if secures[i].inputEnded { tellEnded(slot, now: now) } else { seekRecords(slot) }
    case .closed: tellEnded(slot, now: now)
    case .mustSend: secures[i].isReadWaiting = true
    case .failed: engine.failed(slot, now: now, into: &effects)
    }
    // Alerts, and answers to key updates.
    if secures[i].channel.pendingOutput > 0 { pushOut(slot) }
  }

  // MARK: Handshakes

  /// A step of a handshake, now or in its turn.
  private mutating func takeTurn(_ slot: Slot, _ bytes: UnsafeRawBufferPointer, now: Instant) {
    let i = Int(slot.index)
    if !secures[i].isInTurn && handshakesDone < Driver.handshakesAtOnce {
      handshakesDone += 1
      shakeHands(slot, bytes, now: now)
    } else {
      // Nothing is received until its turn has come, so it waits once.
      guard secures[i].keep(bytes) else { return outOfMemory(slot) }
      if secures[i].isInTurn { handshakesLast.append(slot) } else { handshakesFirst.append(slot) }
    }
  }

  /// Those whose turn it is, in each turn of the loop: sources without credit do not stand before those with it.
  private mutating func handshakesInTurn(now: Instant) {
    var budget = Driver.handshakesAtOnce
    while budget > 0, let slot = handshakesFirst.next() {
      if goOnShaking(slot, now: now) { budget -= 1 }
    }
    if handshakesLast.isEmpty { return }
    let start = self.now()
    if start < handshakesAgainAt { return }
    budget = Driver.handshakesInTurn
    while budget > 0, let slot = handshakesLast.next() {
      if goOnShaking(slot, now: now) { budget -= 1 }
    }
    let end = self.now()
    handshakesAgainAt = end.after(
      microseconds: Driver.restAfterStep * (end.microseconds - start.microseconds))
  }

  /// - Returns: false if that one is gone.
  private mutating func goOnShaking(_ slot: Slot, now: Instant) -> Bool {
    let i = Int(slot.index)
    guard engine.generation(of: i) == slot.generation, isSecure(i), secures[i].isShakingHands,
      !places[i].flags.contains(.closing)
    else { return false }
    shakeHands(slot, UnsafeRawBufferPointer(start: nil, count: 0), now: now)
    carryOut()
    return true
  }

  /// Goes on with a handshake, with what waited and what has just come.
  private mutating func shakeHands(
    _ slot: Slot, _ fresh: UnsafeRawBufferPointer, now: Instant
  ) {
    let i = Int(slot.index)
    let isStashed = secures[i].stashed.count > 0
    if isStashed && !secures[i].keep(fresh) { return outOfMemory(slot) }
    var input = isStashed ? secures[i].stashed : fresh
    let found = secures[i].channel.advance(&input)
    if isStashed {
      secures[i].drop(keeping: input.count)
    } else if !secures[i].keep(input) {
      return outOfMemory(slot)
    }
    if case .established = found { secures[i].isShakingHands = false }
    pushOut(slot)
    switch found {
    case .needsMore: seekRecords(slot)
    case .established(let info):
      engine.secured(slot, facts(i, info), now: now, into: &effects)
    case .failed(let failure): troubles.note(slot, handshake: Driver.subject(failure))
    }
  }

  private func facts(_ i: Int, _ info: TLSInfo) -> TLSFacts {
    var facts = TLSFacts()
    facts.version = info.protocolVersion
    facts.cipher = info.cipher
    facts.bits = info.bits
    facts.isResumed = info.isResumed
    facts.hasCertificate = info.peerCertificate != .none
    facts.isVerified = info.peerCertificate == .verified
    if engine.isClient(i), let shown = secures[i].channel.peerCertificate {
      for (k, octet) in shown.fingerprint.prefix(32).enumerated() { facts.fingerprint[k] = octet }
      let name = (shown.commonName ?? "").utf8.prefix(facts.subject.count)
      for (k, octet) in name.enumerated() { facts.subject[k] = octet }
      facts.subjectCount = UInt8(name.count)
    }
    if engine.isClient(i), let name = secures[i].channel.serverName?.utf8,
      name.count <= facts.name.count
    {
      for (k, octet) in name.enumerated() { facts.name[k] = octet }
      facts.nameCount = UInt8(name.count)
    }
    return facts
  }

  private static func subject(_ failure: TLSFailure) -> Subject {
    switch failure.kind {
    case .noSharedCipher: .noCipher
    case .badProtocolVersion: .tlsVersion
    case .plainText: .notTLS
    case .alert, .closed: .alert
    case .certificateRefused: .certificate
    default: .handshake
    }
  }

  // MARK: Each turn

  /// Tells of what went wrong while orders were carried out.
  mutating func tellTroubles(now: Instant) {
    for (slot, why) in troubles.take() {
      let i = Int(slot.index)
      guard engine.generation(of: i) == slot.generation, !places[i].flags.contains(.closing)
      else { continue }
      if let why {
        engine.notSecured(slot, why, now: now, into: &effects)
      } else {
        engine.failed(slot, now: now, into: &effects)
      }
      carryOut()
    }
  }

  /// What waits for no completion: text that is opened already, slots that found no buffer, handshakes in turn.
  ///
  /// - Returns: whether there is more, so that the loop must not wait.
  mutating func goOnSecurely(now: Instant) -> Bool {
    var k = 0
    // What the facts of these add comes in this same turn, but for no longer than a turn may take.
    while k < openable.count && k < 1_024 {
      let index = openable[k]
      k += 1
      let i = Int(index)
      // A tenant that came since is none the worse for a look.
      guard isSecure(i), !places[i].flags.contains(.closing), !secures[i].isShakingHands
      else { continue }
      openRecords(
        Slot(index: index, generation: engine.generation(of: i)),
        UnsafeRawBufferPointer(start: nil, count: 0), now: now)
      carryOut()
    }
    openable.removeFirst(k)
    if !starvedSecurely.isEmpty {
      for index in starvedSecurely {
        let i = Int(index)
        guard isSecure(i), places[i].flags.contains(.starved) else { continue }
        places[i].flags.remove(.starved)
        seekRecords(Slot(index: index, generation: engine.generation(of: i)))
      }
      starvedSecurely.removeAll(keepingCapacity: true)
    }
    handshakesDone = 0
    handshakesInTurn(now: now)
    tellTroubles(now: now)
    return !openable.isEmpty || !handshakesFirst.isEmpty
  }
}

/// Handshakes that wait, in the order of their coming. One whose slot is gone stands here until its turn.
struct HandshakeQueue {
  private var slots: [Slot] = []
  private var head = 0

  var isEmpty: Bool { head == slots.count }

  mutating func append(_ slot: Slot) { slots.append(slot) }

  mutating func next() -> Slot? {
    if isEmpty { return nil }
    let slot = slots[head]
    head += 1
    if head == slots.count || head >= 1_024 {
      slots.removeFirst(head)
      head = 0
    }
    return slot
  }
}
