// SPDX-License-Identifier: Apache-2.0
// What every flood needs of the kernel: sockets that are bound to their source, and how large the tables of
// rings may be that they move into. Nothing here waits, and nothing here connects.

import Glibc
package import Structures
package import Uring

/// Sockets on their way out, until a ring's table has them.
package enum OutboundSocket {
  /// A TCP socket that does not wait.
  ///
  /// - Parameters:
  ///   - source: what it is bound to; nil to leave that to the kernel, then `isIPv6` says the family.
  ///   - abortive: its close is an RST, which leaves no TIME_WAIT behind.
  /// - Returns: -1 with errno set if there is none, or its source is no address of this machine.
  package static func make(from source: Address?, isIPv6: Bool, abortive: Bool) -> Int32 {
    let family = isIPv6 ? AF_INET6 : AF_INET
    let type = SOCK_STREAM.rawValue | SOCK_NONBLOCK.rawValue | SOCK_CLOEXEC.rawValue
    let descriptor = socket(family, Int32(type), 0)
    guard descriptor >= 0 else { return -1 }
    // IP_BIND_ADDRESS_NO_PORT (24): the port is chosen at connect, when both ends are known, so that
    // connections to different ends can share it.
    PlainSocket.setOption(descriptor, Int32(IPPROTO_IP), 24, 1)
    if abortive {
      var linger = linger(l_onoff: 1, l_linger: 0)
      setsockopt(
        descriptor, SOL_SOCKET, SO_LINGER, &linger, socklen_t(MemoryLayout<linger>.size))
    }
    guard let source else { return descriptor }
    // IPV6_FREEBIND (78): with a local route for a whole network its addresses are ours without being listed.
    if isIPv6 { PlainSocket.setOption(descriptor, Int32(IPPROTO_IPV6), 78, 1) }
    if PlainSocket.bind(descriptor, to: SocketAddress(source, port: 0)) == 0 { return descriptor }
    let number = errno
    close(descriptor)
    errno = number
    return -1
  }
}

/// The tables of direct descriptors that hold a flood's connections.
package enum RingTables {
  /// Slots of one ring: one table cannot be larger than the limit on open files. 19,000 at most, so that
  /// the usual limits of 20,000 and more all give the same rings.
  package static var slotsEach: Int { min(19_000, DescriptorLimit.current) }

  /// Empties the first `count` slots. A ring that is only dropped is taken apart by kernel threads, which for a
  /// million takes half a minute after the program's end.
  package static func empty(_ ring: inout Ring, _ count: Int) throws(RingError) {
    let none = [Int32](repeating: -1, count: 500)
    var first = 0
    while first < count {
      let part = min(none.count, count - first)
      _ = try none.withUnsafeBufferPointer { bytes throws(RingError) in
        if let base = bytes.baseAddress {
          try ring.updateFiles(startingAt: Int32(first), base, count: part)
        }
      }
      first += part
    }
  }
}
