// SPDX-License-Identifier: Apache-2.0
import Foundation
import SMTP
import Synchronization
import Testing

@testable import Configuration
@testable import Driver
@testable import Service

/// How often a downstream is asked, and when that ends.
@Suite(.serialized)
struct RelayWatchTests {
  /// Answers in their order, the last one for ever.
  private final class Script: Sendable {
    private let state: Mutex<(asked: Int, answers: [RelayProbe.Finding])>

    init(_ answers: [RelayProbe.Finding]) { state = Mutex((0, answers)) }

    var asked: Int { state.withLock { $0.asked } }

    func next() -> Preflight {
      state.withLock { state in
        let finding = state.answers[min(state.asked, state.answers.count - 1)]
        state.asked += 1
        return Script.preflight(finding)
      }
    }

    static func preflight(_ finding: RelayProbe.Finding) -> Preflight {
      Preflight(
        Downstream(), [.init(client: .stranger, isSure: true, outcome: .init(finding))])
    }
  }

  private static var pace: RelayWatch.Pace {
    var pace = RelayWatch.Pace()
    pace.first = 10
    pace.most = 40
    pace.patience = 150
    return pace
  }

  private func eventually(_ what: () -> Bool) -> Bool {
    for _ in 0..<1_000 {
      if what() { return true }
      usleep(5_000)
    }
    return false
  }

  /// What comes of it, in order, until it is quiet for long enough.
  private func news(_ script: Script, after known: Preflight?) -> [Preflight] {
    let watch = RelayWatch(pace: Self.pace) { script.next() }
    watch.begin(after: known)
    var all: [Preflight] = []
    for _ in 0..<80 {
      if let found = watch.take() { all.append(found) }
      usleep(5_000)
    }
    watch.stop()
    return all
  }

  @Test("it asks until it is answered, tells what is new, and then no more")
  func answered() {
    let down = RelayProbe.Finding.silent("Connection refused")
    let script = Script([down, down, down, .relays("250")])
    let found = news(script, after: Script.preflight(down))
    #expect(found.map(\.isOpenRelay) == [true])
    #expect(script.asked == 4)
    let observed = Script([down, down, .refuses("550")])
    #expect(news(observed, after: nil).map(\.exitCode) == [69, 0])
    #expect(observed.asked == 3)
    let good = Script([.refuses("550")])
    #expect(news(good, after: nil).map(\.exitCode) == [0])
    #expect(good.asked == 1)
  }

  @Test("a server that is mended after a mismatch is asked as well")
  func mended() {
    let script = Script([.mismatch("x"), .insecure("y"), .relays("250")])
    #expect(news(script, after: nil).map(\.isOpenRelay) == [false, false, true])
  }

  @Test("one that says later is asked for a while, and one that is down for ever, at the pace")
  func bounded() {
    let later = Script([.putsOff("450")])
    let watch = RelayWatch(pace: Self.pace) { later.next() }
    watch.begin(after: nil)
    // 0, 10, 30, 70, 110, 150 ms.
    usleep(600_000)
    let asked = later.asked
    #expect((2...7).contains(asked), "\(asked)")
    usleep(200_000)
    #expect(later.asked == asked)

    let down = Script([.silent("x")])
    let other = RelayWatch(pace: Self.pace) { down.next() }
    other.begin(after: nil)
    usleep(800_000)
    let most = down.asked
    #expect((4...22).contains(most), "\(most)")
    #expect(eventually { down.asked > most })
    other.stop()
    usleep(300_000)
    let last = down.asked
    usleep(200_000)
    #expect(down.asked == last)
  }

  @Test("what an earlier round finds late is nobody's news")
  func rounds() {
    let isHeld = Mutex(true)
    let asked = Mutex(0)
    let watch = RelayWatch(pace: Self.pace) {
      let number = asked.withLock { count in
        count += 1
        return count
      }
      if number > 1 { return Script.preflight(.refuses("550")) }
      while isHeld.withLock({ $0 }) { usleep(1_000) }
      return Script.preflight(.relays("250"))
    }
    watch.begin(after: nil)
    #expect(eventually { asked.withLock { $0 } == 1 })
    watch.begin(after: nil)
    var found: Preflight?
    #expect(
      eventually {
        found = found ?? watch.take()
        return found != nil
      })
    #expect(found?.exitCode == 0)
    isHeld.withLock { $0 = false }
    usleep(100_000)
    #expect(watch.take() == nil)
  }
}
