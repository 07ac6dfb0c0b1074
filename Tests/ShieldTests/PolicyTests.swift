// SPDX-License-Identifier: Apache-2.0
import Flow
import Policy
import Shield
import Structures
import Suspicion
import Testing

@Suite("Tiers and delays")
struct PolicyTests {
  /// Seconds of the table of delays: T1, T2, the ceiling while the sender may be legitimate, and for T3.
  private static let table: [(Stage, Double, Double, Double, Double)] = [
    (.banner, 4, 22, 25, 280), (.helo, 0.5, 5, 25, 280), (.startTLS, 0, 0, 2, 20),
    (.mail, 0, 8, 25, 280), (.recipientAccepted, 0, 1, 25, 280), (.data, 0, 8, 25, 110),
    (.body, 0, 10, 20, 170), (.endOfData, 0, 0, 5, 5), (.other, 0, 0, 2, 10),
  ]

  @Test("the shipped delays are those of the design, and below every ceiling", arguments: table)
  func shipped(stage: Stage, clean: Double, suspicious: Double, ceiling: Double, bad: Double) {
    let delays = Delays()
    func seconds(_ micros: Int64) -> Double { Double(micros) / 1_000_000 }
    #expect(seconds(delays.delay(stage, tier: .clean, score: 0)) == clean)
    #expect(seconds(delays.delay(stage, tier: .suspicious, score: 1)) == suspicious)
    #expect(delays.delay(stage, tier: .known, score: 1) == 0)
    #expect(seconds(delays[stage].ceiling) == ceiling)
    #expect(seconds(delays[stage].badCeiling) == bad)
    #expect(delays[stage].bad <= delays[stage].badCeiling)
    #expect(delays[stage].suspicious <= delays[stage].ceiling)
  }

  @Test("the curve rises with the square of the score and never passes the ceiling")
  func curve() {
    var delays = Delays()
    #expect(delays.delay(.banner, tier: .suspicious, score: 0.5) == 4_000_000 + 18_000_000 / 4)
    delays[.banner].suspicious = 1_000_000_000
    #expect(delays.delay(.banner, tier: .suspicious, score: 1) == 25_000_000)
    #expect(delays.delay(.banner, tier: .suspicious, score: 7) == 25_000_000, "scores end at 1")
  }

  @Test("refused recipients wait ever longer: 1 to 5 s for T1, 5 to 20 s for T2")
  func recipients() {
    let delays = Delays()
    let clean = (1...7).map {
      delays.delay(.recipientRejected, tier: .clean, score: 0, count: $0) / 1_000_000
    }
    #expect(clean == [1, 2, 3, 4, 5, 5, 5])
    let suspicious = (1...6).map {
      delays.delay(.recipientRejected, tier: .suspicious, score: 1, count: $0) / 1_000_000
    }
    #expect(suspicious == [5, 10, 15, 20, 20, 20])
    let failures = (1...12).map {
      delays.delay(.authFailure, tier: .clean, score: 0, count: $0) / 1_000_000
    }
    #expect(failures == [1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 10, 10])
  }

  @Test("what makes which tier")
  func tiers() {
    var policy = policy()
    func tier(_ signals: [Signal], known: Bool = false, trusted: Bool = false) -> Tier {
      var set = SignalSet()
      for signal in signals { set.insert(SignalSet(signal)) }
      return policy.tier(set, known: known, trusted: trusted)
    }
    #expect(tier([]) == .clean)
    #expect(tier([], known: true) == .known)
    #expect(tier([.heloBareWord]) == .suspicious, "0.3 is the mark")
    #expect(tier([.unknownCommand]) == .clean, "0.2 is below it")
    #expect(tier([.unknownCommand, .bareNewline]) == .suspicious, "weights add up")
    #expect(tier([.pregreet]) == .bad)
    #expect(tier([.pregreet], known: true) == .bad, "a known sender can be taken over")
    #expect(tier([.pregreet], trusted: true) == .known, "the operator has the last word")
    policy[.pregreet].action = .observe
    #expect(tier([.pregreet]) == .clean, "observed is not counted")
    policy[.pregreet] = SignalRule(weight: 1, proof: false)
    #expect(tier([.pregreet]) == .suspicious, "without proof it is a suspicion")
  }

  @Test("HELO syntax alone can never prove anything")
  func noProof() {
    for signal in Signal.allCases where signal.name.hasPrefix("helo_") {
      let mayProve = signal.mayProve
      let isLie = signal == .heloOwnName || signal == .heloOwnAddress
      #expect(mayProve == isLie, "\(signal.name)")
    }
    for signal in Signal.allCases where SignalRule.shipped(signal).proof {
      #expect(signal.mayProve, "\(signal.name)")
    }
  }

  @Test("signal names are unique and stand for their bits")
  func names() {
    let names = Set(Signal.allCases.map(\.name))
    #expect(names.count == Signal.allCases.count)
    for signal in Signal.allCases { #expect(SignalSet(signal).members == [signal]) }
    #expect(Signal.allCases.count <= 32)
  }
}
