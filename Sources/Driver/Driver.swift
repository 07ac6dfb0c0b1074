// SPDX-License-Identifier: Apache-2.0
//
// The engine's hands: turns completions of one ring into facts and orders into submissions. It decides
// nothing about mail. Invariant: for every slot, `inFlight` is the number of completions still to come,
// and a slot is given back to the engine only when it is 0 and the descriptor is closed.

import Glibc
package import Policy
package import Reputation
import SMTP
package import Shield
import Structures
import Suspicion
package import TLS
package import Uring

/// What the driver knows of a slot, in 2 bytes: what is in flight (4 bits), what is wanted (2), flags (10).
struct Place: BitwiseCopyable {
  enum Want: UInt16 {
    case nothing, listen, fill, watch
  }

  struct Flags: OptionSet {
    let rawValue: UInt16
    /// A poll for input is armed.
    static let pollingInput = Flags(rawValue: 1)
    /// A poll for the peer's going away is armed.
    static let pollingHangup = Flags(rawValue: 2)
    /// A receive is in flight.
    static let receiving = Flags(rawValue: 4)
    /// That receive writes into a region of the engine's: it is armed and must be cancelled to end.
    static let filling = Flags(rawValue: 8)
    /// Waits for a provided buffer.
    static let starved = Flags(rawValue: 16)
    /// The engine ordered it closed.
    static let closing = Flags(rawValue: 32)
    /// The close itself is in flight.
    static let closeSubmitted = Flags(rawValue: 64)
    /// A send with a completion is in flight.
    static let sending = Flags(rawValue: 128)
    /// A connect is in flight.
    static let connecting = Flags(rawValue: 256)
    /// Its octets are TLS.
    static let secure = Flags(rawValue: 512)
  }

  private var bits: UInt16 = 0

  /// Completions still to come. Far below 16: of a client two polls, a receive, a send, three options, a shutdown
  /// and a cancelling of each of the first four, and the close once these are there: 12. Only a downstream's
  /// slot has a connect.
  var inFlight: UInt16 {
    get { bits & 15 }
    set {
      invariant(newValue < 16, "\(newValue) operations in flight on one slot")
      bits = bits & ~15 | newValue
    }
  }

  var want: Want {
    get { Want(rawValue: bits >> 4 & 3) ?? .nothing }
    set { bits = bits & ~(3 << 4) | newValue.rawValue << 4 }
  }

  var flags: Flags {
    get { Flags(rawValue: bits >> 6) }
    set { bits = bits & 63 | newValue.rawValue << 6 }
  }
}

/// What the driver counts besides the ring and the engine.
package struct DriverCounters: BitwiseCopyable, Sendable, Equatable {
  package var acceptErrors: UInt64 = 0
  package var descriptorsExhausted: UInt64 = 0
  package var vanishedBeforeAccept: UInt64 = 0
  package var canceled: UInt64 = 0
  package var stale: UInt64 = 0
  package var installs: UInt64 = 0
  /// Connections that ended because there was no memory for a TLS session or for what it had to send or keep.
  package var outOfMemory: UInt64 = 0
  /// Pauses of the whole process after which what had arrived was dealt with before what was due.
  package var pauses: UInt64 = 0
  package init() {}

  package mutating func add(_ other: DriverCounters) {
    acceptErrors += other.acceptErrors
    descriptorsExhausted += other.descriptorsExhausted
    vanishedBeforeAccept += other.vanishedBeforeAccept
    canceled += other.canceled
    stale += other.stale
    installs += other.installs
    outOfMemory += other.outOfMemory
    pauses += other.pauses
  }
}

package struct Driver: ~Copyable {
  package var engine: Engine
  package var ring: Ring
  package var counters = DriverCounters()
  private var buffers: BufferRing
  // TLS: see Driver+TLS.swift.
  var tls: TLSContexts
  var secures: SecureSlots
  var secureBuffers: BufferRing
  /// Slots whose text was wanted when it was there already.
  var openable: [UInt32] = []
  var starvedSecurely: [UInt32] = []
  /// What went wrong while orders were carried out, to be told when they are.
  var troubles = Troubles()
  /// Handshakes that wait their turn: of sources with credit, and of those without.
  var handshakesFirst = HandshakeQueue()
  var handshakesLast = HandshakeQueue()
  /// When one of the latter is next.
  var handshakesAgainAt = Instant.origin
  /// Steps of handshakes in this turn of the loop.
  var handshakesDone = 0
  /// Where text is opened to that goes nowhere else.
  let scratch: UnsafeMutableRawPointer
  private var hasSecureWork = false
  private var plainDrips: [Int] = []
  var effects = Moment(capacity: 256)
  var places: Slab<Place>
  /// Slots that found no provided buffer, in the order in which they found none.
  private var starved: [UInt32] = []
  private var starvedHead = 0
  private let listeners: [Int32]
  private var acceptAgainAt: [Int64]
  /// Descriptors accepted in this batch, on their way into the ring's table.
  private var arrivals: [(slot: Slot, descriptor: Int32)] = []
  private var run: [Int32] = []
  /// Twice as many as there may be: a connect that is not submitted yet still reads what its number meant before.
  private let servers: UnsafeMutablePointer<SocketAddress>
  private static let serversMost = Server.addressesMost
  private var serverStart = 0
  /// Every byte value once: what a drip is sent from. No held peer owns a buffer.
  let octets: UnsafeMutablePointer<UInt8>
  /// The values of the options that widen a socket, where the kernel reads them from.
  private let widths: UnsafeMutablePointer<Int32>
  private let origin: Int64
  private var pause: PauseWatch
  /// When there was mail last.
  private var mailAt = Instant.origin
  /// Where several workers share listeners behind a load balancer: the plain descriptors of slots whose PROXY
  /// header is still to come, because a socket that is in a ring's table cannot be given to another ring.
  private var kept: [UInt32: Int32] = [:]
  private let handOver: (@Sendable (Int, Peer, Int32) -> Void)?

  /// How long a listener rests after the process ran out of descriptors, in microseconds.
  private static let rest: Int64 = 100_000
  /// How many rounds of completions come before timers after a pause, at most.
  private static let catchUpRounds = 32
  private static let hangup = UInt32(0x2000)  // POLLRDHUP, which Swift's Glibc does not show
  private static let broken: UInt32 = 0x0008 | 0x0010  // POLLERR | POLLHUP

  /// Made on the worker's own thread, because the ring belongs to the thread that made it.
  ///
  /// - Parameters:
  ///   - listeners: plain descriptors of listening sockets; the number in the array is the listener's.
  ///   - ringEntries: of the submission queue; the completion queue has four times as many.
  ///   - origin: the clock reading, in microseconds, that is the engine's instant 0.
  ///   - handOver: gives a client and its descriptor to the worker it belongs to; nil where there is none.
  package init(
    engine: consuming Engine, listeners: [Int32], origin: Int64, ringEntries: Int,
    tls: TLSContexts = TLSContexts(),
    handOver: (@Sendable (Int, Peer, Int32) -> Void)? = nil
  ) throws(RingError) {
    let slots = engine.slotCount
    let isSecure = tls.isSecure
    let ring = try Ring(entries: ringEntries, completions: 4 * ringEntries, slots: slots)
    let buffers = try BufferRing(
      ring, group: 1, count: engine.limits.receiveBuffers, bytesEach: Driver.bufferBytes)
    secureBuffers = try BufferRing(
      ring, group: 2, count: isSecure ? Driver.secureBufferCount : 1,
      bytesEach: isSecure ? Driver.secureBufferBytes : Driver.bufferBytes)
    self.tls = tls
    secures = SecureSlots(
      capacity: engine.limits.tlsSessions
        + (tls.client == nil ? 0 : engine.limits.downstreamConnections))
    scratch = .allocate(byteCount: Driver.bufferBytes, alignment: 16)
    self.ring = ring
    self.buffers = buffers
    places = Slab(capacity: slots, repeating: Place())
    self.engine = engine
    self.listeners = listeners
    self.origin = origin
    pause = PauseWatch(now: Instant(microseconds: MonotonicClock.now() - origin))
    self.handOver = handOver
    acceptAgainAt = Array(repeating: 0, count: listeners.count)
    self.servers = .allocate(capacity: 2 * Driver.serversMost)
    self.servers.initialize(
      repeating: SocketAddress(Address(high: 0, low: 0), port: 0), count: 2 * Driver.serversMost)
    octets = .allocate(capacity: 256)
    for value in 0..<256 { (octets + value).initialize(to: UInt8(value)) }
    arrivals.reserveCapacity(64)
    run.reserveCapacity(64)
    starved.reserveCapacity(2 * slots)
    widths = .allocate(capacity: 2)
    widths.initialize(to: Driver.narrow)
    (widths + 1).initialize(to: Driver.wide)
    setAddresses(self.engine.servers)
    for number in listeners.indices { acceptOn(number) }
  }

  /// The downstreams are there from now on; connections that stand stay as they are.
  package mutating func adopt(_ servers: [Server]) {
    serverStart = Driver.serversMost - serverStart
    setAddresses(servers)
    engine.adopt(servers, now: now())
  }

  private func setAddresses(_ servers: [Server]) {
    for server in servers {
      for (number, address) in server.addresses.enumerated() {
        self.servers[serverStart + number] = SocketAddress(address, port: server.port)
      }
    }
  }

  deinit {
    servers.deallocate()
    octets.deallocate()
    widths.deallocate()
    scratch.deallocate()
    for descriptor in kept.values { PlainSocket.close(descriptor) }
  }

  package static let bufferBytes = 512
  package static var bytesPerSlot: Int { MemoryLayout<Place>.stride }
  package static var bytesPerSecureSlot: Int { MemoryLayout<SecureSlot>.stride }
  /// SO_RCVBUF of a held client and of one that sends a message. The kernel doubles them. With the first a
  /// client that floods what we do not read pins 5.8 KB, without it 131.8 KB. Not set on the listener: the
  /// window's scale would then be fixed at 0 for the whole connection.
  private static let narrow: Int32 = 4_096
  private static let wide: Int32 = 65_536
  /// SO_SNDBUF of a client, for replies: at most 8,192 bytes of them are sent at once.
  package static let clientSendBuffer: Int32 = 32_768
  /// SO_SNDBUF and SO_RCVBUF of a downstream connection. Without the first one that takes nothing pins 3.9 MB of message
  /// (tcp_wmem); a larger one carries no more over a loopback or a LAN (measured: 32 KiB to 256 KiB are alike).
  package static let linkSendBuffer: Int32 = 131_072
  package static let linkReceiveBuffer: Int32 = 32_768

  func now() -> Instant { Instant(microseconds: MonotonicClock.now() - origin) }

  /// Arms the wake-up by which other threads reach this worker.
  package mutating func arm(_ wakeUp: WakeUp) {
    ring.pollAdd(descriptor: wakeUp.descriptor, mask: 1, token: Token(.wake))
  }

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
    if engine.leasedSessions > 0 { mailAt = time }
    let hasMail = time.microseconds - mailAt.microseconds < 1_000_000
    effects.dripLimit = hasMail ? 32 : 256
    var isBehind = engine.timeReached(time, into: &effects)
    carryOut()
    while isBehind && !hasMail {
      isBehind = engine.timeReached(time, into: &effects)
      carryOut()
    }
    if !troubles.isEmpty { tellTroubles(now: time) }
    var due =
      isBehind || hasSecureWork || !troubles.isEmpty || woken
      ? 0 : engine.nextDeadline(now: time).microseconds - time.microseconds
    if !handshakesLast.isEmpty {
      due = min(due, handshakesAgainAt.microseconds - time.microseconds)
    }
    let longestNow = min(max(due, 0), longest)
    let latest = time.after(microseconds: longestNow)
    try ring.submitAndWait(timeoutMicroseconds: longestNow)
    time = now()
    pause.waited(until: time, latest: latest)
    return takeCompletions(now: time) || woken
  }

  /// After a pause: what arrived in it before what was due in it. A reply that is in the socket must not lose to the
  /// time-out that it kept. A round may lead to the next: what a poll announces is received by another.
  ///
  /// - Returns: whether the wake-up fired.
  private mutating func catchUp() throws(RingError) -> Bool {
    counters.pauses += 1
    var woken = false
    for _ in 0..<Driver.catchUpRounds {
      try ring.submitAndWait(timeoutMicroseconds: 0)
      let before = ring.counters.completions
      if takeCompletions(now: now()) { woken = true }
      if ring.counters.completions == before { break }
    }
    return woken
  }

  /// What has completed, and what that leads to.
  ///
  /// - Returns: whether the wake-up fired.
  private mutating func takeCompletions(now time: Instant) -> Bool {
    var woken = false
    let count = ring.completions()
    for k in 0..<count {
      let completion = ring.completion(at: k)
      if completion.token.operation == .accept {
        accepted(completion, now: time)
        continue
      }
      if !arrivals.isEmpty { install() }
      if completion.token.operation == .wake {
        woken = true
      } else {
        completed(completion, now: time)
      }
      carryOut()
    }
    if !arrivals.isEmpty { install() }
    ring.advance(count)
    // A queue of handshakes whose slots are gone must be emptied, too: it sets the time to wake up.
    let mayHaveWork = !secures.isEmpty || !troubles.isEmpty || !handshakesLast.isEmpty
    hasSecureWork = mayHaveWork && goOnSecurely(now: time)
    if starvedHead < starved.count { feedStarved() }
    for number in listeners.indices where acceptAgainAt[number] > 0 {
      if time.microseconds >= acceptAgainAt[number] {
        acceptAgainAt[number] = 0
        acceptOn(number)
      }
    }
    return woken
  }

  /// Open TLS sessions keep the context that they began with.
  package mutating func adopt(_ policy: Policy, _ tls: TLSContexts) {
    engine.adopt(policy)
    self.tls = tls
    // Switched on by this reload. Group 2 has had no receive yet.
    if tls.isSecure && secureBuffers.count == 1 && secures.isEmpty {
      do {
        secureBuffers = try BufferRing(
          ring, group: 3, count: Driver.secureBufferCount, bytesEach: Driver.secureBufferBytes)
      } catch {
        // It works with the small one, only slowly.
        return
      }
    }
  }

  package mutating func drain() {
    stopAccepting()
    engine.drain(now: now(), into: &effects)
    carryOut()
  }

  private mutating func stopAccepting() {
    for number in listeners.indices {
      acceptAgainAt[number] = .max
      ring.cancel(Token(.accept, index: UInt32(number)), token: Token(.cancel, index: .max))
    }
  }

  // MARK: Accept

  private mutating func acceptOn(_ number: Int) {
    ring.acceptMultishot(
      listener: listeners[number], token: Token(.accept, index: UInt32(number)))
  }

  private mutating func accepted(_ completion: Completion, now: Instant) {
    let number = Int(completion.token.index)
    if !completion.hasMore && acceptAgainAt[number] == 0 {
      if completion.result == -EMFILE || completion.result == -ENFILE {
        counters.descriptorsExhausted += 1
      }
      // Out of descriptors, or shut: what waits in the backlog can wait a little longer.
      if completion.result < 0 {
        acceptAgainAt[number] = now.microseconds + Driver.rest
      } else {
        acceptOn(number)
      }
    }
    guard completion.result >= 0 else {
      counters.acceptErrors += 1
      return
    }
    guard let seen = AcceptedPeer(descriptor: completion.result) else {
      counters.vanishedBeforeAccept += 1
      PlainSocket.close(completion.result)
      return
    }
    let peer = Peer(
      address: seen.syn.source, port: seen.syn.sourcePort, listener: UInt8(clamping: number))
    arrived(peer, completion.result, now: now)
  }

  private mutating func arrived(_ peer: Peer, _ descriptor: Int32, now: Instant) {
    switch engine.accepted(peer, now: now, into: &effects) {
    case .held(let slot):
      arrivals.append((slot, descriptor))
      if arrivals.count == 64 || effects.isNearlyFull { install() }
    case .refused(let region):
      SyncSend.refuse(descriptor, with: engine.core.arena.span(region))
    case .dropped: PlainSocket.close(descriptor)
    }
  }

  /// A client of ours came to another worker, which has read its PROXY header.
  package mutating func take(_ peer: Peer, descriptor: Int32) {
    let now = now()
    arrived(peer, descriptor, now: now)
    if !arrivals.isEmpty { install() }
    carryOut()
  }

  /// Something was learnt elsewhere.
  package mutating func learn(_ changes: [Change]) {
    let now = now()
    for change in changes { engine.learn(change, now: now) }
  }

  /// Gives a client to its worker.
  private mutating func hand(_ slot: Slot, to worker: Int) {
    guard let descriptor = kept.removeValue(forKey: slot.index) else { return }
    let peer = engine.announcedPeer(slot)
    if let handOver { handOver(worker, peer, descriptor) } else { PlainSocket.close(descriptor) }
  }

  /// A slot whose header has come, or that is done with, needs its plain descriptor no more.
  private mutating func letGo(_ slot: Slot) {
    if kept.isEmpty || engine.awaitsHeader(slot) { return }
    if let descriptor = kept.removeValue(forKey: slot.index) { PlainSocket.close(descriptor) }
  }

  /// Moves the accepted descriptors into the ring's table, one call for each run of neighbouring slots,
  /// and only then carries out what the engine ordered for them.
  private mutating func install() {
    arrivals.sort { $0.slot.index < $1.slot.index }
    var first = 0
    while first < arrivals.count {
      var last = first
      while last + 1 < arrivals.count
        && arrivals[last + 1].slot.index == arrivals[last].slot.index + 1
      { last += 1 }
      run.removeAll(keepingCapacity: true)
      for k in first...last { run.append(arrivals[k].descriptor) }
      let start = Int32(arrivals[first].slot.index)
      put(run, at: start)
      first = last + 1
    }
    for arrival in arrivals {
      if handOver != nil && engine.awaitsHeader(arrival.slot) {
        kept[arrival.slot.index] = arrival.descriptor
      } else {
        PlainSocket.close(arrival.descriptor)
      }
    }
    arrivals.removeAll(keepingCapacity: true)
    carryOut()
  }

  /// - Returns: whether all of them are in the table. The slots of the others have failed.
  @discardableResult
  private mutating func put(_ descriptors: [Int32], at start: Int32) -> Bool {
    counters.installs += 1
    let done = descriptors.withUnsafeBufferPointer { list -> Int in
      guard let base = list.baseAddress else { return 0 }
      do { return try ring.updateFiles(startingAt: start, base, count: list.count) } catch {
        return 0
      }
    }
    for k in done..<descriptors.count {
      let index = UInt32(start) + UInt32(k)
      troubles.note(Slot(index: index, generation: engine.generation(of: Int(index))))
    }
    return done == descriptors.count
  }

  // MARK: Orders

  mutating func carryOut() {
    if effects.dripCount > 0 { sendDrips() }
    var k = 0
    while k < effects.count {
      switch effects[k] {
      case .listen(let slot) where isSecure(Int(slot.index)): open(slot, into: nil)
      case .listen(let slot):
        places[Int(slot.index)].want = .listen
        seekInput(slot)
      case .fill(let slot, let region) where isSecure(Int(slot.index)): open(slot, into: region)
      case .fill(let slot, let region): fill(slot, region)
      case .watch(let slot) where isSecure(Int(slot.index)): watchSecurely(slot)
      case .watch(let slot):
        let i = Int(slot.index)
        places[i].want = .watch
        if places[i].flags.isDisjoint(with: [.pollingInput, .pollingHangup, .closing]) {
          poll(slot, input: false)
        }
      case .send(let slot, let region) where isSecure(Int(slot.index)): seal(slot, region)
      case .send(let slot, let region):
        submitted(slot)
        places[Int(slot.index)].flags.insert(.sending)
        ring.send(
          slot: Int32(slot.index), engine.core.arena.base + region.offset, count: region.count,
          token: token(.send, slot))
      case .connect(let slot, let server): connect(slot, server)
      case .narrow(let slot): resize(slot, widths)
      case .widen(let slot): resize(slot, widths + 1)
      case .secure(let slot, let handshake): secure(slot, handshake)
      case .finish(let slot) where isSecure(Int(slot.index)): finishSecurely(slot)
      case .finish(let slot):
        submitted(slot)
        ring.shutdown(slot: Int32(slot.index), how: Int32(SHUT_WR), token: token(.shutdown, slot))
      case .hand(let slot, let worker): hand(slot, to: worker)
      case .close(let slot):
        letGo(slot)
        close(slot)
      }
      k += 1
    }
    effects.removeAll()
  }

  private mutating func sendDrips() {
    let first = Token(.drip).bits
    if !secures.isEmpty {
      sendMixedDrips(first)
      return
    }
    ring.sendBytes(count: effects.dripCount) { k in
      let drip = effects.drip(at: k)
      return (
        Int32(bitPattern: drip.slot.index), UnsafePointer(octets + Int(drip.byte)),
        Token(bits: first | UInt64(drip.slot.generation) << 32 | UInt64(drip.slot.index))
      )
    }
  }

  /// The same where some of them may be TLS.
  private mutating func sendMixedDrips(_ first: UInt64) {
    plainDrips.removeAll(keepingCapacity: true)
    for k in 0..<effects.dripCount {
      let drip = effects.drip(at: k)
      if isSecure(Int(drip.slot.index)) { sealDrip(drip) } else { plainDrips.append(k) }
    }
    ring.sendBytes(count: plainDrips.count) { k in
      let drip = effects.drip(at: plainDrips[k])
      return (
        Int32(bitPattern: drip.slot.index), UnsafePointer(octets + Int(drip.byte)),
        Token(bits: first | UInt64(drip.slot.generation) << 32 | UInt64(drip.slot.index))
      )
    }
  }

  /// Only where it can be undone for those who have mail: on a direct descriptor since Linux 6.7.
  private mutating func resize(_ slot: Slot, _ width: UnsafePointer<Int32>) {
    guard ring.setsSocketOptions else { return }
    submitted(slot)
    ring.setSocketOption(
      slot: Int32(slot.index), level: SOL_SOCKET, name: SO_RCVBUF, value: width,
      token: token(.setOption, slot))
  }

  /// Receives into a region of the engine's as soon as there is something. Who talks will talk again
  /// soon: a poll before each receive would cost more than the armed receive weighs.
  private mutating func fill(_ slot: Slot, _ region: Region) {
    let i = Int(slot.index)
    places[i].want = .fill
    invariant(
      !places[i].flags.contains(.receiving), "two receives at once on slot \(slot)")
    if places[i].flags.contains(.closing) { return }
    places[i].flags.insert(.receiving)
    places[i].flags.insert(.filling)
    places[i].flags.remove(.starved)
    submitted(slot)
    ring.receive(
      slot: Int32(slot.index), into: engine.core.arena.base + region.offset, count: region.count,
      token: token(.receive, slot))
  }

  func token(_ operation: Operation, _ slot: Slot) -> Token {
    Token(operation, generation: slot.generation, index: slot.index)
  }

  mutating func submitted(_ slot: Slot) { places[Int(slot.index)].inFlight += 1 }

  mutating func poll(_ slot: Slot, input: Bool) {
    let i = Int(slot.index)
    places[i].flags.insert(input ? .pollingInput : .pollingHangup)
    submitted(slot)
    ring.pollAdd(
      slot: Int32(slot.index), mask: input ? Ring.readable : Driver.hangup,
      token: token(input ? .poll : .hangup, slot))
  }

  /// Polls for input.
  private mutating func seekInput(_ slot: Slot) {
    let i = Int(slot.index)
    if places[i].flags.isDisjoint(with: [.pollingInput, .receiving, .starved, .closing]) {
      poll(slot, input: true)
    }
  }

  /// Takes what a poll has announced, into a provided buffer.
  private mutating func receive(_ slot: Slot) {
    places[Int(slot.index)].flags.insert(.receiving)
    submitted(slot)
    // MSG_DONTWAIT: for a held peer a receive is never left armed (830 bytes), a poll is (256).
    ring.receive(
      slot: Int32(slot.index), group: buffers.group, bytesMax: Driver.bufferBytes,
      flags: Int32(MSG_DONTWAIT), token: token(.receiveProvided, slot))
  }

  /// Opens a socket to a downstream. By plain calls: NODELAY must be set before data goes out, and on a
  /// direct descriptor kernels before 6.7 cannot set it.
  private mutating func connect(_ slot: Slot, _ server: Int) {
    let descriptor = socket(
      servers[serverStart + server].family,
      Int32(SOCK_STREAM.rawValue) | Int32(SOCK_CLOEXEC.rawValue), 0)
    guard descriptor >= 0 else {
      if errno == EMFILE || errno == ENFILE { counters.descriptorsExhausted += 1 }
      troubles.note(slot)
      return
    }
    PlainSocket.setOption(descriptor, Int32(IPPROTO_TCP), TCP_NODELAY, 1)
    PlainSocket.setOption(descriptor, SOL_SOCKET, SO_SNDBUF, Driver.linkSendBuffer)
    PlainSocket.setOption(descriptor, SOL_SOCKET, SO_RCVBUF, Driver.linkReceiveBuffer)
    run.removeAll(keepingCapacity: true)
    run.append(descriptor)
    let isThere = put(run, at: Int32(slot.index))
    PlainSocket.close(descriptor)
    guard isThere else { return }
    submitted(slot)
    places[Int(slot.index)].flags.insert(.connecting)
    ring.connect(
      slot: Int32(slot.index), to: servers + serverStart + server, token: token(.connect, slot))
  }

  private mutating func close(_ slot: Slot) {
    let i = Int(slot.index)
    places[i].want = .nothing
    places[i].flags.insert(.closing)
    // Each by its token, which the kernel finds by hash; cancelling by descriptor makes it walk every
    // armed poll of the ring (measured with 15,000 held: a quarter of the relay's throughput).
    let flags = places[i].flags
    if flags.contains(.pollingInput) { cancel(.poll, slot) }
    if flags.contains(.pollingHangup) { cancel(.hangup, slot) }
    if flags.contains(.filling) {
      cancel(flags.contains(.secure) ? .receiveSecure : .receive, slot)
    }
    if flags.contains(.sending) { cancel(.send, slot) }
    if flags.contains(.connecting) { cancel(.connect, slot) }
    if flags.contains(.secure) { closeSecurely(slot) }
    if places[i].inFlight == 0 { submitClose(slot) }
  }

  private mutating func cancel(_ operation: Operation, _ slot: Slot) {
    submitted(slot)
    ring.cancel(token(operation, slot), token: token(.cancel, slot))
  }

  private mutating func submitClose(_ slot: Slot) {
    let i = Int(slot.index)
    if places[i].flags.contains(.closeSubmitted) { return }
    places[i].flags.insert(.closeSubmitted)
    submitted(slot)
    ring.closeDirect(slot: Int32(slot.index), token: token(.close, slot))
  }

  // MARK: Completions

  private mutating func completed(_ completion: Completion, now: Instant) {
    let token = completion.token
    let i = Int(token.index)
    guard i < places.capacity else {
      // The cancelling of an accept, when draining.
      return
    }
    let slot = Slot(index: token.index, generation: token.generation)
    if token.operation == .drip {
      // Only failures of drips complete, and they are not counted as in flight.
      if engine.generation(of: i) != token.generation {
        counters.stale += 1
      } else if !places[i].flags.contains(.closing) {
        engine.failed(slot, now: now, into: &effects)
      }
      return
    }
    invariant(
      engine.generation(of: i) == token.generation,
      "a completion (\(token.operation)) outlived its slot \(slot)")
    places[i].inFlight -= 1
    if completion.result == -ECANCELED { counters.canceled += 1 }
    switch token.operation {
    case .poll:
      places[i].flags.remove(.pollingInput)
      polled(slot, completion.result, now: now)
    case .hangup:
      places[i].flags.remove(.pollingHangup)
      polledHangup(slot, completion.result, now: now)
    case .receive:
      places[i].flags.remove(.receiving)
      places[i].flags.remove(.filling)
      received(slot, completion, provided: nil, now: now)
      // After the orders: one of them may be to hand it over.
      if !kept.isEmpty {
        carryOut()
        letGo(slot)
      }
    case .receiveProvided:
      places[i].flags.remove(.receiving)
      let buffer = buffers.claim(completion)
      received(slot, completion, provided: buffer, now: now)
      if let buffer { buffers.recycle(buffer) }
    case .receiveSecure:
      places[i].flags.remove(.receiving)
      places[i].flags.remove(.filling)
      receivedRecords(slot, completion, now: now)
    case .send:
      places[i].flags.remove(.sending)
      if places[i].flags.contains(.closing) { break }
      if isSecure(i) {
        sealedSent(slot, completion.result)
      } else if completion.result >= 0 {
        engine.sent(slot, Int(completion.result), now: now, into: &effects)
      } else {
        engine.failed(slot, now: now, into: &effects)
      }
    case .connect:
      places[i].flags.remove(.connecting)
      if places[i].flags.contains(.closing) { break }
      if completion.result == 0 {
        engine.connected(slot, now: now, into: &effects)
      } else {
        engine.failed(slot, now: now, into: &effects)
      }
    case .close:
      if isSecure(i) { secures.remove(i) }
      places[i] = Place()
      engine.closed(slot, now: now, into: &effects)
      return
    default: break
    }
    if places[i].flags.contains(.closing) && places[i].inFlight == 0 { submitClose(slot) }
  }

  private mutating func polled(_ slot: Slot, _ result: Int32, now: Instant) {
    let i = Int(slot.index)
    if places[i].flags.contains(.closing) { return }
    guard result >= 0 else {
      if result != -ECANCELED { engine.failed(slot, now: now, into: &effects) }
      return
    }
    switch places[i].want {
    case .listen:
      if places[i].flags.isDisjoint(with: [.receiving, .starved, .secure]) { receive(slot) }
    case .fill: break  // the receive that is armed tells
    case .watch: tellGone(slot, UInt32(bitPattern: result), now: now)
    case .nothing: break
    }
  }

  private mutating func polledHangup(_ slot: Slot, _ result: Int32, now: Instant) {
    let i = Int(slot.index)
    if places[i].flags.contains(.closing) { return }
    guard result >= 0 else {
      if result != -ECANCELED { engine.failed(slot, now: now, into: &effects) }
      return
    }
    if UInt32(bitPattern: result) & Driver.broken != 0 {
      engine.failed(slot, now: now, into: &effects)
    } else if places[i].want == .watch {
      tellGone(slot, UInt32(bitPattern: result), now: now)
    }
  }

  private mutating func tellGone(_ slot: Slot, _ events: UInt32, now: Instant) {
    let i = Int(slot.index)
    if events & Driver.broken != 0 {
      engine.failed(slot, now: now, into: &effects)
    } else if events & Driver.hangup != 0 {
      places[i].want = .nothing
      engine.ended(slot, now: now, into: &effects)
    } else if !places[i].flags.contains(.pollingHangup) {
      // It only said something, which must wait: from here on only its going away is of interest.
      poll(slot, input: false)
    }
  }

  private mutating func received(
    _ slot: Slot, _ completion: Completion, provided: UInt16?, now: Instant
  ) {
    let i = Int(slot.index)
    if places[i].flags.contains(.closing) { return }
    switch completion.result {
    case 1...:
      let count = Int(completion.result)
      places[i].want = .nothing
      if let provided {
        let start = buffers.pointer(for: provided).assumingMemoryBound(to: UInt8.self)
        let bytes = Span(_unsafeStart: UnsafePointer(start), count: count)
        engine.received(slot, bytes, now: now, into: &effects)
      } else {
        engine.filled(slot, count, now: now, into: &effects)
      }
    case 0:
      places[i].want = .nothing
      engine.ended(slot, now: now, into: &effects)
    case -ENOBUFS:
      ring.counters.noBuffers += 1
      places[i].flags.insert(.starved)
      starved.append(slot.index)
    case -EAGAIN, -EINTR:
      switch places[i].want {
      case .listen: seekInput(slot)
      case .fill: engine.filled(slot, 0, now: now, into: &effects)
      case .watch, .nothing: break
      }
    case -ECANCELED: break
    default: engine.failed(slot, now: now, into: &effects)
    }
  }

  /// Lets the slots that found no buffer try again, first come first served: as many as there are buffers.
  /// After each batch, because its completions come in no order that would feed them all on the way.
  private mutating func feedStarved() {
    var budget = buffers.free
    while starvedHead < starved.count && budget > 0 {
      let index = starved[starvedHead]
      starvedHead += 1
      let i = Int(index)
      // The tenant may be gone; the flag went with it.
      guard places[i].flags.contains(.starved) else { continue }
      places[i].flags.remove(.starved)
      if places[i].flags.isDisjoint(with: [.closing, .receiving, .pollingInput, .secure])
        && places[i].want == .listen
      {
        receive(Slot(index: index, generation: engine.generation(of: i)))
        budget -= 1
      }
    }
    // A slot stands here once, so what has been served is at most as long as what waits.
    if starvedHead == starved.count || starvedHead >= places.capacity {
      starved.removeFirst(starvedHead)
      starvedHead = 0
    }
  }
}
