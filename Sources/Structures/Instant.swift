// SPDX-License-Identifier: Apache-2.0

/// A moment on the engine's own clock, in microseconds since an origin the driver chose.
///
/// The engine never reads a clock: every fact brings its `Instant`. The origin is the start of the
/// worker (real driver, CLOCK_MONOTONIC) or of the simulation, so a value says nothing about the
/// calendar. Range: 292,000 years.
@frozen
package struct Instant: Comparable, Hashable, Sendable {
  package var microseconds: Int64

  @inlinable
  package init(microseconds: Int64) { self.microseconds = microseconds }

  @inlinable
  package init(seconds: Double) { microseconds = Int64(seconds * 1_000_000) }

  package static let origin = Instant(microseconds: 0)
  package static let distantFuture = Instant(microseconds: .max)

  @inlinable
  package static func < (a: Instant, b: Instant) -> Bool { a.microseconds < b.microseconds }

  @inlinable
  package static func + (a: Instant, b: Duration) -> Instant {
    Instant(microseconds: a.microseconds &+ b.microseconds)
  }

  @inlinable
  package static func - (a: Instant, b: Instant) -> Duration {
    .microseconds(a.microseconds - b.microseconds)
  }

  package var seconds: Double { Double(microseconds) / 1_000_000 }
}

extension Duration {
  /// Whole microseconds, rounded towards zero.
  @inlinable
  package var microseconds: Int64 {
    let (seconds, attoseconds) = components
    return seconds &* 1_000_000 &+ attoseconds / 1_000_000_000_000
  }

  /// Seconds as a floating-point number, for curves and for people.
  @inlinable
  package var inSeconds: Double { Double(microseconds) / 1_000_000 }

  /// A duration from fractional seconds, to the microsecond.
  @inlinable
  package init(inSeconds seconds: Double) { self = .microseconds(Int64(seconds * 1_000_000)) }
}

/// Stops the process when something that cannot happen has happened, and says what.
///
/// `precondition` loses its text in release builds; an operator woken at night needs the sentence.
/// For our own mistakes only: a peer's mistakes are values, the system's are thrown.
@inlinable
@inline(__always)
package func invariant(
  _ condition: Bool, _ sentence: @autoclosure () -> String,
  file: StaticString = #fileID, line: UInt = #line
) {
  if !condition { invariantFailed(sentence(), file: file, line: line) }
}

/// The same where reaching the place is the broken invariant.
@usableFromInline
@inline(never)
package func invariantFailed(
  _ sentence: String, file: StaticString = #fileID, line: UInt = #line
) -> Never {
  fatalError("broken invariant: \(sentence)", file: file, line: line)
}
