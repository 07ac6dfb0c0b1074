// SPDX-License-Identifier: Apache-2.0
import DNSLists
import Resolver
import ResolverFixtures
import Structures
import Testing

@Suite("Replies of DNS")
struct ReplyTests {
  static func read(_ message: [UInt8], _ type: RecordType = .a) -> Answer {
    Reply.read(message.span, type: type)
  }

  /// In words, to be compared.
  static func words(_ answer: Answer) -> String {
    switch answer {
    case .addresses(let list, let seconds):
      "\((0..<list.count).map { "\(list[$0])" }.joined(separator: " ")) for \(seconds)"
    case .text(let text, let seconds): "'\(text)' for \(seconds)"
    case .names(let names, let seconds):
      "\((0..<names.count).map { "\(names[$0])" }.joined(separator: " ")) for \(seconds)"
    case .noSuchName(let seconds): "none for \(seconds.map(String.init) ?? "?")"
    case .failure(let failure): "\(failure)"
    }
  }

  static let a = Message.query("x.bl.example", type: 1)
  static let ptr = Message.query("1.2.0.192.in-addr.arpa", type: 12)
  static let txt = Message.query("x.bl.example", type: 16)

  @Test("addresses with the shortest time")
  func addresses() {
    let message = Message.reply(
      to: Self.a, [.a(127, 0, 0, 2, seconds: 600), .a(127, 0, 0, 4, seconds: 60)])
    #expect(Self.words(Self.read(message)) == "127.0.0.2 127.0.0.4 for 60")
    let query = Message.query("x.example", type: 28)
    let data: [UInt8] = [0x20, 1, 0xd, 0xb8, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 1]
    let reply = Message.reply(to: query, [Record(type: 28, data: data)])
    #expect(Self.words(Self.read(reply, .aaaa)) == "2001:db8::1 for 300")
  }

  @Test("more than 16 addresses are cut off")
  func many() {
    let message = Message.reply(to: Self.a, (0..<200).map { .a(127, 0, 0, UInt8($0)) })
    guard case .addresses(let list, _) = Self.read(message) else {
      Issue.record("no addresses")
      return
    }
    #expect(list.count == 16)
  }

  @Test("aliases are followed, in whatever order they stand, and what belongs to others is left")
  func aliases() {
    let one = Record.alias(nil, "y.example", seconds: 30)
    let two = Record.alias("y.example", "z.example")
    let end = Record.a(127, 0, 0, 3).owned(by: "z.example")
    let other = Record.a(127, 0, 0, 9).owned(by: "other.example")
    for records in [[one, two, end, other], [end, two, one], [other, two, end, one]] {
      let words = Self.words(Self.read(Message.reply(to: Self.a, records)))
      #expect(words == "127.0.0.3 for 30")
    }
    #expect(Self.words(Self.read(Message.reply(to: Self.a, [other]))) == "none for ?")
  }

  @Test("aliases in a circle, or without an end, are no answer")
  func circles() {
    let circle = [Record.alias(nil, "y.example"), .alias("y.example", "x.bl.example")]
    #expect(Self.words(Self.read(Message.reply(to: Self.a, circle))) == "malformed")
    let long = [Record.alias(nil, "n0")] + (0..<20).map { .alias("n\($0)", "n\($0 + 1)") }
    #expect(Self.words(Self.read(Message.reply(to: Self.a, long))) == "malformed")
  }

  @Test(
    "a name that is not there is so for the time of the SOA (RFC 2308, 5)",
    arguments: [
      (UInt8(3), [Record.soa(seconds: 900, minimum: 120)], "none for 120"),
      (3, [.soa(seconds: 60, minimum: 120)], "none for 60"),
      (0, [.soa(seconds: 900, minimum: 120)], "none for 120"),
      (3, [], "none for ?"),
      (3, [.soa(seconds: 0x8000_0000, minimum: 120)], "none for 0"),
    ])
  func negative(code: UInt8, authority: [Record], words: String) {
    let message = Message.reply(to: Self.a, code: code, authority: authority)
    #expect(Self.words(Self.read(message)) == words)
  }

  @Test("text is joined, cut at 255 octets, and has nothing in it that cannot be printed")
  func text() {
    let strings = [Array("Listed, see\r\n".utf8), Array("\u{1B}[31mhttp://x".utf8), [0xE4]]
    let message = Message.reply(to: Self.txt, [.text(strings), .text([Array("second".utf8)])])
    #expect(
      Self.words(Self.read(message, .text)) == "'Listed, see???[31mhttp://x?' for 300")
    let long = Message.reply(
      to: Self.txt, [.text([Array(repeating: 97, count: 255), Array(repeating: 98, count: 9)])])
    guard case .text(let text, _) = Self.read(long, .text) else {
      Issue.record("no text")
      return
    }
    #expect(text.description == String(repeating: "a", count: 255))
  }

  @Test("names have letters, digits and hyphens only, and at most three are kept")
  func names() {
    let odd = Record(type: 12, data: [4] + Array("a\r\nb".utf8) + Message.name("example"))
    var message = Message.reply(to: Self.ptr, [odd, .pointer("Mail.Example")])
    #expect(Self.words(Self.read(message, .pointer)) == "mail.example for 300")
    message = Message.reply(to: Self.ptr, [odd])
    #expect(Self.words(Self.read(message, .pointer)) == "none for 300")
    message = Message.reply(to: Self.ptr, (0..<5).map { .pointer("n\($0).example") })
    #expect(
      Self.words(Self.read(message, .pointer)) == "n0.example n1.example n2.example for 300")
  }

  @Test(
    "an error code is a failure",
    arguments: [UInt8(1), 2, 4, 5, 15])
  func codes(code: UInt8) {
    #expect(Self.words(Self.read(Message.reply(to: Self.a, code: code))) == "unavailable")
  }

  @Test("names that point forwards, at themselves or in circles end in failure, not in a loop")
  func compression() {
    let plain = Message.reply(to: Self.a, [.a(127, 0, 0, 2)])
    let start = UInt8(Self.a.count)
    for target in [start, start + 1, start + 2, 200, 255] {
      var message = plain
      message[Int(start) + 1] = target
      #expect(Self.words(Self.read(message)) == "malformed")
    }
    for first: UInt8 in [0x40, 0x80] {
      var message = plain
      message[Int(start)] = first
      #expect(Self.words(Self.read(message)) == "malformed")
    }
    // Two pointers at each other.
    var message = Message.reply(
      to: Self.a, [Record(owner: [0xC0, start + 2, 0xC0, start], type: 1, data: [1, 2, 3, 4])])
    #expect(Self.words(Self.read(message)) == "malformed")
    // Labels before a pointer back to themselves grow beyond 255 octets.
    message = Message.reply(
      to: Self.a, [Record(owner: [3, 97, 97, 97, 0xC0, start], type: 1, data: [1, 2, 3, 4])])
    #expect(Self.words(Self.read(message)) == "malformed")
  }

  @Test("a message cut off anywhere, or with any octets changed, is read to an end")
  func hostile() {
    let messages: [([UInt8], RecordType)] = [
      (
        Message.reply(
          to: Self.a, [.alias(nil, "y.example"), Record.a(127, 0, 0, 2).owned(by: "y.example")],
          authority: [.soa(seconds: 1, minimum: 2)]), .a
      ),
      (Message.reply(to: Self.txt, [.text([Array("hello".utf8)])]), .text),
      (Message.reply(to: Self.ptr, [.pointer("mail.example")]), .pointer),
      (Message.reply(to: Self.a, code: 3, authority: [.soa(seconds: 1, minimum: 2)]), .a),
    ]
    var random = SeededGenerator(seed: 1)
    var answers = 0
    for (message, type) in messages {
      for count in 0..<message.count { _ = Self.read(Array(message[..<count]), type) }
      for _ in 0..<5_000 {
        var changed = message
        for _ in 0..<Int.random(in: 1...4, using: &random) {
          changed[Int.random(in: 2..<changed.count, using: &random)] = UInt8.random(
            in: 0...255, using: &random)
        }
        if case .failure = Self.read(changed, type) {} else { answers += 1 }
      }
    }
    #expect(answers > 0)
  }
}
