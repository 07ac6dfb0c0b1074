// SPDX-License-Identifier: Apache-2.0

/// Which value belongs to an address: an immutable table of networks, shared freely among threads.
///
/// Not a tree: nested networks are flattened when the table is built, so that every address lies in
/// exactly one range, and the ranges are packed (`PackedRanges`). A lookup allocates nothing. Kept: where
/// two networks of one value touch, they are one range.
///
/// A network has a value, which says which it is, and an outcome, which says what follows from it. There
/// are as many values as networks but only a few outcomes, so a decision reads a few bits for the
/// outcome, and the values lie apart, for callers that must name the network. Where values
/// are few, such as next hops, they are the outcomes, and nothing lies apart.
package final class PrefixTable: Sendable {
  private let v4: PackedRanges<UInt32>
  private let v6: PackedRanges<UInt128>
  /// How many ranges the networks became, gaps between them included.
  package let rangeCount: (ipv4: Int, ipv6: Int)

  /// What a lookup found: what follows, and where it stands in this table.
  package struct Match: Sendable, Equatable {
    package let outcome: UInt32
    /// For `value(at:)`, below 2^32 - 1.
    package let place: UInt32
  }

  /// Longest-prefix matching over distinct networks, nested or not.
  ///
  /// - Parameter prefixes: no network twice; values below 2^32 - 1.
  package convenience init(_ prefixes: [(Prefix, UInt32)]) {
    var builder = PrefixTableBuilder()
    for (prefix, value) in prefixes { builder.add(AddressBlock(prefix), value) }
    self.init(&builder, preferring: .longestPrefix)
  }

  /// Flattens what a builder has collected.
  ///
  /// - Parameters:
  ///   - builder: sorted by this, and otherwise left as it was.
  ///   - preference: which network wins where they overlap.
  ///   - outcomes: the outcome of each value, below 2^32 - 1; nil when the values are what matters.
  ///   - hidden: called with (value, other value) for each network that lies wholly within one with a
  ///     smaller value; only when the smallest value is preferred.
  package init(
    _ builder: inout PrefixTableBuilder, preferring preference: PrefixTableBuilder.Preference,
    outcomes: [UInt32]? = nil, hidden: (_ value: UInt32, _ by: UInt32) -> Void = { _, _ in }
  ) {
    let flat4 = builder.v4.flattened(preference, hidden)
    let flat6 = builder.v6.flattened(preference, hidden)
    rangeCount = (flat4.starts.count, flat6.starts.count)
    v4 = PackedRanges(flat4, Outcomes(flat4.values, outcomes))
    v6 = PackedRanges(flat6, Outcomes(flat6.values, outcomes))
    invariant(
      v4.blockCount + v6.blockCount < 1 << 24, "more ranges than a place in a table can name")
  }

  /// What follows for this address from the network that wins, or nil when none has it.
  @inline(__always)
  package func find(_ address: Address) -> Match? {
    if address.isIPv4 {
      let hit = v4.find(address.v4)
      return hit.outcome == noValue ? nil : Match(outcome: hit.outcome, place: hit.place)
    }
    let hit = v6.find(UInt128(address.high) << 64 | UInt128(address.low))
    if hit.outcome == noValue { return nil }
    return Match(outcome: hit.outcome, place: hit.place + UInt32(v4.blockCount) << 8)
  }

  /// The value of the network at a place that `find` of this table has given; of any other number, nil.
  package func value(at place: UInt32) -> UInt32? {
    let first = UInt32(v4.blockCount) << 8
    let value = place < first ? v4.value(at: place) : v6.value(at: place - first)
    return value == noValue ? nil : value
  }

  /// The value of the network that wins for this address, or nil when none has it.
  package func lookup(_ address: Address) -> UInt32? {
    guard let match = find(address) else { return nil }
    return v4.valuesLieApart || v6.valuesLieApart ? value(at: match.place) : match.outcome
  }

  /// Bytes a lookup needs: the ranges and their outcomes.
  package var footprintOfOutcomes: Int { v4.footprintOfOutcomes + v6.footprintOfOutcomes }

  /// Bytes the values take that lie apart.
  package var footprintOfValues: Int { v4.footprintOfValues + v6.footprintOfValues }

  /// Bytes this table takes.
  package var footprint: Int { footprintOfOutcomes + footprintOfValues }

  /// Calls `body` with the value of every range; a value that wins nowhere does not come up.
  package func forEachValue(_ body: (UInt32) -> Void) {
    v4.forEachValue(body)
    v6.forEachValue(body)
  }

  /// The values that win somewhere in `block`, in the order of their addresses.
  ///
  /// - Parameter limit: stop after so many different ones.
  package func values(in block: AddressBlock, limit: Int) -> [UInt32] {
    let last = block.bits | (block.depth == 128 ? 0 : UInt128.max >> UInt128(block.depth))
    return block.isIPv4
      ? v4.values(from: block.address.v4, through: UInt32(truncatingIfNeeded: last), limit)
      : v6.values(from: block.bits, through: last, limit)
  }
}

/// Marks a range that no network has.
let noValue = UInt32.max
