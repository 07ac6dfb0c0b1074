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
    free(stash)
    free(out)
  }

  var stashed: UnsafeRawBufferPointer {
    UnsafeRawBufferPointer(start: stash.map { $0 + stashStart }, count: stashEnd - stashStart)
  }

  // By malloc, because `allocate` ends the process where there is no memory.

  /// Keeps what came and is not opened yet.
  ///
  /// - Returns: false without memory for it: the stream has a hole then.
  mutating func keep(_ bytes: UnsafeRawBufferPointer) -> Bool {
    guard bytes.count > 0, let from = bytes.baseAddress else { return true }
    if stashEnd + bytes.count > stashCapacity {
      let waiting = stashEnd - stashStart
      let capacity = max(waiting + bytes.count, 2_048)
      guard let larger = malloc(capacity) else { return false }
      if let stash {
        larger.copyMemory(from: stash + stashStart, byteCount: waiting)
        free(stash)
      }
      stash = larger
      stashCapacity = capacity
      stashStart = 0
      stashEnd = waiting
    }
    guard let stash else { return true }
    (stash + stashEnd).copyMemory(from: from, byteCount: bytes.count)
    stashEnd += bytes.count
    return true
  }

  /// Lets go of all but the last `count` octets that wait.
  mutating func drop(keeping count: Int) {
    stashStart = stashEnd - count
    if count > 0 { return }
    free(stash)
    stash = nil
    stashStart = 0
    stashEnd = 0
    stashCapacity = 0
  }

  /// Moves what the channel has for the wire to where a send can name it.
  ///
  /// No send of the slot may be in flight.
  mutating func takeOutput() -> Output {
    let count = channel.pendingOutput
    if count == 0 { return .nothing }
    // What a send that failed has left.
    free(out)
    out = malloc(count)
    outSent = 0
    outCount = 0
    guard let out else { return .noMemory }
    outCount = channel.take(into: UnsafeMutableRawBufferPointer(start: out, count: count))
    return .taken
  }

  /// What there was for the wire.
  enum Output { case nothing, taken, noMemory }

  /// So much of it is out.
  ///
  /// - Returns: whether that was the rest.
  mutating func sent(_ count: Int) -> Bool {
    outSent += count
    if outSent < outCount { return false }
    free(out)
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
