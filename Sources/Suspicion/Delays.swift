// SPDX-License-Identifier: Apache-2.0
import Structures

/// How a peer stands with us. T0 to T3 in log and manual.
@frozen
package enum Tier: UInt8, BitwiseCopyable, Sendable, CaseIterable, Comparable {
  /// T0: its mail was accepted before, or the operator vouches for it.
  case known
  /// T1: never seen, nothing against it.
  case clean
  /// T2: something speaks against it.
  case suspicious
  /// T3: proven bad. Held in the tarpit, never let through.
  case bad

  package var name: String { "T\(rawValue)" }
  @inlinable package static func < (a: Tier, b: Tier) -> Bool { a.rawValue < b.rawValue }
}

/// A moment in an SMTP session at which a reply can be slowed.
package enum Stage: UInt8, BitwiseCopyable, Sendable, CaseIterable {
  case banner, helo, startTLS, authFailure, mail, recipientAccepted, recipientRejected, data, body,
    endOfData, other

  /// The key under `delays:` in the configuration.
  package var name: String {
    switch self {
    case .banner: "banner"
    case .helo: "helo"
    case .startTLS: "starttls"
    case .authFailure: "auth_failure"
    case .mail: "mail"
    case .recipientAccepted: "rcpt"
    case .recipientRejected: "rcpt_rejected"
    case .data: "data"
    case .body: "body"
    case .endOfData: "end_of_data"
    case .other: "other"
    }
  }
}

/// The delays of one stage, in microseconds of artificial delay until the complete final reply.
package struct StageDelays: Sendable, Equatable {
  /// For a clean peer (score 0).
  package var clean: Int64
  /// For the most suspicious peer that may still be legitimate (score 1).
  package var suspicious: Int64
  /// No peer that may be legitimate waits longer here, whatever rule asks for it.
  package var ceiling: Int64
  /// How long the tarpit stretches this reply for a T3 peer.
  package var bad: Int64
  /// The most `bad` may be configured to.
  package var badCeiling: Int64
}

/// The delay of every stage, the sums, and the curve between T1 and T2.
///
/// Seconds and ceilings are the table of docs/configuration.md (`delays`); the ceilings come from what honest senders
/// tolerate: those that wait 30 seconds for a reply lose mail above them.
package struct Delays: Sendable, Equatable {
  private var stages: [StageDelays]
  /// The most a session may be delayed in all, by tier: T1, T2, and the ceiling for both.
  package var cleanSum: Int64 = 10_000_000
  package var suspiciousSum: Int64 = 60_000_000
  package static let sumCeiling: Int64 = 120_000_000
  /// The ceiling in force: `sumCeiling`, which no configuration can raise; the simulator does, to find out what
  /// would happen.
  package var sumMost = Delays.sumCeiling
  /// All of a message's accepted-recipient delays together, at most.
  package var recipientSum: Int64 = 15_000_000

  package init() {
    func row(
      _ clean: Double, _ suspicious: Double, _ ceiling: Double, _ bad: Double, _ most: Double
    )
      -> StageDelays
    {
      func us(_ s: Double) -> Int64 { Int64(s * 1_000_000) }
      return StageDelays(
        clean: us(clean), suspicious: us(suspicious), ceiling: us(ceiling), bad: us(bad),
        badCeiling: us(most))
    }
    stages = Stage.allCases.map { stage in
      switch stage {
      case .banner: row(4, 22, 25, 110, 280)
      case .helo: row(0.5, 5, 25, 110, 280)
      case .startTLS: row(0, 0, 2, 10, 20)
      case .authFailure: row(1, 2, 10, 20, 25)
      case .mail: row(0, 8, 25, 110, 280)
      case .recipientAccepted: row(0, 1, 25, 110, 280)
      case .recipientRejected: row(1, 5, 25, 110, 280)
      case .data: row(0, 8, 25, 100, 110)
      case .body: row(0, 10, 20, 60, 170)
      case .endOfData: row(0, 0, 5, 5, 5)
      case .other: row(0, 0, 2, 5, 10)
      }
    }
  }

  package subscript(_ stage: Stage) -> StageDelays {
    get { stages[Int(stage.rawValue)] }
    set { stages[Int(stage.rawValue)] = newValue }
  }

  /// The delay at a stage before any session sum or second chance is applied.
  ///
  /// Between T1 and T2 the curve is clean + (suspicious − clean)·s². For rejected recipients and
  /// failed log-ins the n-th counts: rejected recipients grow by `clean` (or `suspicious`) each, up to
  /// four times the first for T2 and five times for T1; failures grow linearly.
  ///
  /// - Parameters:
  ///   - score: 0…1.
  ///   - count: which rejection or failure of the session this is, from 1; ignored elsewhere.
  package func delay(_ stage: Stage, tier: Tier, score: Double, count: Int = 1) -> Int64 {
    let row = self[stage]
    switch tier {
    case .known: return 0
    case .bad: return row.bad
    case .clean, .suspicious: break
    }
    let s = min(max(score, 0), 1)
    let base = row.clean + Int64(Double(row.suspicious - row.clean) * s * s)
    let scaled: Int64
    switch stage {
    case .recipientRejected:
      // 1 → 5 s for T1, 5 → 20 s for T2: a growing wait, the industry's answer to harvesting.
      scaled = base * Int64(min(max(count, 1), tier == .clean ? 5 : 4))
    case .authFailure:
      scaled = base * Int64(max(count, 1))
    default: scaled = base
    }
    return min(scaled, row.ceiling)
  }
}
