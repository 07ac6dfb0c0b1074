// SPDX-License-Identifier: Apache-2.0
// A blocking SMTP client's socket with deadlines: bound to a source in 127.0.0.0/8, and able to reach
// loopback only, because the target's type holds nothing else. Not for production use and not fast.

import Foundation
import Glibc
import Synchronization

/// Told to every client at once: time to go home.
final class StopSign: Sendable {
  private let raised = Atomic(false)
  var isRaised: Bool { raised.load(ordering: .relaxed) }
  func raise() { raised.store(true, ordering: .relaxed) }
}

/// Why a step of the dialogue did not come to its end.
enum ClientFailure: Error, Equatable {
  case cannotConnect(Int32)
  /// The server closed or reset the connection.
  case closed
  /// The client's own patience ended.
  case outOfPatience
  case stopped
  /// What came is no SMTP reply.
  case malformed
}

/// A reply, whole.
struct ClientReply: Sendable, Equatable {
  var code: Int
  var lines: [String]
}

/// Owns the descriptor; closes it at the end of its life.
struct ClientSocket: ~Copyable {
  private let descriptor: Int32
  private let stop: StopSign
  private var input: [UInt8] = []
  let connectedAt: Double

  /// Lines of a reply, and bytes of a line, that a server may send before we call it malformed.
  private static let linesMax = 100
  private static let inputMax = 65_536

  static func now() -> Double {
    var time = timespec()
    clock_gettime(CLOCK_MONOTONIC, &time)
    return Double(time.tv_sec) + Double(time.tv_nsec) / 1e9
  }

  init(
    to target: LoopbackEndpoint, from source: [UInt8], stop: StopSign
  ) throws(ClientFailure) {
    let type = Int32(SOCK_STREAM.rawValue | SOCK_CLOEXEC.rawValue)
    let made = socket(target.isIPv6 ? AF_INET6 : AF_INET, type, 0)
    if made < 0 { throw .cannotConnect(errno) }
    var code: Int32 = 0
    if !target.isIPv6 {
      // IP_BIND_ADDRESS_NO_PORT: the port is chosen at connect, so that many may share a source.
      var on: Int32 = 1
      setsockopt(made, Int32(IPPROTO_IP), 24, &on, socklen_t(MemoryLayout<Int32>.size))
      let from = LoopbackEndpoint(octets: source, port: 0)
      if from.withSocketAddress({ Glibc.bind(made, $0, $1) }) != 0 { code = errno }
    }
    if code == 0, target.withSocketAddress({ Glibc.connect(made, $0, $1) }) != 0 { code = errno }
    if code != 0 {
      Glibc.close(made)
      throw .cannotConnect(code)
    }
    descriptor = made
    self.stop = stop
    connectedAt = ClientSocket.now()
  }

  deinit { Glibc.close(descriptor) }

  /// Seconds since the connection was made.
  var age: Double { ClientSocket.now() - connectedAt }

  /// Sends all of it, within the time given.
  func send(_ bytes: [UInt8], within seconds: Double) throws(ClientFailure) {
    var done = 0
    let deadline = ClientSocket.now() + seconds
    while done < bytes.count {
      let wrote = bytes.withUnsafeBytes { all in
        Glibc.send(
          descriptor, all.baseAddress?.advanced(by: done), all.count - done,
          Int32(MSG_NOSIGNAL) | Int32(MSG_DONTWAIT))
      }
      if wrote > 0 {
        done += wrote
      } else if errno == EAGAIN || errno == EINTR {
        try wait(for: POLLOUT, until: deadline)
      } else {
        throw .closed
      }
    }
  }

  func send(_ text: String, within seconds: Double = 60) throws(ClientFailure) {
    try send(Array(text.utf8), within: seconds)
  }

  /// Waits until the socket is ready, the deadline is there, or everybody shall stop.
  private func wait(for events: Int32, until deadline: Double) throws(ClientFailure) {
    while true {
      if stop.isRaised { throw .stopped }
      let left = deadline - ClientSocket.now()
      if left <= 0 { throw .outOfPatience }
      var entry = pollfd(fd: descriptor, events: Int16(events), revents: 0)
      // Short naps, so that the stop sign is seen soon.
      if poll(&entry, 1, Int32(min(left * 1_000, 200).rounded(.up))) > 0 { return }
    }
  }

  private mutating func readMore(until deadline: Double) throws(ClientFailure) {
    try wait(for: POLLIN, until: deadline)
    let got = withUnsafeTemporaryAllocation(byteCount: 4_096, alignment: 1) { room in
      let got = recv(descriptor, room.baseAddress, room.count, Int32(MSG_DONTWAIT))
      if got > 0 { input.append(contentsOf: room[..<got]) }
      return got
    }
    if got == 0 || (got < 0 && errno != EAGAIN && errno != EINTR) { throw .closed }
    if input.count > ClientSocket.inputMax { throw .malformed }
  }

  /// Reads one whole reply.
  mutating func reply(within seconds: Double) throws(ClientFailure) -> ClientReply {
    let deadline = ClientSocket.now() + seconds
    var lines: [String] = []
    while true {
      guard let end = input.firstIndex(of: 10) else {
        try readMore(until: deadline)
        continue
      }
      let line = input[..<end].filter { $0 != 13 }
      input.removeFirst(end + 1)
      guard line.count >= 3, let code = Int(String(decoding: line[..<3], as: UTF8.self)),
        (200..<600).contains(code), lines.count < ClientSocket.linesMax
      else { throw .malformed }
      lines.append(String(decoding: line.dropFirst(4), as: UTF8.self))
      if line.count == 3 || line[3] != UInt8(ascii: "-") {
        return ClientReply(code: code, lines: lines)
      }
    }
  }

  /// Stays connected and reads whatever drips in, until the server closes or the time is over.
  mutating func hold(for seconds: Double) -> ClientFailure {
    let deadline = ClientSocket.now() + seconds
    do throws(ClientFailure) {
      while true {
        input.removeAll(keepingCapacity: true)
        try readMore(until: deadline)
      }
    } catch {
      return error
    }
  }
}
