// SPDX-License-Identifier: Apache-2.0
import Structures
import Suspicion

/// What the tarpit says, and what clients are told that are sent away: 16 texts at most. Each is a ready text in the
/// arena.
package enum PitText: UInt8, BitwiseCopyable, Sendable, CaseIterable {
  case banner, helo, ehlo, mail, recipient, data, done, unknown, starttls, quit, tooMany, timeout,
    shed,
    rejected, busy, crowded
}

extension PitText {
  /// Over which stage's delay the tarpit spreads it.
  var stage: Stage {
    switch self {
    case .banner: .banner
    case .helo, .ehlo: .helo
    case .mail: .mail
    case .recipient: .recipientRejected
    case .data: .data
    case .starttls: .startTLS
    case .done, .unknown, .quit, .tooMany, .timeout, .shed, .rejected, .busy, .crowded: .other
    }
  }

  /// The reply's code.
  package var code: UInt16 {
    switch self {
    case .banner, .starttls: 220
    case .helo, .ehlo, .mail, .done: 250
    case .recipient: 450
    case .unknown: 500
    case .data, .rejected: 554
    case .quit: 221
    case .tooMany, .timeout, .shed, .busy, .crowded: 421
    }
  }

  /// What it says, line ends included.
  package func words(host: String, offersTLS: Bool) -> String {
    switch self {
    case .banner: "220 \(host) ESMTP ready\r\n"
    case .helo: "250 \(host)\r\n"
    case .ehlo:
      "250-\(host)\r\n" + (offersTLS ? "250-STARTTLS\r\n" : "") + "250 ENHANCEDSTATUSCODES\r\n"
    case .mail: "250 2.1.0 Sender noted\r\n"
    case .recipient: "450 4.7.1 Client host rejected: too many signs of abuse, try again later\r\n"
    case .data: "554 5.5.1 No valid recipients\r\n"
    case .done: "250 2.0.0 Done\r\n"
    case .unknown: "500 5.5.1 Command not recognized\r\n"
    case .starttls: "220 2.0.0 Ready to start TLS\r\n"
    case .quit: "221 2.0.0 \(host) closing connection\r\n"
    case .tooMany: "421 4.7.0 \(host) Too many commands, closing connection\r\n"
    case .timeout: "421 4.4.2 \(host) Timeout, closing connection\r\n"
    case .shed: "421 4.3.2 \(host) Service currently unavailable, try again later\r\n"
    case .rejected: "554 5.7.1 \(host) Service unavailable; Client host rejected: access denied\r\n"
    case .busy: "421 4.3.2 \(host) Service unavailable: too busy, try again later\r\n"
    case .crowded:
      "421 4.7.0 \(host) Client host rejected: too many connections, try again later\r\n"
    }
  }
}

/// A ready text in the arena, and at what pace the tarpit says it.
struct PitLine: BitwiseCopyable, Sendable {
  /// Where in the arena it begins.
  var offset: UInt32 = 0
  /// How many bytes it has.
  var count: UInt16 = 0
  /// A place on the grid of drips is 2^grid ticks.
  var grid: UInt8 = 0
  /// Places from a byte to the next one, with 16 bits of fraction.
  private var pace: UInt32 = 0

  init() {}

  /// - Parameter span: from the order to say it to its last byte, in microseconds.
  init(_ region: Region, span: Int64) {
    offset = UInt32(region.offset)
    count = UInt16(region.count)
    let ticks = UInt64(max(span, 0)) / 10_000
    let length = UInt64(max(region.count, 1))
    // On a grid of 40 ms, so that many drips are one submission: at 100,000 a second over six rings every tick
    // for itself took 0.0055 ring enters a byte. Texts that are said faster keep to the ticks.
    grid = ticks >= 8 * length ? 2 : 0
    // Rounded up, by less than a place in the whole text.
    pace = UInt32(clamping: ((ticks >> UInt64(grid)) << 16 + length - 1) / length)
  }

  var region: Region { Region(offset: Int(offset), count: Int(count)) }

  /// The tick at which the byte at `position` is due, seen from the tick that was due before it.
  ///
  /// Byte n of `count` is due (n + 1)/count of the span after the first: the differences are taken between
  /// whole places, so nothing adds up. From a place, not from the moment when we came to it, or every byte
  /// would be late by a tick.
  @inline(__always)
  func due(_ position: UInt32, after tick: Int64) -> Int64 {
    let pace = UInt64(pace)
    let before = UInt64(position) &* pace
    let places = Int64(truncatingIfNeeded: (before &+ pace) >> 16 &- before >> 16)
    let grid = Int64(grid)
    return (tick &>> grid &+ places) &<< grid
  }
}
