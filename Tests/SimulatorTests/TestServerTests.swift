// SPDX-License-Identifier: Apache-2.0
import Personas
import SMTP
import Structures
import TestServer
import Testing

@Suite("The test server")
struct TestServerTests {
  /// What it said, a text for each reply, after all of `pieces` came at their moments.
  private func play(
    _ script: ServerScript, _ pieces: [(at: Int64, text: String)]
  ) -> (server: TestServer, replies: [TestServer.Reply]) {
    var server = TestServer(script, seed: 1)
    server.connected(0, now: 0)
    for piece in pieces { server.received(0, Array(piece.text.utf8).span, now: piece.at) }
    return (server, server.replies)
  }

  private func text(_ reply: TestServer.Reply?) -> String {
    String(decoding: reply?.text ?? [], as: UTF8.self)
  }

  private static let letter = "EHLO c\r\nMAIL FROM:<a@b>\r\nRCPT TO:<u@b>\r\nDATA\r\n"

  @Test(
    "agrees with the engine on where a message ends, however it is cut",
    arguments: 1...200 as ClosedRange<UInt64>)
  func agrees(seed: UInt64) {
    var random = SeededGenerator(seed: seed)
    // Mostly what may be in a message; now and then an octet that may not.
    let parts: [[UInt8]] = [
      [13, 10], [13, 10, 46], [13, 10, 46, 46], [120], Array("some text".utf8), [46], [9],
      [13, 10, 46, 13, 10],
    ]
    var bytes: [UInt8] = []
    for _ in 0..<60 {
      bytes += parts[Int(random.next() % UInt64(parts.count))]
      if random.next() % 80 == 0 { bytes += [[13], [10], [0]][Int(random.next() % 3)] }
    }
    var reader = MessageReader()
    var scanner = EndOfDataScanner()
    var rest = bytes[...]
    while !rest.isEmpty {
      let piece = Array(rest.prefix(Int(random.next() % 9) + 1))
      let end = reader.read(piece.span)
      switch scanner.scan(piece.span) {
      case .body: #expect(end == nil)
      case .end(let count):
        #expect(end == count && reader.size == Int(scanner.size) && reader.bare.sum == 0)
        let message = bytes[..<(bytes.count - rest.count + count)]
        #expect(MessageReader.unstuffed(Array(message)).count == reader.size)
        return
      case .fault:
        // The engine has seen enough; the server goes on, and has counted it once the next octet is here.
        var whole = MessageReader()
        if whole.read(bytes.span) == nil { whole.cutOff() }
        #expect(whole.bare.sum > 0)
        return
      case .rewrite: Issue.record("nothing is rewritten in strict mode")
      }
      rest = rest.dropFirst(piece.count)
    }
  }

  @Test("what is bare is counted and ends nothing")
  func bare() {
    let (server, _) = play(
      ServerScript(), [(0, Self.letter + "a\nb\rc\r\n.\n.\r.\r\nend\r\n.\r\n")])
    #expect(server.counts.bare.lf == 2 && server.counts.bare.cr == 2)
    #expect(server.counts.messages == 1)
    let (command, replies) = play(ServerScript(), [(0, "NOOP\nNOOP\r\n")])
    #expect(command.counts.bare.lf == 1 && replies.count == 2)
    #expect(text(replies.last).hasPrefix("500 5.5.2"))
  }

  @Test("a message that is cut off behind a CR has a bare CR")
  func cutOff() {
    var (server, _) = play(ServerScript(), [(0, Self.letter + "half\r")])
    server.gone(0)
    #expect(server.counts.bare.cr == 1 && server.counts.messages == 0 && server.open == 0)
  }

  @Test("delays of stages come one after the other, and nothing is read faster for it")
  func delays() {
    var script = ServerScript()
    script.delays = [.mail: 2, .rcpt: 1, .dot: 3]
    let (_, replies) = play(script, [(0, Self.letter), (5_000_000, "x\r\n.\r\nQUIT\r\n")])
    #expect(
      replies.map(\.at) == [0, 0, 2_000_000, 3_000_000, 3_000_000, 8_000_000, 8_000_000])
    #expect(replies.last?.then == .finish)
  }

  @Test("the server of a scenario greets and offers what the scenario says")
  func scenario() {
    let (_, replies) = play(ServerScript.of(Scenario.Downstream()), [(0, "EHLO c\r\n")])
    #expect(text(replies.first).hasPrefix("220 inner.example "))
    #expect(
      text(replies.last) == "250-inner.example\r\n250-PIPELINING\r\n250-SIZE 52428800\r\n"
        + "250-8BITMIME\r\n250 ENHANCEDSTATUSCODES\r\n")
  }

  @Test("messages beyond its capacity wait in line")
  func capacity() {
    var setup = Scenario.Downstream()
    setup.capacity = 2
    setup.dot = .const(0)
    setup.reply = .const(0)
    var server = TestServer(ServerScript.of(setup), seed: 1)
    for id in 0..<3 {
      server.connected(id, now: 0)
      server.received(id, Array((Self.letter + "x\r\n.\r\n").utf8).span, now: 0)
    }
    let dots = server.replies.filter { text($0).contains("counted") }
    #expect(dots.map(\.at) == [500_000, 1_000_000, 1_500_000])
  }

  @Test(
    "faults strike as often as they may, and then it behaves",
    arguments: [ServerScript.Stage.mail, .rcpt, .data, .body, .dot, .afterDot, .quit])
  func faults(stage: ServerScript.Stage) {
    var script = ServerScript()
    script.fault(stage, .hangUp(.rst))
    script.faultTimes = 1
    var server = TestServer(script, seed: 1)
    for id in 0..<2 {
      server.connected(id, now: 0)
      server.received(id, Array((Self.letter + "x\r\n.\r\nQUIT\r\n").utf8).span, now: 0)
    }
    #expect(server.replies.last { $0.session == 0 }?.then == .hangUp(.rst))
    #expect(server.replies.last { $0.session == 1 }?.then == .finish)
    // It is stored and counted behind the dot, and the fault comes before that or after it.
    let isKept = stage == .afterDot || stage == .quit
    #expect(server.counts.messages == (isKept ? 2 : 1))
  }

  @Test("one that stalls says nothing more")
  func stalls() {
    var script = ServerScript()
    script.fault(.rcpt, .stall)
    let (server, replies) = play(script, [(0, Self.letter), (1, "QUIT\r\n")])
    #expect(replies.count == 3 && server.isStalled(0))
  }

  @Test(
    "a reply that was set decides whether a message counts, and a message that cannot be stored does not"
  )
  func answers() {
    var script = ServerScript()
    script.answer(.dot, .reply("554 5.7.1 Spam"))
    #expect(play(script, [(0, Self.letter + "x\r\n.\r\n")]).server.counts.messages == 0)
    script.answer(.dot, .reply("250 2.0.0 Fine"))
    #expect(play(script, [(0, Self.letter + "x\r\n.\r\n")]).server.counts.messages == 1)
    script = ServerScript()
    script.keepsMessages = true
    var server = TestServer(script)
    server.store = { _, _ in false }
    server.connected(0, now: 0)
    server.received(0, Array((Self.letter + "x\r\n.\r\n").utf8).span, now: 0)
    #expect(text(server.replies.last).hasPrefix("452") && server.counts.messages == 0)
  }

  @Test("connections beyond its limit hear 421, and room comes back")
  func full() {
    var script = ServerScript()
    script.connectionsMax = 2
    var server = TestServer(script)
    for id in 0..<3 { server.connected(id, now: 0) }
    #expect(server.replies.last?.then == .finish && text(server.replies.last).hasPrefix("421"))
    server.gone(2)
    server.gone(0)
    server.connected(0, now: 0)
    #expect(text(server.replies.last).hasPrefix("220") && server.open == 2)
  }

  @Test(
    "PROXY headers name the peer, octet by octet too, and what is none is turned away where one must come"
  )
  func headers() {
    let v2 =
      [13, 10, 13, 10, 0, 13, 10, 81, 85, 73, 84, 10, 0x21, 0x11, 0, 12]
      + [192, 0, 2, 7, 198, 51, 100, 1, 0x9C, 0x40, 0, 25] as [UInt8]
    for header in [Array("PROXY TCP4 192.0.2.7 198.51.100.1 40000 25\r\n".utf8), v2] {
      var script = ServerScript()
      script.header = .mustCome
      var server = TestServer(script)
      server.connected(0, now: 0)
      #expect(server.replies.isEmpty)
      for byte in header { server.received(0, [byte].span, now: 0) }
      #expect(server.proxied(0) == "192.0.2.7:40000" && text(server.replies.last).hasPrefix("220"))
      server.connected(1, now: 0)
      server.received(1, Array("EHLO c\r\n".utf8).span, now: 0)
      #expect(server.replies.last?.then == .hangUp(.rst))
    }
    // Where one may come, the rest of the octets is the client's.
    let (server, replies) = play(
      ServerScript(), [(0, "PROXY TCP4 192.0.2.7 198.51.100.1 40000 25\r\nEHLO c\r\n")])
    #expect(server.proxied(0) == "192.0.2.7:40000" && replies.count == 2)
  }
}
