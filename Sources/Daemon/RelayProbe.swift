// SPDX-License-Identifier: Apache-2.0
//
// Asks the server behind whether it relays for strangers: connects as the configuration says, names a client
// out of a TEST-NET, and asks for a recipient that nobody has. No message is ever sent. Blocking sockets, for
// the time before the service runs and for `check`; bounded by a deadline over the whole conversation.

import Glibc
package import SMTP
package import Structures

/// One conversation with the downstream, and what came of it.
package struct RelayProbe: Sendable {
  package enum Finding: Sendable, Equatable {
    /// It refused to relay; its reply.
    case refuses(String)
    /// It refused the recipient, and perhaps not because it would not relay; its reply.
    case unclear(String)
    /// It would relay for anybody; its reply.
    case relays(String)
    /// It is not there, or does not answer: why.
    case silent(String)
    /// It does not understand how it is told about the client: why.
    case mismatch(String)
  }

  /// The most a whole conversation may take, in milliseconds. Postfix waits 5 s for a header, postscreen 6 s.
  package static let limit: Int64 = 10_000

  package let address: Address
  package let port: UInt16
  package let identity: Downstream.Identity
  /// Whom it is told about.
  package let client: ClientEnds
  /// Our own name, for the sender if `<>` is not taken.
  package let hostname: String

  package init(
    address: Address, port: UInt16, identity: Downstream.Identity, client: ClientEnds,
    hostname: String
  ) {
    self.address = address
    self.port = port
    self.identity = identity
    self.client = client
    self.hostname = hostname
  }

  /// A reply of which nothing is kept but its code and its lines.
  private struct Reply {
    var code = 0
    var lines: [String] = []
    /// The last line, printable and short.
    var text: String {
      let line = lines.last ?? ""
      return String(
        line.unicodeScalars.prefix(160).map { (32..<127).contains($0.value) ? Character($0) : "?" })
    }
  }

  private enum Failure: Error {
    case connect(Int32)
    case closed
    case late
  }

  /// The name a client gives itself by its address: no server can hold it to be its own or unknown in DNS.
  private var helo: String {
    let text = "\(client.address)"
    return client.address.isIPv4 ? "[\(text)]" : "[IPv6:\(text)]"
  }

  /// Holds the conversation. Takes `limit` at most.
  package func run() -> Finding {
    var line: Line
    do {
      line = try Line(address, port, until: Line.clock() + RelayProbe.limit)
    } catch .connect(let number) {
      return .silent(String(cString: strerror(number)))
    } catch { return .silent("it does not answer") }
    do {
      return try converse(&line)
    } catch .closed {
      return silence("it closed the connection", line)
    } catch { return silence("it does not answer", line) }
  }

  /// Silence means that a header is missing, or nothing.
  private func silence(_ what: String, _ line: borrowing Line) -> Finding {
    if isHeader && line.replies > 0 {
      return .mismatch("it greeted, and after the PROXY header \(what)")
    }
    if !isHeader && line.replies == 0 {
      return .silent("\(what) without a greeting: perhaps it waits for a PROXY header")
    }
    return .silent(what)
  }

  private var isHeader: Bool { identity == .proxyV1 || identity == .proxyV2 }

  private func converse(_ line: inout Line) throws(Failure) -> Finding {
    if isHeader { try line.send(header) }
    let greeting = try line.reply()
    guard greeting.code == 220 else {
      // Postfix, 5 s later.
      let hint = isHeader || greeting.code != 421 ? "" : ": perhaps it waits for a PROXY header"
      return .silent("it greets with '\(greeting.code) \(greeting.text)'\(hint)")
    }
    var hello = try line.ask("EHLO \(helo)")
    if isHeader && (hello.code >= 500 || line.hasMore) {
      return .mismatch("it answered '\(hello.code) \(hello.text)' to the PROXY header")
    }
    if hello.code >= 400 { hello = try line.ask("HELO \(helo)") }
    if identity == .xclient || identity == .xforward {
      if let finding = try introduce(&line, hello) { return finding }
    }
    return try ask(&line)
  }

  private var header: [UInt8] {
    [UInt8](capacity: 256) { out in
      if identity == .proxyV1 {
        ProxyHeader.writeV1(client, into: &out)
      } else {
        ProxyHeader.writeV2(client, into: &out)
      }
    }
  }

  /// Tells the server about the client inside SMTP.
  ///
  /// - Returns: a finding if it does not let itself be told.
  private func introduce(_ line: inout Line, _ hello: Reply) throws(Failure) -> Finding? {
    let word: StaticString = identity == .xclient ? "XCLIENT" : "XFORWARD"
    let offer = Array(hello.lines.map { "250-\($0)\r\n" }.joined().utf8)
    guard let listed = ClientAttributes(word, inEHLO: offer.span),
      identity == .xforward || listed.contains(.address)
    else {
      // XFORWARD changes the log and not the rights: mail goes through without it.
      return identity == .xforward
        ? nil : .mismatch("its EHLO does not list \(word) for this machine's address")
    }
    var details = ClientDetails(client)
    details.isExtended = true
    let name = Array(helo.utf8)
    for number in 0..<4 {
      let bytes = [UInt8](capacity: 1_024) { out in
        _ = writeClientLine(word, number, of: listed, details, helo: name.span, into: &out)
      }
      if bytes.isEmpty { break }
      try line.send(bytes)
      let reply = try line.reply()
      if reply.code >= 300 {
        return .mismatch("it answered '\(reply.code) \(reply.text)' to \(word)")
      }
    }
    if identity == .xclient { _ = try line.ask("EHLO \(helo)") }
    return nil
  }

  /// Asks for a recipient whom no server has: `.invalid` is nobody's domain (RFC 2606).
  private func ask(_ line: inout Line) throws(Failure) -> Finding {
    // The null sender first: a server that looks senders up could refuse any other for another reason.
    var mail = try line.ask("MAIL FROM:<>")
    if mail.code >= 400 { mail = try line.ask("MAIL FROM:<postmaster@\(hostname)>") }
    guard mail.code < 400 else { return .unclear("\(mail.code) \(mail.text)") }
    let reply = try line.ask("RCPT TO:<probe@example.invalid>")
    let text = "\(reply.code) \(reply.text)"
    _ = try? line.ask("RSET")
    _ = try? line.ask("QUIT")
    if reply.code < 300 { return .relays(text) }
    // 5.7.1 and its like are about rights; 4.1.2 or 5.4.4 mean that the domain was looked for.
    let words = reply.text.split(separator: " ")
    let parts = words.first.map { $0.split(separator: ".") } ?? []
    let isAboutRights = parts.count == 3 ? parts[1] == "7" : reply.code == 550 || reply.code == 554
    return isAboutRights ? .refuses(text) : .unclear(text)
  }

  /// A connection whose every wait ends at one deadline.
  private struct Line: ~Copyable {
    private let descriptor: Int32
    private let deadline: Int64
    private var waiting: [UInt8] = []
    /// Whole replies so far.
    private(set) var replies = 0
    /// Octets of one reply at most.
    private static let replyMax = 65_536

    static func clock() -> Int64 {
      var time = timespec()
      clock_gettime(CLOCK_MONOTONIC, &time)
      return Int64(time.tv_sec) * 1_000 + Int64(time.tv_nsec) / 1_000_000
    }

    init(_ address: Address, _ port: UInt16, until deadline: Int64) throws(Failure) {
      descriptor = try Line.open(address, port, deadline)
      self.deadline = deadline
    }

    deinit { Glibc.close(descriptor) }

    private static func open(
      _ address: Address, _ port: UInt16, _ deadline: Int64
    ) throws(Failure) -> Int32 {
      let flags =
        Int32(SOCK_STREAM.rawValue) | Int32(SOCK_CLOEXEC.rawValue) | Int32(SOCK_NONBLOCK.rawValue)
      let descriptor = socket(address.isIPv4 ? AF_INET : AF_INET6, flags, 0)
      guard descriptor >= 0 else { throw .connect(errno) }
      var failure = connect(descriptor, address, port) == 0 ? 0 : errno
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
        Glibc.close(descriptor)
        throw .connect(failure)
      }
      return descriptor
    }

    private static func connect(_ descriptor: Int32, _ address: Address, _ port: UInt16) -> Int32 {
      if address.isIPv4 {
        var name = sockaddr_in()
        name.sin_family = sa_family_t(AF_INET)
        name.sin_port = port.bigEndian
        name.sin_addr.s_addr = address.v4.bigEndian
        return withUnsafePointer(to: &name) {
          $0.withMemoryRebound(to: sockaddr.self, capacity: 1) {
            Glibc.connect(descriptor, $0, socklen_t(MemoryLayout<sockaddr_in>.size))
          }
        }
      }
      var name = sockaddr_in6()
      name.sin6_family = sa_family_t(AF_INET6)
      name.sin6_port = port.bigEndian
      withUnsafeMutableBytes(of: &name.sin6_addr) { bytes in
        for k in 0..<16 {
          let word = k < 8 ? address.high : address.low
          bytes[k] = UInt8(truncatingIfNeeded: word >> UInt64(56 - 8 * (k & 7)))
        }
      }
      return withUnsafePointer(to: &name) {
        $0.withMemoryRebound(to: sockaddr.self, capacity: 1) {
          Glibc.connect(descriptor, $0, socklen_t(MemoryLayout<sockaddr_in6>.size))
        }
      }
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

    mutating func send(_ bytes: [UInt8]) throws(Failure) {
      var sent = 0
      while sent < bytes.count {
        guard Line.wait(descriptor, Int16(POLLOUT), deadline) else { throw .late }
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

    /// The next whole reply.
    mutating func reply() throws(Failure) -> Reply {
      var reply = Reply()
      var taken = 0
      while taken < Line.replyMax {
        guard let end = waiting.firstIndex(of: 10) else {
          try receive()
          continue
        }
        let line = String(decoding: waiting[..<end].filter { $0 != 13 }, as: UTF8.self)
        waiting.removeFirst(end + 1)
        taken += end + 1
        guard let code = Int(line.prefix(3)), (200...599).contains(code) else { throw .closed }
        reply.code = code
        reply.lines.append(String(line.dropFirst(4)))
        if line.dropFirst(3).first != "-" {
          replies += 1
          return reply
        }
      }
      throw .closed
    }

    private mutating func receive() throws(Failure) {
      guard waiting.count < Line.replyMax else { throw .closed }
      guard Line.wait(descriptor, Int16(POLLIN), deadline) else { throw .late }
      var room = [UInt8](repeating: 0, count: 4_096)
      let count = room.withUnsafeMutableBytes { recv(descriptor, $0.baseAddress, $0.count, 0) }
      if count == 0 { throw .closed }
      if count < 0 {
        if errno == EINTR || errno == EAGAIN { return }
        throw .closed
      }
      waiting += room[..<count]
    }
  }
}
