// SPDX-License-Identifier: Apache-2.0
import Personas
import Structures
import TestServer
import Testing

@testable import Simulator

struct TimeListsTests {
  @Test(
    "numbers come by their moments and, at the same one, in the order in which they were put",
    arguments: 1...8 as ClosedRange<UInt64>)
  func naive(seed: UInt64) {
    var random = SeededGenerator(seed: seed)
    var lists = TimeLists()
    // What is where, by the order of putting.
    var twin: [(number: Int, at: Int64, order: Int)] = []
    let count = 100
    lists.makeRoom(count)
    var now: Int64 = 0
    for order in 0..<3_000 {
      let number = Int.random(in: 0..<count, using: &random)
      let present = twin.firstIndex { $0.number == number }
      #expect(lists.moment(of: number) == present.map { twin[$0].at } ?? .max)
      if let present {
        if Bool.random(using: &random) { continue }
        lists.takeOut(number)
        twin.remove(at: present)
      }
      // Near and far alike, so that every level is used.
      let reach = Int64(1) << Int64.random(in: 0...26, using: &random)
      let at = min(now + Int64.random(in: -2...reach, using: &random), TimeLists.end)
      lists.put(number, at: at)
      twin.append((number, max(at, now), order))
      if order % 20 > 0 { continue }
      // Goes on a while.
      let goal = now + Int64(1) << Int64.random(in: 0...22, using: &random)
      while lists.next <= goal {
        #expect(lists.next >= now)
        now = lists.next
        lists.advance(to: now)
        while let taken = lists.takeFirst() {
          let first = twin.min { ($0.at, $0.order) < ($1.at, $1.order) }
          #expect(first?.number == taken && first?.at == now, "seed \(seed), \(order)")
          twin.removeAll { $0.number == taken }
        }
      }
      now = goal
      lists.advance(to: now)
      #expect(twin.allSatisfy { $0.at > now }, "seed \(seed), \(order)")
    }
  }

  @Test("the last moment is as good as any")
  func last() {
    var lists = TimeLists()
    lists.makeRoom(2)
    lists.put(0, at: TimeLists.end + 5)
    lists.put(1, at: TimeLists.end - 1)
    var seen: [Int] = []
    while lists.next < .max {
      lists.advance(to: lists.next)
      while let number = lists.takeFirst() { seen.append(number) }
    }
    #expect(seen == [1, 0] && lists.position == TimeLists.end)
  }
}

struct EventQueueTests {
  @Test("events of one moment happen in the order in which they were added, however far it was")
  func order() {
    var queue = EventQueue()
    let at: Int64 = 1_000_000
    for moment in [0, 500_000, 999_900, 999_999, at] {
      while queue.next < moment { queue.advance(to: queue.next) }
      queue.advance(to: moment)
      queue.add(SimEvent(index: UInt32(moment), payload: 1, generation: 2, kind: .hear), at: at)
    }
    var seen: [UInt32] = []
    queue.advance(to: queue.next)
    while let event = queue.takeFirst() { seen.append(event.index) }
    #expect(seen == [0, 500_000, 999_900, 999_999, 1_000_000])
    #expect(queue.next == .max)
  }
}

struct LettersTests {
  @Test("a letter is read as it was written, among others that come and go")
  func letters() {
    let sizes = [1, 61, 62, 63, 510, 511, 8_192]
    var arena = Arena(count: 8_192)
    var letters = Letters()
    let persona = SharedPersona(Persona(id: "T"))
    for round in 0..<40 {
      var numbers: [UInt32] = []
      for size in sizes {
        // A reply whose code is the size's own.
        let code = 200 + (round + size) % 100
        var text = Array("\(code) ".utf8).prefix(size)
        text += Array(repeating: UInt8(ascii: "x"), count: max(size - text.count, 0))
        if size > 6 { text.replaceSubrange(size - 2..<size, with: [13, 10]) }
        arena.write(Array(text).span, at: 0)
        numbers.append(letters.put(arena, Region(offset: 0, count: size)))
      }
      for (size, number) in zip(sizes, numbers) where size > 6 {
        var actor = Actor()
        _ = actor.opened(persona, seed: 1, now: 0)
        let step = letters.read(number, by: &actor, persona, now: 0)
        #expect(actor.code == UInt16(200 + (round + size) % 100))
        #expect(step == .say(.helo(bare: false, extended: true)))
      }
      for number in numbers.shuffled() { letters.give(number) }
    }
    // Each round took the places of the one before.
    #expect(letters.footprint < 40_000)
  }
}

struct MailServerTests {
  /// Whether a message ends here by its definition: behind a line's end, or at the very beginning.
  private static func isOver(_ bytes: [UInt8]) -> Bool {
    ([13, 10] + bytes.suffix(5)).suffix(5) == [13, 10, 46, 13, 10]
  }

  @Test(
    "a message ends at CR LF . CR LF and nowhere else, however it is cut",
    arguments: 1...60 as ClosedRange<UInt64>)
  func ends(seed: UInt64) {
    var random = SeededGenerator(seed: seed)
    var bytes: [UInt8] = []
    while !Self.isOver(bytes) {
      let next: [UInt8] = [13, 10, 46, 120, 120, 120, 120]
      bytes.append(next[Int.random(in: 0..<(seed % 2 == 0 ? 4 : 7), using: &random)])
      if bytes.count % 97 == 0 { bytes += [UInt8](repeating: 120, count: 30) }
      // Not left to chance alone.
      if bytes.count > 2_000 { bytes += [13, 10, 46, 13, 10] }
    }
    var server = TestServer(ServerScript.of(Scenario.Downstream()), seed: 1)
    server.connected(0, now: 0)
    let words = Array("EHLO c\r\nMAIL FROM:<a@b>\r\nRCPT TO:<u@b>\r\nDATA\r\n".utf8)
    server.received(0, words.span, now: 0)
    #expect(server.replies.count == 5)
    var rest = bytes[...]
    while !rest.isEmpty {
      #expect(server.counts.messages == 0)
      let count = Int.random(in: 1...12, using: &random)
      server.received(0, Array(rest.prefix(count)).span, now: 0)
      rest = rest.dropFirst(count)
    }
    #expect(server.counts.messages == 1, "seed \(seed): \(bytes)")
  }
}
