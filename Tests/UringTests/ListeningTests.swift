// SPDX-License-Identifier: Apache-2.0
//
// Listeners, their errors, and which worker a source reaches. IPv6 has one network on loopback, so of
// steering by IPv6 prefix only agreement with the Swift sum is shown. Keeps: the sum in Swift and the
// program in the kernel are the same function.

import Glibc
import Structures
import Testing
import Uring

@Suite struct ListeningTests {
  /// Which of the group got the connection just made, by waiting on all of them.
  private func winner(_ group: borrowing Group) -> Int? {
    var waiting = group.descriptors.map { pollfd(fd: $0, events: Int16(POLLIN), revents: 0) }
    guard poll(&waiting, nfds_t(waiting.count), 5000) == 1,
      let index = waiting.firstIndex(where: { $0.revents != 0 })
    else { return nil }
    PlainSocket.close(accept(group.descriptors[index], nil, nil))
    return index
  }

  /// Four listeners on one port.
  struct Group: ~Copyable {
    let a: ListeningSocket
    let b: ListeningSocket
    let c: ListeningSocket
    let d: ListeningSocket
    var descriptors: [Int32] { [a.descriptor, b.descriptor, c.descriptor, d.descriptor] }

    init(_ address: Address, v6Only: Bool = true) throws {
      var options = ListeningSocket.Options()
      options.reusePort = true
      options.v6Only = v6Only
      let a = try ListeningSocket(address, port: 0, options: options)
      let b = try ListeningSocket(address, port: a.localPort, options: options)
      let c = try ListeningSocket(address, port: a.localPort, options: options)
      let d = try ListeningSocket(address, port: a.localPort, options: options)
      try b.attachSteering(workers: 4)
      self.a = a
      self.b = b
      self.c = c
      self.d = d
    }
  }

  @Test("one /24 always reaches one worker, and all workers get some", arguments: [false, true])
  func steeringIPv4(dualStack: Bool) throws {
    let group = try Group(
      dualStack ? Address(high: 0, low: 0) : loopback, v6Only: !dualStack)
    var reached = Set<Int>()
    for network in 0..<24 {
      for host: UInt32 in [1, 77, 254] {
        let source = Address(v4: 0x7F00_0000 | UInt32(network * 7 + 1) << 8 | host)
        let client = try Client(to: loopback, port: group.a.localPort, from: source)
        let index = winner(group)
        #expect(index == Steering.worker(for: source, of: 4), "\(source)")
        if let index { reached.insert(index) }
        client.reset()
      }
    }
    #expect(reached == [0, 1, 2, 3])
  }

  @Test("an IPv6 source reaches the worker its /64 belongs to", arguments: [false, true])
  func steeringIPv6(dualStack: Bool) throws {
    let group = try Group(
      dualStack ? Address(high: 0, low: 0) : loopback6, v6Only: !dualStack)
    for _ in 0..<5 {
      let client = try Client(to: loopback6, port: group.a.localPort)
      let index = winner(group)
      #expect(index == Steering.worker(for: loopback6, of: 4))
      client.reset()
    }
  }

  @Test("neighbouring networks spread evenly", arguments: [2, 3, 4, 8, 53] as [UInt32])
  func spread(workers: UInt32) {
    var v4 = [Int](repeating: 0, count: Int(workers))
    var v6 = v4
    for i in 0..<UInt64(53_000) {
      v4[Steering.worker(for: Address(v4: UInt32(i) << 8), of: workers)] += 1
      // /64s of one /48, the way a hoster hands them out
      v6[Steering.worker(for: Address(high: 0x2001_0DB8_0001_0000 | i, low: 1), of: workers)] += 1
    }
    let fair = 53_000 / Int(workers)
    for counts in [v4, v6] {
      #expect(counts.allSatisfy { $0 > fair * 8 / 10 && $0 < fair * 12 / 10 }, "\(counts)")
    }
  }

  @Test("hosts of one network are one source to the steering")
  func oneNetwork() throws {
    let a = try #require(Address("2001:db8:1:2::1"))
    let b = try #require(Address("2001:db8:1:2:ffff:ffff:ffff:ffff"))
    #expect(Steering.worker(for: a, of: 53) == Steering.worker(for: b, of: 53))
  }

  @Test("a port in use names the remedy and how to find the holder")
  func inUse() throws {
    let holder = try ListeningSocket(loopback, port: 0)
    let port = holder.localPort
    do {
      _ = try ListeningSocket(loopback, port: port)
      Issue.record("two listeners on port \(port)")
    } catch {
      #expect(error.errno == EADDRINUSE)
      #expect(error.description.contains("Cannot listen on 127.0.0.1:\(port)"))
      #expect(error.description.contains("ss -ltnp 'sport = :\(port)'"))
    }
  }

  @Test("a port that another shares is found out; what is left of old connections is no hindrance")
  func shared() throws {
    var options = ListeningSocket.Options()
    options.reusePort = true
    func hold() throws -> (port: UInt16, accepted: [Int32], clients: [Client]) {
      let holder = try ListeningSocket(loopback, port: 0, options: options)
      let port = holder.localPort
      // So it would come about that two serve one port.
      _ = try ListeningSocket(loopback, port: port, options: options)
      let error = #expect(throws: ListenError.self) {
        try ListeningSocket.refuseTaken(loopback, port: port)
      }
      #expect(error?.errno == EADDRINUSE && error?.port == port)
      let (first, one) = try connectedPair(holder)
      let (second, other) = try connectedPair(holder)
      return (port, [first, second], [one, other])
    }
    let (port, accepted, clients) = try hold()
    // The one still talks, the other is over, and its end is on our side (TIME_WAIT).
    PlainSocket.close(accepted[0])
    clients[0].close()
    try ListeningSocket.refuseTaken(loopback, port: port)
    _ = try ListeningSocket(loopback, port: port, options: options)
    PlainSocket.close(accepted[1])
  }

  @Test("an address this host lacks is told from one in use")
  func notHere() throws {
    do {
      _ = try ListeningSocket(Address(v4: 0xC000_0201), port: 0)  // 192.0.2.1, RFC 5737
      Issue.record("listening on 192.0.2.1")
    } catch {
      #expect(error.errno == EADDRNOTAVAIL)
      #expect(error.description.contains("ip addr"))
    }
    let denied = ListenError(.bind, errno: EACCES, address: loopback6, port: 25)
    #expect(denied.description.contains("[::1]:25"))
    #expect(denied.description.contains("CAP_NET_BIND_SERVICE"))
  }

  @Test("an accepted socket has the listener's options without being asked")
  func inherited() throws {
    var options = ListeningSocket.Options()
    options.receiveBufferBytes = 4096
    let listener = try ListeningSocket(loopback, port: 0, options: options)
    let (accepted, _) = try connectedPair(listener)
    defer { PlainSocket.close(accepted) }
    func option(_ level: Int32, _ name: Int32) -> Int32 {
      var value: Int32 = -1
      var length = socklen_t(4)
      getsockopt(accepted, level, name, &value, &length)
      return value
    }
    let tcp = Int32(IPPROTO_TCP)
    #expect(option(tcp, TCP_NODELAY) != 0)
    #expect(option(tcp, TCP_USER_TIMEOUT) == 60_000)
    #expect(option(SOL_SOCKET, SO_KEEPALIVE) == 1)
    #expect(option(tcp, TCP_KEEPIDLE) == 120)
    #expect(option(SOL_SOCKET, SO_RCVBUF) == 8192)
  }

  @Test("a socket address reads back what was put in")
  func socketAddress() throws {
    let six = try #require(Address("2001:db8::25"))
    let rows = [
      SocketAddress(loopback, port: 25), SocketAddress(six, port: 65_535),
      SocketAddress(loopback, port: 1, mapped: true),
    ]
    #expect(rows.map(\.address) == [loopback, six, loopback])
    #expect(rows.map(\.port) == [25, 65_535, 1])
    #expect(rows.map(\.family) == [AF_INET, AF_INET6, AF_INET6])
    #expect(rows.map(\.length) == [16, 28, 28])
  }
}
