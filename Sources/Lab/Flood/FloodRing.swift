// SPDX-License-Identifier: Apache-2.0
// The socket's side of a flood: a ring, the connections in its table of direct descriptors, each with one poll and one
// send at a time, and its TLS. It knows neither clients nor time; what happens comes up as events. Keeps: nothing in
// clear after a connection is secured.

import Glibc
import Structures
import TLS
import Uring

/// A connection's place, valid until the connection is over.
struct FloodPlace: BitwiseCopyable {
  var ring: UInt16
  var slot: UInt16
  /// Of the 24 bits in tokens.
  var generation: UInt32
}

/// A ring and the connections in its table. It belongs to the thread that made it.
final class FloodRing {
  /// What became of an order.
  struct Event {
    enum Kind {
      case connected
      /// Bytes are in this buffer until the next turn of any ring.
      case received(buffer: Int)
    }
    var place: FloodPlace
    var kind: Kind
    /// As of the system call; below 0 a negated errno.
    var result: Int32
  }

  private struct Socket: BitwiseCopyable {
    var generation: UInt32 = 0
    /// Its send under way; -1 for none.
    var sending: Int32 = -1
    var isConnecting = true
    var isPolled = false
    /// It has an entry among `secures`.
    var isSecure = false
    var isSlow: Bool
  }

  private let number: UInt16
  private var ring: Ring
  private let memory: FloodMemory
  /// By slot, as many as were ever used.
  private var sockets: [Socket] = []
  private var free: [Int32] = []
  private var readable: [Int32] = []
  private var sends: FloodSends
  /// By slot, of those that are secured.
  private var secures: [Int32: TLSLine] = [:]
  private var events: [Event] = []

  /// What is taken from the socket of a slow reader at a time.
  private static let slowBytes = 64

  init(_ number: Int, slots: Int, _ memory: FloodMemory) throws(RingError) {
    self.number = UInt16(number)
    self.memory = memory
    ring = try Ring(entries: FloodMemory.window, slots: slots)
    sends = FloodSends(memory)
  }

  var hasRoom: Bool { !free.isEmpty || sockets.count < ring.slots }
  var hasReadable: Bool { !readable.isEmpty }

  /// Bytes of memory, without OpenSSL's.
  var bytes: Int { sockets.capacity * MemoryLayout<Socket>.stride + sends.bytes }

  /// All that were ever used, as they are now.
  var places: [FloodPlace] {
    sockets.indices.map {
      FloodPlace(ring: number, slot: UInt16($0), generation: sockets[$0].generation)
    }
  }

  /// Whether the connection is not over yet.
  func isCurrent(_ place: FloodPlace) -> Bool {
    sockets[Int(place.slot)].generation == place.generation
  }

  // MARK: - Orders

  /// Takes a socket into the table, closes its descriptor and connects it.
  func connect(_ descriptor: Int32, isIPv6: Bool, isSlow: Bool) throws(RingError) -> FloodPlace {
    let slot: Int
    if let last = free.popLast() {
      slot = Int(last)
      let generation = sockets[slot].generation
      sockets[slot] = Socket(generation: generation, isSlow: isSlow)
    } else {
      slot = sockets.count
      sockets.append(Socket(isSlow: isSlow))
    }
    var copy = descriptor
    try ring.updateFiles(startingAt: Int32(slot), &copy, count: 1)
    Glibc.close(descriptor)
    ring.connect(
      slot: Int32(slot), to: memory.target(isIPv6: isIPv6), token: token(slot, .connect))
    return FloodPlace(
      ring: number, slot: UInt16(slot), generation: sockets[slot].generation)
  }

  /// Asks for what comes next.
  func listen(_ place: FloodPlace) {
    let slot = Int(place.slot)
    // A slot that was readable may have another connection by now, and its poll.
    if sockets[slot].isPolled { return }
    sockets[slot].isPolled = true
    ring.pollAdd(slot: Int32(slot), mask: Ring.readable, token: token(slot, .poll))
  }

  /// Whether a send of the connection is under way.
  func isSending(_ place: FloodPlace) -> Bool { sockets[Int(place.slot)].sending >= 0 }

  /// Sends what a client says, under TLS if there is one. While a send is under way it waits, and then a large message
  /// must be whole.
  func say(_ place: FloodPlace, _ speech: FloodSpeech) {
    let slot = Int(place.slot)
    if sockets[slot].sending >= 0 {
      invariant(speech.bodyLeft == 0, "half a message behind another send")
      return sends.add(Int(sockets[slot].sending), speech.octets)
    }
    guard let line = secureLine(slot) else {
      return beginSend(slot, speech.octets, body: speech.bodyLeft, tail: speech.tail)
    }
    let sealed = speech.octets.withUnsafeBytes { line.seal($0) }
    beginSend(slot, sealed, body: speech.bodyLeft, tail: speech.tail)
  }

  /// Breaks the connection by a reset.
  func reset(_ place: FloodPlace) {
    let slot = Int(place.slot)
    ring.connect(slot: Int32(slot), to: memory.nowhere, token: token(slot, .connect))
  }

  /// Takes a connection out of the table.
  func leave(_ place: FloodPlace) {
    let slot = Int(place.slot)
    let socket = sockets[slot]
    // What is under way keeps the socket open, so it goes first. By its token: to look for all of a slot is to
    // look at every poll there is.
    if socket.isConnecting { ring.cancel(token(slot, .connect), token: Token(.cancel)) }
    if socket.isPolled { ring.cancel(token(slot, .poll), token: Token(.cancel)) }
    if socket.sending >= 0 {
      ring.cancel(Token(.send, index: UInt32(socket.sending)), token: Token(.cancel))
    }
    ring.closeDirect(slot: Int32(slot), token: Token(.close, index: UInt32(slot)))
    if socket.isSecure { secures[Int32(slot)] = nil }
    sockets[slot].generation = (socket.generation + 1) & Token.generationMask
  }

  // MARK: - TLS

  /// Everything is under TLS from here on; the handshake is the caller's.
  func secure(_ place: FloodPlace, _ line: TLSLine) {
    secures[Int32(place.slot)] = line
    sockets[Int(place.slot)].isSecure = true
  }

  /// The TLS of a connection, if it is secured.
  func secureLine(_ place: FloodPlace) -> TLSLine? { secureLine(Int(place.slot)) }

  private func secureLine(_ slot: Int) -> TLSLine? {
    sockets[slot].isSecure ? secures[Int32(slot)] : nil
  }

  /// Sends what TLS has to say by itself.
  func flush(_ place: FloodPlace) {
    let slot = Int(place.slot)
    // A send under way takes it along when it ends.
    guard sockets[slot].sending < 0, let line = secureLine(slot) else { return }
    let octets = line.takeOutput()
    if !octets.isEmpty { beginSend(slot, octets) }
  }

  // MARK: - Turns

  /// Receives where something can be read, submits, and waits at most so long.
  ///
  /// - Parameter wait: in microseconds; not used while something can be read.
  /// - Returns: what has happened. Its buffers are good until the next turn of any ring with the same memory.
  func turn(wait: Int64) throws(RingError) -> [Event] {
    let part = readable.suffix(FloodMemory.window)
    readable.removeLast(part.count)
    for (buffer, slot) in part.enumerated() {
      let socket = sockets[Int(slot)]
      // Completes within the submission: no two receives ever wait with one buffer.
      ring.receive(
        slot: slot, into: memory.buffer(buffer),
        count: socket.isSlow ? Self.slowBytes : FloodMemory.bufferBytes,
        flags: Int32(MSG_DONTWAIT),
        token: Token(
          .receive, generation: socket.generation, index: UInt32(slot) | UInt32(buffer) << 16))
    }
    try ring.submitAndWait(timeoutMicroseconds: part.isEmpty ? wait : 0)
    events.removeAll(keepingCapacity: true)
    try collect(receives: part.count)
    return events
  }

  /// Takes the completions there are, and waits for the receives: their buffers are needed again.
  private func collect(receives: Int) throws(RingError) {
    var outstanding = receives
    repeat {
      let count = ring.completions()
      for k in 0..<count {
        let completion = ring.completion(at: k)
        if completion.token.operation == .receive { outstanding -= 1 }
        happened(completion)
      }
      ring.advance(count)
      if outstanding > 0 {
        try ring.submitAndWait(for: 1, timeoutMicroseconds: 1_000_000)
      }
    } while outstanding > 0
  }

  private func happened(_ completion: Completion) {
    let token = completion.token
    switch token.operation {
    case .send: return sent(Int(token.index), completion.result)
    case .close:
      // Only now: whatever moves into a slot does so at once, ahead of what waits for submission.
      return free.append(Int32(token.index))
    case .connect, .poll, .receive: break
    default: return
    }
    let slot = Int(token.index & 0xFFFF)
    guard sockets[slot].generation == token.generation else { return }
    let place = FloodPlace(ring: number, slot: UInt16(slot), generation: token.generation)
    switch token.operation {
    case .connect:
      sockets[slot].isConnecting = false
      events.append(Event(place: place, kind: .connected, result: completion.result))
    case .poll:
      sockets[slot].isPolled = false
      if completion.result >= 0 { readable.append(Int32(slot)) }
    default:
      let buffer = Int(token.index >> 16)
      events.append(
        Event(place: place, kind: .received(buffer: buffer), result: completion.result))
    }
  }

  /// Ends the ring, after the connections were taken out of it: waits for its sends.
  func drain() throws(RingError) {
    let until = MonotonicClock.now() + 2_000_000
    while !sends.isEmpty && MonotonicClock.now() < until {
      try ring.submitAndWait(timeoutMicroseconds: 100_000)
      try collect(receives: 0)
    }
    try ring.submitAndWait(timeoutMicroseconds: 0)
    try RingTables.empty(&ring, sockets.count)
  }

  // MARK: - Sends

  /// Sends octets; nothing of the slot is under way.
  private func beginSend(_ slot: Int, _ octets: [UInt8], body: Int = 0, tail: [UInt8] = []) {
    let place = sends.begin(octets, slot: slot, generation: sockets[slot].generation)
    if body > 0 { sends.add(place, body: body, tail: tail) }
    sockets[slot].sending = Int32(place)
    submit(place)
  }

  private func submit(_ place: Int) {
    guard let base = sends.rest(place).baseAddress else { return }
    ring.send(
      slot: Int32(sends.owner(place).slot), base, count: sends.rest(place).count,
      flags: Int32(MSG_WAITALL), token: Token(.send, index: UInt32(place)))
  }

  /// A send has ended: goes on with what is left of it, or gives it up.
  private func sent(_ place: Int, _ result: Int32) {
    let (slot, generation) = sends.owner(place)
    let isCurrent = sockets[slot].generation == generation
    if result > 0 && isCurrent,
      sends.sent(place, Int(result), sealedBy: secureLine(slot))
    {
      return submit(place)
    }
    // Of a failure we hear where we read: the server's last word may still be there.
    sends.end(place)
    if isCurrent { sockets[slot].sending = -1 }
  }

  private func token(_ slot: Int, _ operation: Uring.Operation) -> Token {
    Token(operation, generation: sockets[slot].generation, index: UInt32(slot))
  }
}
