// SPDX-License-Identifier: Apache-2.0
package import Structures

/// One of the engine's connections at one moment of its life: which place it has, and which of the
/// place's tenants it is. A late completion for an earlier tenant carries the old generation.
@frozen
package struct Slot: BitwiseCopyable, Hashable, Sendable, CustomStringConvertible {
  package var index: UInt32
  /// Counted up each time the place is given away. 24 bits.
  package var generation: UInt32

  @inlinable
  package init(index: UInt32, generation: UInt32) {
    self.index = index
    self.generation = generation
  }

  package var description: String { "\(index).\(generation)" }
}

/// What the engine orders. The driver carries it out and answers with facts.
///
/// `listen`, `fill` and `watch` say what is wanted of a slot's input, and each is good for one fact. Of
/// `listen` and `watch` the newer one holds; a `fill` stands until it is answered, because the kernel has
/// the region. At most one `fill` and one `send` are outstanding on a slot.
package enum Effect: BitwiseCopyable, Sendable {
  /// When the peer has sent something, hand over what fits a provided buffer: `received`, or `ended`.
  /// For who is held or has just come: until there are bytes, only a poll is armed.
  case listen(Slot)
  /// When the peer has sent something, put it into this region: `filled`, or `ended`. For who talks: a
  /// receive is armed, which saves the poll and costs some 600 bytes more in the kernel.
  case fill(Slot, Region)
  /// Leave the peer's bytes where they are; tell when it is gone: `ended` or `failed`.
  case watch(Slot)
  /// Send this region: `sent` with how much went out, or `failed`.
  case send(Slot, Region)
  /// Send one byte. Nothing comes back unless it fails: `failed`.
  case drip(Slot, UInt8)
  /// Open a connection to downstream number `server`: `connected`, or `failed`.
  case connect(Slot, server: Int)
  /// It is held: its socket takes as little as there is of what it sends unasked. Nothing comes back.
  case narrow(Slot)
  /// It talks now: its socket may take as much as a message needs. Nothing comes back.
  case widen(Slot)
  /// Close our sending side; the peer sees the end of our replies.
  case finish(Slot)
  /// End it. Once nothing of the slot is in flight any more: `closed`.
  case close(Slot)
}

/// The orders of one fact, in order. Fixed room; the driver empties it after each fact.
package struct EffectQueue: ~Copyable {
  private var effects: Slab<Effect>
  package private(set) var count = 0
  /// How many orders a single fact may cause at most. Every fact stays far below it; expiring timers
  /// stop early and are called again (see `Engine.timeReached`).
  package static let reserve = 32

  package init(capacity: Int = 1_024) {
    effects = Slab(
      capacity: max(capacity, 2 * Self.reserve),
      repeating: .close(Slot(index: 0, generation: 0)))
  }

  package var isNearlyFull: Bool { count + Self.reserve > effects.capacity }

  package mutating func append(_ effect: Effect) {
    invariant(count < effects.capacity, "one fact caused more than \(effects.capacity) orders")
    effects[count] = effect
    count += 1
  }

  package subscript(_ index: Int) -> Effect { effects[index] }

  package mutating func removeAll() { count = 0 }
}
