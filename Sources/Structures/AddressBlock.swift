// SPDX-License-Identifier: Apache-2.0

/// A network of one named family, with the arithmetic of sets: intersection, difference, siblings.
///
/// Unlike `Prefix` it can also name the part of the IPv6 space where mapped IPv4 addresses would lie,
/// which turns up when a network near it is negated. Kept: the bits after `depth` are zero.
@frozen
public struct AddressBlock: Hashable, Sendable, BitwiseCopyable {
  /// The first 64 bits, in host order; 0 for IPv4.
  public let high: UInt64
  /// The last 64 bits, in host order.
  public let low: UInt64
  /// Leading bits that are fixed, counted in 128: 96…128 for IPv4, 0…128 for IPv6.
  public let depth: UInt8
  /// Which family; the bits alone do not say it.
  public let isIPv4: Bool

  /// Every address of a family.
  public static let allIPv4 = AddressBlock(bits: 0xFFFF_0000_0000, depth: 96, isIPv4: true)
  /// Every address of IPv6.
  public static let allIPv6 = AddressBlock(bits: 0, depth: 0, isIPv4: false)

  /// The block of a network.
  public init(_ prefix: Prefix) {
    high = prefix.address.high
    low = prefix.address.low
    isIPv4 = prefix.address.isIPv4
    depth = UInt8(isIPv4 ? prefix.length + 96 : prefix.length)
  }

  /// - Parameters:
  ///   - bits: the whole address; what follows `depth` is cleared.
  ///   - depth: fixed leading bits out of 128.
  public init(bits: UInt128, depth: Int, isIPv4: Bool) {
    let kept = depth == 0 ? 0 : bits & (UInt128.max << UInt128(128 - depth))
    high = UInt64(truncatingIfNeeded: kept >> 64)
    low = UInt64(truncatingIfNeeded: kept)
    self.depth = UInt8(depth)
    self.isIPv4 = isIPv4
  }

  /// All 128 bits, those after `depth` zero.
  public var bits: UInt128 { UInt128(high) << 64 | UInt128(low) }
  /// The first address.
  public var address: Address { Address(high: high, low: low) }
  /// The prefix length in its own family: 0…32 or 0…128.
  public var length: Int { isIPv4 ? Int(depth) - 96 : Int(depth) }

  /// Whether all of `other` lies in this block; never for the other family.
  public func contains(_ other: AddressBlock) -> Bool {
    isIPv4 == other.isIPv4 && depth <= other.depth
      && AddressBlock(bits: other.bits, depth: Int(depth), isIPv4: isIPv4).bits == bits
  }

  /// What both have in common: two blocks are nested or have nothing in common.
  public func intersection(_ other: AddressBlock) -> AddressBlock? {
    if contains(other) { return other }
    return other.contains(self) ? self : nil
  }

  /// This block without `other`, as disjoint blocks: at most one for each bit that `other` is longer.
  public func subtracting(_ other: AddressBlock) -> [AddressBlock] {
    if other.contains(self) { return [] }
    guard contains(other) else { return [self] }
    return (Int(depth) + 1...Int(other.depth)).map { depth in
      let flipped = other.bits ^ (UInt128(1) << UInt128(128 - depth))
      return AddressBlock(bits: flipped, depth: depth, isIPv4: isIPv4)
    }
  }
}
