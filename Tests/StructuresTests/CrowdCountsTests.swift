// SPDX-License-Identifier: Apache-2.0
import Structures
import Testing

@Suite("Counts of a crowd")
struct CrowdCountsTests {
  @Test(
    "never below the exact counts, hardly above them, and empty when all is taken off",
    arguments: 1...3)
  func twin(seed: UInt64) {
    var random = SeededGenerator(seed: seed)
    let hash = SipHash(k0: random.next(), k1: random.next())
    var counts = CrowdCounts(places: 4_096)
    var twin: [UInt64: Int] = [:]
    var held: [UInt64] = []
    // A fifth of all is one source's; the others are many.
    for _ in 0..<4_096 {
      let source = random.next() % 5 == 0 ? 0 : random.next() % 2_000
      let key = hash(source, 0, 0)
      counts.add(key)
      twin[key, default: 0] += 1
      held.append(key)
      if random.next() % 4 == 0 {
        let gone = held.remove(at: Int(random.next() % UInt64(held.count)))
        counts.remove(gone)
        twin[gone, default: 0] -= 1
      }
    }
    var over = 0
    for (key, count) in twin {
      #expect(counts.count(key) >= count, "seed \(seed)")
      if counts.count(key) >= count + 16 { over += 1 }
    }
    #expect(over <= 2, "seed \(seed)")
    #expect(counts.total == held.count)
    for key in held { counts.remove(key) }
    #expect(counts.total == 0)
    for key in twin.keys { #expect(counts.count(key) == 0, "seed \(seed)") }
  }

  @Test("where every place is another source's, hardly one seems to hold many")
  func strangers() {
    let places = 65_536
    let hash = SipHash(k0: 5, k1: 6)
    var counts = CrowdCounts(places: places)
    #expect(counts.footprint <= 4 * places)
    for source in 0..<UInt64(places) {
      counts.add(hash(0, source, 0))
      counts.add(hash(1, source, 0))
    }
    let suspects = (0..<UInt64(places)).count { counts.count(hash(0, $0, 0)) >= 16 }
    #expect(suspects < places / 1_000, "\(suspects)")
  }

  @Test("as many keys as there are places are counted, and more: it is never full")
  func full() {
    var counts = CrowdCounts(places: 0)
    let hash = SipHash(k0: 1, k1: 2)
    for source in 0..<10_000 { counts.add(hash(UInt64(source), 0, 0)) }
    #expect(counts.total == 10_000)
    #expect(counts.footprint <= CrowdCounts.leastFootprint + 64)
  }
}
