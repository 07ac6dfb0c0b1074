// SPDX-License-Identifier: Apache-2.0
import CAllocations
import COpenSSL
import Structures
import Testing

@testable import TLS

/// What sessions take and give back, and that no input makes them take more.
struct MemoryTests {
  /// Bytes of each of `count` server sessions at rest, and of one in use.
  private func bytesEach(_ version: Version, _ count: Int, tickets: Bool) throws -> Int {
    let server = try serverContext(keys: tickets ? TLSTicketKeys(rotation: 3_600) : nil)
    let client = try clientContext(version)
    var table = TLSTable(capacity: count)
    let text = Array("EHLO mx.example.net\r\n".utf8)
    var held: Int64 = 0
    for number in 0..<count {
      let other = End(client)
      let before = bytes_held_by_this_thread()
      guard let channel = TLSChannel(server), let index = table.insert(channel) else { break }
      held += bytes_held_by_this_thread() - before
      // To and fro by hand, with only what the server's side takes counted.
      var isDone = false
      var back: [UInt8] = []
      var bytes = other.speak()
      var room = [UInt8](repeating: 0, count: 64)
      while !bytes.isEmpty {
        var taken = 0
        let start = bytes_held_by_this_thread()
        if !isDone {
          if case .established = table[index].advance(bytes.span, taken: &taken) { isDone = true }
        }
        if isDone {
          var span = room.mutableSpan
          while case .bytes = table[index].read(bytes.span, taken: &taken, into: &span) {}
        }
        held += bytes_held_by_this_thread() - start
        back = [UInt8](repeating: 0, count: table[index].pendingOutput)
        var span = back.mutableSpan
        _ = table[index].take(into: &span)
        other.hear(back)
        bytes = other.speak()
      }
      #expect(isDone)
      // One command and one reply: buffers have been made and must go again.
      let wire = other.say(text)
      let start = bytes_held_by_this_thread()
      var taken = 0
      var span = room.mutableSpan
      let read = table[index].read(wire.span, taken: &taken, into: &span)
      #expect(read == .bytes(text.count))
      _ = table[index].write(text.span)
      held += bytes_held_by_this_thread() - start
      back = [UInt8](repeating: 0, count: table[index].pendingOutput)
      var out = back.mutableSpan
      _ = table[index].take(into: &out)
      let last = bytes_held_by_this_thread()
      table[index].giveBack()
      held += bytes_held_by_this_thread() - last
      if number == 0 { held = 0 }  // What is made once for all of them.
    }
    return Int(held) / (count - 1)
  }

  @Test("an idle session takes at most 18,000 bytes", arguments: Version.allCases)
  func idle(version: Version) throws {
    for tickets in [true, false] {
      let bytes = try bytesEach(version, 501, tickets: tickets)
      print("an idle server session of \(version.rawValue), tickets \(tickets): \(bytes) B")
      #expect(bytes > 4_000 && bytes <= 18_000, "\(bytes)")
    }
  }

  @Test("a thousand sessions leave nothing behind", arguments: Version.allCases)
  func leaks(version: Version) throws {
    let server = try serverContext()
    let client = try clientContext(version)
    func once() {
      let pair = Pair(server, client)
      pair.run()
      pair.server.closeNotify()
      pair.client.hear(pair.server.speak())
    }
    for _ in 0..<50 { once() }
    let before = bytes_held_by_this_thread()
    for _ in 0..<1_000 { once() }
    let after = bytes_held_by_this_thread()
    #expect(after - before < 20_000, "\(after - before)")
  }

  @Test(
    "we allocate nothing for a command, a reply or a drip that OpenSSL does not",
    arguments: Version.allCases)
  func allocations(version: Version) throws {
    let pair = Pair(try serverContext(), try clientContext(version))
    pair.run()
    let text = Array("NOOP\r\n".utf8)
    var room = [UInt8](repeating: 0, count: 256)
    let wires = (0..<300).map { _ in pair.client.say(text) }
    func ours(_ wire: [UInt8]) {
      var taken = 0
      let read = pair.server.read(wire, &taken, into: &room)
      precondition(read == .bytes(text.count))
      _ = pair.server.write(text)
      _ = pair.server.write(UInt8(65))
      _ = pair.server.take(into: &room)
    }
    // The same by OpenSSL's own functions.
    func bare(_ wire: [UInt8]) {
      let session = pair.server.session
      wire.withUnsafeBytes { raw in
        pair.server.lend(raw)
        var count = 0
        let status = SSL_read_ex(session, &room, room.count, &count)
        precondition(status == 1 && count == text.count)
        SSL_write_ex(session, text, text.count, &count)
        SSL_write_ex(session, text, 1, &count)
        pair.server.lend(UnsafeRawBufferPointer(start: nil, count: 0))
      }
      _ = pair.server.take(into: &room)
    }
    for wire in wires[..<100] { ours(wire) }
    let start = allocations_of_this_thread()
    for wire in wires[100..<200] { ours(wire) }
    let middle = allocations_of_this_thread()
    for wire in wires[200...] { bare(wire) }
    let end = allocations_of_this_thread()
    print(
      "allocations of a read and two writes in \(version.rawValue): \((middle - start) / 100), "
        + "by OpenSSL alone \((end - middle) / 100)")
    #expect(middle - start <= end - middle)
  }

  @Test("no hello makes us take memory for what it only claims, not the second one either")
  func claims() throws {
    let server = try serverContext { $0.groups = "P-384" }
    let client = try clientContext(.v13) { $0.groups = "X25519:P-384" }
    let claim: [UInt8] = [22, 3, 3, 1, 0, 1, 1, 0xFF, 0xFF]
    for hasRetry in [false, true] {
      for piece in [1, Int.max] {
        let end = End(server)
        let hello = End(client).speak()
        let before = bytes_held_by_this_thread()
        if hasRetry { end.hear(hello) }
        forget_most_bytes_held()
        Pair.carry(claim, piece) { end.hear($0) }
        #expect(end.handshake.failure == "bad ClientHello")
        #expect(most_bytes_held_by_this_thread() - before < 80_000)
        // And when both come at once.
        let both = End(server)
        Pair.carry(hello + claim, piece) { both.hear($0) }
        #expect(both.handshake.failure == "bad ClientHello")
      }
    }
  }

  @Test("10,000 short inputs of all kinds end no process and pin no memory")
  func fuzz() throws {
    let server = try serverContext(asksForCertificates: true)
    var generator = SeededGenerator(seed: 0x5105)
    var hellos: [[UInt8]] = []
    for version in Version.allCases {
      let end = End(try clientContext(version))
      hellos.append(end.speak())
    }
    var outcomes: [String: Int] = [:]
    var most: Int64 = 0
    func try1(_ bytes: [UInt8]) {
      let before = bytes_held_by_this_thread()
      forget_most_bytes_held()
      let end = End(server)
      Pair.carry(bytes, Int.random(in: 1...200, using: &generator)) { end.hear($0) }
      #expect(!end.isEstablished)
      most = max(most, most_bytes_held_by_this_thread() - before)
      outcomes[end.handshake.failure ?? "waits", default: 0] += 1
    }
    for _ in 0..<100 { try1(hellos[0]) }
    let before = bytes_held_by_this_thread()
    most = 0
    for number in 0..<10_000 {
      var bytes: [UInt8]
      switch number % 4 {
      case 0:
        bytes = (0..<Int.random(in: 0...300, using: &generator)).map { _ in
          UInt8.random(in: 0...255, using: &generator)
        }
      case 1:
        // The header of a record in front of noise.
        let count = UInt8.random(in: 0...255, using: &generator)
        bytes = [UInt8.random(in: 20...23, using: &generator), 3, 3, 0, count]
        for _ in 0..<300 { bytes.append(UInt8.random(in: 0...255, using: &generator)) }
      default:
        bytes = hellos[number % 4 - 2]
        for _ in 0..<Int.random(in: 1...6, using: &generator) {
          let place = Int.random(in: 0..<bytes.count, using: &generator)
          bytes[place] = UInt8.random(in: 0...255, using: &generator)
        }
        if Bool.random(using: &generator) {
          bytes.removeLast(Int.random(in: 0..<bytes.count, using: &generator))
        }
      }
      try1(bytes)
    }
    let left = bytes_held_by_this_thread() - before
    print("fuzz: at most \(most) B at once; \(outcomes.sorted { $0.value > $1.value })")
    #expect(left < 100_000, "\(left) bytes were left behind")
    #expect(most < 150_000, "one handshake took \(most) bytes")
    #expect(outcomes.count > 5)
  }

  @Test("in 500 sessions a bit is changed on its way: nothing of it comes out, and each ends")
  func changedRecords() throws {
    let server = try serverContext()
    var generator = SeededGenerator(seed: 7)
    let text = Array("MAIL FROM:<>\r\n".utf8)
    var ended = 0
    for number in 0..<500 {
      let pair = Pair(server, try clientContext(number % 2 == 0 ? .v12 : .v13))
      pair.run()
      // A changed length makes it wait for more; then what follows does not fit.
      for _ in 0..<2_000 where pair.server.failure == nil {
        var wire = pair.client.say(text)
        let place = Int.random(in: 0..<wire.count, using: &generator)
        wire[place] ^= 1 << UInt8.random(in: 0..<8, using: &generator)
        pair.server.hear(wire)
      }
      #expect(pair.server.plain.isEmpty)
      if pair.server.failure != nil { ended += 1 }
    }
    #expect(ended == 500)
  }
}
