// SPDX-License-Identifier: Apache-2.0
//
// A TCP socket of a test, on 127.0.0.1. It never waits: whoever drives the other side looks again.

import Glibc

package final class TestSocket {
  private let descriptor: Int32
  /// All that has been heard, as text.
  package private(set) var heard = ""
  /// The other side has closed, or broken it off.
  package private(set) var isEnded = false

  private init(_ descriptor: Int32) {
    self.descriptor = descriptor
    _ = fcntl(descriptor, F_SETFL, fcntl(descriptor, F_GETFL) | O_NONBLOCK)
  }

  deinit { close(descriptor) }

  private static func home(_ port: UInt16, _ address: UInt32 = 0x7F00_0001) -> sockaddr_in {
    var place = sockaddr_in()
    place.sin_family = sa_family_t(AF_INET)
    place.sin_port = port.bigEndian
    place.sin_addr.s_addr = address.bigEndian
    return place
  }

  private static func made() -> Int32 {
    socket(AF_INET, Int32(SOCK_STREAM.rawValue) | Int32(SOCK_CLOEXEC.rawValue), 0)
  }

  /// A client of whoever listens at this port; nil if nobody does.
  ///
  /// - Parameter source: its own address, of 127.0.0.0/8.
  package static func connect(to port: UInt16, from source: UInt32 = 0x7F00_0001) -> TestSocket? {
    let descriptor = made()
    var (own, place) = (home(0, source), home(port))
    let length = socklen_t(MemoryLayout<sockaddr_in>.size)
    _ = withUnsafePointer(to: &own) {
      $0.withMemoryRebound(to: sockaddr.self, capacity: 1) { bind(descriptor, $0, length) }
    }
    let status = withUnsafePointer(to: &place) {
      $0.withMemoryRebound(to: sockaddr.self, capacity: 1) {
        Glibc.connect(descriptor, $0, length)
      }
    }
    if status == 0 { return TestSocket(descriptor) }
    close(descriptor)
    return nil
  }

  /// A listening socket at a port that was free.
  package static func listening() -> (socket: TestSocket, port: UInt16)? {
    let descriptor = made()
    var place = home(0)
    var length = socklen_t(MemoryLayout<sockaddr_in>.size)
    let status = withUnsafeMutablePointer(to: &place) {
      $0.withMemoryRebound(to: sockaddr.self, capacity: 1) { place in
        bind(descriptor, place, length) == 0 && listen(descriptor, 16) == 0
          && getsockname(descriptor, place, &length) == 0
      }
    }
    let socket = TestSocket(descriptor)
    return status ? (socket, UInt16(bigEndian: place.sin_port)) : nil
  }

  /// Of a listening socket: a client, if one waits.
  package func accepted() -> TestSocket? {
    let client = accept(descriptor, nil, nil)
    return client < 0 ? nil : TestSocket(client)
  }

  package func say(_ text: String) { say(Array(text.utf8)) }

  package func say(_ octets: [UInt8]) {
    _ = octets.withUnsafeBytes { send(descriptor, $0.baseAddress, $0.count, Int32(MSG_NOSIGNAL)) }
  }

  /// Takes what has come, as octets; of no use to `heard`.
  package func takeOctets() -> [UInt8] {
    var all: [UInt8] = []
    var room = [UInt8](repeating: 0, count: 16_384)
    while !isEnded {
      let count = recv(descriptor, &room, room.count, 0)
      if count > 0 {
        all += room[..<count]
      } else {
        isEnded = count == 0 || errno != EAGAIN
        break
      }
    }
    return all
  }

  /// Looks what has come.
  @discardableResult
  package func look() -> String {
    heard += String(decoding: takeOctets(), as: UTF8.self)
    return heard
  }

  package func forget() { heard = "" }

  /// Our side is closed.
  package func finish() { shutdown(descriptor, Int32(SHUT_WR)) }

  /// The descriptor, for somebody else to close.
  package func handedOver() -> Int32 { dup(descriptor) }
}

/// Looks again until it is so, for at most five seconds.
///
/// - Returns: whether it came to be so.
package func eventually(_ isSo: () -> Bool) -> Bool {
  for _ in 0..<5_000 {
    if isSo() { return true }
    usleep(1_000)
  }
  return isSo()
}
