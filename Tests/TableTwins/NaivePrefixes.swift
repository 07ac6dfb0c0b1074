// SPDX-License-Identifier: Apache-2.0
package import Structures

/// All prefixes in a row, tried one after the other: slow and obviously right.
package struct NaivePrefixes: Sendable {
  private struct Row: Sendable {
    var high: UInt64
    var low: UInt64
    var maskHigh: UInt64
    var maskLow: UInt64
    var value: UInt32
    var isIPv4: Bool
  }

  private let rows: [Row]

  /// - Parameter prefixes: longest match wins; of equal ones the first.
  package init(_ prefixes: [(Prefix, UInt32)]) {
    let sorted = prefixes.enumerated().sorted {
      ($1.element.0.length, $0.offset) < ($0.element.0.length, $1.offset)
    }
    rows = sorted.map { _, row in
      let mask = Address(high: .max, low: .max).network(
        row.0.length + (row.0.address.isIPv4 ? 96 : 0))
      return Row(
        high: row.0.address.high, low: row.0.address.low, maskHigh: mask.high, maskLow: mask.low,
        value: row.1, isIPv4: row.0.address.isIPv4)
    }
  }

  package func lookup(_ address: Address) -> UInt32? {
    let isIPv4 = address.isIPv4
    for row in rows
    where (address.high ^ row.high) & row.maskHigh | (address.low ^ row.low) & row.maskLow == 0
      && row.isIPv4 == isIPv4
    {
      return row.value
    }
    return nil
  }

  package var footprint: Int { rows.count * MemoryLayout<Row>.stride }
}
