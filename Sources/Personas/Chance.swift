// SPDX-License-Identifier: Apache-2.0
import Structures

/// A client's own random numbers (xorshift32, Marsaglia 2003).
struct Chance: Sendable, BitwiseCopyable {
  private var state: UInt32 = 1

  init() {}

  init(_ generator: inout SeededGenerator) {
    state = UInt32(truncatingIfNeeded: generator.next()) | 1
  }

  /// The next one, 0 ..< 1.
  mutating func next() -> Double {
    state ^= state << 13
    state ^= state >> 17
    state ^= state << 5
    return Double(state) * 0x1p-32
  }
}
