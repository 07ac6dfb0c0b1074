// SPDX-License-Identifier: Apache-2.0
//
// Blocking clients and small loops for the ring's tests. Not a driver: waits are generous and failures
// are reported, never retried. Keeps: every wait ends within ten seconds.

import Glibc
import Structures
import Testing
import Uring

/// Waits for `count` completions, or ten seconds.
func collect(_ ring: inout Ring, _ count: Int) throws -> [Completion] {
  var found: [Completion] = []
  let deadline = MonotonicClock.now() + 10_000_000
  while found.count < count && MonotonicClock.now() < deadline {
    try ring.submitAndWait(for: 1, timeoutMicroseconds: 100_000)
    let ready = ring.completions()
    for i in 0..<ready { found.append(ring.completion(at: i)) }
    ring.advance(ready)
  }
  return found
}

func first(_ completions: [Completion], _ operation: Operation) throws -> Completion {
  try #require(completions.first { $0.token.operation == operation })
}

let stream = Int32(SOCK_STREAM.rawValue)
let loopback = Address(v4: 0x7F00_0001)
let loopback6 = Address(high: 0, low: 1)

/// A blocking TCP client; closes itself.
final class Client {
  var descriptor: Int32

  init(to address: Address, port: UInt16, from source: Address? = nil) throws {
    descriptor = socket(address.isIPv4 ? AF_INET : AF_INET6, stream, 0)
    var limit = timeval(tv_sec: 10, tv_usec: 0)
    setsockopt(
      descriptor, SOL_SOCKET, SO_RCVTIMEO, &limit, socklen_t(MemoryLayout<timeval>.size))
    if let source {
      let place = SocketAddress(source, port: 0)
      let bound = withSockaddr(place) { bind(descriptor, $0, $1) }
      try #require(bound == 0, "bind to \(source): errno \(errno)")
    }
    let place = SocketAddress(address, port: port)
    let connected = withSockaddr(place) { connect(descriptor, $0, $1) }
    try #require(connected == 0, "connect to \(address):\(port): errno \(errno)")
  }

  deinit { close() }

  func close() {
    if descriptor >= 0 { _ = Glibc.close(descriptor) }
    descriptor = -1
  }

  /// Closes with a reset instead of a FIN.
  func reset() {
    var now = linger(l_onoff: 1, l_linger: 0)
    setsockopt(descriptor, SOL_SOCKET, SO_LINGER, &now, socklen_t(MemoryLayout<linger>.size))
    close()
  }

  func write(_ text: String) {
    let bytes = Array(text.utf8)
    _ = send(descriptor, bytes, bytes.count, Int32(MSG_NOSIGNAL))
  }

  /// One read; "" at the end of the stream.
  func read() -> String {
    var bytes = [UInt8](repeating: 0, count: 1024)
    let count = recv(descriptor, &bytes, bytes.count, 0)
    return count < 0 ? "errno \(errno)" : String(decoding: bytes[..<count], as: UTF8.self)
  }
}

func withSockaddr<R>(
  _ place: SocketAddress, _ body: (UnsafePointer<sockaddr>, socklen_t) -> R
) -> R {
  withUnsafePointer(to: place) { whole in
    whole.withMemoryRebound(to: sockaddr.self, capacity: 1) { body($0, place.length) }
  }
}

/// Moves one plain descriptor into a slot and closes it.
func move(_ descriptor: Int32, into slot: Int32, of ring: inout Ring) throws {
  var one = descriptor
  let done = try ring.updateFiles(startingAt: slot, &one, count: 1)
  try #require(done == 1)
  PlainSocket.close(descriptor)
}

/// A connected pair of TCP sockets: the accepted end plain, the other a `Client`.
func connectedPair(_ listener: borrowing ListeningSocket) throws -> (Int32, Client) {
  let client = try Client(to: listener.address, port: listener.localPort)
  let accepted = accept(listener.descriptor, nil, nil)
  try #require(accepted >= 0)
  return (accepted, client)
}

/// Memory that stays put while the kernel holds its address.
final class Pinned<T: BitwiseCopyable> {
  let pointer: UnsafeMutablePointer<T>
  init(_ value: T) {
    pointer = .allocate(capacity: 1)
    pointer.initialize(to: value)
  }
  deinit { pointer.deallocate() }
}
