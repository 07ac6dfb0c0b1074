// SPDX-License-Identifier: Apache-2.0
import Glibc
import Structures
import Testing

/// `scripts/test --fast` runs fewer seeds of what is random here; the whole run has all of them.
private let isFast = getenv("SLUICE_TESTS_FAST") != nil

/// The open-addressing table against a Dictionary.
@Suite struct OpenCountsTests {
  @Test(
    "a full table refuses new keys, counts on for known ones, and has room after the last close")
  func full() {
    var table = OpenCounts(capacity: 2)
    func key(_ n: UInt64) -> UInt64 { n << 32 }
    let one = table.increment(key(1))
    let two = table.increment(key(2))
    let three = table.increment(key(3))
    let again = table.increment(key(1))
    #expect((one, two, three, again) == (1, 1, nil, 2))
    let left = table.decrement(key(2))
    let now = table.increment(key(3))
    #expect((left, now) == (0, 1))
    #expect(table.count(key(2)) == 0 && table.count(key(1)) == 2 && table.entries == 2)
  }

  @Test("a table for nobody refuses everybody")
  func zero() {
    var table = OpenCounts(capacity: 0)
    let refused = table.increment(7)
    #expect(refused == nil && table.count(7) == 0)
  }

  @Test("closing what was never opened stops the process")
  func underflow() async {
    await #expect(processExitsWith: .failure) {
      var table = OpenCounts(capacity: 4)
      table.decrement(1)
    }
  }

  @Test("the table agrees with a dictionary", arguments: 0..<(isFast ? 5 : 20))
  func twin(seed: UInt64) {
    var random = SeededGenerator(seed: seed)
    let capacity = Int.random(in: 1...60, using: &random)
    var table = OpenCounts(capacity: capacity)
    var twin: [UInt64: UInt32] = [:]
    // Neighbours make long runs, also across the end of the table; 0 is a key as any other.
    let keys = (0..<80).map { n in
      UInt64(UInt32(truncatingIfNeeded: n % 9 - 4) &+ UInt32(n / 9) << 29) << 32
    }
    for round in 0..<6_000 {
      let key = keys.randomElement(using: &random) ?? 0
      if Bool.random(using: &random) {
        let expected: UInt32? =
          twin[key] == nil && twin.count == capacity ? nil : (twin[key] ?? 0) + 1
        if let expected { twin[key] = expected }
        let found = table.increment(key)
        if found != expected {
          Issue.record("seed \(seed), round \(round): \(String(describing: found))")
          return
        }
      } else if let count = twin[key] {
        twin[key] = count == 1 ? nil : count - 1
        let left = table.decrement(key)
        #expect(left == count - 1, "seed \(seed), round \(round)")
      }
      let wrong = keys.first { table.count($0) != twin[$0] ?? 0 }
      if wrong != nil || table.entries != twin.count {
        Issue.record("seed \(seed), round \(round): key \(String(describing: wrong)) differs")
        return
      }
    }
  }
}
