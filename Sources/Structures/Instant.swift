// SPDX-License-Identifier: Apache-2.0

/// A moment on the engine's own clock, in microseconds since an origin the driver chose.
///
/// The engine never reads a clock: every fact brings its `Instant`. The origin is the start of the
/// worker (real driver, CLOCK_MONOTONIC) or of the simulation, so a value says nothing about the
/// calendar. Range: 292,000 years.
@frozen
public struct Instant: Comparable, Hashable, Sendable {
  /// Since the origin; negative before it.
  public var microseconds: Int64

  /// So many microseconds after the origin.
  @inlinable
  public init(microseconds: Int64) { self.microseconds = microseconds }

  /// So many seconds after the origin, to the microsecond; beyond 292,000 years the process ends.
  @inlinable
  public init(seconds: Double) { microseconds = Int64(seconds * 1_000_000) }

  /// Where the clock begins.
  @inlinable public static var origin: Instant { Instant(microseconds: 0) }
  /// Never: later than any moment that comes.
  @inlinable public static var distantFuture: Instant { Instant(microseconds: .max) }

  /// Whether `a` is earlier.
  @inlinable
  public static func < (a: Instant, b: Instant) -> Bool { a.microseconds < b.microseconds }

  /// The moment so much later.
  @inlinable
  public static func + (a: Instant, b: Duration) -> Instant {
    Instant(microseconds: a.microseconds &+ b.microseconds)
  }

  /// The moment so much later. For the hot path: a `Duration` counts in 128 bits.
  @inlinable
  public func after(microseconds: Int64) -> Instant {
    Instant(microseconds: self.microseconds &+ microseconds)
  }

  /// From `b` to `a`; negative when `a` is earlier.
  @inlinable
  public static func - (a: Instant, b: Instant) -> Duration {
    .microseconds(a.microseconds - b.microseconds)
  }

  /// Seconds since the origin, for people.
  public var seconds: Double { Double(microseconds) / 1_000_000 }
}

extension Duration {
  /// Whole microseconds, rounded towards zero.
  @inlinable
  public var microseconds: Int64 {
    let (seconds, attoseconds) = components
    return seconds &* 1_000_000 &+ attoseconds / 1_000_000_000_000
  }

  /// Seconds as a floating-point number, for curves and for people.
  @inlinable
  public var inSeconds: Double { Double(microseconds) / 1_000_000 }

  /// A duration from fractional seconds, to the microsecond.
  @inlinable
  public init(inSeconds seconds: Double) { self = .microseconds(Int64(seconds * 1_000_000)) }
}

/// Stops the process when something that cannot happen has happened, and says what.
///
/// `precondition` loses its text in release builds; an operator woken at night needs the sentence.
/// For our own mistakes only: a peer's mistakes are values, the system's are thrown.
@inlinable
@inline(__always)
public func invariant(
  _ condition: Bool, _ sentence: @autoclosure () -> String,
  file: StaticString = #fileID, line: UInt = #line
) {
  if !condition { invariantFailed(sentence(), file: file, line: line) }
}

/// The same where reaching the place is the broken invariant.
@inline(never)
public func invariantFailed(
  _ sentence: String, file: StaticString = #fileID, line: UInt = #line
) -> Never {
  fatalError("broken invariant: \(sentence)", file: file, line: line)
}
