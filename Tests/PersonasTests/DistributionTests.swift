// SPDX-License-Identifier: Apache-2.0
import Testing

@testable import Personas

/// The impatient bot of the published curves.
let impatience = Distribution.mix([
  (share: 0.91, of: .lognormal(4, 0.4)), (share: 0.09, of: .lognormal(290, 0.8)),
])

struct DistributionTests {
  /// Values at 100,000 places spread evenly.
  private static func values(_ distribution: Distribution) -> [Double] {
    (0..<100_000).map { distribution.value(at: (Double($0) + 0.5) / 100_000) }
  }

  @Test(
    "the impatient bot leaves as published",
    arguments: [(3.0, 0.79), (5, 0.35), (10, 0.10)])
  func survival(seconds: Double, share: Double) {
    let values = Self.values(impatience)
    let left = Double(values.count { $0 > seconds }) / Double(values.count)
    #expect(abs(left - share) < 0.01, "\(left) at \(seconds) s")
  }

  @Test("the impatient bot stays 40 s on the average, counted and by formula")
  func mean() {
    let values = Self.values(impatience)
    #expect(abs(values.reduce(0, +) / Double(values.count) - 40) < 1)
    #expect(abs(impatience.mean - 39.9) < 0.1)
  }

  @Test(
    "quantiles of the standard normal distribution are those of the tables",
    arguments: [
      (0.5, 0.0), (0.975, 1.959964), (0.025, -1.959964), (0.9986501, 3.0), (0.01, -2.326348),
      (0.999999, 4.753424),
    ])
  func normal(share: Double, quantile: Double) {
    #expect(abs(Distribution.normal(share) - quantile) < 1e-5)
  }

  @Test("exp and log are those of mathematics")
  func functions() {
    #expect(abs(Distribution.exp(1) - 2.718281828459045) < 1e-14)
    #expect(abs(Distribution.exp(-20) / 2.061153622438558e-09 - 1) < 1e-13)
    #expect(abs(Distribution.log(10) - 2.302585092994046) < 1e-14)
    #expect(abs(Distribution.log(1e-300) + 690.7755278982137) < 1e-10)
    for x in stride(from: -600.0, to: 600, by: 37.7) {
      #expect(abs(Distribution.log(Distribution.exp(x)) - x) < 1e-10)
    }
  }

  @Test("values rise with the draw, and the ends are finite")
  func rising() {
    let all: [Distribution] = [
      .const(3), .uniform(2, 6), .normal(21, 0.3), .normal(1, 5), .lognormal(4, 0.4),
      .mix([(1, .uniform(0, 1)), (3, .const(2)), (1, .normal(100, 0.5))]),
    ]
    for distribution in all {
      var last = -1.0
      for step in 0...1_000 {
        let value = distribution.value(at: Double(step) / 1_000)
        #expect(value >= last && value >= 0 && value.isFinite)
        last = value
      }
    }
  }

  @Test("the shares of a mix are parts of their sum")
  func mix() {
    let distribution = Distribution.mix([(1, .const(10)), (3, .const(20))])
    #expect(distribution.value(at: 0.24) == 10)
    #expect(distribution.value(at: 0.26) == 20)
    #expect(distribution.mean == 17.5)
  }
}
