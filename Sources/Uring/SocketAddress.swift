// SPDX-License-Identifier: Apache-2.0
//
// An address and port as the kernel wants to read them. Not for keys or logs: those use `Address`.
// Keeps: `storage` is a valid sockaddr_in or sockaddr_in6 of `length` bytes, at the start of the
// struct, so that a pointer to the struct can be handed to the kernel.

import Glibc
public import Structures

/// An address and port, laid out as a sockaddr_in or a sockaddr_in6.
@frozen
public struct SocketAddress: BitwiseCopyable, Sendable {
  /// 28 bytes: room for the larger of the two.
  @usableFromInline var storage: (UInt64, UInt64, UInt64, UInt32)
  /// Bytes that count: 16 for sockaddr_in, 28 for sockaddr_in6.
  public let length: UInt32

  /// IPv4 addresses become sockaddr_in, unless `mapped` asks for the ::ffff form.
  public init(_ address: Address, port: UInt16, mapped: Bool = false) {
    storage = (0, 0, 0, 0)
    if address.isIPv4 && !mapped {
      length = 16
      withUnsafeMutableBytes(of: &storage) { raw in
        raw.storeBytes(of: sa_family_t(AF_INET), as: sa_family_t.self)
        raw.storeBytes(of: port.bigEndian, toByteOffset: 2, as: UInt16.self)
        raw.storeBytes(of: address.v4.bigEndian, toByteOffset: 4, as: UInt32.self)
      }
    } else {
      length = 28
      withUnsafeMutableBytes(of: &storage) { raw in
        raw.storeBytes(of: sa_family_t(AF_INET6), as: sa_family_t.self)
        raw.storeBytes(of: port.bigEndian, toByteOffset: 2, as: UInt16.self)
        raw.storeBytes(of: address.high.bigEndian, toByteOffset: 8, as: UInt64.self)
        raw.storeBytes(of: address.low.bigEndian, toByteOffset: 16, as: UInt64.self)
      }
    }
  }

  /// What `call` (getpeername, getsockname) writes; nil if it fails or the family is another.
  init?(
    descriptor: Int32,
    _ call: (Int32, UnsafeMutablePointer<sockaddr>, UnsafeMutablePointer<socklen_t>) -> Int32
  ) {
    var place = SocketAddress(Address(high: 0, low: 0), port: 0)
    var filled = place.length
    let status = withUnsafeMutablePointer(to: &place) { whole in
      whole.withMemoryRebound(to: sockaddr.self, capacity: 1) { call(descriptor, $0, &filled) }
    }
    guard status == 0, place.family == AF_INET || place.family == AF_INET6 else { return nil }
    storage = place.storage
    length = filled
  }

  /// AF_INET or AF_INET6.
  public var family: Int32 {
    withUnsafeBytes(of: storage) { Int32($0.load(as: sa_family_t.self)) }
  }

  /// In host order.
  public var port: UInt16 {
    withUnsafeBytes(of: storage) { UInt16(bigEndian: $0.load(fromByteOffset: 2, as: UInt16.self)) }
  }

  /// The address; the mapped form (::ffff:a.b.c.d) becomes IPv4.
  public var address: Address {
    withUnsafeBytes(of: storage) { raw in
      if Int32(raw.load(as: sa_family_t.self)) == AF_INET {
        return Address(v4: UInt32(bigEndian: raw.load(fromByteOffset: 4, as: UInt32.self)))
      }
      return Address(
        high: UInt64(bigEndian: raw.load(fromByteOffset: 8, as: UInt64.self)),
        low: UInt64(bigEndian: raw.load(fromByteOffset: 16, as: UInt64.self)))
    }
  }

  /// Calls `body` with the address in the form system calls take.
  func withPointer<R>(_ body: (UnsafePointer<sockaddr>, socklen_t) -> R) -> R {
    withUnsafePointer(to: self) { whole in
      whole.withMemoryRebound(to: sockaddr.self, capacity: 1) { body($0, length) }
    }
  }
}
