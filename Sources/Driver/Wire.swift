// SPDX-License-Identifier: Apache-2.0
//
// The ring as slots see it: what is in flight on each, what is wanted of its input, and the way to its end. It knows no
// engine: a completion comes back as a value that the driver tells. Invariant: for every slot, `inFlight` is the number
// of completions still to come, and a slot is closed only when it is 0.

import Glibc
import Shield
import Structures
import Uring

struct Wire: ~Copyable {
  /// What a completion says of a slot's input.
  enum Input: BitwiseCopyable {
    case nothing
    /// So many bytes lie in the region that was named.
    case filled(Int)
    /// So many bytes lie in the provided buffer.
    case provided(Int)
    case ended
    case failed
  }

  var ring: Ring
  private var buffers: BufferRing
  private var places: Slab<Place>
  /// Slots that found no provided buffer, in the order in which they found none.
  private var starved: [UInt32] = []
  private var starvedHead = 0
  /// Every byte value once: what a drip is sent from. No held peer owns a buffer.
  private let octets: UnsafeMutablePointer<UInt8>
  /// The values of the options that widen a socket, where the kernel reads them from.
  private let widths: UnsafeMutablePointer<Int32>

  private static let hangup = UInt32(0x2000)  // POLLRDHUP, which Swift's Glibc does not show
  private static let broken: UInt32 = 0x0008 | 0x0010  // POLLERR | POLLHUP

  init(_ ring: consuming Ring, buffers: consuming BufferRing, slots: Int) {
    self.ring = ring
    self.buffers = buffers
    places = Slab(capacity: slots, repeating: Place())
    starved.reserveCapacity(2 * slots)
    octets = .allocate(capacity: 256)
    for value in 0..<256 { (octets + value).initialize(to: UInt8(value)) }
    widths = .allocate(capacity: 2)
    widths.initialize(to: DriverSizes.narrow)
    (widths + 1).initialize(to: DriverSizes.wide)
  }

  deinit {
    octets.deallocate()
    widths.deallocate()
  }

  // MARK: What is so

  var slotCount: Int { places.capacity }
  func isSecure(_ i: Int) -> Bool { places[i].flags.contains(.secure) }
  func isClosing(_ i: Int) -> Bool { places[i].flags.contains(.closing) }
  func isSending(_ i: Int) -> Bool { places[i].flags.contains(.sending) }
  func isReceiving(_ i: Int) -> Bool { places[i].flags.contains(.receiving) }
  func want(_ i: Int) -> Place.Want { places[i].want }
  mutating func want(_ want: Place.Want, of i: Int) { places[i].want = want }
  var hasStarved: Bool { starvedHead < starved.count }

  func token(_ operation: Operation, _ slot: Slot) -> Token {
    Token(operation, generation: slot.generation, index: slot.index)
  }

  private mutating func submitted(_ slot: Slot) { places[Int(slot.index)].inFlight += 1 }

  // MARK: Input

  /// Wants what comes, in a provided buffer: a poll first.
  mutating func listen(_ slot: Slot) {
    places[Int(slot.index)].want = .listen
    seekInput(slot)
  }

  /// Wants to know of the end alone.
  mutating func watch(_ slot: Slot) {
    places[Int(slot.index)].want = .watch
    if places[Int(slot.index)].flags.isDisjoint(with: [.pollingInput, .pollingHangup, .closing]) {
      poll(slot, input: false)
    }
  }

  /// The same where a receive that is armed tells, too.
  mutating func watchSecurely(_ slot: Slot) {
    if places[Int(slot.index)].flags.isDisjoint(with: [
      .receiving, .pollingInput, .pollingHangup, .closing,
    ]) {
      poll(slot, input: false)
    }
  }

  /// Receives into memory of the engine's as soon as there is something. Who talks will talk again
  /// soon: a poll before each receive would cost more than the armed receive weighs.
  mutating func fill(_ slot: Slot, _ room: UnsafeMutableRawPointer, count: Int) {
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
      slot: Int32(slot.index), into: room, count: count, token: token(.receive, slot))
  }

  /// Receives records of TLS into a buffer of that group, unless that is under way.
  ///
  /// - Returns: whether it has begun.
  mutating func receiveRecords(_ slot: Slot, group: UInt16, bytesMax: Int) -> Bool {
    let i = Int(slot.index)
    if !places[i].flags.isDisjoint(with: [.receiving, .starved, .closing]) { return false }
    places[i].flags.insert(.receiving)
    places[i].flags.insert(.filling)
    submitted(slot)
    ring.receive(
      slot: Int32(slot.index), group: group, bytesMax: bytesMax, token: token(.receiveSecure, slot))
    return true
  }

  private mutating func poll(_ slot: Slot, input: Bool) {
    let i = Int(slot.index)
    places[i].flags.insert(input ? .pollingInput : .pollingHangup)
    submitted(slot)
    ring.pollAdd(
      slot: Int32(slot.index), mask: input ? Ring.readable : Wire.hangup,
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
      slot: Int32(slot.index), group: buffers.group, bytesMax: DriverSizes.buffer,
      flags: Int32(MSG_DONTWAIT), token: token(.receiveProvided, slot))
  }

  // MARK: Out

  /// Sends what lies there; it must stay until the send has completed.
  mutating func send(
    _ slot: Slot, _ bytes: UnsafeMutableRawPointer, count: Int, flags: Int32 = 0
  ) {
    submitted(slot)
    places[Int(slot.index)].flags.insert(.sending)
    ring.send(
      slot: Int32(slot.index), bytes, count: count, flags: flags, token: token(.send, slot))
  }

  /// Sends a byte to each of `count` slots; nothing completes but failures.
  @inline(__always)
  mutating func sendDrips(count: Int, _ drip: (Int) -> Drip) {
    let first = Token(.drip).bits
    let octets = octets
    ring.sendBytes(count: count) { k in
      let drip = drip(k)
      return (
        Int32(bitPattern: drip.slot.index), UnsafePointer(octets + Int(drip.byte)),
        Token(bits: first | UInt64(drip.slot.generation) << 32 | UInt64(drip.slot.index))
      )
    }
  }

  /// Closes our side.
  mutating func finish(_ slot: Slot) {
    submitted(slot)
    ring.shutdown(slot: Int32(slot.index), how: Int32(SHUT_WR), token: token(.shutdown, slot))
  }

  mutating func narrow(_ slot: Slot) { resize(slot, widths) }
  mutating func widen(_ slot: Slot) { resize(slot, widths + 1) }

  /// Only where it can be undone for those who have mail: on a direct descriptor since Linux 6.7.
  private mutating func resize(_ slot: Slot, _ width: UnsafePointer<Int32>) {
    guard ring.setsSocketOptions else { return }
    submitted(slot)
    ring.setSocketOption(
      slot: Int32(slot.index), level: SOL_SOCKET, name: SO_RCVBUF, value: width,
      token: token(.setOption, slot))
  }

  /// Connects to an address that must stay where it is until this is submitted.
  mutating func connect(_ slot: Slot, to address: UnsafePointer<SocketAddress>) {
    submitted(slot)
    places[Int(slot.index)].flags.insert(.connecting)
    ring.connect(slot: Int32(slot.index), to: address, token: token(.connect, slot))
  }

  /// Puts plain descriptors into the ring's table, from slot `start` on.
  ///
  /// - Returns: how many of them are in it.
  mutating func install(_ descriptors: [Int32], at start: Int32) -> Int {
    descriptors.withUnsafeBufferPointer { list -> Int in
      guard let base = list.baseAddress else { return 0 }
      do { return try ring.updateFiles(startingAt: start, base, count: list.count) } catch {
        return 0
      }
    }
  }

  // MARK: The end

  /// Nothing more is wanted of the slot, and what waits is cancelled. What is to be said last comes between this and
  /// `closeWhenQuiet`.
  mutating func beginClosing(_ slot: Slot) {
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
  }

  /// Closes a slot that is to be closed, once nothing of it is in flight.
  @inline(__always)
  mutating func closeWhenQuiet(_ slot: Slot) {
    let i = Int(slot.index)
    guard places[i].flags.contains(.closing), places[i].inFlight == 0,
      !places[i].flags.contains(.closeSubmitted)
    else { return }
    places[i].flags.insert(.closeSubmitted)
    submitted(slot)
    ring.closeDirect(slot: Int32(slot.index), token: token(.close, slot))
  }

  private mutating func cancel(_ operation: Operation, _ slot: Slot) {
    submitted(slot)
    ring.cancel(token(operation, slot), token: token(.cancel, slot))
  }

  /// The close has completed: the place is as new.
  mutating func closed(_ i: Int) { places[i] = Place() }

  // MARK: Completions

  /// One operation less is in flight. Before all that follows.
  @inline(__always)
  mutating func landed(_ i: Int) { places[i].inFlight -= 1 }

  @inline(__always)
  mutating func sent(_ i: Int) { places[i].flags.remove(.sending) }

  mutating func connected(_ i: Int) { places[i].flags.remove(.connecting) }

  mutating func received(_ i: Int) {
    places[i].flags.remove(.receiving)
    places[i].flags.remove(.filling)
  }

  mutating func polled(_ slot: Slot, _ result: Int32) -> Input {
    let i = Int(slot.index)
    places[i].flags.remove(.pollingInput)
    if places[i].flags.contains(.closing) { return .nothing }
    guard result >= 0 else { return result == -ECANCELED ? .nothing : .failed }
    switch places[i].want {
    case .listen:
      if places[i].flags.isDisjoint(with: [.receiving, .starved, .secure]) { receive(slot) }
    case .fill: break  // the receive that is armed tells
    case .watch: return gone(slot, UInt32(bitPattern: result))
    case .nothing: break
    }
    return .nothing
  }

  mutating func polledHangup(_ slot: Slot, _ result: Int32) -> Input {
    let i = Int(slot.index)
    places[i].flags.remove(.pollingHangup)
    if places[i].flags.contains(.closing) { return .nothing }
    guard result >= 0 else { return result == -ECANCELED ? .nothing : .failed }
    if UInt32(bitPattern: result) & Wire.broken != 0 { return .failed }
    return places[i].want == .watch ? gone(slot, UInt32(bitPattern: result)) : .nothing
  }

  private mutating func gone(_ slot: Slot, _ events: UInt32) -> Input {
    let i = Int(slot.index)
    if events & Wire.broken != 0 { return .failed }
    if events & Wire.hangup != 0 {
      places[i].want = .nothing
      return .ended
    }
    if !places[i].flags.contains(.pollingHangup) {
      // It only said something, which must wait: from here on only its going away is of interest.
      poll(slot, input: false)
    }
    return .nothing
  }

  /// - Parameter isProvided: whether it was into a provided buffer.
  mutating func received(_ slot: Slot, _ result: Int32, isProvided: Bool) -> Input {
    let i = Int(slot.index)
    received(i)
    if places[i].flags.contains(.closing) { return .nothing }
    switch result {
    case 1...:
      places[i].want = .nothing
      return isProvided ? .provided(Int(result)) : .filled(Int(result))
    case 0:
      places[i].want = .nothing
      return .ended
    case -ENOBUFS:
      starve(slot)
      starved.append(slot.index)
      return .nothing
    case -EAGAIN, -EINTR:
      switch places[i].want {
      case .listen:
        seekInput(slot)
        return .nothing
      case .fill: return .filled(0)
      case .watch, .nothing: return .nothing
      }
    case -ECANCELED: return .nothing
    default: return .failed
    }
  }

  /// The provided buffer that a completion has filled, until it is given back.
  mutating func claim(_ completion: Completion) -> UInt16? { buffers.claim(completion) }

  func pointer(for buffer: UInt16) -> UnsafeMutableRawPointer { buffers.pointer(for: buffer) }

  mutating func recycle(_ buffer: UInt16) { buffers.recycle(buffer) }

  // MARK: Starved

  /// It found no buffer.
  mutating func starve(_ slot: Slot) {
    ring.counters.noBuffers += 1
    places[Int(slot.index)].flags.insert(.starved)
  }

  /// It may try again.
  ///
  /// - Returns: false if it does not wait for a buffer: the tenant may be gone, and the flag went with it.
  mutating func endStarving(_ i: Int) -> Bool {
    guard places[i].flags.contains(.starved) else { return false }
    places[i].flags.remove(.starved)
    return true
  }

  /// Lets the slots that found no buffer try again, first come first served: as many as there are buffers.
  /// After each batch, because its completions come in no order that would feed them all on the way.
  ///
  /// - Parameter generation: of the present tenant of a place.
  mutating func feedStarved(_ generation: (Int) -> UInt32) {
    var budget = buffers.free
    while starvedHead < starved.count && budget > 0 {
      let index = starved[starvedHead]
      starvedHead += 1
      let i = Int(index)
      guard endStarving(i) else { continue }
      if places[i].flags.isDisjoint(with: [.closing, .receiving, .pollingInput, .secure])
        && places[i].want == .listen
      {
        receive(Slot(index: index, generation: generation(i)))
        budget -= 1
      }
    }
    // A slot stands here once, so what has been served is at most as long as what waits.
    if starvedHead == starved.count || starvedHead >= places.capacity {
      starved.removeFirst(starvedHead)
      starvedHead = 0
    }
  }

  /// From here on its octets are TLS.
  mutating func becomeSecure(_ i: Int) {
    places[i].flags.insert(.secure)
    places[i].flags.remove(.starved)
    places[i].want = .nothing
  }
}
