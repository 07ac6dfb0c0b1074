// SPDX-License-Identifier: Apache-2.0
//
// A DNS server that behaves as badly as a test says, on UDP and TCP of one loopback port, in a thread of its own.

import Foundation
import Synchronization

/// What a server does with one query.
package enum Reaction: Sendable {
  case silence
  case send([[UInt8]])
  /// After that many milliseconds.
  case later(Int, [UInt8])

  package static func send(_ message: [UInt8]) -> Reaction { .send([message]) }
}

package struct ServerQuery: Sendable {
  package let octets: [UInt8]
  package let isTCP: Bool
  /// Where it came from.
  package let port: UInt16
  /// How many came before.
  package let number: Int

  package var name: String { Message.asked(octets) }
}

package final class TestServer: Sendable {
  package let port: UInt16
  private let log = Log()
  private let stop: Int32
  private let ended = DispatchSemaphore(value: 0)

  package struct Failure: Error {}

  package init(_ react: @escaping @Sendable (ServerQuery) -> Reaction) throws {
    var sockets: (udp: Int32, tcp: Int32)?
    var port: UInt16 = 0
    // The same number must be free for both.
    for _ in 0..<100 {
      guard let udp = LoopbackPort.bind(Int32(SOCK_DGRAM.rawValue)) else { continue }
      guard let tcp = LoopbackPort.bind(Int32(SOCK_STREAM.rawValue), port: udp.port) else {
        close(udp.descriptor)
        continue
      }
      sockets = (udp.descriptor, tcp.descriptor)
      port = udp.port
      break
    }
    guard let sockets, listen(sockets.tcp, 16) == 0 else { throw Failure() }
    self.port = port
    var pipe: [Int32] = [0, 0]
    guard Glibc.pipe(&pipe) == 0 else { throw Failure() }
    stop = pipe[1]
    let wake = pipe[0]
    let (log, ended) = (log, ended)
    Thread.detachNewThread {
      ServerThread(log: log).run(sockets.udp, sockets.tcp, wake, react)
      close(wake)
      ended.signal()
    }
  }

  deinit {
    // A byte, and not only the end: a process that another test starts may have inherited the pipe.
    _ = write(stop, [0], 1)
    ended.wait()
    close(stop)
  }

  /// What came, in its order.
  package var queries: [ServerQuery] { log.queries.withLock { $0 } }

  fileprivate final class Log: Sendable {
    let queries = Mutex<[ServerQuery]>([])

    func note(_ octets: [UInt8], isTCP: Bool, port: UInt16) -> ServerQuery {
      queries.withLock { queries in
        let query = ServerQuery(octets: octets, isTCP: isTCP, port: port, number: queries.count)
        queries.append(query)
        return query
      }
    }
  }
}

private struct ServerThread {
  let log: TestServer.Log

  private static func clock() -> Int {
    var time = timespec()
    clock_gettime(CLOCK_MONOTONIC, &time)
    return time.tv_sec * 1_000 + time.tv_nsec / 1_000_000
  }

  func run(
    _ udp: Int32, _ tcp: Int32, _ wake: Int32, _ react: (ServerQuery) -> Reaction
  ) {
    var connections: [Int32] = []
    var inputs: [Int32: [UInt8]] = [:]
    var later: [(at: Int, send: () -> Void)] = []
    func act(_ reaction: Reaction, _ send: @escaping ([UInt8]) -> Void) {
      switch reaction {
      case .silence: break
      case .send(let messages): for message in messages { send(message) }
      case .later(let milliseconds, let message):
        later.append((Self.clock() + milliseconds, { send(message) }))
      }
    }
    while true {
      let now = Self.clock()
      for item in later where item.at <= now { item.send() }
      later.removeAll { $0.at <= now }
      let wait = later.map { max($0.at - now, 0) }.min() ?? 10_000
      var polled = ([wake, udp, tcp] + connections).map {
        pollfd(fd: $0, events: Int16(POLLIN), revents: 0)
      }
      _ = poll(&polled, nfds_t(polled.count), Int32(wait))
      for place in polled where place.revents != 0 {
        switch place.fd {
        case wake:
          for descriptor in connections + [udp, tcp] { close(descriptor) }
          return
        case udp: receive(udp) { query, send in act(react(query), send) }
        case tcp:
          let made = accept(tcp, nil, nil)
          if made >= 0 { connections.append(made) }
        default:
          var room = [UInt8](repeating: 0, count: 4_096)
          let count = recv(place.fd, &room, room.count, 0)
          if count <= 0 {
            close(place.fd)
            connections.removeAll { $0 == place.fd }
            inputs[place.fd] = nil
            continue
          }
          inputs[place.fd, default: []] += room[..<count]
          while let input = inputs[place.fd], input.count >= 2 {
            let length = Int(input[0]) << 8 | Int(input[1])
            guard input.count >= 2 + length else { break }
            inputs[place.fd] = Array(input[(2 + length)...])
            let query = log.note(Array(input[2..<(2 + length)]), isTCP: true, port: 0)
            act(react(query)) { message in
              let whole = Message.short(message.count) + message
              _ = Glibc.send(place.fd, whole, whole.count, Int32(MSG_NOSIGNAL))
            }
          }
        }
      }
    }
  }

  private func receive(
    _ udp: Int32, _ take: (ServerQuery, @escaping ([UInt8]) -> Void) -> Void
  ) {
    var room = [UInt8](repeating: 0, count: 4_096)
    var address = sockaddr_in()
    var length = socklen_t(MemoryLayout<sockaddr_in>.size)
    let count = withUnsafeMutablePointer(to: &address) { pointer in
      pointer.withMemoryRebound(to: sockaddr.self, capacity: 1) {
        recvfrom(udp, &room, room.count, 0, $0, &length)
      }
    }
    guard count > 0 else { return }
    let peer = address
    let query = log.note(
      Array(room[..<count]), isTCP: false, port: UInt16(bigEndian: address.sin_port))
    take(query) { message in
      var peer = peer
      _ = withUnsafePointer(to: &peer) { pointer in
        pointer.withMemoryRebound(to: sockaddr.self, capacity: 1) {
          sendto(
            udp, message, message.count, 0, $0, socklen_t(MemoryLayout<sockaddr_in>.size))
        }
      }
    }
  }
}
