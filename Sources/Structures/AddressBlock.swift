// SPDX-License-Identifier: Apache-2.0

/// A network of one named family, with the arithmetic of sets: intersection, difference, siblings.
///
/// Unlike `Prefix` it can also name the part of the IPv6 space where mapped IPv4 addresses would lie,
/// which turns up when a network near it is negated. Kept: the bits after `depth` are zero.
@frozen
package struct AddressBlock: Hashable, Sendable, BitwiseCopyable {
  package let high: UInt64
  package let low: UInt64
  /// Leading bits that are fixed, counted in 128: 96…128 for IPv4, 0…128 for IPv6.
  package let depth: UInt8
  package let isIPv4: Bool

  /// Every address of a family.
  package static let allIPv4 = AddressBlock(bits: 0xFFFF_0000_0000, depth: 96, isIPv4: true)
  package static let allIPv6 = AddressBlock(bits: 0, depth: 0, isIPv4: false)

  package init(_ prefix: Prefix) {
    high = prefix.address.high
    low = prefix.address.low
    isIPv4 = prefix.address.isIPv4
    depth = UInt8(isIPv4 ? prefix.length + 96 : prefix.length)
  }

  /// - Parameters:
  ///   - bits: the whole address; what follows `depth` is cleared.
  ///   - depth: fixed leading bits out of 128.
  package init(bits: UInt128, depth: Int, isIPv4: Bool) {
    let kept = depth == 0 ? 0 : bits & (UInt128.max << UInt128(128 - depth))
    high = UInt64(truncatingIfNeeded: kept >> 64)
    low = UInt64(truncatingIfNeeded: kept)
    self.depth = UInt8(depth)
    self.isIPv4 = isIPv4
  }

  package var bits: UInt128 { UInt128(high) << 64 | UInt128(low) }
  /// The first address.
  package var address: Address { Address(high: high, low: low) }
  /// The prefix length in its own family: 0…32 or 0…128.
  package var length: Int { isIPv4 ? Int(depth) - 96 : Int(depth) }

  package func contains(_ other: AddressBlock) -> Bool {
    isIPv4 == other.isIPv4 && depth <= other.depth
      && AddressBlock(bits: other.bits, depth: Int(depth), isIPv4: isIPv4).bits == bits
  }

  /// What both have in common: two blocks are nested or have nothing in common.
  package func intersection(_ other: AddressBlock) -> AddressBlock? {
    if contains(other) { return other }
    return other.contains(self) ? self : nil
  }

  /// This block without `other`, as disjoint blocks: at most one for each bit that `other` is longer.
  package func subtracting(_ other: AddressBlock) -> [AddressBlock] {
    if other.contains(self) { return [] }
    guard contains(other) else { return [self] }
    return (Int(depth) + 1...Int(other.depth)).map { depth in
      let flipped = other.bits ^ (UInt128(1) << UInt128(128 - depth))
      return AddressBlock(bits: flipped, depth: depth, isIPv4: isIPv4)
    }
  }
}
