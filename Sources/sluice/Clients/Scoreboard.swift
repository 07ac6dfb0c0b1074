// SPDX-License-Identifier: Apache-2.0
// What the demo's clients have lived through, counted by kind. Not a metric of the shield: it is the view
// from outside, so that the two can be compared. Invariant: started ≥ banners, and every client that
// started is delivered-or-not, left or refused once when it ends.

import Synchronization

/// What a client of the demo does. The first is welcome, the others are not.
enum ClientKind: Int, CaseIterable, Sendable {
  case honest, impatient, pregreeter, nonSMTP, harvester, silent

  var name: String {
    switch self {
    case .honest: "honest sender"
    case .impatient: "impatient bot"
    case .pregreeter: "pregreeting bot"
    case .nonSMTP: "HTTP bot"
    case .harvester: "address harvester"
    case .silent: "silent holder"
    }
  }

  /// The network its sources come from, so that a table of the demo can name it: 127.N.0.0/16.
  var networkOctet: UInt8 { self == .honest ? 1 : UInt8(10 * rawValue) }

  /// A source address of its own for each client; 60,000 of them before they come round.
  func source(_ index: Int) -> [UInt8] {
    let host = index % 60_000 + 1
    return [127, networkOctet, UInt8(host / 250), UInt8(host % 250 + 1)]
  }
}

/// Mutex-protected counters, one row per kind.
final class Scoreboard: Sendable {
  struct Row: Sendable, Equatable {
    var started = 0
    /// Connected right now.
    var inside = 0
    var banners = 0
    /// Messages answered 250.
    var delivered = 0
    /// Went away by themselves before the server was done with them.
    var left = 0
    /// Told 4xx or 5xx, or cut off by the server.
    var refused = 0
    /// Could not connect at all.
    var failed = 0
    var secondsHeld = 0.0
    var bannerSecondsSum = 0.0
    var bannerSecondsMax = 0.0
    /// How often each reply code ended a message's way.
    var codes: [Int: Int] = [:]

    var bannerSecondsMean: Double { banners == 0 ? 0 : bannerSecondsSum / Double(banners) }
  }

  private let rows = Mutex([Row](repeating: Row(), count: ClientKind.allCases.count))

  func update(_ kind: ClientKind, _ change: (inout Row) -> Void) {
    rows.withLock { change(&$0[kind.rawValue]) }
  }

  /// One row as it is now.
  func row(_ kind: ClientKind) -> Row { rows.withLock { $0[kind.rawValue] } }

  /// Every row at one moment.
  var snapshot: [(kind: ClientKind, row: Row)] {
    let rows = rows.withLock { $0 }
    return ClientKind.allCases.map { ($0, rows[$0.rawValue]) }
  }
}
