// SPDX-License-Identifier: Apache-2.0
// Bytes on their way to the kernel. A connection has one send at a time, or a full socket would mix them up; what it
// says meanwhile waits behind that send. Not the sends themselves: submitting them is the ring's. Keeps: memory that a
// send uses stays in place until `end`.

import Structures
import TLS

/// The sends of one ring.
struct FloodSends {
  private struct Outgoing {
    var base: UnsafeMutableRawPointer
    var count = 0
    var sent = 0
    /// Belongs to this one, and is freed with it.
    var isOwn = false
    var slot: Int
    var generation: UInt32
    /// Of a large message: octets of its text that are still to be sent, whole lines.
    var bodyLeft = 0
    /// What comes after that; of a secured client in clear, to be sealed when its turn has come.
    var following = ByteQueue()
  }

  private var outgoing: [Outgoing] = []
  private var free: [Int32] = []
  private let memory: FloodMemory

  init(_ memory: FloodMemory) { self.memory = memory }

  var isEmpty: Bool { outgoing.count == free.count }

  /// Bytes of memory.
  var bytes: Int {
    outgoing.capacity * MemoryLayout<Outgoing>.stride
      + outgoing.reduce(0) { $0 + ($1.isOwn ? $1.count : 0) + $1.following.count }
  }

  /// A send of octets begins; nothing else of the slot is on its way.
  ///
  /// - Returns: its place, which its token carries.
  mutating func begin(_ octets: [UInt8], slot: Int, generation: UInt32) -> Int {
    var one = Outgoing(base: memory.text, slot: slot, generation: generation)
    set(&one, octets)
    if let place = free.popLast() {
      outgoing[Int(place)] = one
      return Int(place)
    }
    outgoing.append(one)
    return outgoing.count - 1
  }

  /// A large message's text and its end follow what has begun.
  mutating func add(_ place: Int, body: Int, tail: [UInt8]) {
    outgoing[place].bodyLeft = body
    outgoing[place].following.append(tail)
  }

  /// Octets wait behind the send at `place`.
  mutating func add(_ place: Int, _ octets: [UInt8]) {
    outgoing[place].following.append(octets)
  }

  /// Whose send it is.
  func owner(_ place: Int) -> (slot: Int, generation: UInt32) {
    (outgoing[place].slot, outgoing[place].generation)
  }

  /// What is left of it.
  func rest(_ place: Int) -> UnsafeRawBufferPointer {
    let one = outgoing[place]
    return UnsafeRawBufferPointer(start: one.base + one.sent, count: one.count - one.sent)
  }

  /// So many octets have gone.
  ///
  /// - Returns: whether there is more to send, which is then its `rest`.
  mutating func sent(_ place: Int, _ count: Int, sealedBy line: TLSLine?) -> Bool {
    outgoing[place].sent += count
    if outgoing[place].sent < outgoing[place].count { return true }
    if let line { return seal(place, line) }
    if outgoing[place].bodyLeft > 0 {
      let count = nextPiece(place)
      drop(&outgoing[place])
      outgoing[place].base = memory.text
      outgoing[place].count = count
      outgoing[place].sent = 0
      return true
    }
    if outgoing[place].following.isEmpty { return false }
    let more = outgoing[place].following.take()
    set(&outgoing[place], more)
    return true
  }

  /// It is over; what waited behind it is thrown away.
  mutating func end(_ place: Int) {
    drop(&outgoing[place])
    outgoing[place].following = ByteQueue()
    free.append(Int32(place))
  }

  /// The next piece of a secured client, with what its TLS has to say by itself.
  private mutating func seal(_ place: Int, _ line: TLSLine) -> Bool {
    let octets: [UInt8]
    if outgoing[place].bodyLeft > 0 {
      octets = line.seal(UnsafeRawBufferPointer(start: memory.text, count: nextPiece(place)))
    } else {
      octets = outgoing[place].following.take().withUnsafeBytes { line.seal($0) }
    }
    if octets.isEmpty { return false }
    set(&outgoing[place], octets)
    return true
  }

  /// Takes from a large message's text as much as can be sent at once: so many octets of `FloodMemory.text`.
  private mutating func nextPiece(_ place: Int) -> Int {
    let count = min(outgoing[place].bodyLeft, FloodMemory.pieceBytes)
    outgoing[place].bodyLeft -= count
    return count
  }

  /// Copies octets to where the kernel may read them.
  private func set(_ one: inout Outgoing, _ octets: [UInt8]) {
    drop(&one)
    one.base = .allocate(byteCount: max(octets.count, 1), alignment: 1)
    one.isOwn = true
    octets.withUnsafeBytes {
      UnsafeMutableRawBufferPointer(start: one.base, count: $0.count).copyMemory(from: $0)
    }
    one.count = octets.count
    one.sent = 0
  }

  private func drop(_ one: inout Outgoing) {
    if one.isOwn { one.base.deallocate() }
    one.isOwn = false
  }
}
