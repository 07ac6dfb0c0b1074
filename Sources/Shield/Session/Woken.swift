// SPDX-License-Identifier: Apache-2.0
import Structures

/// The sessions that can go on. Whoever makes one able to wakes it; at the end of each fact one loop runs them, in the
/// order in which they were woken. No session is there twice, so there is always room.
struct Woken: ~Copyable {
  private var queue: Slab<SessionIndex>
  private var head = 0
  private var count = 0

  /// - Parameter capacity: how many sessions there are.
  init(capacity: Int) { queue = Slab(capacity: max(capacity, 1), repeating: .none) }

  mutating func append(_ s: SessionIndex) {
    invariant(count < queue.capacity, "a session was woken twice")
    queue[(head + count) % queue.capacity] = s
    count += 1
  }

  @inline(__always)
  mutating func next() -> SessionIndex? {
    if count == 0 { return nil }
    let s = queue[head]
    head = head + 1 == queue.capacity ? 0 : head + 1
    count -= 1
    return s
  }
}
