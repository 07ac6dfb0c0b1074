// SPDX-License-Identifier: Apache-2.0

/// How a quantity of a persona varies, as its quantile function: one draw of 0 ..< 1 gives one value. The same
/// draw asked of several distributions gives values that belong together: a client that is patient at the
/// banner is patient at DATA.
///
/// Its arithmetic is its own, for the C library's exp and log differ in their last bits from processor to
/// processor, and the same seed must give the same run everywhere.
public indirect enum Distribution: Sendable, Equatable {
  case const(Double)
  /// Evenly from the first to the second.
  case uniform(Double, Double)
  /// Mean and standard deviation; never below 0.
  case normal(Double, Double)
  /// Median and sigma of the logarithm.
  case lognormal(Double, Double)
  /// Shares, which are taken as parts of their sum, and what each is distributed as.
  case mix([(share: Double, of: Distribution)])

  /// The value below which the share `draw` of all values lies.
  ///
  /// - Parameter draw: 0…1; values at the ends are those of 0.0001 % and 99.9999 %.
  public func value(at draw: Double) -> Double {
    let u = min(max(draw, 1e-6), 1 - 1e-6)
    switch self {
    case .const(let value): return value
    case .uniform(let low, let high): return low + (high - low) * u
    case .normal(let mean, let deviation): return max(0, mean + deviation * Self.normal(u))
    case .lognormal(let median, let sigma): return median * Self.exp(sigma * Self.normal(u))
    case .mix(let parts):
      let sum = parts.reduce(0) { $0 + $1.share }
      var start = 0.0
      for part in parts {
        let share = part.share / sum
        if u < start + share { return part.of.value(at: (u - start) / share) }
        start += share
      }
      return parts.last?.of.value(at: 1) ?? 0
    }
  }

  /// The mean of all values; of a normal distribution that of the whole curve, also where it is cut off at 0.
  public var mean: Double {
    switch self {
    case .const(let value): value
    case .uniform(let low, let high): (low + high) / 2
    case .normal(let mean, _): mean
    case .lognormal(let median, let sigma): median * Self.exp(sigma * sigma / 2)
    case .mix(let parts):
      parts.reduce(0) { $0 + $1.share * $1.of.mean } / parts.reduce(0) { $0 + $1.share }
    }
  }

  /// The same form with the same figures.
  public static func == (a: Distribution, b: Distribution) -> Bool {
    switch (a, b) {
    case (.const(let x), .const(let y)): x == y
    case (.uniform(let x, let y), .uniform(let v, let w)): x == v && y == w
    case (.normal(let x, let y), .normal(let v, let w)): x == v && y == w
    case (.lognormal(let x, let y), .lognormal(let v, let w)): x == v && y == w
    case (.mix(let x), .mix(let y)): x.elementsEqual(y) { $0.share == $1.share && $0.of == $1.of }
    default: false
    }
  }

  /// The quantile of the standard normal distribution (Acklam's rational approximation, error below 1.2e-9).
  static func normal(_ u: Double) -> Double {
    let tail = 0.02425
    if u < tail || u > 1 - tail {
      let q = (-2 * log(min(u, 1 - u))).squareRoot()
      let over = polynomial(
        q, -7.784894002430293e-03, -3.223964580411365e-01, -2.400758277161838, -2.549732539343734,
        4.374664141464968, 2.938163982698783)
      let under = polynomial(
        q, 7.784695709041462e-03, 3.224671290700398e-01, 2.445134137142996, 3.754408661907416, 1)
      return u < 0.5 ? over / under : -over / under
    }
    let q = u - 0.5
    let r = q * q
    let over = polynomial(
      r, -3.969683028665376e+01, 2.209460984245205e+02, -2.759285104469687e+02,
      1.383577518672690e+02, -3.066479806614716e+01, 2.506628277459239)
    let under = polynomial(
      r, -5.447609879822406e+01, 1.615858368580409e+02, -1.556989798598866e+02,
      6.680131188771972e+01, -1.328068155288572e+01, 1)
    return q * over / under
  }

  private static func polynomial(_ x: Double, _ factors: Double...) -> Double {
    factors.reduce(0) { $0 * x + $1 }
  }

  /// e to the power of `x`, for -700…700.
  package static func exp(_ x: Double) -> Double {
    let k = (x / 0.6931471805599453).rounded()
    let r = x - k * 0.6931471805599453
    var (sum, term) = (1.0, 1.0)
    for n in 1...16 {
      term *= r / Double(n)
      sum += term
    }
    return Double(sign: .plus, exponent: Int(k), significand: sum)
  }

  /// The natural logarithm, for x > 0.
  package static func log(_ x: Double) -> Double {
    // x = 2^e · m with m in 1 ..< 2; log m = 2 artanh((m - 1) / (m + 1)).
    let z = (x.significand - 1) / (x.significand + 1)
    var (sum, power) = (0.0, z)
    for n in 0..<24 {
      sum += power / Double(2 * n + 1)
      power *= z * z
    }
    return 2 * sum + Double(x.exponent) * 0.6931471805599453
  }
}
