// SPDX-License-Identifier: Apache-2.0
// The sink's sockets: one thread, one poll set, every connection a `SinkSession` and a descriptor. It is
// not the shield's ring driver and shares nothing with it, so that a bug in one cannot hide in the other.
// Invariant: `polls` and `connections` are as long as each other, and row i of both is one descriptor.
//
// poll, not epoll: Swift's Glibc module has no <sys/epoll.h>, and a C module for a test server is not worth
// it. At 5,000 idle connections a poll costs some 0.3 ms, shared by all that are ready in the same round.

import Configuration
import Foundation
import Glibc

/// A set-up step that failed, worded for the operator.
package struct SinkError: Error, CustomStringConvertible {
  package var operation: String
  package var code: Int32
  package var description: String { "\(operation): \(String(cString: strerror(code)))" }
}

/// One client of the sink.
private final class SinkConnection {
  let descriptor: Int32
  var session: SinkSession
  /// Its row in the poll set; nil once closed.
  var row: Int?
  /// When the wait ends, in monotonic seconds; nil when nothing waits.
  var wakeAt: Double?
  var isStalled = false
  var isFinishing = false
  var hasEnded = false
  let peer: String
  var peerLogged = false

  init(_ descriptor: Int32, _ session: SinkSession, peer: String) {
    self.descriptor = descriptor
    self.session = session
    self.peer = peer
  }
}

/// The loop that `Sink` runs on its thread. Used by that thread alone.
package final class SinkLoop: SinkBooks {
  private let options: SinkOptions
  private let listener: Int32
  /// Readable once the loop shall end.
  private let stopper: Int32
  /// What is counted goes out through here, on this thread.
  private let count: (_ change: (inout SinkCounts) -> Void) -> Void
  /// Rows 0 and 1 are the listener and the stopper.
  private var connections: [SinkConnection?] = [nil, nil]
  private var polls: [pollfd] = []
  private var waiting: [SinkConnection] = []
  private var faultsLeft: Int
  private var stored = 0
  private var acceptsAreOff = false
  private var buffer = [UInt8](repeating: 0, count: 65_536)

  /// Bytes a client may have waiting here before it is not read any more.
  private static let inputMax = 262_144
  /// POLLRDHUP, which glibc hides behind _GNU_SOURCE: the client has shut down its side.
  private static let peerGone: Int32 = 0x2000
  /// Bytes of replies that may wait for a client that does not read.
  private static let outputMax = 1 << 20

  package init(
    _ options: SinkOptions, listener: Int32, stopper: Int32,
    count: @escaping ((inout SinkCounts) -> Void) -> Void
  ) {
    self.options = options
    self.listener = listener
    self.stopper = stopper
    self.count = count
    faultsLeft = options.faultTimes
    polls = [
      pollfd(fd: listener, events: Int16(POLLIN), revents: 0),
      pollfd(fd: stopper, events: Int16(POLLIN), revents: 0),
    ]
  }

  private static func now() -> Double {
    var time = timespec()
    clock_gettime(CLOCK_MONOTONIC, &time)
    return Double(time.tv_sec) + Double(time.tv_nsec) / 1e9
  }

  /// Serves until the stopper becomes readable, then closes everything.
  package func run() {
    while polls[1].revents == 0 {
      let found = poll(&polls, nfds_t(polls.count), pause())
      if found < 0 && errno != EINTR { break }
      if found > 0 {
        // Downwards: closing a row moves the last one into it, which has had its turn.
        for row in (0..<polls.count).reversed() where polls[row].revents != 0 {
          if let connection = connections[row] { serve(connection, Int32(polls[row].revents)) }
        }
        if polls[0].revents != 0 { accept() }
      }
      wake()
    }
    for case let connection? in connections { close(connection) }
  }

  /// Milliseconds until the next wait ends.
  private func pause() -> Int32 {
    guard let next = waiting.compactMap(\.wakeAt).min() else { return acceptsAreOff ? 100 : -1 }
    return Int32(min(max((next - SinkLoop.now()) * 1_000, 0).rounded(.up), 60_000))
  }

  private func wake() {
    if acceptsAreOff {
      acceptsAreOff = false
      polls[0].events = Int16(POLLIN)
    }
    if waiting.isEmpty { return }
    let now = SinkLoop.now()
    let due = waiting.filter { ($0.wakeAt ?? 0) <= now }
    waiting.removeAll { ($0.wakeAt ?? 0) <= now }
    for connection in due where connection.wakeAt != nil {
      connection.wakeAt = nil
      obey(connection.session.resume(self), connection)
    }
  }

  // Accepting

  private func accept() {
    // Bounded, so that a storm of connections does not starve those that are here.
    for _ in 0..<256 {
      var storage = sockaddr_storage()
      var length = socklen_t(MemoryLayout<sockaddr_storage>.size)
      let descriptor = withUnsafeMutablePointer(to: &storage) { pointer in
        pointer.withMemoryRebound(to: sockaddr.self, capacity: 1) {
          Glibc.accept(listener, $0, &length)
        }
      }
      if descriptor < 0 {
        if errno == EMFILE || errno == ENFILE || errno == ENOMEM || errno == ENOBUFS {
          // Full: look again shortly instead of spinning on a listener that stays readable.
          acceptsAreOff = true
          polls[0].events = 0
        }
        if errno == ECONNABORTED || errno == EINTR { continue }
        return
      }
      _ = fcntl(descriptor, F_SETFL, O_NONBLOCK)
      _ = fcntl(descriptor, F_SETFD, FD_CLOEXEC)
      count { $0.connections += 1 }
      var on: Int32 = 1
      setsockopt(
        descriptor, Int32(IPPROTO_TCP), TCP_NODELAY, &on, socklen_t(MemoryLayout<Int32>.size))
      if connections.count - 2 >= options.connectionsMax {
        let reply = "421 4.3.2 Too many connections\r\n"
        _ = reply.withCString { send(descriptor, $0, strlen($0), Int32(MSG_NOSIGNAL)) }
        Glibc.close(descriptor)
        continue
      }
      let connection = SinkConnection(
        descriptor, SinkSession(options), peer: SinkLoop.text(of: storage))
      connection.row = polls.count
      connections.append(connection)
      polls.append(pollfd(fd: descriptor, events: Int16(POLLIN), revents: 0))
      if options.logPeer && !options.proxyHeader { log("peer \(connection.peer)") }
      obey(connection.session.connected(self), connection)
    }
  }

  private static func text(of storage: sockaddr_storage) -> String {
    var storage = storage
    var host = [CChar](repeating: 0, count: 64)
    var port: UInt16 = 0
    let isIPv6 = storage.ss_family == sa_family_t(AF_INET6)
    withUnsafeMutablePointer(to: &storage) { pointer in
      if isIPv6 {
        pointer.withMemoryRebound(to: sockaddr_in6.self, capacity: 1) {
          _ = inet_ntop(AF_INET6, &$0.pointee.sin6_addr, &host, 64)
          port = UInt16(bigEndian: $0.pointee.sin6_port)
        }
      } else {
        pointer.withMemoryRebound(to: sockaddr_in.self, capacity: 1) {
          _ = inet_ntop(AF_INET, &$0.pointee.sin_addr, &host, 64)
          port = UInt16(bigEndian: $0.pointee.sin_port)
        }
      }
    }
    let name = String(
      decoding: host.prefix { $0 != 0 }.map { UInt8(bitPattern: $0) }, as: UTF8.self)
    return isIPv6 ? "[\(name)]:\(port)" : "\(name):\(port)"
  }

  private func log(_ line: String) { StandardError.write(line) }

  // Serving

  private func serve(_ connection: SinkConnection, _ events: Int32) {
    if events & POLLERR != 0 {
      close(connection)
      return
    }
    if events & POLLOUT != 0 { flush(connection) }
    guard connection.row != nil else { return }
    if connection.isStalled && events & (SinkLoop.peerGone | POLLHUP) != 0 {
      close(connection)
      return
    }
    if events & (POLLIN | POLLHUP) != 0 { read(connection) }
  }

  private func read(_ connection: SinkConnection) {
    let got = recv(connection.descriptor, &buffer, buffer.count, 0)
    if got < 0 {
      if errno != EAGAIN && errno != EINTR { close(connection) }
      return
    }
    if got == 0 {
      connection.hasEnded = true
      if connection.isStalled { close(connection) }
      if connection.wakeAt == nil { finish(connection) } else { settle(connection) }
      return
    }
    buffer.withUnsafeBytes { bytes in
      connection.session.received(UnsafeRawBufferPointer(rebasing: bytes[..<got]))
    }
    if connection.wakeAt == nil && !connection.isFinishing {
      obey(connection.session.advance(self), connection)
      if options.logPeer, let proxied = connection.session.proxied, !connection.peerLogged {
        connection.peerLogged = true
        log("peer \(connection.peer) proxied \(proxied)")
      }
    } else {
      settle(connection)
    }
  }

  private func obey(_ order: SinkSession.Order, _ connection: SinkConnection) {
    switch order {
    case .proceed: break
    case .wait(let seconds):
      connection.wakeAt = SinkLoop.now() + seconds
      waiting.append(connection)
    case .stall: connection.isStalled = true
    case .finish: connection.isFinishing = true
    case .abort(let ending):
      abort(connection, ending)
      return
    }
    if connection.hasEnded && connection.wakeAt == nil {
      finish(connection)
    } else {
      flush(connection)
    }
  }

  private func finish(_ connection: SinkConnection) {
    connection.session.ended(self)
    connection.isFinishing = true
    flush(connection)
  }

  private func flush(_ connection: SinkConnection) {
    if !connection.session.output.isEmpty {
      let sent = connection.session.output.withUnsafeBytes {
        send(connection.descriptor, $0.baseAddress, $0.count, Int32(MSG_NOSIGNAL))
      }
      if sent < 0 && errno != EAGAIN && errno != EINTR {
        close(connection)
        return
      }
      if sent == connection.session.output.count {
        connection.session.output.removeAll(keepingCapacity: true)
      } else if sent > 0 {
        connection.session.output.removeFirst(sent)
      }
    }
    settle(connection)
  }

  /// Closes what is done, and asks the kernel for just the events that are wanted now.
  private func settle(_ connection: SinkConnection) {
    if connection.row == nil { return }
    let hasOutput = !connection.session.output.isEmpty
    if connection.isFinishing && !hasOutput {
      close(connection)
      return
    }
    var wanted: Int32 = 0
    let mayRead =
      !connection.isStalled && !connection.hasEnded && !connection.isFinishing
      && connection.session.inputWaiting < SinkLoop.inputMax
      && connection.session.output.count < SinkLoop.outputMax
    if mayRead { wanted |= POLLIN }
    if connection.isStalled { wanted |= SinkLoop.peerGone }
    if hasOutput { wanted |= POLLOUT }
    if let row = connection.row { polls[row].events = Int16(wanted) }
  }

  private func abort(_ connection: SinkConnection, _ ending: SinkEnding) {
    if ending == .rst {
      var now = linger(l_onoff: 1, l_linger: 0)
      setsockopt(
        connection.descriptor, SOL_SOCKET, SO_LINGER, &now, socklen_t(MemoryLayout<linger>.size))
    } else {
      // Unread input would turn the close into a reset.
      while recv(
        connection.descriptor, &buffer, buffer.count, Int32(MSG_DONTWAIT)) > 0
      {}
      shutdown(connection.descriptor, Int32(SHUT_WR))
    }
    close(connection)
  }

  private func close(_ connection: SinkConnection) {
    guard let row = connection.row else { return }
    if connection.wakeAt != nil { waiting.removeAll { $0 === connection } }
    connection.wakeAt = nil
    connection.row = nil
    polls.swapAt(row, polls.count - 1)
    connections.swapAt(row, connections.count - 1)
    polls.removeLast()
    connections.removeLast()
    if row < connections.count { connections[row]?.row = row }
    Glibc.close(connection.descriptor)
  }

  // Books

  package func takeFault() -> Bool {
    if faultsLeft == 0 { return false }
    if faultsLeft != .max { faultsLeft -= 1 }
    return true
  }

  package func accepted(bytes: Int) {
    count {
      $0.messages += 1
      $0.bytes += bytes
    }
  }

  package func refusedRecipient() { count { $0.rejectedRecipients += 1 } }

  package func bareNewlines(lf: Int, cr: Int) {
    count {
      $0.bareLF += lf
      $0.bareCR += cr
    }
  }

  package func store(_ message: [UInt8], envelope: [String]) -> Bool {
    guard let directory = options.storeDirectory else { return true }
    stored += 1
    let lines = envelope.map { $0 + "\n" }.joined()
    return SinkLoop.write(Array(lines.utf8), to: "\(directory)/\(stored).env")
      && SinkLoop.write(message, to: "\(directory)/\(stored).eml")
  }

  private static func write(_ bytes: [UInt8], to path: String) -> Bool {
    let descriptor = open(path, O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC, 0o644)
    if descriptor < 0 { return false }
    defer { Glibc.close(descriptor) }
    var done = 0
    while done < bytes.count {
      let wrote = bytes.withUnsafeBytes {
        Glibc.write(descriptor, $0.baseAddress?.advanced(by: done), $0.count - done)
      }
      if wrote <= 0 {
        if wrote < 0 && errno == EINTR { continue }
        unlink(path)
        return false
      }
      done += wrote
    }
    return true
  }
}
