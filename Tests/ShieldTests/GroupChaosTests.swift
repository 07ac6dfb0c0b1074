// SPDX-License-Identifier: Apache-2.0
import Policy
import Shield
import Simulator
import Structures
import Suspicion
import Testing

/// Clients that send MAIL, recipients and DATA in one write and keep to the protocol, and a downstream that says
/// of each reply which command it is for, in odd pieces and at odd times, refuses some and dies at times.
@Suite("Groups of commands, whatever the downstream does")
struct GroupChaosTests {
  /// A mail server of few manners: every reply names its command.
  private struct Server {
    struct Link {
      var input: [UInt8] = []
      var output: [UInt8] = []
      var hasMail = false
      var recipients = 0
      var inBody = false
      /// Closes once its output is out.
      var isDying = false
      var isGone = false
    }

    var links: [Int: Link] = [:]
    var dialled = 0
    /// Messages that it answered for with 250, or would have, had it not died.
    var taken: [String] = []

    mutating func reply(_ id: Int, _ code: Int, _ text: String, _ random: inout SeededGenerator) {
      var lines = "\(code) \(text)\r\n"
      if random.next() % 24 == 0 {
        // Longer than what is kept of a reply.
        let filler = "\(code)-" + String(repeating: "x", count: 300) + "\r\n"
        lines =
          "\(code)-\(text)\r\n"
          + (0..<Int(random.next() % 40)).map { _ in filler }.joined() + "\(code) end\r\n"
      }
      links[id]?.output += Array(lines.utf8)
    }

    mutating func hear(_ id: Int, _ bytes: [UInt8], _ random: inout SeededGenerator) {
      links[id]?.input += bytes
      while let link = links[id], !link.isDying, !link.isGone {
        let text = String(decoding: link.input, as: UTF8.self)
        let mark = link.inBody ? "\r\n.\r\n" : "\r\n"
        guard let end = text.firstRange(of: mark) else { break }
        let piece = String(text[..<end.lowerBound])
        links[id]?.input.removeFirst(piece.utf8.count + mark.utf8.count)
        if random.next() % 60 == 0 {
          if random.next() % 2 == 0 { reply(id, 421, "4.3.2 bye", &random) }
          links[id]?.isDying = true
          break
        }
        if link.inBody {
          links[id]?.inBody = false
          message(id, piece, &random)
        } else {
          command(id, piece, &random)
        }
      }
    }

    private mutating func message(_ id: Int, _ text: String, _ random: inout SeededGenerator) {
      let isFine = links[id].map { $0.recipients > 0 } ?? false
      links[id]?.recipients = 0
      links[id]?.hasMail = false
      if !isFine || random.next() % 10 == 0 {
        reply(id, 554, "5.6.0 message", &random)
        return
      }
      taken.append(text)
      if random.next() % 12 == 0 {
        links[id]?.isDying = true
      } else {
        reply(id, 250, "2.0.0 message", &random)
      }
    }

    private mutating func command(_ id: Int, _ line: String, _ random: inout SeededGenerator) {
      let hasMail = links[id]?.hasMail ?? false
      switch line.prefix(4) {
      case "EHLO":
        links[id]?.output += Array("250-inner.test\r\n250-PIPELINING\r\n250 8BITMIME\r\n".utf8)
      case "MAIL":
        let isRefused = random.next() % 5 == 0
        links[id]?.hasMail = !isRefused
        links[id]?.recipients = 0
        reply(id, isRefused ? 550 : 250, line, &random)
      case "RCPT":
        let code = !hasMail ? 503 : [250, 250, 250, 250, 251, 550, 450][Int(random.next() % 7)]
        if code / 100 == 2 { links[id]?.recipients += 1 }
        reply(id, code, line, &random)
      case "DATA":
        let recipients = links[id]?.recipients ?? 0
        let isTaken = hasMail && random.next() % 10 != (recipients > 0 ? 0 : 1)
        if isTaken && (recipients > 0 || random.next() % 3 == 0) {
          links[id]?.inBody = true
          // An empty message is its dot alone.
          let ahead = links[id]?.input ?? []
          links[id]?.input = Array("\r\n".utf8) + ahead
          reply(id, 354, line, &random)
        } else {
          reply(id, hasMail ? 554 : 503, line, &random)
        }
      case "RSET":
        links[id]?.hasMail = false
        links[id]?.recipients = 0
        reply(id, 250, line, &random)
      default:
        reply(id, 221, line, &random)
        links[id]?.isDying = true
      }
    }
  }

  /// A sender that keeps to RFC 2920.
  private struct Sender {
    let socket: Int
    let name: Int
    var isGreeted = false
    var isDone = false
    var transactions: Int
    var number = 0
    /// Commands whose replies are still to come, oldest first.
    var expected: [String] = []
    var unsent: [UInt8] = []
    var input: [UInt8] = []
    var body: String?
    var accepted = 0
    var goesAhead = false

    /// The oldest whole reply in what came.
    mutating func nextReply() -> String? {
      let text = String(decoding: input, as: UTF8.self)
      var end = text.startIndex
      while let range = text[end...].firstRange(of: "\r\n") {
        let line = text[end..<range.lowerBound]
        end = range.upperBound
        if line.dropFirst(3).first != "-" {
          let reply = String(text[..<end])
          input.removeFirst(reply.utf8.count)
          return reply
        }
      }
      return nil
    }

    mutating func beginNext(_ random: inout SeededGenerator) {
      goesAhead = false
      accepted = 0
      if transactions == 0 {
        expected = ["QUIT"]
      } else {
        transactions -= 1
        number += 1
        // After a DATA that was refused the transaction is still open.
        expected = number > 1 ? ["RSET"] : []
        expected.append("MAIL FROM:<c\(name)t\(number)@b.c>")
        let most = random.next() % 3 == 0 ? 40 : 6
        for n in 0..<Int(random.next() % UInt64(most)) {
          expected.append("RCPT TO:<c\(name)t\(number)r\(n)@e.f>")
          if random.next() % 30 == 0 { expected.append("NOOP") }
        }
        expected.append("DATA")
      }
      unsent = Array(expected.map { $0 + "\r\n" }.joined().utf8)
    }
  }

  private func play(_ seed: UInt64) {
    var random = SeededGenerator(seed: seed)
    var driver = VirtualDriver(
      engine: Engine(
        policy: policy(access: "127.0.5.0/24 trusted\n") {
          $0.session.errors = 1_000
          $0.session.badRecipients = 1_000
          $0.session.errorStreak = 1_000
          if random.next() % 4 == 0 { $0.bareNewline = .reject }
        }, limits: limits { $0.downstreamConnections = 8 }, seed: seed))
    var server = Server()
    driver.receiveMax = random.next() % 4 != 0 ? .max : Int(random.next() % 40) + 1
    var senders: [Sender] = []
    for n in 0..<5 {
      let address = "127.0.\(n % 2 == 0 ? 5 : 1).\(n + 1)"
      guard let source = Address(address),
        let socket = driver.connect(Peer(address: source, port: 4_000, listener: 0))
      else { continue }
      senders.append(
        Sender(socket: socket, name: n, transactions: Int(random.next() % 3) + 1))
    }
    var bodies: Set<String> = []
    var sure: [String] = []
    for turn in 0..<6_000 {
      // The downstream, as much of it as it feels like.
      while server.dialled < driver.dialled.count {
        server.links[driver.dialled[server.dialled]] = .init(
          output: Array("220 inner.test\r\n".utf8))
        server.dialled += 1
      }
      for id in server.links.keys.sorted() {
        server.hear(id, driver.heard(id).bytes, &random)
        let ready = server.links[id]?.output.count ?? 0
        let count = random.next() % 3 == 0 ? ready : min(ready, Int(random.next() % 60))
        if count > 0, let bytes = server.links[id]?.output.prefix(count) {
          server.links[id]?.output.removeFirst(count)
          driver.say(id, Array(bytes))
        }
        if let link = server.links[id], link.isDying, link.output.isEmpty, !link.isGone {
          server.links[id]?.isGone = true
          driver.end(id)
        }
        if !driver.sockets[id].isOpen { server.links[id] = nil }
      }
      for k in senders.indices where !senders[k].isDone {
        step(&senders[k], &driver, &bodies, &sure, &random, seed)
      }
      if senders.allSatisfy({ $0.isDone }) { break }
      driver.advance(by: .milliseconds(turn < 3_000 ? Int(random.next() % 400) : 2_000))
    }
    for sender in senders where !sender.isDone {
      Issue.record("seed \(seed): sender \(sender.name) still waits for \(sender.expected)")
    }
    for body in sure {
      let isThere = server.taken.contains(body)
      #expect(isThere, "seed \(seed): acknowledged and not there: \(body.prefix(200))")
    }
    for text in server.taken {
      let wasSent = bodies.contains(text)
      #expect(wasSent, "seed \(seed): taken and never sent: \(text.prefix(200))")
    }
    let isOnce = Set(server.taken).count == server.taken.count
    #expect(isOnce, "seed \(seed): taken twice")
    for sender in senders { driver.reset(sender.socket) }
    driver.downstreamListens = false
    driver.advance(by: .seconds(7_300))
    #expect(driver.engine.heldCount == 0, "seed \(seed): a slot was not freed")
    #expect(driver.engine.linkCount == 0, "seed \(seed): a link was not freed")
    #expect(driver.engine.leasedSessions == 0, "seed \(seed): a session was not returned")
    #expect(driver.engine.sharesAreEmpty == true, "seed \(seed): a share was not given back")
  }

  private func step(
    _ sender: inout Sender, _ driver: inout VirtualDriver, _ bodies: inout Set<String>,
    _ sure: inout [String], _ random: inout SeededGenerator, _ seed: UInt64
  ) {
    if random.next() % 10 == 0 {
      driver.setWindow(sender.socket, random.next() % 2 == 0 ? .max : Int(random.next() % 300))
    }
    if random.next() % 5_000 == 0 { driver.reset(sender.socket) }
    sender.input += driver.heard(sender.socket).bytes
    while let reply = sender.nextReply() {
      take(reply, of: &sender, &bodies, &sure, &random, seed)
      if sender.isDone { return }
    }
    if !driver.sockets[sender.socket].isOpen {
      sender.isDone = true
      return
    }
    if !sender.unsent.isEmpty {
      let count =
        random.next() % 8 != 0
        ? sender.unsent.count : min(sender.unsent.count, Int(random.next() % 200))
      driver.say(sender.socket, Array(sender.unsent.prefix(count)))
      sender.unsent.removeFirst(count)
    }
  }

  private func take(
    _ reply: String, of sender: inout Sender, _ bodies: inout Set<String>, _ sure: inout [String],
    _ random: inout SeededGenerator, _ seed: UInt64
  ) {
    let code = Int(reply.prefix(3)) ?? 0
    if code == 421 {
      sender.isDone = true
      return
    }
    if !sender.isGreeted {
      sender.isGreeted = true
      sender.expected = ["EHLO"]
      sender.unsent = Array("EHLO client.example.org\r\n".utf8)
      return
    }
    guard !sender.expected.isEmpty else {
      Issue.record("seed \(seed): \(sender.name) heard a reply to nothing: \(reply.prefix(100))")
      sender.isDone = true
      return
    }
    let command = sender.expected.removeFirst()
    let first = reply.prefix(120).split(separator: "\r\n").first.map(String.init) ?? ""
    let isMail = ["MAIL", "RCPT", "DATA", "mess"].contains { command.hasPrefix($0) }
    let names = ["MAIL FROM", "RCPT TO", "DATA", "message"].filter { first.contains($0) }
    // Where it is the downstream's, it is for this command; and nothing but the downstream says yes to mail.
    // MAIL said again on a new connection may be refused there: that is the answer to the recipient at hand.
    let isTheirs =
      first.dropFirst(4).hasSuffix(command)
      || command.hasPrefix("RCPT") && code >= 400 && names == ["MAIL FROM"]
    // A reply may be cut down to its code where the client does not take its replies.
    let isShort = !names.isEmpty || code >= 400 ? false : isMail && first.count < 30
    if !isShort && (isMail && code < 400 && !isTheirs || !names.isEmpty && !isTheirs) {
      Issue.record("seed \(seed): \(sender.name) said \(command) and heard \(first)")
    }
    if first.contains("554 5.5.0") {
      Issue.record("seed \(seed): \(sender.name) was told that it spoke early: \(command)")
    }
    if command.hasPrefix("RCPT") && code < 300 { sender.accepted += 1 }
    if command == "message", code == 250, let body = sender.body { sure.append(body) }
    if command == "QUIT" { sender.isDone = true }
    if command == "DATA" && code == 354 { sender.goesAhead = true }
    guard sender.expected.isEmpty, !sender.isDone else { return }
    if sender.goesAhead {
      sender.goesAhead = false
      sender.expected = ["message"]
      var body = "\r\nSubject: c\(sender.name)t\(sender.number)"
      for n in 0..<Int(random.next() % 40) { body += "\r\nline \(n) of a longer text" }
      if sender.accepted == 0 { body = "" }
      bodies.insert(body)
      sender.body = body
      sender.unsent = Array(((body.isEmpty ? "" : body.dropFirst() + "\r\n") + ".\r\n").utf8)
    } else {
      sender.beginNext(&random)
    }
  }

  @Test("every reply is for its command, and what is acknowledged is there", arguments: 0..<8)
  func pairing(part: Int) {
    for seed in (part * 4)..<(part * 4 + 4) { play(UInt64(seed)) }
  }
}
