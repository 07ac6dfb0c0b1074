// SPDX-License-Identifier: Apache-2.0

/// SipHash-1-3 (Aumasson and Bernstein, INDOCRYPT 2012) over whole 64-bit words, with a secret key.
///
/// Every table that an outsider can put keys into hashes with this, so that nobody can choose
/// addresses that collide. Keyed by hand rather than through `Hasher` because the engine must replay:
/// the key comes from the engine's seed, not from the process.
@frozen
public struct SipHash: Sendable {
  @usableFromInline package let k0: UInt64
  @usableFromInline package let k1: UInt64

  /// A hash with its secret key of 128 bits.
  @inlinable
  public init(k0: UInt64, k1: UInt64) {
    self.k0 = k0
    self.k1 = k1
  }

  /// The hash of three words.
  @inlinable
  public func callAsFunction(_ a: UInt64, _ b: UInt64, _ c: UInt64) -> UInt64 {
    var s = State(k0, k1)
    s.absorb(a)
    s.absorb(b)
    s.absorb(c)
    return s.finish(words: 3)
  }

  /// The hash of bytes; their number is part of it, modulo 256.
  @inlinable
  public func callAsFunction(_ bytes: Span<UInt8>) -> UInt64 {
    var s = State(k0, k1)
    var i = 0
    while i + 8 <= bytes.count {
      var word: UInt64 = 0
      for j in 0..<8 { word |= UInt64(bytes[i + j]) << UInt64(8 * j) }
      s.absorb(word)
      i += 8
    }
    var tail = UInt64(bytes.count & 0xFF) << 56
    for j in i..<bytes.count { tail |= UInt64(bytes[j]) << UInt64(8 * (j - i)) }
    s.absorb(tail)
    return s.close()
  }

  @frozen @usableFromInline package struct State {
    @usableFromInline var v0: UInt64
    @usableFromInline var v1: UInt64
    @usableFromInline var v2: UInt64
    @usableFromInline var v3: UInt64

    @inlinable
    init(_ k0: UInt64, _ k1: UInt64) {
      v0 = k0 ^ 0x736f_6d65_7073_6575
      v1 = k1 ^ 0x646f_7261_6e64_6f6d
      v2 = k0 ^ 0x6c79_6765_6e65_7261
      v3 = k1 ^ 0x7465_6462_7974_6573
    }

    @inlinable
    mutating func round() {
      v0 = v0 &+ v1
      v1 = v1 << 13 | v1 >> 51
      v1 ^= v0
      v0 = v0 << 32 | v0 >> 32
      v2 = v2 &+ v3
      v3 = v3 << 16 | v3 >> 48
      v3 ^= v2
      v0 = v0 &+ v3
      v3 = v3 << 21 | v3 >> 43
      v3 ^= v0
      v2 = v2 &+ v1
      v1 = v1 << 17 | v1 >> 47
      v1 ^= v2
      v2 = v2 << 32 | v2 >> 32
    }

    @inlinable
    mutating func absorb(_ word: UInt64) {
      v3 ^= word
      round()
      v0 ^= word
    }

    @inlinable
    mutating func finish(words: UInt64) -> UInt64 {
      absorb((words &* 8) << 56)
      return close()
    }

    @inlinable
    mutating func close() -> UInt64 {
      v2 ^= 0xFF
      round()
      round()
      round()
      return v0 ^ v1 ^ v2 ^ v3
    }
  }
}
