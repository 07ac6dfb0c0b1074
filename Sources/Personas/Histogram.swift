// SPDX-License-Identifier: Apache-2.0

/// How often which time was seen: by tenths of a second below a minute, by seconds up to 1,000 s, by minutes
/// up to 100,000 s; what is longer counts as that.
public struct Histogram: Sendable, Codable, Equatable {
  /// By place; as long as the highest place that was needed.
  private var counts: [UInt32] = []
  /// How many times were noted.
  public private(set) var total = 0
  /// The sum of all times, in seconds.
  public private(set) var sum = 0.0

  /// Nothing noted yet.
  public init() {}

  static let places = 600 + 940 + 1_650

  private static func place(_ seconds: Double) -> Int {
    let seconds = max(seconds, 0)
    if seconds < 60 { return Int(seconds * 10) }
    if seconds < 1_000 { return 600 + Int(seconds - 60) }
    return min(1_540 + Int((seconds - 1_000) / 60), places - 1)
  }

  /// Where a place begins and ends, in seconds.
  private static func bounds(_ place: Int) -> (Double, Double) {
    if place < 600 { return (Double(place) / 10, Double(place + 1) / 10) }
    if place < 1_540 { return (Double(place - 540), Double(place - 539)) }
    return (1_000 + Double(place - 1_540) * 60, 1_000 + Double(place - 1_539) * 60)
  }

  /// Notes a time, in seconds; below 0 counts as 0.
  public mutating func add(_ seconds: Double) {
    let place = Self.place(seconds)
    if place >= counts.count {
      counts.append(contentsOf: repeatElement(0, count: place + 1 - counts.count))
    }
    counts[place] += 1
    total += 1
    sum += max(seconds, 0)
  }

  /// Notes all times of another.
  public mutating func add(_ other: Histogram) {
    if other.counts.count > counts.count {
      counts.append(contentsOf: repeatElement(0, count: other.counts.count - counts.count))
    }
    for place in other.counts.indices { counts[place] += other.counts[place] }
    total += other.total
    sum += other.sum
  }

  /// The mean, in seconds; 0 of nothing.
  public var mean: Double { total == 0 ? 0 : sum / Double(total) }

  /// The time below which the share `q` of all times lies, 0…1, in seconds; 0 of nothing.
  public func quantile(_ q: Double) -> Double {
    let rank = q * Double(total)
    var before = 0.0
    for place in counts.indices where counts[place] > 0 {
      let here = Double(counts[place])
      if before + here >= rank {
        let (low, high) = Self.bounds(place)
        return low + (high - low) * max(0, min(1, (rank - before) / here))
      }
      before += here
    }
    return counts.isEmpty ? 0 : Self.bounds(counts.count - 1).1
  }

  /// Which share of all times is longer than this, 0…1: the survival curve; 0 of nothing.
  public func share(above seconds: Double) -> Double {
    if total == 0 { return 0 }
    var above = 0.0
    for place in counts.indices where counts[place] > 0 {
      let (low, high) = Self.bounds(place)
      if low >= seconds {
        above += Double(counts[place])
      } else if high > seconds {
        above += Double(counts[place]) * (high - seconds) / (high - low)
      }
    }
    return above / Double(total)
  }

  /// How many times lie from `low` on and below `high`, in seconds, by whole places.
  public func count(from low: Double, to high: Double) -> Int {
    var sum = 0
    for place in counts.indices {
      let (start, end) = Self.bounds(place)
      if start >= low - 1e-9 && end <= high + 1e-9 { sum += Int(counts[place]) }
    }
    return sum
  }
}
