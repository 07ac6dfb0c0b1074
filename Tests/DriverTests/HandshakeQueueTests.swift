// SPDX-License-Identifier: Apache-2.0
import Shield
import Testing

@testable import Driver

struct HandshakeQueueTests {
  @Test(
    "handshakes come in the order in which they were put in, however long it is and while it grows")
  func order() {
    var queue = HandshakeQueue()
    #expect(queue.isEmpty && queue.next() == nil)
    var added: UInt32 = 0
    var taken: UInt32 = 0
    for round in 0..<400 {
      for _ in 0..<(round % 13) {
        queue.append(Slot(index: added, generation: added & 7))
        added += 1
      }
      for _ in 0..<(round % 7) {
        let slot = queue.next()
        #expect(slot == (taken < added ? Slot(index: taken, generation: taken & 7) : nil))
        if slot != nil { taken += 1 }
      }
    }
    while let slot = queue.next() {
      #expect(slot.index == taken)
      taken += 1
    }
    #expect(taken == added && queue.isEmpty)
  }
}
