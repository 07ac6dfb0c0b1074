// SPDX-License-Identifier: Apache-2.0
import Glibc
import Synchronization
import Testing
import Uring

@testable import Driver

struct MailboxTests {
  @Test("letters come out once, in the order in which they were posted")
  func order() {
    let box = Mailbox<Int>(capacity: 100)
    var (posted, next) = (0, 0)
    var taken: [Int] = []
    for round in 0..<60 {
      for _ in 0..<(round % 9 * 10) {
        _ = box.post(posted)
        posted += 1
      }
      box.take(into: &taken)
      for letter in taken {
        #expect(letter == next)
        next += 1
      }
      taken.removeAll(keepingCapacity: true)
    }
    #expect(next == posted && box.refused == 0)
  }

  @Test("a full one refuses, counts what it has refused, and has room again when it is emptied")
  func full() {
    let box = Mailbox<Int>(capacity: 3)
    var postings = (0..<5).map { box.post($0) }
    #expect(postings == [.first, .behind, .behind, .refused, .refused])
    #expect(box.refused == 2 && !box.hasRoom)
    var taken: [Int] = []
    box.take(into: &taken)
    #expect(taken == [0, 1, 2] && box.hasRoom)
    postings = [box.post(5)]
    #expect(postings == [.first], "the reader must be woken anew")
    taken.removeAll()
    box.take(into: &taken)
    #expect(taken == [5] && box.refused == 2)
    let none = Mailbox<Int>(capacity: 0)
    let posting = none.post(1)
    #expect(posting == .refused)
  }

  @Test("of many writers none loses a letter that was not refused, and each keeps its own order")
  func writers() throws {
    let box = Mailbox<(writer: Int, number: Int)>(capacity: 256)
    let done = Mutex(0)
    let (writers, each) = (4, 2_000)
    for writer in 0..<writers {
      try thread {
        for number in 0..<each { while box.post((writer, number)) == .refused { sched_yield() } }
        done.withLock { $0 += 1 }
      }
    }
    var next = Array(repeating: 0, count: writers)
    var taken: [(writer: Int, number: Int)] = []
    var isLast = false
    repeat {
      isLast = done.withLock { $0 } == writers
      box.take(into: &taken)
      for letter in taken {
        #expect(letter.number == next[letter.writer])
        next[letter.writer] += 1
      }
      taken.removeAll(keepingCapacity: true)
    } while !isLast
    #expect(next == Array(repeating: each, count: writers))
  }

  @Test("a question is answered across threads, once")
  func answered() throws {
    let question = Question<Int, String>(7)
    try thread { question.answer("\(question.query)") }
    #expect(question.wait(until: MonotonicClock.now() + 5_000_000) == "7")
  }

  @Test("a question without an answer is over at its time, and not before")
  func late() {
    let question = Question<Int, String>(7)
    let start = MonotonicClock.now()
    #expect(question.wait(until: start + 30_000) == nil)
    #expect((30_000..<2_000_000).contains(MonotonicClock.now() - start))
    // What comes later harms nobody, and who looks then finds it.
    question.answer("late")
    #expect(question.wait(until: 0) == "late")
  }
}

/// Runs it in a thread of its own.
func thread(_ body: @escaping @Sendable () -> Void) throws {
  final class Box {
    let body: @Sendable () -> Void;
    init(_ body: @escaping @Sendable () -> Void) { self.body = body }
  }
  var thread = pthread_t()
  let status = pthread_create(
    &thread, nil,
    { raw in
      if let raw { Unmanaged<Box>.fromOpaque(raw).takeRetainedValue().body() }
      return nil
    }, Unmanaged.passRetained(Box(body)).toOpaque())
  try #require(status == 0)
  pthread_detach(thread)
}
