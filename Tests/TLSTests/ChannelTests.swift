// SPDX-License-Identifier: Apache-2.0
import COpenSSL
import Structures
import Testing

@testable import TLS

/// Both ends of a session in one process, the bytes carried by hand.
struct ChannelTests {
  static let text = Array("EHLO mx.example.net\r\n".utf8)

  @Test("a handshake works with its bytes coming one by one", arguments: Version.allCases)
  func byteByByte(version: Version) throws {
    let pair = Pair(try serverContext(), try clientContext(version))
    pair.run(piece: 1)
    #expect(pair.areEstablished)
    let info = try #require(pair.server.info)
    #expect(info.protocolName == version.rawValue)
    #expect(info.protocolVersion == (version == .v12 ? 0x0303 : 0x0304))
    #expect(info == pair.client.info.map { _ in info })
    #expect(info.bits == 256)
    #expect(
      info.description
        == (version == .v12
          ? "TLSv1.2 with cipher ECDHE-ECDSA-AES256-GCM-SHA384 (256 bits)"
          : "TLSv1.3 with cipher TLS_AES_256_GCM_SHA384 (256 bits)"))
    #expect(pair.server.serverName == "mx.example.org")
    #expect(!pair.server.holdsInput)
    pair.server.hear(pair.client.say(Self.text))
    #expect(pair.server.plain == Self.text)
  }

  @Test("a handshake works with each flight cut at each byte", arguments: Version.allCases)
  func everyCut(version: Version) throws {
    // Without tickets each handshake is a whole one.
    let server = try serverContext(keys: nil)
    let client = try clientContext(version)
    for flight in 0..<(version == .v12 ? 4 : 3) {
      var cut = 1
      while true {
        let pair = Pair(server, client)
        var number = 0
        var isInside = false
        for _ in 0..<4 {
          for isClient in [true, false] {
            let bytes = isClient ? pair.client.speak() : pair.server.speak()
            if bytes.isEmpty { continue }
            let isHere = number == flight && cut < bytes.count
            number += 1
            isInside = isInside || isHere
            let parts = isHere ? [Array(bytes[..<cut]), Array(bytes[cut...])] : [bytes]
            for part in parts {
              if isClient { pair.server.hear(part) } else { pair.client.hear(part) }
            }
          }
        }
        #expect(pair.areEstablished, "flight \(flight) cut at \(cut)")
        if !isInside { break }
        cut += 1
      }
      #expect(cut > 30)
    }
  }

  @Test("what a client sends right behind its last handshake byte is plain text of the session")
  func dataBehindHandshake() throws {
    let server = try serverContext()
    let pair = Pair(server, try clientContext(.v13))
    pair.server.hear(pair.client.speak())
    pair.client.hear(pair.server.speak())
    // Its Finished and its first command in one piece.
    let both = pair.client.speak() + pair.client.say(Self.text)
    var taken = 0
    let shaken = pair.server.advance(both, &taken)
    guard case .established = shaken else {
      Issue.record("\(shaken)")
      return
    }
    #expect(taken < both.count, "the command is left to the caller")
    #expect(!pair.server.holdsInput)
    pair.server.handshake = shaken
    pair.server.hear(Array(both[taken...]))
    #expect(pair.server.plain == Self.text)
  }

  /// The first bytes a client says, and the failure.
  static let firstBytes: [(bytes: [UInt8], word: String)] = [
    (Array("EHLO mx.example.net\r\n".utf8), "plain text instead of a handshake"),
    (Array("Q".utf8), "plain text instead of a handshake"),
    (Array("\r\n".utf8), "plain text instead of a handshake"),
    (Array("GET / HTTP/1.1\r\nHost: x\r\n\r\n".utf8), "plain text instead of a handshake"),
    ([0, 0, 0, 0], "malformed"),
    ([22, 3, 1, 0, 200, 1, 0, 0x40, 1], "bad ClientHello"),
    ([22, 3, 1, 0, 200, 1, 1, 0, 0], "bad ClientHello"),
    ([22, 3, 1, 0, 3, 1, 0, 0], "bad ClientHello"),
    ([22, 9, 9, 0, 200, 1, 0, 0, 196], "bad protocol version"),
    ([21, 3, 1, 0, 2, 2, 40], "unexpected message"),
    ([22, 3, 1, 0, 4, 2, 0, 0, 0], "unexpected message"),
  ]

  @Test("what is no ClientHello is told apart", arguments: firstBytes)
  func starts(bytes: [UInt8], word: String) throws {
    let context = try serverContext()
    for piece in [1, Int.max] {
      let end = End(context)
      Pair.carry(bytes, piece) { end.hear($0) }
      #expect(end.handshake.failure == word)
      #expect(end.failure?.description == word)
      // And it stays so.
      end.hear(Self.text)
      #expect(end.handshake.failure == word)
    }
  }

  @Test("a server that answers in clear is told as that by the client")
  func clearServer() throws {
    let end = End(try clientContext())
    end.hear(Array("454 4.7.0 TLS not available\r\n".utf8))
    #expect(end.handshake.failure == "plain text instead of a handshake")
  }

  @Test("a handshake that stops anywhere waits, and its end is a cut", arguments: Version.allCases)
  func truncated(version: Version) throws {
    let server = try serverContext()
    let client = try clientContext(version)
    let first = End(client)
    let hello = first.speak()
    for count in 0..<hello.count {
      let end = End(server)
      end.hear(Array(hello[..<count]))
      #expect(end.handshake == .needsMore)
      #expect(end.pendingOutput == 0)
      #expect(end.inputEnded() == .cut)
      end.giveBack()
    }
  }

  @Test("close_notify ends a session cleanly, anything else is a cut", arguments: Version.allCases)
  func closing(version: Version) throws {
    let pair = Pair(try serverContext(), try clientContext(version))
    pair.run()
    pair.server.hear(pair.client.say(Self.text))
    #expect(pair.server.inputEnded() == .cut)
    pair.client.closeNotify()
    let goodbye = pair.client.speak()
    #expect(goodbye.count > 5)
    // Even with text behind it: that is none of the session.
    pair.server.hear(goodbye + Self.text)
    #expect(pair.server.lastRead == .closed)
    #expect(pair.server.plain == Self.text)
    #expect(pair.server.inputEnded() == .clean)
    // Our side may still finish its sentence.
    pair.client.hear(pair.server.say(Array("221 Bye\r\n".utf8)))
    #expect(pair.client.plain == Array("221 Bye\r\n".utf8))
    pair.server.closeNotify()
    pair.client.hear(pair.server.speak())
    #expect(pair.client.lastRead == .closed)
  }

  @Test(
    "a record that was changed on its way ends the session for good", arguments: Version.allCases)
  func tampered(version: Version) throws {
    let pair = Pair(try serverContext(), try clientContext(version))
    pair.run()
    var bytes = pair.client.say(Self.text)
    bytes[bytes.count - 1] ^= 1
    pair.server.hear(bytes)
    #expect(
      pair.server.lastRead
        == .failed(TLSFailure(.malformed, code: SSL_R_DECRYPTION_FAILED_OR_BAD_RECORD_MAC)))
    #expect(pair.server.plain.isEmpty)
    #expect(pair.server.pendingOutput > 0, "the alert")
    pair.client.hear(pair.server.speak())
    #expect(
      pair.client.lastRead == .failed(TLSFailure(.alert, code: SSL_AD_BAD_RECORD_MAC)))
    #expect(pair.client.failure?.description == "alert bad record mac")
    let written = pair.server.write(Self.text)
    #expect(
      written == .failed(TLSFailure(.malformed, code: SSL_R_DECRYPTION_FAILED_OR_BAD_RECORD_MAC)))
  }

  @Test("a client that renegotiates is refused, and the session goes on")
  func renegotiation() throws {
    let pair = Pair(try serverContext(), try clientContext(.v12))
    pair.run()
    let session = pair.client.session
    SSL_clear_options(session, UInt64(SSL_OP_NO_RENEGOTIATION_FOR_TEST))
    #expect(SSL_renegotiate(session) == 1)
    SSL_do_handshake(session)
    let hello = pair.client.speak()
    #expect(!hello.isEmpty)
    pair.server.hear(hello)
    #expect(pair.server.lastRead == .needsMore)
    let answer = pair.server.speak()
    #expect(records(answer).map(\.type) == [21], "one alert, no ServerHello")
    #expect(SSL_is_init_finished(pair.server.session) == 1)
    // The server's own word still goes through.
    let wire = pair.server.say(Self.text)
    #expect(records(wire).map(\.type) == [23])
  }

  @Test("each dripped byte is a record of its own", arguments: Version.allCases)
  func drips(version: Version) throws {
    let pair = Pair(try serverContext(), try clientContext(version))
    pair.run()
    for byte in Self.text {
      let written = pair.server.write(byte)
      #expect(written == .accepted(1))
      let wire = pair.server.speak()
      #expect(records(wire).map(\.count) == [version == .v12 ? 25 : 18])
      pair.server.giveBack()
      pair.client.hear(wire)
      pair.client.giveBack()
    }
    #expect(pair.client.plain == Self.text)
  }

  @Test(
    "a megabyte is sealed as far as room goes, and comes out whole", arguments: Version.allCases)
  func large(version: Version) throws {
    let pair = Pair(try serverContext(), try clientContext(version))
    pair.run()
    var generator = SeededGenerator(seed: 1)
    let text = (0..<(1 << 20)).map { _ in UInt8.random(in: 0...255, using: &generator) }
    var done = 0
    while done < text.count {
      let rest = Array(text[done...])
      guard case .accepted(let count) = pair.client.write(rest) else { break }
      #expect(count > 0)
      #expect(pair.client.pendingOutput < TLSChannel.outputBytesMax + 17_000)
      done += count
      Pair.carry(pair.client.speak(), 9_973) { pair.server.hear($0) }
    }
    #expect(pair.server.plain == text)
  }

  @Test("plain text that finds no room stays, and the bytes behind it stay the caller's")
  func smallRoom() throws {
    let pair = Pair(try serverContext(), try clientContext(.v13))
    pair.run()
    let wire = pair.client.say(Self.text) + pair.client.say(Self.text)
    var room = [UInt8](repeating: 0, count: 5)
    var taken = 0
    let first = pair.server.read(wire, &taken, into: &room)
    #expect(first == .bytes(5))
    #expect(taken == wire.count / 2)
    #expect(pair.server.holdsInput)
    // At rest in the middle of a record nothing is lost.
    pair.server.giveBack()
    pair.server.plain = Array(room)
    pair.server.hear(Array(wire[taken...]))
    #expect(pair.server.plain == Self.text + Self.text)
    #expect(!pair.server.holdsInput)
  }

  @Test("half a record waits inside, also across giving back")
  func halfRecord() throws {
    let pair = Pair(try serverContext(), try clientContext(.v12))
    pair.run()
    let wire = pair.client.say(Self.text)
    pair.server.hear(Array(wire[..<10]))
    #expect(pair.server.holdsInput)
    pair.server.giveBack()
    pair.server.hear(Array(wire[10...]))
    #expect(pair.server.plain == Self.text)
  }

  @Test("who asks for answers and takes none is not read from any more")
  func unreadAnswers() throws {
    let pair = Pair(try serverContext(), try clientContext(.v13))
    pair.run()
    let full = [UInt8](repeating: 65, count: 70_000)
    let written = pair.server.write(full)
    guard case .accepted(let count) = written else { return }
    #expect(count < full.count)
    var taken = 0
    var room = [UInt8](repeating: 0, count: 10)
    let wire = pair.client.say(Self.text)
    let read = pair.server.read(wire, &taken, into: &room)
    #expect(read == .mustSend)
    #expect(taken == 0)
    let again = pair.server.write(full)
    #expect(again == .accepted(0))
    pair.client.hear(pair.server.speak())
    pair.server.hear(wire)
    #expect(pair.server.plain == Self.text)
  }

  @Test("key updates that ask for one back are answered, and too many end the session")
  func keyUpdates() throws {
    let pair = Pair(try serverContext(), try clientContext(.v13))
    pair.run()
    func updates(_ count: Int) -> [UInt8] {
      var wire: [UInt8] = []
      for _ in 0..<count {
        SSL_key_update(pair.client.session, SSL_KEY_UPDATE_REQUESTED)
        SSL_do_handshake(pair.client.session)
        wire += pair.client.speak()
      }
      return wire
    }
    pair.server.hear(updates(10))
    #expect(pair.server.lastRead == .needsMore)
    // The last may wait for the next thing we say.
    #expect((9...10).contains(records(pair.server.speak()).count))
    pair.server.hear(pair.client.say(Self.text))
    #expect(pair.server.plain == Self.text)
    // As many as fit into one piece: it stops in the middle of it.
    pair.server.hear(updates(1_000))
    #expect(pair.server.failure == TLSFailure(.tooManyHandshakes))
    let answers = records(pair.server.speak()).count
    #expect((20...100).contains(answers), "\(answers)")
  }
}

/// SSL_OP_BIT(30): a macro that Swift does not import.
private let SSL_OP_NO_RENEGOTIATION_FOR_TEST = 1 << 30
