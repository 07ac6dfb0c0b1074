// SPDX-License-Identifier: Apache-2.0
//
// A connection to a mail server for a few questions before the service runs: blocking, in clear or under TLS,
// every wait bounded by one deadline. It knows replies and no command. Keeps: nothing that came in clear is
// taken for something that came under TLS.

import Glibc
import SMTP
import Structures
import TLS
import Uring

/// One connection. For one thread.
struct ProbeLine: ~Copyable {
  enum Failure: Error {
    /// It could not be made: errno.
    case connect(Int32)
    /// The server closed it, or said what is no SMTP.
    case closed
    /// The deadline has come.
    case late
    /// There is no TLS: why.
    case insecure(String)
  }

  /// A reply of which nothing is kept but its code and its lines.
  struct Reply {
    var code: Int
    /// Without code and separator.
    var lines: [String]

    /// - Parameter text: as `ReplyReader` makes it, each line with its code and CR LF.
    fileprivate init(_ code: UInt16, _ text: some Collection<UInt8>) {
      self.code = Int(code)
      lines = text.split(separator: 10).map {
        String(decoding: $0.dropFirst(4).dropLast(), as: UTF8.self)
      }
    }

    /// The last line, printable and short.
    var text: String {
      let line = lines.last ?? ""
      return String(
        line.unicodeScalars.prefix(160).map { (32..<127).contains($0.value) ? Character($0) : "?" })
    }
  }

  private let descriptor: Int32
  private let deadline: Int64
  private var session: TLSLine?
  /// What was received, in clear, and not read as a reply yet.
  private var waiting = ByteQueue()
  /// Whole replies so far.
  private(set) var replies = 0
  /// Octets of one reply that are kept; lines beyond that are dropped.
  private static let replyMax = 65_536

  /// Milliseconds of a clock that nobody sets.
  static func clock() -> Int64 { MonotonicClock.now() / 1_000 }

  /// Connects.
  ///
  /// - Parameter deadline: by `clock()`, for all that is done with it.
  init(_ address: Address, _ port: UInt16, until deadline: Int64) throws(Failure) {
    descriptor = try ProbeLine.open(SocketAddress(address, port: port), deadline)
    self.deadline = deadline
  }

  deinit { PlainSocket.close(descriptor) }

  private static func open(_ address: SocketAddress, _ deadline: Int64) throws(Failure) -> Int32 {
    let flags =
      Int32(SOCK_STREAM.rawValue) | Int32(SOCK_CLOEXEC.rawValue) | Int32(SOCK_NONBLOCK.rawValue)
    let descriptor = socket(address.family, flags, 0)
    guard descriptor >= 0 else { throw .connect(errno) }
    var failure = PlainSocket.connect(descriptor, to: address) == 0 ? 0 : errno
    if failure == EINPROGRESS {
      var count = socklen_t(MemoryLayout<Int32>.size)
      // A firewall that drops must not take all the time there is.
      if !wait(descriptor, Int16(POLLOUT), min(deadline, clock() + 5_000)) {
        failure = ETIMEDOUT
      } else if getsockopt(descriptor, SOL_SOCKET, SO_ERROR, &failure, &count) != 0 {
        failure = errno
      }
    }
    if failure != 0 {
      PlainSocket.close(descriptor)
      throw .connect(failure)
    }
    return descriptor
  }

  private static func wait(_ descriptor: Int32, _ events: Int16, _ deadline: Int64) -> Bool {
    while true {
      let left = deadline - clock()
      if left <= 0 { return false }
      var item = pollfd(fd: descriptor, events: events, revents: 0)
      let count = poll(&item, 1, Int32(clamping: left))
      if count > 0 { return true }
      if count < 0 && errno != EINTR { return false }
    }
  }

  /// Whether more has come than was asked for.
  var hasMore: Bool { !waiting.isEmpty }

  // MARK: TLS

  /// Shakes hands; from here on everything is under TLS.
  ///
  /// - Returns: what was agreed on.
  mutating func secure(_ context: TLSClientContext) throws(Failure) -> TLSInfo {
    guard waiting.isEmpty else { throw .insecure("it said more before the handshake") }
    guard let session = TLSLine(context) else { throw .insecure("there is no memory for it") }
    var fresh: [UInt8] = []
    while true {
      let found = session.advance(fresh.span)
      try sendRaw(session.takeOutput())
      switch found {
      case .needsMore: fresh = try takeRaw()
      case .established(let info):
        self.session = session
        // Of TLS alone, a greeting may have come with the end of the handshake.
        var text: [UInt8] = []
        _ = session.open(Span(), into: &text)
        waiting.append(text)
        return info
      case .failed(let failure): throw .insecure(failure.description)
      }
    }
  }

  // MARK: Out

  mutating func send(_ bytes: [UInt8]) throws(Failure) {
    guard let session else { return try sendRaw(bytes) }
    let octets = bytes.withUnsafeBytes { session.seal($0) }
    guard !octets.isEmpty else { throw .closed }
    try sendRaw(octets)
  }

  private func sendRaw(_ bytes: [UInt8]) throws(Failure) {
    var sent = 0
    while sent < bytes.count {
      guard ProbeLine.wait(descriptor, Int16(POLLOUT), deadline) else { throw .late }
      let count = bytes.withUnsafeBytes {
        Glibc.send(
          descriptor, $0.baseAddress?.advanced(by: sent), bytes.count - sent,
          Int32(truncatingIfNeeded: MSG_NOSIGNAL))
      }
      if count > 0 { sent += count } else if errno != EINTR && errno != EAGAIN { throw .closed }
    }
  }

  mutating func ask(_ command: String) throws(Failure) -> Reply {
    try send(Array((command + "\r\n").utf8))
    return try reply()
  }

  // MARK: In

  /// The next whole reply, as the engine reads one.
  mutating func reply() throws(Failure) -> Reply {
    var reader = ReplyReader()
    var text = [UInt8](repeating: 0, count: ProbeLine.replyMax)
    while true {
      var consumed = 0
      var room = text.mutableSpan
      let step = reader.read(waiting.bytes, consumed: &consumed, into: &room, for: .ourselves)
      waiting.consume(consumed)
      switch step {
      case .complete:
        replies += 1
        return Reply(reader.code, text[..<reader.length])
      case .needMore: try takeMore()
      case .full, .fault: throw .closed
      }
    }
  }

  /// Waits for more of the text.
  private mutating func takeMore() throws(Failure) {
    let fresh = try takeRaw()
    guard let session else {
      waiting.append(fresh)
      return
    }
    var text: [UInt8] = []
    let found = session.open(fresh.span, into: &text)
    if found != .open && text.isEmpty { throw .closed }
    waiting.append(text)
    // Answers to a change of keys.
    try sendRaw(session.takeOutput())
  }

  /// What comes next of the wire, at least an octet.
  private func takeRaw() throws(Failure) -> [UInt8] {
    while true {
      guard ProbeLine.wait(descriptor, Int16(POLLIN), deadline) else { throw .late }
      var room = [UInt8](repeating: 0, count: 16_384)
      let count = room.withUnsafeMutableBytes { recv(descriptor, $0.baseAddress, $0.count, 0) }
      if count > 0 { return Array(room[..<count]) }
      if count == 0 || (errno != EINTR && errno != EAGAIN) { throw .closed }
    }
  }
}
