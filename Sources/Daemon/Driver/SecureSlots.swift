// SPDX-License-Identifier: Apache-2.0
//
// What the driver has of the slots that speak TLS: a channel each, octets of the wire that are not opened yet, and
// octets that are on their way out. Nothing is decided here. Invariant: memory that a send names does not move
// until that send has completed.

import Glibc
import Structures
import TLS

/// TLS of one slot.
struct SecureSlot: ~Copyable {
  var channel: TLSChannel
  /// Where the engine's next `filled` goes. A `fill` stands until it is answered, whatever else is wanted since.
  var region: (offset: Int, count: Int)?
  var isShakingHands = true
  /// Its source has had many handshakes: each step waits its turn.
  var isInTurn: Bool
  /// The peer's side is closed.
  var inputEnded = false
  /// Plain text is wanted, and so much waits to go out that it must wait.
  var isReadWaiting = false
  /// Our side is to be closed once all is out.
  var isFinishing = false
  /// Plain text of an order to send: where the rest of it is, and how much there was.
  var textOffset = 0
  var textLeft = 0
  var textCount = 0
  /// Octets of the wire that wait: start ≤ end ≤ capacity.
  private var stash: UnsafeMutableRawPointer?
  private var stashStart = 0
  private var stashEnd = 0
  private var stashCapacity = 0
  /// What a send in flight names: `outSent` of `outCount` are out.
  private(set) var out: UnsafeMutableRawPointer?
  private(set) var outSent = 0
  private(set) var outCount = 0

  init(_ channel: consuming TLSChannel, inTurn: Bool) {
    self.channel = channel
    isInTurn = inTurn
  }

  deinit {
    stash?.deallocate()
    out?.deallocate()
  }

  var stashed: UnsafeRawBufferPointer {
    UnsafeRawBufferPointer(start: stash.map { $0 + stashStart }, count: stashEnd - stashStart)
  }

  /// Keeps what came and is not opened yet.
  mutating func keep(_ bytes: UnsafeRawBufferPointer) {
    guard bytes.count > 0, let from = bytes.baseAddress else { return }
    if stashEnd + bytes.count > stashCapacity {
      let waiting = stashEnd - stashStart
      let capacity = max(waiting + bytes.count, 2_048)
      let larger = UnsafeMutableRawPointer.allocate(byteCount: capacity, alignment: 16)
      if let stash {
        larger.copyMemory(from: stash + stashStart, byteCount: waiting)
        stash.deallocate()
      }
      stash = larger
      stashCapacity = capacity
      stashStart = 0
      stashEnd = waiting
    }
    guard let stash else { return }
    (stash + stashEnd).copyMemory(from: from, byteCount: bytes.count)
    stashEnd += bytes.count
  }

  /// Lets go of all but the last `count` octets that wait.
  mutating func drop(keeping count: Int) {
    stashStart = stashEnd - count
    if count > 0 { return }
    stash?.deallocate()
    stash = nil
    stashStart = 0
    stashEnd = 0
    stashCapacity = 0
  }

  /// Moves what the channel has for the wire to where a send can name it.
  ///
  /// No send of the slot may be in flight.
  ///
  /// - Returns: false if there is nothing.
  mutating func takeOutput() -> Bool {
    let count = channel.pendingOutput
    if count == 0 { return false }
    // What a send that failed has left.
    out?.deallocate()
    let room = UnsafeMutableRawBufferPointer.allocate(byteCount: count, alignment: 16)
    outCount = channel.take(into: room)
    outSent = 0
    out = room.baseAddress
    return true
  }

  /// So much of it is out.
  ///
  /// - Returns: whether that was the rest.
  mutating func sent(_ count: Int) -> Bool {
    outSent += count
    if outSent < outCount { return false }
    out?.deallocate()
    out = nil
    outSent = 0
    outCount = 0
    return true
  }
}

/// The slots that speak TLS, found by their index.
struct SecureSlots: ~Copyable {
  private let base: UnsafeMutablePointer<SecureSlot>
  private var numbers: PlaceMap

  /// - Parameter capacity: may be 0.
  init(capacity: Int) {
    base = .allocate(capacity: max(capacity, 1))
    numbers = PlaceMap(capacity: capacity)
  }

  deinit {
    // The process ends with its worker; what is open goes with it.
    base.deallocate()
  }

  var isEmpty: Bool { numbers.count == 0 }
  var count: Int { numbers.count }

  /// - Returns: false when the table is full; the slot's TLS is gone then.
  mutating func insert(_ slot: consuming SecureSlot, at index: Int) -> Bool {
    guard let number = numbers.add(index) else { return false }
    (base + number).initialize(to: slot)
    return true
  }

  mutating func remove(_ index: Int) {
    guard let number = numbers.number(of: index) else { return }
    (base + number).deinitialize(count: 1)
    numbers.remove(index)
  }

  func contains(_ index: Int) -> Bool { numbers.number(of: index) != nil }

  /// One that is not there is a fault of ours and ends the process.
  subscript(_ index: Int) -> SecureSlot {
    _read {
      guard let number = numbers.number(of: index) else {
        invariantFailed("slot \(index) has no TLS")
      }
      yield base[number]
    }
    _modify {
      guard let number = numbers.number(of: index) else {
        invariantFailed("slot \(index) has no TLS")
      }
      yield &base[number]
    }
  }
}
