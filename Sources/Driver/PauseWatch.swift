// SPDX-License-Identifier: Apache-2.0
//
// Whether the process stood still: stopped by a signal, by the hypervisor, or in a turn of the loop that took very
// long. Deadlines have passed meanwhile that nobody could keep. Not a clock.

import Structures

struct PauseWatch {
  /// Later than this is no delay of the scheduler any more. In microseconds.
  static let slack: Int64 = 100_000

  private var lookedAt: Instant
  private var hasOverslept = false

  init(now: Instant) { lookedAt = now }

  /// A wait is over that was to end at `latest`, if not before.
  mutating func waited(until now: Instant, latest: Instant) {
    hasOverslept = now.microseconds - latest.microseconds > PauseWatch.slack
    lookedAt = now
  }

  /// Whether what has arrived may have come long before what is due now.
  func hasPaused(now: Instant) -> Bool {
    hasOverslept || now.microseconds - lookedAt.microseconds > PauseWatch.slack
  }
}
