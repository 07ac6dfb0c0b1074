// SPDX-License-Identifier: Apache-2.0
// From which addresses a flood comes. A source address has some 28,000 ports, and a shield counts and steers
// by address and by network, so the sources are as many networks as there are before any is used twice.

package import Structures
import Uring

/// A network within 127.0.0.0/8.
package struct SourceRange: Equatable {
  /// The first address, host order.
  package let first: UInt32
  /// How many /24 it has: 1…65,536.
  package let networks: Int

  /// - Parameter text: as `127.64.0.0/10`; prefixes of 8…24 bits, no bits set behind them.
  package init?(_ text: String) {
    let halves = text.split(separator: "/", omittingEmptySubsequences: false)
    let parts = (halves.first ?? "").split(separator: ".", omittingEmptySubsequences: false)
    let octets = parts.compactMap { UInt8($0) }
    guard halves.count == 2, let bits = Int(halves[1]), (8...24).contains(bits),
      parts.count == 4, octets.count == 4, octets[0] == 127
    else { return nil }
    first = octets.reduce(UInt32(0)) { $0 << 8 | UInt32($1) }
    networks = 1 << (24 - bits)
    if first & (UInt32.max >> UInt32(bits)) != 0 { return nil }
  }

  /// - Parameter workers: the n-th address belongs to worker n modulo `workers`, so that any run of
  ///   addresses loads them evenly.
  /// - Returns: nil if the network does not have that many.
  package func addresses(_ count: Int, spreadOver workers: UInt32) -> [Address]? {
    let workers = workers == 0 ? 1 : workers
    let each = (count + Int(workers) - 1) / Int(workers)
    var found = [[UInt32]](repeating: [], count: Int(workers))
    var missing = each * Int(workers)
    // Hosts 1…254: the last octet changes only when every network had its turn.
    search: for host in UInt32(1)...254 {
      for network in 0..<networks {
        if missing == 0 { break search }
        let address = first + UInt32(network) << 8 + host
        let worker = workers == 1 ? 0 : Steering.worker(for: Address(v4: address), of: workers)
        if found[worker].count < each {
          found[worker].append(address)
          missing -= 1
        }
      }
    }
    if missing > 0 { return nil }
    return (0..<count).map { n in
      Address(v4: found[n % Int(workers)][n / Int(workers)])
    }
  }
}
