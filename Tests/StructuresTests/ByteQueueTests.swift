// SPDX-License-Identifier: Apache-2.0
import Testing

@testable import Structures

/// What a byte queue must do, done the slow way.
private struct NaiveQueue {
  var bytes: [UInt8] = []
  let limit: Int

  mutating func append(_ more: [UInt8]) -> Bool {
    if bytes.count + more.count > limit { return false }
    bytes += more
    return true
  }
}

extension ByteQueue {
  fileprivate var array: [UInt8] {
    let waiting = bytes
    return waiting.indices.map { waiting[$0] }
  }
}

@Suite("Byte queue")
struct ByteQueueTests {
  @Test("answers as an array that is moved for each byte", arguments: [0, 1, 300, 2_000, Int.max])
  func twin(limit: Int) {
    var random = SeededGenerator(seed: 11)
    var queue = ByteQueue(limit: limit)
    var naive = NaiveQueue(limit: limit)
    var refused = 0
    for step in 0..<5_000 {
      let size = Int.random(in: 0...(step % 1_000 < 20 ? 3_000 : 40), using: &random)
      let more = (0..<size).map { _ in UInt8.random(in: 0...255, using: &random) }
      switch Int.random(in: 0..<9, using: &random) {
      case 0, 1:
        let fits = queue.append(more.span)
        #expect(fits == naive.append(more), "step \(step)")
        if !fits { refused += 1 }
      case 2:
        let fits = queue.append(more)
        #expect(fits == naive.append(more), "step \(step)")
      case 3:
        let most = more.count / 2
        let added = queue.append(most: most) { out in
          for byte in more where !out.isFull { out.append(byte) }
        }
        #expect(added == min(most, limit - naive.bytes.count), "step \(step)")
        _ = naive.append(Array(more.prefix(added)))
      case 4, 5, 6:
        let number = min(size, naive.bytes.count)
        queue.consume(number)
        naive.bytes.removeFirst(number)
      case 7:
        let taken = queue.take(size)
        #expect(taken == Array(naive.bytes.prefix(size)), "step \(step)")
        naive.bytes.removeFirst(taken.count)
      default:
        if size == 0 {
          queue.removeAll()
          naive.bytes = []
        }
      }
      #expect(queue.count == naive.bytes.count && queue.isEmpty == naive.bytes.isEmpty)
      #expect(queue.room == limit - naive.bytes.count, "step \(step)")
      guard step % 16 == 0 else { continue }
      #expect(queue.array == naive.bytes, "step \(step)")
      let start = min(size, queue.count)
      let wanted = naive.bytes[start...].firstIndex(of: 7)
      #expect(queue.firstIndex(of: 7, from: start) == wanted, "step \(step)")
      if let wanted { #expect(queue[wanted] == 7) }
    }
    #expect((refused > 0) == (limit <= 2_000), "the limit was not reached")
  }

  @Test("an empty queue that was large gives its memory back")
  func givesBack() {
    var queue = ByteQueue()
    queue.append([UInt8](repeating: 1, count: 1 << 20))
    #expect(queue.storage.capacity >= 1 << 20)
    queue.removeAll()
    #expect(queue.storage.capacity <= ByteQueue.keptBytes)
  }

  @Test("a queue that is never quite empty gives its memory back, too")
  func givesBackWhileUsed() {
    var queue = ByteQueue()
    queue.append([UInt8](repeating: 1, count: 1 << 20))
    queue.consume(1 << 20 - 1)
    for _ in 0..<100_000 {
      queue.append(CollectionOfOne(2))
      queue.consume(1)
    }
    #expect(queue.count == 1)
    #expect(queue.storage.capacity <= 4 * ByteQueue.keptBytes)
  }

  @Test("small traffic allocates once")
  func keepsSmall() {
    var queue = ByteQueue()
    queue.append([UInt8](repeating: 1, count: 1_000))
    queue.consume(1_000)
    #expect(queue.storage.capacity >= 1_000)
  }

  @Test("what was consumed is never more than what waits, or what may be kept")
  func bound() {
    var random = SeededGenerator(seed: 12)
    var queue = ByteQueue()
    for _ in 0..<5_000 {
      queue.append([UInt8](repeating: 3, count: Int.random(in: 0...900, using: &random)))
      queue.consume(Int.random(in: 0...min(queue.count, 1_000), using: &random))
      #expect(queue.head <= max(queue.count, ByteQueue.keptBytes))
    }
  }

  @Test("consuming more than waits ends the process")
  func tooMuch() async {
    await #expect(processExitsWith: .failure) {
      var queue = ByteQueue()
      queue.append([1, 2, 3])
      queue.consume(4)
    }
  }
}
