// SPDX-License-Identifier: Apache-2.0

/// Which worker a source belongs to: the sum that the kernel's program does for what comes by itself, and
/// the engine for what a load balancer announces.
package enum Steering {
  /// The worker for `source`: each network (IPv4 /24, IPv6 /64) has always the same.
  ///
  /// - Parameter workers: 1 and more.
  package static func worker(for source: Address, of workers: UInt32) -> Int {
    var a: UInt32
    if source.isIPv4 {
      a = source.v4 >> 8
    } else {
      a = UInt32(source.high >> 32) &* spread ^ UInt32(truncatingIfNeeded: source.high)
    }
    a &*= first
    a ^= a >> 15
    a &*= second
    a >>= 16
    return Int(a % workers)
  }

  // Neighbouring networks must not share a worker by arithmetic (a botnet fills a /16), and the low
  // bits of a product are weak: multiply, fold, multiply, take the top half. Constants: the finaliser
  // of MurmurHash3 and 2^32 / golden ratio. An attacker who knows them can load one worker; the
  // limits of that worker still hold.
  package static let spread: UInt32 = 0x9E37_79B1
  package static let first: UInt32 = 0x85EB_CA6B
  package static let second: UInt32 = 0xC2B2_AE35
}
