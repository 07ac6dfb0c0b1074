// SPDX-License-Identifier: Apache-2.0
// Memory that the kernel reads and writes for the rings of one thread. It is the same for any number of connections,
// and it outlives every operation that uses it.

import Glibc
import Structures
import Uring

/// Receive buffers, the text of large messages and the addresses to connect to.
final class FloodMemory {
  /// Receives at a time, each with a buffer of its own.
  static let window = 512
  static let bufferBytes = 4_096
  /// Whole lines of 74 octets.
  static let pieceBytes = 64_000 / FloodMemory.lineBytes * FloodMemory.lineBytes
  static let lineBytes = 74

  private let buffers: UnsafeMutableRawPointer
  /// Lines of a message, `pieceBytes` long; only read once it is filled.
  let text: UnsafeMutableRawPointer
  /// IPv4, then IPv6, then none.
  private let addresses: UnsafeMutablePointer<SocketAddress>

  init(_ targets: FloodTargets) {
    buffers = .allocate(byteCount: Self.window * Self.bufferBytes, alignment: 64)
    text = .allocate(byteCount: Self.pieceBytes, alignment: 64)
    for k in 0..<Self.pieceBytes {
      let column = k % Self.lineBytes
      let byte =
        column == Self.lineBytes - 2 ? 13 : column == Self.lineBytes - 1 ? 10 : UInt8(ascii: "x")
      text.storeBytes(of: byte, toByteOffset: k, as: UInt8.self)
    }
    addresses = .allocate(capacity: 3)
    addresses.initialize(repeating: SocketAddress(Address(v4: 0x7F00_0001), port: 0), count: 3)
    UnsafeMutableRawPointer(addresses + 2).storeBytes(
      of: sa_family_t(AF_UNSPEC), as: sa_family_t.self)
    if let v4 = targets.v4 { addresses[0] = SocketAddress(v4.address, port: v4.port) }
    if let v6 = targets.v6 { addresses[1] = SocketAddress(v6.address, port: v6.port) }
  }

  deinit {
    // Each ring's `drain` has waited for its sends; receives end within their submission.
    buffers.deallocate()
    text.deallocate()
    addresses.deallocate()
  }

  /// Where a receive puts its bytes.
  func buffer(_ number: Int) -> UnsafeMutableRawPointer { buffers + number * Self.bufferBytes }

  /// What a receive has put there.
  func received(_ number: Int, _ count: Int) -> UnsafeBufferPointer<UInt8> {
    UnsafeBufferPointer(
      start: buffer(number).assumingMemoryBound(to: UInt8.self), count: count)
  }

  /// The target of a family.
  func target(isIPv6: Bool) -> UnsafePointer<SocketAddress> {
    UnsafePointer(addresses + (isIPv6 ? 1 : 0))
  }

  /// AF_UNSPEC: to connect to it sends a reset, as a close with SO_LINGER 0 does.
  var nowhere: UnsafePointer<SocketAddress> { UnsafePointer(addresses + 2) }
}
