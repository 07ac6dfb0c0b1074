// SPDX-License-Identifier: Apache-2.0
// The sink's sockets: one thread, one poll set, every connection a number at the `TestServer` and a descriptor. It is
// not the shield's ring driver and shares nothing with it, so that a bug in one cannot hide in the other.
// Invariant: `polls` and `connections` are as long as each other, and row i of both is one descriptor.
//
// poll, not epoll: Swift's Glibc module has no <sys/epoll.h>, and a C module for a test server is not worth
// it. At 5,000 idle connections a poll costs some 0.3 ms, shared by all that are ready in the same round.

import Configuration
import Foundation
import Glibc
import Structures
import Synchronization
import TestServer

/// A set-up step that failed, worded for the operator.
package struct SinkError: Error, CustomStringConvertible {
  package var operation: String
  package var code: Int32
  package var description: String { "\(operation): \(String(cString: strerror(code)))" }
}

/// One client of the sink.
private final class SinkConnection {
  let descriptor: Int32
  /// Its number at the server.
  let id: Int
  /// Its row in the poll set; nil once closed.
  var row: Int?
  /// Replies whose moment has not come, the earliest first.
  var waiting: [TestServer.Reply] = []
  var waitingBytes = 0
  /// What is to be sent now.
  var output = ByteQueue()
  var isFinishing = false
  /// The client has closed its side.
  var hasEnded = false
  let peer: String
  var peerLogged = false

  init(_ descriptor: Int32, id: Int, peer: String) {
    self.descriptor = descriptor
    self.id = id
    self.peer = peer
  }
}

/// The loop that `Sink` runs on its thread. Used by that thread alone.
final class SinkLoop {
  private let options: SinkOptions
  private var server: TestServer
  private let listener: Int32
  /// Readable once the loop shall end.
  private let stopper: Int32
  /// The server's counts go out through here, on this thread, before what they count is sent.
  private let publish: (TestServer.Counts) -> Void
  private var told = TestServer.Counts()
  /// Rows 0 and 1 are the listener and the stopper.
  private var connections: [SinkConnection?] = [nil, nil]
  private var polls: [pollfd] = []
  /// By their numbers at the server.
  private var clients: [SinkConnection?] = []
  private var freeNumbers: [Int] = []
  /// Connections with a reply that waits.
  private var waiting: [SinkConnection] = []
  private var acceptsAreOff = false
  private var buffer = [UInt8](repeating: 0, count: 65_536)

  /// POLLRDHUP, which glibc hides behind _GNU_SOURCE: the client has shut down its side.
  private static let peerGone: Int32 = 0x2000
  /// Bytes of replies that may wait before their client is not read any more.
  private static let outputMax = 1 << 20

  init(
    _ options: SinkOptions, listener: Int32, stopper: Int32,
    publish: @escaping (TestServer.Counts) -> Void
  ) {
    self.options = options
    self.listener = listener
    self.stopper = stopper
    self.publish = publish
    server = TestServer(options.script, seed: UInt64.random(in: .min ... .max))
    server.store = options.storeDirectory.map { MessageFolder(path: $0) }.map { folder in
      { folder.store($0, envelope: $1) }
    }
    polls = [
      pollfd(fd: listener, events: Int16(POLLIN), revents: 0),
      pollfd(fd: stopper, events: Int16(POLLIN), revents: 0),
    ]
  }

  /// Microseconds of the monotonic clock.
  private static func now() -> Int64 {
    var time = timespec()
    clock_gettime(CLOCK_MONOTONIC, &time)
    return Int64(time.tv_sec) * 1_000_000 + Int64(time.tv_nsec) / 1_000
  }

  /// Serves until the stopper becomes readable, then closes everything.
  func run() {
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

  /// Milliseconds until the next reply is due.
  private func pause() -> Int32 {
    guard let next = waiting.compactMap(\.waiting.first?.at).min() else {
      return acceptsAreOff ? 100 : -1
    }
    return Int32(min(max((next - SinkLoop.now() + 999) / 1_000, 0), 60_000))
  }

  private func wake() {
    if acceptsAreOff {
      acceptsAreOff = false
      polls[0].events = Int16(POLLIN)
    }
    if waiting.isEmpty { return }
    let now = SinkLoop.now()
    let due = waiting.filter { ($0.waiting.first?.at ?? 0) <= now }
    waiting.removeAll { ($0.waiting.first?.at ?? 0) <= now }
    for connection in due where connection.row != nil { release(connection) }
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
      var on: Int32 = 1
      setsockopt(
        descriptor, Int32(IPPROTO_TCP), TCP_NODELAY, &on, socklen_t(MemoryLayout<Int32>.size))
      let id = freeNumbers.popLast() ?? clients.count
      if id == clients.count { clients.append(nil) }
      let connection = SinkConnection(descriptor, id: id, peer: SinkLoop.text(of: storage))
      clients[id] = connection
      connection.row = polls.count
      connections.append(connection)
      polls.append(pollfd(fd: descriptor, events: Int16(POLLIN), revents: 0))
      if options.logPeer && options.script.header != .mustCome { log("peer \(connection.peer)") }
      server.connected(id, now: SinkLoop.now())
      takeReplies(connection)
      settle(connection)
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
    if server.isStalled(connection.id) && events & (SinkLoop.peerGone | POLLHUP) != 0 {
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
      if server.isStalled(connection.id) { return close(connection) }
      return settle(connection)
    }
    server.received(connection.id, buffer.span.extracting(0..<got), now: SinkLoop.now())
    if options.logPeer, !connection.peerLogged, let proxied = server.proxied(connection.id) {
      connection.peerLogged = true
      log("peer \(connection.peer) proxied \(proxied)")
    }
    takeReplies(connection)
    settle(connection)
  }

  /// Takes what the server does about a connection.
  private func takeReplies(_ connection: SinkConnection) {
    tellCounts()
    let wasWaiting = !connection.waiting.isEmpty
    for reply in server.replies {
      connection.waiting.append(reply)
      connection.waitingBytes += reply.text.count
    }
    server.replies.removeAll(keepingCapacity: true)
    if !wasWaiting { release(connection) }
  }

  private func tellCounts() {
    if server.counts == told { return }
    told = server.counts
    publish(told)
  }

  /// Sends the replies whose moment has come.
  private func release(_ connection: SinkConnection) {
    let now = SinkLoop.now()
    var done = 0
    for reply in connection.waiting {
      if reply.at > now { break }
      done += 1
      connection.waitingBytes -= reply.text.count
      connection.output.append(reply.text)
      switch reply.then {
      case .goOn: continue
      case .finish: connection.isFinishing = true
      case .hangUp(let ending): return abort(connection, ending)
      }
    }
    connection.waiting.removeFirst(done)
    if !connection.waiting.isEmpty { waiting.append(connection) }
    if done > 0 { flush(connection) }
  }

  private func flush(_ connection: SinkConnection) {
    if !connection.output.isEmpty {
      let sent = Self.send(connection.output.bytes, to: connection.descriptor)
      if sent < 0 && errno != EAGAIN && errno != EINTR {
        close(connection)
        return
      }
      if sent > 0 { connection.output.consume(sent) }
    }
    settle(connection)
  }

  private static func send(_ bytes: Span<UInt8>, to descriptor: Int32) -> Int {
    bytes.withUnsafeBytes { Glibc.send(descriptor, $0.baseAddress, $0.count, Int32(MSG_NOSIGNAL)) }
  }

  /// Closes what is done, and asks the kernel for just the events that are wanted now.
  private func settle(_ connection: SinkConnection) {
    guard let row = connection.row else { return }
    let isStalled = server.isStalled(connection.id)
    let isDone = connection.isFinishing || connection.hasEnded && connection.waiting.isEmpty
    if isDone && connection.output.isEmpty { return close(connection) }
    var wanted: Int32 = 0
    let mayRead =
      !isStalled && !connection.hasEnded && !connection.isFinishing
      && connection.output.count + connection.waitingBytes < SinkLoop.outputMax
    if mayRead { wanted |= POLLIN }
    if isStalled { wanted |= SinkLoop.peerGone }
    if !connection.output.isEmpty { wanted |= POLLOUT }
    polls[row].events = Int16(wanted)
  }

  private func abort(_ connection: SinkConnection, _ ending: ServerScript.Ending) {
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
    connection.row = nil
    server.gone(connection.id)
    tellCounts()
    clients[connection.id] = nil
    freeNumbers.append(connection.id)
    polls.swapAt(row, polls.count - 1)
    connections.swapAt(row, connections.count - 1)
    polls.removeLast()
    connections.removeLast()
    if row < connections.count { connections[row]?.row = row }
    Glibc.close(connection.descriptor)
  }
}

/// Where messages are stored, one file each.
private final class MessageFolder: Sendable {
  private let path: String
  private let stored = Atomic(0)

  init(path: String) { self.path = path }

  /// Writes a message as `<n>.eml` and its MAIL and RCPT lines as `<n>.env`; false if that failed.
  func store(_ message: [UInt8], envelope: [String]) -> Bool {
    let number = stored.add(1, ordering: .relaxed).newValue
    let lines = envelope.map { $0 + "\n" }.joined()
    return Self.write(Array(lines.utf8), to: "\(path)/\(number).env")
      && Self.write(message, to: "\(path)/\(number).eml")
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
