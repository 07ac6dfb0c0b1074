// SPDX-License-Identifier: Apache-2.0
//
// A connection's whole way through the ring over loopback, and the ways it can end. Not a load test.
// Keeps: every promise the driver's closing ladder leans on is shown once against the real kernel.

import Glibc
import Structures
import Testing
import Uring

@Suite struct SocketTests {
  @Test("accept, saved SYN, move into a slot, poll, receive, send, close", arguments: [4, 6])
  func echo(version: Int) throws {
    var ring = try Ring(entries: 64, slots: 16)
    var buffers = try BufferRing(ring, group: 3, count: 8, bytesEach: 512)
    var options = ListeningSocket.Options()
    options.receiveBufferBytes = 4096
    let address = version == 4 ? loopback : loopback6
    let listener = try ListeningSocket(address, port: 0, options: options)
    let accept = Token(.accept)
    ring.acceptMultishot(listener: listener.descriptor, token: accept)
    try ring.submitAndWait(for: 1, timeoutMicroseconds: 0)

    let slot: Int32 = 5
    func token(_ operation: Operation) -> Token { Token(operation, generation: 1, index: 5) }
    for round in 0..<3 {
      let client = try Client(to: address, port: listener.localPort)
      let accepted = try first(collect(&ring, 1), .accept)
      try #require(accepted.result >= 0 && accepted.hasMore)
      let peer = try #require(AcceptedPeer(descriptor: accepted.result))
      let local = try #require(clientAddress(client))
      #expect(peer.hasSYN)
      #expect(peer.syn.source == address && peer.syn.sourcePort == local.port)
      #expect(peer.syn.destination == address && peer.syn.destinationPort == listener.localPort)
      #expect(peer.syn.timeToLive == 64 && peer.syn.maximumSegment != nil)
      #expect(peer.syn.windowScale != nil && peer.syn.fingerprint != 0)

      try move(accepted.result, into: slot, of: &ring)
      ring.pollAdd(slot: slot, mask: Ring.readable, token: token(.poll))
      client.write("EHLO \(round)\r\n")
      let readable = try first(collect(&ring, 1), .poll)
      #expect(readable.result & 1 == 1)

      ring.receive(slot: slot, group: 3, bytesMax: 512, token: token(.receive))
      let received = try first(collect(&ring, 1), .receive)
      try #require(received.result == 8)
      let claimed = buffers.claim(received)
      let id = try #require(claimed)
      #expect(buffers.free == 7)
      ring.send(
        slot: slot, buffers.pointer(for: id), count: 8, flags: Int32(MSG_WAITALL),
        token: token(.send))
      let sent = try first(collect(&ring, 1), .send)
      #expect(sent.result == 8)
      buffers.recycle(id)
      #expect(buffers.free == 8)
      #expect(client.read() == "EHLO \(round)\r\n")

      ring.closeDirect(slot: slot, token: token(.close))
      let closed = try first(collect(&ring, 1), .close)
      #expect(closed.result == 0)
      #expect(client.read() == "")
      ring.receive(slot: slot, group: 3, bytesMax: 512, token: token(.receive))
      let gone = try first(collect(&ring, 1), .receive)
      #expect(gone.result == -EBADF)
    }
    ring.cancel(accept, token: Token(.cancel))
    let ended = try collect(&ring, 2)
    #expect(try first(ended, .cancel).result == 0)
    let last = try first(ended, .accept)
    #expect(last.result == -ECANCELED && !last.hasMore)
  }

  private func clientAddress(_ client: Client) -> (address: Address, port: UInt16)? {
    var place = sockaddr_in6()
    var length = socklen_t(28)
    let status = withUnsafeMutablePointer(to: &place) { whole in
      whole.withMemoryRebound(to: sockaddr.self, capacity: 1) {
        getsockname(client.descriptor, $0, &length)
      }
    }
    return status == 0 ? (loopback, UInt16(bigEndian: place.sin6_port)) : nil
  }

  @Test("a saved SYN can be read once; then the addresses come from getpeername")
  func fallback() throws {
    let listener = try ListeningSocket(loopback, port: 0)
    let (accepted, client) = try connectedPair(listener)
    defer { PlainSocket.close(accepted) }
    let full = try #require(AcceptedPeer(descriptor: accepted))
    let poor = try #require(AcceptedPeer(descriptor: accepted))
    #expect(full.hasSYN && !poor.hasSYN)
    #expect(poor.syn.source == full.syn.source && poor.syn.sourcePort == full.syn.sourcePort)
    #expect(poor.syn.destinationPort == listener.localPort && poor.syn.fingerprint == 0)
    client.reset()
    #expect(AcceptedPeer(descriptor: accepted) == nil)
  }

  @Test("a socket made in a slot connects, talks, and is shut down")
  func connect() throws {
    var ring = try Ring(entries: 64, slots: 16)
    let listener = try ListeningSocket(loopback, port: 0)
    let place = Pinned(SocketAddress(loopback, port: listener.localPort))
    ring.openSocket(domain: AF_INET, type: stream, slot: 9, token: Token(.openSocket, index: 9))
    let opened = try first(collect(&ring, 1), .openSocket)
    #expect(opened.result == 0)
    ring.connect(slot: 9, to: UnsafePointer(place.pointer), token: Token(.connect, index: 9))
    let connected = try first(collect(&ring, 1), .connect)
    try #require(connected.result == 0)
    let accepted = accept(listener.descriptor, nil, nil)
    defer { PlainSocket.close(accepted) }
    _ = send(accepted, "220 hello\r\n", 11, 0)
    let bytes = UnsafeMutableRawPointer.allocate(byteCount: 64, alignment: 8)
    defer { bytes.deallocate() }
    ring.receive(slot: 9, into: bytes, count: 64, token: Token(.receive, index: 9))
    let received = try first(collect(&ring, 1), .receive)
    #expect(received.result == 11)
    ring.shutdown(slot: 9, how: 1, token: Token(.shutdown, index: 9))
    let shut = try first(collect(&ring, 1), .shutdown)
    #expect(shut.result == 0)
    var byte: UInt8 = 0
    #expect(recv(accepted, &byte, 1, 0) == 0)
  }

  @Test("a refused connection says so")
  func refused() throws {
    var ring = try Ring(entries: 64, slots: 16)
    let port = try ListeningSocket(loopback, port: 0).localPort  // closed again right away
    let place = Pinned(SocketAddress(loopback, port: port))
    ring.openSocket(domain: AF_INET, type: stream, slot: 0, token: Token(.openSocket))
    _ = try collect(&ring, 1)
    ring.connect(slot: 0, to: UnsafePointer(place.pointer), token: Token(.connect))
    let connected = try first(collect(&ring, 1), .connect)
    #expect(connected.result == -ECONNREFUSED)
  }

  @Test("a peer's reset ends the poll and the receive with it")
  func reset() throws {
    var ring = try Ring(entries: 64, slots: 16)
    let buffers = try BufferRing(ring, group: 0, count: 2, bytesEach: 64)
    let listener = try ListeningSocket(loopback, port: 0)
    let (accepted, client) = try connectedPair(listener)
    try move(accepted, into: 1, of: &ring)
    ring.pollAdd(slot: 1, mask: Ring.readable, token: Token(.poll, index: 1))
    try ring.submitAndWait(for: 1, timeoutMicroseconds: 0)
    client.reset()
    let polled = try first(collect(&ring, 1), .poll)
    #expect(polled.result & Int32(POLLHUP | POLLERR) != 0)
    ring.receive(slot: 1, group: 0, bytesMax: 64, token: Token(.receive, index: 1))
    let received = try first(collect(&ring, 1), .receive)
    #expect(received.result == -ECONNRESET && received.buffer == nil)
    #expect(buffers.free == 2)
    ring.send(slot: 1, "2", count: 1, skipSuccess: true, token: Token(.send, index: 1))
    let sent = try first(collect(&ring, 1), .send)
    #expect(sent.result == -EPIPE)
  }

  @Test("a send with its success skipped is silent, unless it was short")
  func skipSuccess() throws {
    var ring = try Ring(entries: 64, slots: 16)
    let listener = try ListeningSocket(loopback, port: 0)
    let (accepted, client) = try connectedPair(listener)
    PlainSocket.setOption(accepted, SOL_SOCKET, SO_SNDBUF, 4096)
    try move(accepted, into: 1, of: &ring)
    ring.send(slot: 1, "2", count: 1, skipSuccess: true, token: Token(.send, index: 1))
    ring.nothing(token: Token(.nothing))
    let only = try collect(&ring, 1)
    #expect(only.map(\.token.operation) == [.nothing])
    #expect(client.read() == "2")
    let many = UnsafeMutableRawPointer.allocate(byteCount: 32 << 20, alignment: 8)
    many.initializeMemory(as: UInt8.self, repeating: 0, count: 32 << 20)
    defer { many.deallocate() }
    ring.send(
      slot: 1, many, count: 32 << 20, flags: Int32(MSG_DONTWAIT), skipSuccess: true,
      token: Token(.send, index: 1))
    let short = try first(collect(&ring, 1), .send)
    #expect(short.result > 0 && short.result < 32 << 20)
  }

  @Test("an armed poll cancelled brings ECANCELED; a finished one brings ENOENT to the canceller")
  func cancelPoll() throws {
    var ring = try Ring(entries: 64, slots: 16)
    let wakeUp = try WakeUp()
    var one = wakeUp.descriptor
    try ring.updateFiles(startingAt: 3, &one, count: 1)
    let poll = Token(.poll, generation: 1, index: 3)
    let cancel = Token(.cancel, generation: 1, index: 3)

    ring.pollAdd(slot: 3, mask: 1, token: poll)
    ring.cancel(poll, token: cancel)
    var both = try collect(&ring, 2)
    #expect(try first(both, .poll).result == -ECANCELED)
    #expect(try first(both, .cancel).result == 0)

    ring.pollAdd(slot: 3, mask: 1, token: poll)
    ring.pollAdd(slot: 3, mask: 1, token: poll)
    ring.cancelAll(slot: 3, token: cancel)
    both = try collect(&ring, 3)
    #expect(both.filter { $0.token == poll && $0.result == -ECANCELED }.count == 2)
    #expect(try first(both, .cancel).result == 2)

    wakeUp.signal()
    ring.pollAdd(slot: 3, mask: 1, token: poll)
    ring.cancel(poll, token: cancel)
    both = try collect(&ring, 2)
    #expect(try first(both, .poll).result == 1)
    #expect(try first(both, .cancel).result == -ENOENT)
    ring.cancelAll(slot: 3, token: cancel)
    let none = try first(collect(&ring, 1), .cancel).result
    #expect(none == 0 || none == -ENOENT)
  }

  @Test("closing a slot with a poll in flight sends no FIN before the poll is cancelled")
  func closeCancelsNothing() throws {
    var ring = try Ring(entries: 64, slots: 16)
    let listener = try ListeningSocket(loopback, port: 0)
    let (accepted, client) = try connectedPair(listener)
    try move(accepted, into: 1, of: &ring)
    let poll = Token(.poll, index: 1)
    ring.pollAdd(slot: 1, mask: Ring.readable, token: poll)
    ring.closeDirect(slot: 1, token: Token(.close, index: 1))
    let closed = try first(collect(&ring, 1), .close)
    #expect(closed.result == 0)
    var byte: UInt8 = 0
    #expect(recv(client.descriptor, &byte, 1, Int32(MSG_DONTWAIT)) == -1 && errno == EAGAIN)
    ring.cancel(poll, token: Token(.cancel))
    _ = try collect(&ring, 2)
    #expect(client.read() == "")
  }

  @Test("one buffer serves a hundred sockets when the starved are armed again in turn")
  func oneBuffer() throws {
    var ring = try Ring(entries: 256, slots: 100)
    var buffers = try BufferRing(ring, group: 0, count: 1, bytesEach: 16)
    let rounds = 5
    var clients: [Int32] = []
    for slot in 0..<100 {
      var pair: (Int32, Int32) = (0, 0)
      let made = withUnsafeMutableBytes(of: &pair) { raw in
        raw.withMemoryRebound(to: Int32.self) { socketpair(AF_UNIX, stream, 0, $0.baseAddress) }
      }
      try #require(made == 0)
      try move(pair.0, into: Int32(slot), of: &ring)
      clients.append(pair.1)
      for _ in 0..<rounds { _ = send(pair.1, "0123456789abcdef", 16, 0) }
    }
    defer { for client in clients { PlainSocket.close(client) } }

    var got = [Int](repeating: 0, count: 100)
    var starved: [UInt32] = Array(0..<100)
    var next = 0
    var claimed: UInt16?
    let deadline = MonotonicClock.now() + 10_000_000
    func arm(_ slot: UInt32, _ ring: inout Ring) {
      ring.receive(
        slot: Int32(slot), group: 0, bytesMax: 16, token: Token(.receive, index: slot))
    }
    // All at once, so that 99 find no buffer; after that each returned buffer arms the next in turn.
    for slot in 0..<100 { arm(UInt32(slot), &ring) }
    starved.removeAll()
    while got.contains(where: { $0 < rounds }) && MonotonicClock.now() < deadline {
      try ring.submitAndWait(for: 1, timeoutMicroseconds: 100_000)
      let count = ring.completions()
      for i in 0..<count {
        let completion = ring.completion(at: i)
        if let id = buffers.claim(completion) {
          got[Int(completion.token.index)] += 1
          starved.append(completion.token.index)
          claimed = id
        } else {
          #expect(completion.result == -ENOBUFS)
          ring.counters.noBuffers += 1
          starved.append(completion.token.index)
        }
      }
      ring.advance(count)
      if let id = claimed {
        buffers.recycle(id)
        claimed = nil
        while next < starved.count {
          let slot = starved[next]
          next += 1
          if got[Int(slot)] < rounds {
            arm(slot, &ring)
            break
          }
        }
      }
    }
    #expect(got.allSatisfy { $0 == rounds }, "\(got)")
    #expect(ring.counters.noBuffers == 99)
    #expect(buffers.free == 1)
  }

  @Test(
    "a socket option is set through the ring where the kernel can, and refused cleanly elsewhere")
  func options() throws {
    var ring = try Ring(entries: 64, slots: 16)
    let listener = try ListeningSocket(loopback, port: 0)
    let (accepted, _) = try connectedPair(listener)
    let other = dup(accepted)
    defer { PlainSocket.close(other) }
    try move(accepted, into: 1, of: &ring)
    let value = Pinned<Int32>(77_777)
    ring.setSocketOption(
      slot: 1, level: SOL_SOCKET, name: SO_RCVBUF, value: UnsafePointer(value.pointer),
      token: Token(.setOption, index: 1))
    let set = try first(collect(&ring, 1), .setOption)
    #expect((set.result == 0) == ring.setsSocketOptions)
    if ring.setsSocketOptions {
      var now: Int32 = 0
      var length = socklen_t(4)
      getsockopt(other, SOL_SOCKET, SO_RCVBUF, &now, &length)
      #expect(now == 155_554)
    }
  }

  @Test("a refusal reaches a peer that had already talked")
  func refusal() throws {
    let listener = try ListeningSocket(loopback, port: 0)
    let (accepted, client) = try connectedPair(listener)
    client.write("GET / HTTP/1.1\r\n\r\n")
    usleep(20_000)
    let text = Array("421 busy\r\n".utf8)
    let whole = SyncSend.refuse(accepted, with: text.span)
    #expect(whole)
    #expect(client.read() == "421 busy\r\n")
    #expect(client.read() == "")
  }
}
