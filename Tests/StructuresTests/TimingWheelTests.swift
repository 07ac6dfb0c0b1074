// SPDX-License-Identifier: Apache-2.0
import Structures
import Testing

/// The wheel against a twin that keeps all deadlines in a plain array and looks at each of them.
/// The twin is slow and obviously right: due means deadline, rounded up to the tick, not after now.
@Suite struct TimingWheelTests {
  private let ms = 1_000

  private func at(_ milliseconds: Int) -> Instant {
    Instant(microseconds: Int64(milliseconds * ms))
  }

  private func expired(_ wheel: inout TimingWheel, _ now: Instant) -> [Int] {
    var all: [Int] = []
    while let index = wheel.popExpired(now: now) { all.append(index) }
    return all
  }

  @Test(
    "a timer fires at its deadline rounded up to the tick and not before",
    arguments: [
      (deadlineMicroseconds: 1, tick: 10_000, reason: "the smallest positive time"),
      (9_999, 10_000, "just before a tick"),
      (10_000, 10_000, "exactly a tick"),
      (10_001, 20_000, "just after a tick"),
      (2_559_999, 2_560_000, "the last of level 0"),
      (2_560_001, 2_570_000, "the first of level 1"),
      (163_840_000, 163_840_000, "the start of level 2"),
      (10_485_760_000, 10_485_760_000, "the start of level 3"),
      (83_886_060_001, 83_886_070_000, "the furthest there is, 23 hours"),
      (5_000_000_000_000, 83_886_070_000, "58 days: taken as the furthest there is"),
    ])
  func firesOnTime(deadlineMicroseconds: Int, tick: Int, reason: String) {
    var wheel = TimingWheel(capacity: 1)
    wheel.set(0, at: Instant(microseconds: Int64(deadlineMicroseconds)))
    #expect(wheel.deadline(of: 0) == Instant(microseconds: Int64(tick)), "\(reason)")
    let early = wheel.popExpired(now: Instant(microseconds: Int64(tick - 1)))
    #expect(early == nil, "\(reason)")
    let onTime = wheel.popExpired(now: Instant(microseconds: Int64(tick)))
    #expect(onTime == 0, "\(reason)")
    #expect(!wheel.isSet(0) && wheel.count == 0 && wheel.deadline(of: 0) == nil)
  }

  @Test("setting a timer again replaces it, and cancelling takes it away")
  func replaceAndCancel() {
    var wheel = TimingWheel(capacity: 3)
    wheel.set(0, at: at(50))
    wheel.set(0, at: at(500))
    wheel.set(1, at: at(50))
    wheel.set(2, at: at(50))
    wheel.cancel(1)
    wheel.cancel(1)
    #expect(wheel.count == 2)
    let first = expired(&wheel, at(100))
    #expect(first == [2])
    let second = expired(&wheel, at(500))
    #expect(second == [0])
  }

  @Test("timers renewed in runs keep their order, in the due list too")
  func renew() {
    var wheel = TimingWheel(capacity: 8)
    for index in 0..<5 { wheel.set(index, at: at(10)) }
    // 0 and 1 go to one moment, 2 to another, 3 at once again, 4 is taken out.
    var order: [Int] = []
    while let index = wheel.peekExpired(now: at(10)) {
      order.append(index)
      switch index {
      case 0, 1: _ = wheel.renew(index, atTick: 3)
      case 2: _ = wheel.renew(index, atTick: 4)
      case 3 where order.count < 6: _ = wheel.renew(index, atTick: 1)
      default: _ = wheel.popExpired(now: at(10))
      }
    }
    #expect(order == [0, 1, 2, 3, 4, 3])
    #expect(wheel.count == 3 && wheel.nextDeadline(now: at(10)) == at(30))
    #expect(expired(&wheel, at(30)) == [0, 1])
    #expect(expired(&wheel, at(40)) == [2])
  }

  @Test("never means never: a timer in the distant future is no timer")
  func distantFuture() {
    var wheel = TimingWheel(capacity: 2)
    wheel.set(0, at: at(10))
    wheel.set(0, at: .distantFuture)
    wheel.set(1, at: .distantFuture)
    #expect(!wheel.isSet(0) && !wheel.isSet(1) && wheel.count == 0)
    #expect(wheel.nextDeadline(now: at(0)) == nil)
    let fired = expired(&wheel, at(1_000_000_000))
    #expect(fired == [])
  }

  @Test("a timer set during expiry fires in the same pass if its time has come, otherwise later")
  func setDuringExpiry() {
    var wheel = TimingWheel(capacity: 2)
    let now = at(1_005)
    wheel.set(0, at: at(1_000))
    var fired: [Int] = []
    // Index 0 sets itself again for a moment ahead, and 1 for a moment that has passed.
    while let index = wheel.popExpired(now: now) {
      fired.append(index)
      if fired.count > 10 { break }
      if index == 0 {
        wheel.set(0, at: now + .microseconds(1))
        wheel.set(1, at: at(3))
      }
    }
    #expect(fired == [0, 1])
    let later = expired(&wheel, at(1_010))
    #expect(later == [0])
  }

  @Test("a timer set between the last pass and now fires in the pass that comes")
  func setBehindThePass() {
    var wheel = TimingWheel(capacity: 2)
    wheel.set(0, at: at(100))
    var fired: [Int] = []
    // The wheel stands at 100 ms while now is a minute; what 0 sets at 30 s is long due.
    while let index = wheel.popExpired(now: at(60_000)) {
      fired.append(index)
      if index == 0 { wheel.set(1, at: at(30_000)) }
    }
    #expect(fired == [0, 1])
  }

  @Test("a wheel without room for timers can be asked and stays empty")
  func empty() {
    var wheel = TimingWheel(capacity: 0)
    let fired = wheel.popExpired(now: at(86_400_000))
    #expect(fired == nil)
    #expect(wheel.nextDeadline(now: at(0)) == nil && wheel.count == 0)
  }

  @Test("an index outside of the wheel stops the process")
  func outOfRange() async {
    await #expect(processExitsWith: .failure) {
      var wheel = TimingWheel(capacity: 4)
      wheel.set(4, at: .origin)
    }
  }

  @Test("time that goes backwards fires nothing and breaks nothing")
  func backwards() {
    var wheel = TimingWheel(capacity: 2)
    let none = expired(&wheel, at(5_000))
    #expect(none == [])
    wheel.set(0, at: at(6_000))
    let before = expired(&wheel, at(1_000))
    #expect(before == [])
    let after = expired(&wheel, at(6_000))
    #expect(after == [0])
  }

  @Test("a wheel takes eight bytes an index and four kilobytes besides")
  func footprint() {
    #expect(TimingWheel(capacity: 1_000).footprint == 8 * (1_000 + 449))
  }

  @Test("the last index there can be works, and one more stops the process")
  func largest() async {
    var wheel = TimingWheel(capacity: TimingWheel.capacityMax)
    wheel.set(TimingWheel.capacityMax - 1, at: at(20))
    wheel.set(0, at: at(20))
    let fired = expired(&wheel, at(20))
    #expect(fired == [TimingWheel.capacityMax - 1, 0])
    await #expect(processExitsWith: .failure) {
      _ = TimingWheel(capacity: TimingWheel.capacityMax + 1)
    }
  }

  struct Walk: CustomTestStringConvertible {
    var seed: UInt64
    var start: Int64 = 0
    var tick: Int64 = 10_000
    /// Furthest deadline ahead, microseconds.
    var ahead: Int64
    /// Longest step of time.
    var step: Int64
    var reason: String
    var testDescription: String { "\(reason), seed \(seed)" }
  }

  static let walks: [Walk] = [
    Walk(seed: 1, ahead: 3_000_000, step: 30_000, reason: "level 0 and 1"),
    Walk(seed: 2, ahead: 300_000_000, step: 2_000_000, reason: "minutes"),
    Walk(seed: 3, ahead: 40_000_000_000, step: 900_000_000, reason: "hours"),
    Walk(seed: 4, ahead: 3_000_000_000_000, step: 200_000_000_000, reason: "jumps of days"),
    Walk(seed: 5, ahead: 3_000_000_000_000, step: 1_000_000, reason: "far deadlines, small steps"),
    Walk(
      seed: 6, start: Int64(UInt32.max) * 10_000 - 50_000_000, ahead: 100_000_000, step: 1_000_000,
      reason: "across the wrap-around of 32-bit ticks"),
    Walk(
      seed: 7, start: Int64(Int32.max) * 10_000 - 50_000_000, ahead: 400_000_000_000,
      step: 8_000_000_000, reason: "across the wrap-around of the sign"),
    Walk(
      seed: 8, start: -90_000_000, ahead: 60_000_000, step: 900_000, reason: "before the origin"),
    Walk(seed: 9, tick: 1, ahead: 5_000, step: 300, reason: "a tick of a microsecond"),
    Walk(seed: 10, tick: 7_919, ahead: 80_000_000, step: 300_000, reason: "an odd tick"),
  ]

  @Test("the wheel agrees with a plain array of deadlines", arguments: walks)
  func twin(walk: Walk) {
    let capacity = 40
    var random = SeededGenerator(seed: walk.seed)
    var wheel = TimingWheel(
      capacity: capacity, tick: .microseconds(walk.tick), start: Instant(microseconds: walk.start))
    var twin = [Int64?](repeating: nil, count: capacity)
    var now = walk.start
    func roundedUp(_ time: Int64) -> Int64 {
      var ticks = time / walk.tick
      // Division rounds towards zero, which is up already for negative times.
      if ticks * walk.tick < time { ticks += 1 }
      return ticks * walk.tick
    }
    for round in 0..<4_000 {
      let index = Int.random(in: 0..<capacity, using: &random)
      switch Int.random(in: 0..<10, using: &random) {
      case 0..<5:
        // Short ones are as frequent as long ones; some lie in the past.
        let reach = walk.ahead >> Int64.random(in: 0..<12, using: &random)
        let deadline = now + Int64.random(in: -reach / 10...reach, using: &random)
        let furthest = (wheel.position + TimingWheel.reach) * walk.tick
        let earliest = (wheel.position - TimingWheel.reach) * walk.tick
        wheel.set(index, at: Instant(microseconds: deadline))
        twin[index] = max(min(roundedUp(deadline), furthest), earliest)
      case 5:
        wheel.cancel(index)
        twin[index] = nil
      default:
        now += Int64.random(
          in: 0...walk.step >> Int64.random(in: 0..<8, using: &random), using: &random)
        let due = twin.indices.filter { twin[$0].map { $0 <= now } ?? false }
        var fired: [Int] = []
        var renewed: [(index: Int, deadline: Int64)] = []
        let time = Instant(microseconds: now)
        // A part of what expires is set anew at once, mostly in runs for the same moment.
        var ahead: Int64 = 1
        while let index = wheel.peekExpired(now: time) {
          fired.append(index)
          if Int.random(in: 0..<4, using: &random) == 0 {
            ahead = [1, 2, 3, 255, 256, 300, 20_000].randomElement(using: &random) ?? 1
          }
          let tick = min(wheel.tickAtOrBefore(time) + ahead, wheel.position + TimingWheel.reach)
          if tick * walk.tick > now && Int.random(in: 0..<3, using: &random) > 0 {
            _ = wheel.renew(index, atTick: tick)
            renewed.append((index, tick * walk.tick))
          } else {
            let popped = wheel.popExpired(now: time)
            guard popped == index else {
              Issue.record(
                "seed \(walk.seed), round \(round): peeked \(index), popped \(popped ?? -1)")
              return
            }
          }
        }
        guard fired.sorted() == due else {
          Issue.record("seed \(walk.seed), round \(round): fired \(fired.sorted()), due \(due)")
          return
        }
        for index in due { twin[index] = nil }
        for (index, deadline) in renewed { twin[index] = deadline }
      }
      let promised = wheel.nextDeadline(now: Instant(microseconds: now))
      let exact = twin.compactMap { $0 }.min()
      guard (promised == nil) == (exact == nil) else {
        Issue.record("seed \(walk.seed), round \(round): next is \(String(describing: promised))")
        return
      }
      if let promised, let exact, promised.microseconds > max(exact, now) {
        Issue.record("seed \(walk.seed), round \(round): sleeps past a deadline")
        return
      }
      guard wheel.isSet(index) == (twin[index] != nil),
        wheel.deadline(of: index)?.microseconds == twin[index],
        wheel.count == twin.count(where: { $0 != nil })
      else {
        Issue.record("seed \(walk.seed), round \(round): index \(index) differs")
        return
      }
    }
  }

  @Test("sleeping until the promised moment again and again reaches every timer in few steps")
  func sleepLoop() {
    var random = SeededGenerator(seed: 77)
    var wheel = TimingWheel(capacity: 100)
    for index in 0..<100 {
      wheel.set(index, at: at(Int.random(in: 0..<2_000_000_000, using: &random)))
    }
    var now = Instant.origin
    var wakeUps = 0
    var fired = 0
    while let next = wheel.nextDeadline(now: now), wakeUps < 1_000 {
      now = max(now, next)
      wakeUps += 1
      fired += expired(&wheel, now).count
    }
    #expect(fired == 100)
    // One wake-up to fire each, and at most one for each level it comes down and each turn it waits.
    #expect(wakeUps <= 100 * 8, "\(wakeUps) wake-ups")
  }
}
