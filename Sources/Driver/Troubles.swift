// SPDX-License-Identifier: Apache-2.0
//
// What went wrong while orders were carried out: no descriptor for a socket, no memory for a record. As a fact in the
// middle of them, one for each order, it could cause more orders than their queue takes. Keeps: it is told in the order
// in which it happened, once, when no order is at hand.

import Shield

struct Troubles {
  /// A slot, and why its handshake failed; nil where the slot itself has.
  typealias Trouble = (slot: Slot, handshake: Subject?)

  /// At most a few for each slot: what is told closes it.
  private var waiting: [Trouble] = []

  var isEmpty: Bool { waiting.isEmpty }

  mutating func note(_ slot: Slot, handshake why: Subject? = nil) { waiting.append((slot, why)) }

  /// Those up to now. What telling them adds has its turn later, so that a turn of the loop ends.
  mutating func take() -> [Trouble] {
    defer { waiting = [] }
    return waiting
  }
}
