// SPDX-License-Identifier: Apache-2.0
//
// Whether a list can be believed, by the test that RFC 5782, 5 makes every list pass: 127.0.0.2 is on it and 127.0.0.1 is
// not. A list that has died lists everyone or no one, and both lose mail or time. Not the asking: answers come in, and what
// changed comes out. Kept: a zone counts only while it is healthy, one alarm for each illness, one notice for each recovery.

package import Structures

/// What one of the two test addresses was answered with.
package enum TestAnswer: Hashable, Sendable {
  case addresses([Address])
  case noSuchName
  /// SERVFAIL, silence or nonsense.
  case failure
}

/// What a test came to.
package enum HealthOutcome: Hashable, Sendable, BitwiseCopyable {
  case healthy
  /// 127.0.0.1 is on it.
  case listsEverything
  /// 127.0.0.2 is not on it.
  case listsNothing
  /// No answer.
  case silent
  /// It answers, but with an error.
  case refuses(ListError)

  /// - Parameters:
  ///   - two: the answer for 127.0.0.2, which must be on every list.
  ///   - one: the answer for 127.0.0.1, which must not.
  package init(two: TestAnswer, one: TestAnswer) {
    let two = Self.read(two)
    let one = Self.read(one)
    switch (two, one) {
    case (.error(let error), _), (_, .error(let error)): self = .refuses(error)
    case (_, .listed): self = .listsEverything
    case (.unlisted, _): self = .listsNothing
    case (.failure, _), (_, .failure): self = .silent
    case (.listed, .unlisted): self = .healthy
    }
  }

  private enum Reading { case listed, unlisted, failure, error(ListError) }

  /// Filters do not count here: which code the test address has is the list's affair.
  private static func read(_ answer: TestAnswer) -> Reading {
    switch answer {
    case .noSuchName: return .unlisted
    case .failure: return .failure
    case .addresses(let addresses):
      for address in addresses { if let error = ListError(address) { return .error(error) } }
      return addresses.isEmpty ? .unlisted : .listed
    }
  }
}

/// What has changed, to be told once.
package enum HealthNotice: Hashable, Sendable {
  /// The zone no longer counts.
  case alarm(HealthOutcome)
  /// It counts again.
  case recovered
}

/// The health of one zone over time.
package struct ZoneHealth: Hashable, Sendable {
  /// The addresses of the test.
  package static let two = Address(v4: 0x7F00_0002)
  package static let one = Address(v4: 0x7F00_0001)

  /// When zones are tested.
  package struct Intervals: Hashable, Sendable {
    package var healthy: Duration = .seconds(3_600)
    package var ill: Duration = .seconds(300)
    package init() {}
  }

  private let intervals: Intervals
  /// nil before the first test.
  package private(set) var outcome: HealthOutcome?
  /// When the next test is due.
  package private(set) var testAt: Instant

  /// A zone that has not been tested, and does not count until it has.
  package init(now: Instant, intervals: Intervals = Intervals()) {
    self.intervals = intervals
    testAt = now
  }

  /// Whether its answers count.
  package var counts: Bool { outcome == .healthy }

  /// A test begins: it is not due again before its outcome, or before it is overdue itself.
  package mutating func testBegan(now: Instant) { testAt = now + intervals.ill }

  /// A test has ended.
  package mutating func tested(_ outcome: HealthOutcome, now: Instant) -> HealthNotice? {
    testAt = now + (outcome == .healthy ? intervals.healthy : intervals.ill)
    return become(outcome)
  }

  /// A client's look-up was answered with an error: a zone that counted no longer does, and is tested soon.
  package mutating func answeredWithError(_ error: ListError, now: Instant) -> HealthNotice? {
    guard counts else { return nil }
    testAt = min(testAt, now + intervals.ill)
    return become(.refuses(error))
  }

  private mutating func become(_ new: HealthOutcome) -> HealthNotice? {
    let old = outcome
    outcome = new
    switch (old, new) {
    case (nil, .healthy), (.healthy, .healthy): return nil
    case (_, .healthy): return .recovered
    case (nil, _), (.healthy, _): return .alarm(new)
    default: return nil
    }
  }
}
