// SPDX-License-Identifier: Apache-2.0
import Structures

/// So many units in so much time, with room for a burst: the terms of one token bucket.
///
/// Not a bucket: it holds no state and can be shared by any number of sources. Kept: the fraction
/// period / units is in lowest terms, so that 64k/s and 128k/2s are the same rate.
///
/// Time is computed in *marks*: microseconds in the upper 50 bits, a remainder below in 14. The remainder
/// counts in 1/units of a microsecond, which makes every rate exact whose reduced number of units is
/// at most 16,384: all event rates people write, and powers of two up to 1M/s. For other rates it counts
/// in 1/16384 µs, and each charge (not each unit) is off by at most half of that.
@frozen
package struct Rate: Hashable, Sendable, BitwiseCopyable {
  /// In lowest terms; 0 for `unlimited`.
  @usableFromInline package let units: UInt64
  /// Microseconds, in lowest terms.
  @usableFromInline package let period: UInt64
  /// How many units a source that was quiet long enough may take at once; at least 1.
  package let burst: UInt64
  /// Marks: how far the theoretical arrival time may run ahead of the clock.
  @usableFromInline package let tolerance: Int64

  /// No limit at all: everything is allowed and nothing is remembered.
  package static let unlimited = Rate()

  /// - Parameters:
  ///   - units: 1…2^48 per period.
  ///   - period: 1 µs…31 days.
  ///   - burst: 1…2^48 units; nil for the same as `units`. A burst worth more than two years is cut there.
  /// - Returns: nil when something is out of range.
  package init?(_ units: UInt64, per period: Duration, burst: UInt64? = nil) {
    let burst = burst ?? units
    guard (1...(1 << 48)).contains(units), (1...(1 << 48)).contains(burst),
      (1...31 * 86_400_000_000).contains(period.microseconds)
    else { return nil }
    var (a, b) = (UInt64(period.microseconds), units)
    while b != 0 { (a, b) = (b, a % b) }
    self.units = units / a
    self.period = UInt64(period.microseconds) / a
    self.burst = burst
    tolerance = Rate.marks(of: burst, units: self.units, period: self.period)
  }

  private init() {
    units = 0
    period = 0
    burst = .max
    tolerance = .max
  }

  @inlinable package var isUnlimited: Bool { units == 0 }

  // Marks

  @inlinable package static var fractionBits: Int64 { 14 }
  @inlinable package static var fractionMask: Int64 { 1 << 14 - 1 }
  /// The longest stretch that is told apart: 2^46 µs, two years.
  @inlinable package static var marksMax: Int64 { 1 << 60 }

  /// In how many parts a microsecond is divided under this rate.
  @inlinable package var parts: Int64 {
    units <= 1 << 14 ? Int64(units) : 1 << Rate.fractionBits
  }

  /// How long `count` units take at this rate, in marks; cut at `marksMax`.
  @inlinable
  package func marks(of count: UInt64) -> Int64 {
    Rate.marks(of: count, units: units, period: period)
  }

  @inlinable
  package static func marks(of count: UInt64, units: UInt64, period: UInt64) -> Int64 {
    if units <= 1 << 14 {
      let (product, overflow) = count.multipliedReportingOverflow(by: period)
      if overflow { return marksMax }
      let (whole, rest) = product.quotientAndRemainder(dividingBy: units)
      if whole >= 1 << 46 { return marksMax }
      return Int64(whole << UInt64(fractionBits) | rest)
    }
    let product = count.multipliedFullWidth(by: period << UInt64(fractionBits))
    if product.high >= units { return marksMax }
    let (whole, rest) = units.dividingFullWidth(product)
    return whole >= UInt64(marksMax) ? marksMax : Int64(whole) &+ (rest >= units - rest ? 1 : 0)
  }

  /// The sum of two stretches, carrying from the remainder to the microseconds.
  @inlinable
  package func adding(_ a: Int64, _ b: Int64) -> Int64 {
    let mask = Rate.fractionMask
    var low = (a & mask) &+ (b & mask)
    var high = (a & ~mask) &+ (b & ~mask)
    if low >= parts {
      low &-= parts
      high &+= mask &+ 1
    }
    return high &+ low
  }

  /// What is left of `a` after `b`; for `a >= b`.
  @inlinable
  package func subtracting(_ b: Int64, from a: Int64) -> Int64 {
    let mask = Rate.fractionMask
    var low = (a & mask) &- (b & mask)
    var high = (a & ~mask) &- (b & ~mask)
    if low < 0 {
      low &+= parts
      high &-= mask &+ 1
    }
    return high &+ low
  }

  /// Whole units that fit into a stretch.
  @inlinable
  package func unitsFitting(_ marks: Int64) -> UInt64 {
    let whole = UInt64(marks >> Rate.fractionBits)
    let rest = UInt64(marks & Rate.fractionMask)
    if units <= 1 << 14 {
      let (product, overflow) = whole.multipliedReportingOverflow(by: units)
      let (sum, carried) = product.addingReportingOverflow(rest)
      if !overflow && !carried { return sum / period }
      return UInt64((UInt128(whole) * UInt128(units) + UInt128(rest)) / UInt128(period))
    }
    return UInt64(UInt128(marks) * UInt128(units) / (UInt128(period) << UInt128(Rate.fractionBits)))
  }

  /// Whole microseconds, rounded up: waiting that long is always enough.
  @inlinable
  package static func duration(_ marks: Int64) -> Duration {
    .microseconds((marks >> fractionBits) &+ (marks & fractionMask == 0 ? 0 : 1))
  }
}
