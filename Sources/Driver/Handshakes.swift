// SPDX-License-Identifier: Apache-2.0
//
// Whose turn it is to go on with a handshake: a flood of them costs those who have mail one step's wait. Not the step.

import Shield
import Structures

struct Handshakes {
  /// Those of sources with credit, and of those without.
  private var first = HandshakeQueue()
  private var last = HandshakeQueue()
  /// When one of the latter is next.
  private var againAt = Instant.origin
  /// Steps in this turn of the loop that were done as they came.
  private var done = 0

  /// Steps in one turn of the loop: of sources with credit, and of those without. The dearest costs
  /// about a millisecond.
  static let atOnce = 4
  static let inTurn = 1
  /// Handshakes without credit get a quarter of the time: after each step so many times its length belongs to others.
  private static let restAfterStep: Int64 = 3

  /// Whether one of a source with credit waits: the loop must not.
  var isPressing: Bool { !first.isEmpty }
  /// Whether one of a source without credit waits.
  var hasLast: Bool { !last.isEmpty }
  /// When that is next.
  var nextAt: Instant { againAt }

  /// Whether a step may be done as it comes; then it counts as done.
  mutating func mayStep(inTurn: Bool) -> Bool {
    if inTurn || done >= Handshakes.atOnce { return false }
    done += 1
    return true
  }

  mutating func wait(_ slot: Slot, inTurn: Bool) {
    if inTurn { last.append(slot) } else { first.append(slot) }
  }

  /// A turn of the loop begins.
  mutating func beginTurn() { done = 0 }

  mutating func nextFirst() -> Slot? { first.next() }

  mutating func nextLast() -> Slot? { last.next() }

  /// One of the latter has been dealt with.
  mutating func rest(since start: Instant, until end: Instant) {
    againAt = end.after(
      microseconds: Handshakes.restAfterStep * (end.microseconds - start.microseconds))
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
