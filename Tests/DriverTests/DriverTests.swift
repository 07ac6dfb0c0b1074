// SPDX-License-Identifier: Apache-2.0
import ConfigurationFixtures
import Flow
import Foundation
import Policy
import Shield
import Structures
import Suspicion
import TLS
import Testing
import Uring

@testable import Configuration
@testable import Driver

/// The real driver, ring and engine on loopback sockets, in this process.
@Suite(.serialized)
struct DriverTests {
  @Test("a client is greeted, answered and let go, and its slot is free again")
  func session() throws {
    let loop = try Loop()
    let client = try loop.client()
    #expect(try loop.turn { _ in client.look().hasSuffix("\r\n") })
    #expect(client.heard.hasPrefix("220 mx.example.test"))
    #expect(loop.driver.engine.heldCount == 1)
    #expect(try loop.ask(client, "NOOP\r\n").hasPrefix("250"))
    #expect(try loop.ask(client, "QUIT\r\n").hasPrefix("221"))
    #expect(try loop.turn { _ in client.look().isEmpty || client.isEnded })
    client.finish()
    #expect(try loop.turn { $0.driver.engine.heldCount == 0 })
  }

  @Test("a message goes to the downstream as it came, whatever its pieces")
  func mail() throws {
    let loop = try Loop()
    let client = try loop.client()
    #expect(try loop.turn { _ in client.look().hasPrefix("220") })
    #expect(try loop.ask(client, "EHLO client.example.org\r\n").hasPrefix("250"))
    #expect(try loop.ask(client, "MAIL FROM:<a@b.c>\r\n").hasPrefix("250"))
    #expect(try loop.ask(client, "RCPT TO:<d@e.f>\r\n").hasPrefix("250"))
    #expect(try loop.ask(client, "DATA\r\n").hasPrefix("354"))
    let body = (0..<400).map { "line \($0) of the message\r\n" }.joined()
    client.forget()
    let octets = Array(body.utf8)
    for start in stride(from: 0, to: octets.count, by: 977) {
      client.say(Array(octets.dropFirst(start).prefix(977)))
      _ = try loop.driver.turn(longest: 100)
    }
    client.say(".\r\n")
    #expect(try loop.turn { _ in client.look().hasPrefix("250") })
    #expect(loop.told.contains(body + ".\r\n"))
  }

  @Test("a client that is in the tarpit hears its banner byte by byte")
  func tarpit() throws {
    let loop = try Loop(
      promptPolicy(access: "127.0.0.0/8 bad\n") { $0.delays[.banner].bad = 1_000_000 })
    let client = try loop.client()
    var lengths: Set<Int> = []
    #expect(
      try loop.turn { _ in
        lengths.insert(client.look().utf8.count)
        return client.heard.hasSuffix("\r\n")
      })
    #expect(client.heard == "220 mx.example.test ESMTP ready\r\n")
    #expect(lengths.count > 10, "\(lengths.sorted())")
    #expect(loop.driver.engine.core.counters.drips >= UInt64(client.heard.utf8.count) - 1)
  }

  @Test("a held client that goes away gives its slot back")
  func gone() throws {
    let loop = try Loop(
      promptPolicy(access: "127.0.0.0/8 bad\n") { $0.delays[.banner].bad = 100_000_000 })
    do {
      let client = try loop.client()
      #expect(try loop.turn { _ in !client.look().isEmpty })
    }
    #expect(try loop.turn { $0.driver.engine.heldCount == 0 })
  }

  @Test("where no buffer is free a receive waits for one, and nothing is lost")
  func starved() throws {
    // Sixteen buffers, and as many who speak at once into their banner.
    let loop = try Loop(promptPolicy { $0.delays[.banner].clean = 60_000_000 })
    let clients = try (0..<30).map { _ in try loop.client() }
    #expect(try loop.turn { $0.driver.engine.heldCount == 30 })
    for client in clients { client.say("EHLO too.early.example\r\n") }
    #expect(try loop.turn { $0.driver.engine.core.counters.bytesIn >= 30 * 24 })
  }

  @Test("draining tells idle clients to go and takes no new ones")
  func drain() throws {
    let loop = try Loop()
    let client = try loop.client()
    #expect(try loop.turn { _ in client.look().hasPrefix("220") })
    client.forget()
    loop.driver.drain()
    #expect(try loop.turn { _ in client.look().hasPrefix("421") })
    client.finish()
    #expect(try loop.turn { $0.driver.engine.heldCount == 0 })
    let late = try loop.client()
    for _ in 0..<20 { _ = try loop.driver.turn(longest: 1_000) }
    #expect(late.look().isEmpty && loop.driver.engine.heldCount == 0)
  }

  @Test("a downstream that has moved is reached where it is, one that is nowhere is told as that")
  func moved() throws {
    let loop = try Loop()
    let (other, otherPort) = try #require(TestSocket.listening())
    #expect(try loop.turn { $0.driver.engine.isDownstreamUp == true })
    var server = loop.driver.engine.servers[0]
    server.port = otherPort
    loop.driver.adopt([server])
    let client = try loop.client()
    #expect(try loop.turn { _ in client.look().hasPrefix("220") })
    #expect(try loop.ask(client, "HELO client.example.org\r\n").hasPrefix("250"))
    client.say("MAIL FROM:<a@b.c>\r\n")
    var link: TestSocket?
    #expect(
      try loop.turn { _ in
        link = link ?? other.accepted()
        return link != nil
      })
    link?.say("554 nobody here\r\n")
    client.forget()
    #expect(try loop.turn { _ in client.look().hasPrefix("451") })
  }

  @Test("other threads end a wait, and a second signal before the turn costs no second wake-up")
  func wakeUp() throws {
    let loop = try Loop()
    let wakeUp = try WakeUp()
    loop.driver.arm(wakeUp)
    _ = try loop.driver.turn(longest: 1_000)
    wakeUp.signal()
    wakeUp.signal()
    var woken = 0
    for _ in 0..<20 where try loop.driver.turn(longest: 1_000) {
      woken += 1
      wakeUp.drain()
      loop.driver.arm(wakeUp)
    }
    #expect(woken == 1)
  }

  @Test("a slot that speaks TLS hears and says the same, in records")
  func tls() throws {
    let folder = try certificateFolder()
    let loaded = try #require(loadCertificates(folder, "mx.pem", "mx.key").configuration)
    let contexts = try TLSContexts(
      loaded, listeners: loaded.listeners, modes: [.starttls], downstream: loaded.downstream)
    let loop = try Loop(
      promptPolicy { $0.listeners[0].tls = .starttls }, tls: contexts)
    let client = try loop.client()
    #expect(try loop.turn { _ in client.look().hasPrefix("220") })
    #expect(try loop.ask(client, "EHLO client.example.org\r\n").contains("STARTTLS"))
    #expect(try loop.ask(client, "STARTTLS\r\n").hasPrefix("220"))
    let line = try #require(TLSLine(try TLSClientContext(.init(level: .required, name: nil))))
    _ = line.advance([UInt8]().span)
    client.say(line.takeOutput())
    #expect(
      try loop.turn { _ in
        let octets = client.takeOctets()
        if !octets.isEmpty && !line.isEstablished {
          _ = line.advance(octets.span)
          client.say(line.takeOutput())
        }
        return line.isEstablished
      })
    var text: [UInt8] = []
    /// Says a line in a record and waits for what comes back.
    func ask(_ words: String) throws -> String {
      text = []
      client.say(Array(words.utf8).withUnsafeBytes { line.seal($0) })
      _ = try loop.turn { _ in
        let octets = client.takeOctets()
        if !octets.isEmpty { _ = line.open(octets.span, into: &text) }
        return text.suffix(2) == [13, 10]
      }
      return String(decoding: text, as: UTF8.self)
    }
    let offers = try ask("EHLO client.example.org\r\n")
    #expect(offers.hasPrefix("250") && !offers.contains("STARTTLS"))
    #expect(try ask("MAIL FROM:<a@b.c>\r\n").hasPrefix("250"))
    #expect(try ask("RCPT TO:<d@e.f>\r\n").hasPrefix("250"))
    #expect(try ask("DATA\r\n").hasPrefix("354"))
    let body = String(repeating: "words of a message\r\n", count: 2_000)
    #expect(try ask(body + ".\r\n").hasPrefix("250"))
    #expect(loop.told.contains(body + ".\r\n"))
    #expect(try ask("QUIT\r\n").hasPrefix("221"))
    client.finish()
    #expect(try loop.turn { $0.driver.engine.heldCount == 0 })
    #expect(loop.driver.engine.core.counters.handshakes == 1)
  }

  @Test("what is no handshake ends the connection")
  func noHandshake() throws {
    let folder = try certificateFolder()
    let loaded = try #require(loadCertificates(folder, "mx.pem", "mx.key").configuration)
    let contexts = try TLSContexts(
      loaded, listeners: loaded.listeners, modes: [.implicit], downstream: loaded.downstream)
    let loop = try Loop(promptPolicy { $0.listeners[0].tls = .implicit }, tls: contexts)
    let client = try loop.client()
    client.say("EHLO client.example.org\r\n")
    #expect(
      try loop.turn { _ in
        client.look()
        return client.isEnded
      })
    #expect(try loop.turn { $0.driver.engine.heldCount == 0 })
  }
}
