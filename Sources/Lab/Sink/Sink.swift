// SPDX-License-Identifier: Apache-2.0
// `sluice sink`: an SMTP server that accepts and counts, for trying Sluice out and for its tests. It is
// not a mail server: what it accepts goes nowhere but, if wished, into a folder. It serves loopback only.

import Foundation
import Glibc
import Synchronization
package import TestServer
import Uring

/// The accept-and-count server on a thread of its own; the demo holds one, `sluice sink` is one.
package final class Sink: Sendable {
  private struct Running {
    var stopper: Int32
    var port: UInt16
    var done: DispatchSemaphore
  }

  package let options: SinkOptions
  private let tally = Mutex(TestServer.Counts())
  private let running = Mutex<Running?>(nil)

  package init(_ options: SinkOptions) { self.options = options }

  /// What was seen so far.
  package var counts: TestServer.Counts { tally.withLock { $0 } }

  /// The port it listens on, which the kernel chose when the options said 0; nil when stopped.
  package var port: UInt16? { running.withLock { $0?.port } }

  /// Binds and starts serving.
  package func start() throws(SinkError) {
    if port != nil { return }
    DescriptorLimit.raise()
    let (listener, port) = try Sink.listen(on: options.listen)
    var ends: [Int32] = [-1, -1]
    if pipe(&ends) != 0 {
      let code = errno
      close(listener)
      throw SinkError(operation: "pipe", code: code)
    }
    let stopper = ends[0]
    for end in ends { _ = fcntl(end, F_SETFD, FD_CLOEXEC) }
    let done = DispatchSemaphore(value: 0)
    running.withLock { $0 = Running(stopper: ends[1], port: port, done: done) }
    let thread = Thread { [self] in
      let loop = SinkLoop(
        options, listener: listener, stopper: stopper,
        publish: { [self] counts in tally.withLock { $0 = counts } })
      loop.run()
      close(stopper)
      close(listener)
      done.signal()
    }
    thread.name = "sink"
    thread.stackSize = 1 << 20
    thread.start()
  }

  /// Ends every connection and waits until the thread is done.
  package func stop() {
    guard
      let was = running.withLock({ state in
        defer { state = nil }
        return state
      })
    else { return }
    close(was.stopper)
    was.done.wait()
  }

  private static func listen(
    on endpoint: LoopbackEndpoint
  ) throws(SinkError) -> (listener: Int32, port: UInt16) {
    let type = Int32(
      SOCK_STREAM.rawValue | SOCK_NONBLOCK.rawValue | SOCK_CLOEXEC.rawValue)
    let listener = socket(endpoint.isIPv6 ? AF_INET6 : AF_INET, type, 0)
    if listener < 0 { throw SinkError(operation: "socket", code: errno) }
    var on: Int32 = 1
    setsockopt(
      listener, SOL_SOCKET, SO_REUSEADDR, &on, socklen_t(MemoryLayout<Int32>.size))
    let bound = endpoint.withSocketAddress { Glibc.bind(listener, $0, $1) }
    if bound != 0 || Glibc.listen(listener, 4_096) != 0 {
      let code = errno
      close(listener)
      throw SinkError(operation: "listening on \(endpoint)", code: code)
    }
    var storage = sockaddr_in6()
    var length = socklen_t(MemoryLayout<sockaddr_in6>.size)
    withUnsafeMutablePointer(to: &storage) { pointer in
      pointer.withMemoryRebound(to: sockaddr.self, capacity: 1) {
        _ = getsockname(listener, $0, &length)
      }
    }
    // The port stands at the same place in both families' addresses.
    return (listener, UInt16(bigEndian: storage.sin6_port))
  }
}

extension LoopbackEndpoint {
  /// Hands the address to a system call.
  func withSocketAddress(_ body: (UnsafePointer<sockaddr>, socklen_t) -> Int32) -> Int32 {
    if isIPv6 {
      var address = sockaddr_in6()
      address.sin6_family = sa_family_t(AF_INET6)
      address.sin6_port = port.bigEndian
      withUnsafeMutableBytes(of: &address.sin6_addr) { $0[15] = 1 }
      return withUnsafePointer(to: &address) { pointer in
        pointer.withMemoryRebound(to: sockaddr.self, capacity: 1) {
          body($0, socklen_t(MemoryLayout<sockaddr_in6>.size))
        }
      }
    }
    var address = sockaddr_in()
    address.sin_family = sa_family_t(AF_INET)
    address.sin_port = port.bigEndian
    withUnsafeMutableBytes(of: &address.sin_addr) { bytes in
      for i in 0..<4 { bytes[i] = octets[i] }
    }
    return withUnsafePointer(to: &address) { pointer in
      pointer.withMemoryRebound(to: sockaddr.self, capacity: 1) {
        body($0, socklen_t(MemoryLayout<sockaddr_in>.size))
      }
    }
  }
}
