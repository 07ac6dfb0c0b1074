// SPDX-License-Identifier: Apache-2.0
import Structures

/// The sessions that can go on. Code that makes a session able to go on wakes it. At the end of each fact one loop runs
/// them, in the order in which they were woken. No session is there twice, so there is always room.
struct Woken: ~Copyable {
  /// The next one: mostly the only one.
  private var first = SessionIndex.none
  /// Those behind it.
  private var queue: Slab<SessionIndex>
  private var head = 0
  private var count = 0

  /// - Parameter capacity: how many sessions there are.
  init(capacity: Int) { queue = Slab(capacity: max(capacity, 1), repeating: .none) }

  var isEmpty: Bool { !first.exists }

  @inline(__always)
  mutating func append(_ s: SessionIndex) {
    if first.exists { append(behind: s) } else { first = s }
  }

  private mutating func append(behind s: SessionIndex) {
    invariant(count < queue.capacity, "a session was woken twice")
    let place = head + count
    queue[place < queue.capacity ? place : place - queue.capacity] = s
    count += 1
  }

  /// The next one; none if all have been run.
  @inline(__always)
  mutating func next() -> SessionIndex {
    let s = first
    first = .none
    if count > 0 { advance() }
    return s
  }

  private mutating func advance() {
    first = queue[head]
    head = head + 1 == queue.capacity ? 0 : head + 1
    count -= 1
  }
}
