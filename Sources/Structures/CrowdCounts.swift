// SPDX-License-Identifier: Apache-2.0

/// How many of something each source holds right now, for a great many sources in fixed memory: an estimate that is
/// never too low, and too high only where sources share cells by chance.
///
/// Not for small counts: of a full table of sources with one place each, counted by address and by network, an estimate is
/// some five too high, and 16 or more for 3 in 10,000. Kept: a key's cells hold at
/// least what was added under it and not taken off, so nothing is ever full and nothing needs to be remembered about
/// what was counted. Two exact counts for each of a million held connections would be 13.5 bytes each
/// (`OpenCounts`); this is 2 to 4.
public struct CrowdCounts: ~Copyable {
  private static let rows = 2
  private static let leastWidth = 4_096
  /// Bytes that the smallest takes.
  public static var leastFootprint: Int { rows * leastWidth * MemoryLayout<UInt32>.stride }
  private var cells: Slab<UInt32>
  private let width: Int
  /// How many are counted in all.
  public private(set) var total = 0

  /// - Parameter places: how many may be held at once, 0 and more. There are two rows of a quarter as many cells, in
  ///   powers of two, 4,096 at least.
  public init(places: Int) {
    var width = Self.leastWidth
    while width < places / 4 { width *= 2 }
    self.width = width
    cells = Slab(capacity: Self.rows * width, repeating: 0)
  }

  /// Bytes this takes.
  public var footprint: Int { cells.footprint }

  private func cell(_ key: UInt64, _ row: Int) -> Int {
    row * width + Int(truncatingIfNeeded: key >> UInt64(32 * row)) & (width - 1)
  }

  /// How many are held under a key, which must be a keyed hash (`SipHash`); or some more.
  public func count(_ key: UInt64) -> Int { Int(min(cells[cell(key, 0)], cells[cell(key, 1)])) }

  /// Adds one.
  public mutating func add(_ key: UInt64) {
    for row in 0..<Self.rows { cells[cell(key, row)] += 1 }
    total += 1
  }

  /// Takes one off that was added under the same key.
  public mutating func remove(_ key: UInt64) {
    for row in 0..<Self.rows {
      let place = cell(key, row)
      invariant(cells[place] > 0, "more was taken off a crowd's count than was added")
      cells[place] -= 1
    }
    total -= 1
  }
}
