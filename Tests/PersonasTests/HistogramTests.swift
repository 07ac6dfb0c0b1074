// SPDX-License-Identifier: Apache-2.0
import Testing

@testable import Personas

struct HistogramTests {
  @Test("nothing has no times")
  func empty() {
    let histogram = Histogram()
    #expect(histogram.total == 0)
    #expect(histogram.mean == 0)
    #expect(histogram.quantile(0.5) == 0)
    #expect(histogram.share(above: 0) == 0)
  }

  @Test(
    "a time is found again within the width of its place",
    arguments: [
      (0.0, 0.1), (-3, 0.1), (0.05, 0.1), (21.02, 0.1), (59.99, 0.1), (60, 1), (100.4, 1),
      (999.9, 1), (1_000, 60), (86_399, 60),
    ])
  func places(seconds: Double, width: Double) {
    var histogram = Histogram()
    histogram.add(seconds)
    #expect(abs(histogram.quantile(0.5) - max(seconds, 0)) <= width)
    #expect(histogram.mean == max(seconds, 0))
    #expect(histogram.share(above: max(seconds, 0) + width) == 0)
    #expect(histogram.share(above: max(seconds, 0) - width) == 1)
  }

  @Test("what is longer than the last place counts as that")
  func long() {
    var histogram = Histogram()
    histogram.add(1e9)
    #expect(histogram.quantile(1) == 100_000)
  }

  @Test("quantiles and shares are those of the values themselves")
  func quantiles() {
    var histogram = Histogram()
    for k in 0..<10_000 { histogram.add(Double(k) / 100) }
    #expect(abs(histogram.quantile(0.5) - 50) < 0.2)
    #expect(abs(histogram.quantile(0.95) - 95) < 1.1)
    #expect(abs(histogram.share(above: 30) - 0.70) < 0.002)
    #expect(abs(histogram.share(above: 80.5) - 0.195) < 0.002)
    #expect(histogram.count(from: 10, to: 20) == 1_000)
  }

  @Test("two together are as if all had been noted in one")
  func sum() {
    var (one, two, both) = (Histogram(), Histogram(), Histogram())
    for k in 0..<500 {
      let value = Double(k * k) / 100
      if k % 3 == 0 { one.add(value) } else { two.add(value) }
      both.add(value)
    }
    one.add(two)
    #expect(one.total == both.total)
    #expect(abs(one.sum - both.sum) < 1e-6)
    for q in [0.1, 0.5, 0.9] { #expect(one.quantile(q) == both.quantile(q)) }
  }
}
