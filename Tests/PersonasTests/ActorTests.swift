// SPDX-License-Identifier: Apache-2.0
import Testing

@testable import Personas

/// One connection of a persona, and what it said to scripted replies.
final class Talk {
  let persona: SharedPersona
  var actor = Actor()
  /// Seconds.
  var now = 0.0
  var micros: Int64 { Int64((now * 1_000_000).rounded()) }

  /// Opens it; what it says at once is thrown away, use `first` for that.
  init(_ change: (inout Persona) -> Void = { _ in }) {
    var persona = Persona(id: "T")
    change(&persona)
    self.persona = SharedPersona(persona)
    first = actor.opened(self.persona, seed: 7, now: 0)
  }
  var first = Actor.Step.nothing

  func hear(_ text: String) -> Actor.Step {
    let bytes = Array(text.utf8)
    return actor.heard(bytes.span, persona, now: micros)
  }

  /// The same, one byte after the other; only the last may give a step.
  func hearBytes(_ text: String) -> [Actor.Step] {
    text.utf8.map { byte in
      let bytes = [byte]
      return actor.heard(bytes.span, persona, now: micros)
    }
  }

  func secured() -> Actor.Step { actor.secured(persona, now: micros) }

  /// Goes to its deadline, or to `most` seconds.
  func wait(atMost most: Double = 1e6) -> Actor.Step {
    now = min(Double(actor.deadline(persona)) / 1_000_000, most)
    return actor.timer(persona, now: micros)
  }
}

private let ehlo =
  "250-mx.example\r\n250-PIPELINING\r\n250-STARTTLS\r\n250-AUTH PLAIN\r\n250 HELP\r\n"

struct ActorTests {
  @Test("a message is said line by line, each after the reply to the one before")
  func message() {
    let talk = Talk { $0.bytes = .const(1_000) }
    #expect(talk.first == .nothing)
    #expect(talk.hear("220 mx\r\n") == .say(.helo(bare: false, extended: true)))
    #expect(talk.hear("250 mx\r\n") == .say(.mail))
    #expect(talk.hear("250 2.1.0 ok\r\n") == .say(.rcpt(unknown: false)))
    #expect(talk.hear("250 ok\r\n") == .say(.data))
    #expect(talk.hear("354 go\r\n") == .say(.body(octets: 1_000)))
    #expect(talk.hear("250 taken\r\n") == .say(.quit))
    #expect(talk.actor.delivered == 1)
    #expect(talk.hear("221 bye\r\n") == .leave)
    #expect(talk.actor.ending == .delivered)
  }

  @Test(
    "let through is whose recipient the server behind has judged: accepted, or 550",
    arguments: [
      ("250 ok", true), ("550 5.1.1 nobody", true), ("450 later", false), ("554 no", false),
    ])
  func letThrough(reply: String, isLetThrough: Bool) {
    let talk = Talk()
    // A tarpit may accept MAIL.
    for reply in ["220 mx", "250 mx", "250 2.1.0 ok"] {
      _ = talk.hear(reply + "\r\n")
      #expect(!talk.actor.isLetThrough)
    }
    _ = talk.hear(reply + "\r\n")
    #expect(talk.actor.isLetThrough == isLetThrough)
  }

  @Test("a reply of several lines, byte by byte, gives one step at its last byte")
  func byteByByte() {
    let talk = Talk { $0.pipelines = 1 }
    let banner = talk.hearBytes("220-first\r\n220-second\r\n220 last\r\n")
    #expect(banner.dropLast().allSatisfy { $0 == .nothing })
    #expect(banner.last == .say(.helo(bare: false, extended: true)))
    let helo = talk.hearBytes(ehlo)
    #expect(helo.dropLast().allSatisfy { $0 == .nothing })
    #expect(helo.last == .say(.group(recipients: 1)))
  }

  @Test("the EHLO reply means the same however it is cut", arguments: [1, 2, 3, 5, 17, 40, 200])
  func anySplit(size: Int) {
    let talk = Talk { $0.pipelines = 1 }
    _ = talk.hear("220 mx\r\n")
    var steps: [Actor.Step] = []
    var rest = Substring(ehlo).utf8
    while !rest.isEmpty {
      let part = Array(rest.prefix(size))
      rest = rest.dropFirst(size)
      let step = talk.actor.heard(part.span, talk.persona, now: 0)
      if step != .nothing { steps.append(step) }
    }
    #expect(steps == [.say(.group(recipients: 1))])
  }

  @Test("who greets before the banner says nothing to it, and goes on after the reply to EHLO")
  func pregreet() {
    let talk = Talk { $0.pregreet = 1 }
    #expect(talk.first == .say(.helo(bare: false, extended: true)))
    #expect(talk.hear("220 mx\r\n") == .nothing)
    #expect(talk.hear("250 mx\r\n") == .say(.mail))
  }

  @Test("of a group the refused recipients are left out, and the message still goes")
  func group() {
    let talk = Talk {
      $0.pipelines = 1
      $0.recipients = .const(3)
      $0.bytes = .const(10)
    }
    _ = talk.hear("220 mx\r\n")
    #expect(talk.hear(ehlo) == .say(.group(recipients: 3)))
    #expect(talk.hear("250 ok\r\n250 ok\r\n550 no\r\n") == .nothing)
    #expect(talk.actor.awaited == .rcpt)
    #expect(talk.hear("250 ok\r\n354 go\r\n") == .say(.body(octets: 10)))
    #expect(talk.actor.acceptedRecipients == 2)
    #expect(talk.hear("250 taken\r\n") == .say(.quit))
    #expect(talk.actor.delivered == 1)
  }

  @Test("of a group with all recipients refused, the recipient's code is the reason")
  func groupRefused() {
    let talk = Talk {
      $0.pipelines = 1
      $0.recipients = .const(2)
    }
    _ = talk.hear("220 mx\r\n")
    _ = talk.hear(ehlo)
    #expect(talk.hear("250 ok\r\n550 no\r\n550 no\r\n554 none\r\n") == .say(.quit))
    #expect(talk.hear("221 bye\r\n") == .leave)
    #expect(talk.actor.ending == .rejected)
    #expect(talk.actor.lastWord == 550)
    #expect(talk.actor.endedAt == .data)
  }

  @Test("a refusal is told with its stage and code, though QUIT follows")
  func refusal() {
    let talk = Talk()
    _ = talk.hear("220 mx\r\n")
    _ = talk.hear("250 mx\r\n")
    _ = talk.hear("250 ok\r\n")
    #expect(talk.hear("450 later\r\n") == .say(.quit))
    #expect(talk.hear("221 bye\r\n") == .leave)
    #expect(talk.actor.ending == .deferred)
    #expect(talk.actor.lastWord == 450)
    #expect(talk.actor.endedAt == .rcpt)
  }

  @Test("421 is the end wherever it comes", arguments: 0...3)
  func closing(after count: Int) {
    let talk = Talk()
    for reply in ["220 mx\r\n", "250 mx\r\n", "250 ok\r\n"].prefix(count) { _ = talk.hear(reply) }
    #expect(talk.hear("421 too many\r\n") == .leave)
    #expect(talk.actor.ending == .deferred)
    #expect(talk.actor.lastWord == 421)
  }

  @Test("421 after a message was accepted is not a failure")
  func closingLate() {
    let talk = Talk { $0.messages = .const(2) }
    for reply in ["220 a", "250 a", "250 a", "250 a", "354 a", "250 a"] {
      _ = talk.hear(reply + "\r\n")
    }
    #expect(talk.actor.awaited == .mail)
    #expect(talk.hear("421 enough\r\n") == .leave)
    #expect(talk.actor.ending == .delivered)
  }

  @Test(
    "a drip buys time by the clock of reads, none by the others",
    arguments: [(PatienceClock.read, 35.0), (.reply, 10), (.session, 10)])
  func clocks(clock: PatienceClock, left: Double) {
    let talk = Talk {
      $0.patienceOtherwise = .const(10)
      $0.clock = clock
    }
    var step = Actor.Step.nothing
    for (k, byte) in "220 mx".enumerated() {
      // A byte every fifth second, up to 25 s; it hears none after it left.
      let next = Double(k) * 5
      if Double(talk.actor.deadline(talk.persona)) / 1e6 <= next { break }
      talk.now = next
      step = talk.hear(String(byte))
      #expect(step == .nothing)
    }
    if clock == .read {
      talk.now = 23
      #expect(talk.wait(atMost: 23) == .nothing)
    }
    #expect(talk.wait() == .leave)
    #expect(talk.actor.ending == .impatient)
    #expect(talk.actor.endedAt == .banner)
    #expect(talk.now == left)
  }

  @Test(
    "each stage has its own patience, counted from its own beginning; a session is counted whole")
  func stages() {
    let talk = Talk {
      $0.patience = [.banner: .const(60), .mail: .const(5)]
      $0.patienceOtherwise = .const(300)
    }
    talk.now = 50
    _ = talk.hear("220 mx\r\n")
    #expect(talk.actor.deadline(talk.persona) == 350_000_000)
    talk.now = 100
    _ = talk.hear("250 mx\r\n")
    #expect(talk.actor.deadline(talk.persona) == 105_000_000)

    let session = Talk {
      $0.clock = .session
      $0.patienceOtherwise = .const(16)
    }
    session.now = 10
    _ = session.hear("220 mx\r\n")
    #expect(session.actor.deadline(session.persona) == 16_000_000)
  }

  @Test("the longest session ends it under any clock", arguments: PatienceClock.allCases)
  func longest(clock: PatienceClock) {
    let talk = Talk {
      $0.clock = clock
      $0.patienceOtherwise = .const(8)
      $0.sessionMost = 16
    }
    talk.now = 7
    _ = talk.hear("220 mx\r\n")
    talk.now = 14
    if clock != .session { _ = talk.hear("250 mx\r\n") }
    #expect(talk.actor.deadline(talk.persona) == (clock == .session ? 8_000_000 : 16_000_000))
  }

  @Test("who says QUIT when impatient leaves after its answer, and the stage is kept")
  func impatientQuit() {
    let talk = Talk {
      $0.patienceOtherwise = .const(10)
      $0.quitsImpatient = 1
    }
    _ = talk.hear("220 mx\r\n")
    #expect(talk.wait() == .say(.quit))
    #expect(talk.hear("250 late\r\n") == .leave)
    #expect(talk.actor.ending == .impatient)
    #expect(talk.actor.endedAt == .helo)

    let early = Talk {
      $0.patienceOtherwise = .const(10)
      $0.quitsImpatient = 1
    }
    #expect(early.wait() == .leave)
  }

  @Test("an impatient QUIT that is not answered ends too")
  func unansweredQuit() {
    let talk = Talk {
      $0.patienceOtherwise = .const(10)
      $0.quitsImpatient = 1
    }
    _ = talk.hear("220 mx\r\n")
    #expect(talk.wait() == .say(.quit))
    #expect(talk.wait() == .leave)
    #expect(talk.now == 20)
    #expect(talk.actor.ending == .impatient)
  }

  @Test("it leaves after three slow replies, whatever they were to")
  func strikes() {
    let talk = Talk {
      $0.slowStrikes = 3
      $0.slowReply = 4
      $0.aim = .harvest
      $0.recipients = .const(10)
    }
    _ = talk.hear("220 mx\r\n")
    _ = talk.hear("250 mx\r\n")
    _ = talk.hear("250 ok\r\n")
    for k in 1...3 {
      talk.now += 5
      let step = talk.hear("550 no\r\n")
      #expect(step == (k < 3 ? .say(.rcpt(unknown: false)) : .leave))
    }
    #expect(talk.actor.ending == .impatient)
  }

  @Test("who trickles begins after a gap and says one octet at a time")
  func trickle() {
    let talk = Talk {
      $0.aim = .hold
      $0.trickle = .uniform(10, 60)
      $0.patienceOtherwise = .const(1e9)
    }
    var last = 0.0
    for _ in 0..<50 {
      #expect(talk.wait() == .say(.trickle))
      #expect((9.9...60.1).contains(talk.now - last))
      last = talk.now
    }
    #expect(talk.hear("220 mx\r\n") == .nothing)
    #expect(talk.wait() == .say(.trickle))
    talk.actor.closed()
    #expect(talk.actor.ending == .cutOff)
    #expect(talk.actor.deadline(talk.persona) == .max)
  }

  @Test(
    "a log-in bot leaves at once where none is offered, and else tries as often as it has passwords"
  )
  func logIns() {
    let talk = Talk {
      $0.aim = .auth
      $0.logins = .const(2)
      $0.quits = 0
    }
    _ = talk.hear("220 mx\r\n")
    #expect(talk.hear("250-mx\r\n250 HELP\r\n") == .leave)
    #expect(talk.actor.ending == .pointless)

    let offered = Talk {
      $0.aim = .auth
      $0.logins = .const(2)
      $0.quits = 0
    }
    _ = offered.hear("220 mx\r\n")
    #expect(offered.hear(ehlo) == .say(.auth))
    #expect(offered.hear("535 no\r\n") == .say(.auth))
    #expect(offered.hear("535 no\r\n") == .leave)
    #expect(offered.actor.ending == .done)
  }

  @Test("who wants the banner, the EHLO reply, a handshake or an answer leaves when it has it")
  func short() {
    let banner = Talk { $0.aim = .banner }
    #expect(banner.hear("220 mx\r\n") == .say(.quit))
    let only = Talk {
      $0.aim = .helo
      $0.bannerOnly = 1
      $0.quits = 0
    }
    #expect(only.hear("220 mx\r\n") == .leave)
    #expect(only.actor.ending == .done)
    let helo = Talk { $0.aim = .helo }
    _ = helo.hear("220 mx\r\n")
    #expect(helo.hear("250 mx\r\n") == .say(.quit))
    let tls = Talk {
      $0.aim = .tls
      $0.quits = 0
    }
    _ = tls.hear("220 mx\r\n")
    #expect(tls.hear(ehlo) == .say(.startTLS))
    #expect(tls.hear("220 go\r\n") == .secure)
    #expect(tls.secured() == .leave)
    #expect(tls.actor.ending == .done)
    let callout = Talk { $0.aim = .callout }
    _ = callout.hear("220 mx\r\n")
    #expect(callout.hear("250 mx\r\n") == .say(.null))
    #expect(callout.hear("250 ok\r\n") == .say(.rcpt(unknown: false)))
    #expect(callout.hear("550 no\r\n") == .say(.quit))
    #expect(callout.actor.ending == .done)
  }

  @Test("who wants TLS says STARTTLS where it is offered, and EHLO again under it, once")
  func startTLS() {
    let talk = Talk {
      $0.tls = 1
      $0.pipelines = 1
    }
    #expect(talk.hear("220 mx\r\n") == .say(.helo(bare: false, extended: true)))
    #expect(talk.hear(ehlo) == .say(.startTLS))
    #expect(talk.actor.awaited == .startTLS && !talk.actor.isShakingHands)
    #expect(talk.hear("220 go\r\n") == .secure)
    #expect(talk.actor.isShakingHands)
    #expect(talk.secured() == .say(.helo(bare: false, extended: true)))
    #expect(!talk.actor.isShakingHands)
    // PIPELINING was offered in clear: that is forgotten. And STARTTLS is not said twice, whoever offers it.
    #expect(talk.hear("250-mx\r\n250 STARTTLS\r\n") == .say(.mail))
    let plain = Talk { $0.tls = 1 }
    _ = plain.hear("220 mx\r\n")
    #expect(plain.hear("250-mx\r\n250 PIPELINING\r\n") == .say(.mail))
    let never = Talk()
    _ = never.hear("220 mx\r\n")
    #expect(never.hear(ehlo) == .say(.mail))
  }

  @Test("what came in clear behind the 220 to STARTTLS is thrown away")
  func behindStartTLS() {
    let talk = Talk { $0.tls = 1 }
    _ = talk.hear("220 mx\r\n")
    _ = talk.hear(ehlo)
    #expect(talk.hear("220 go\r\n250-forged\r\n250 AUTH\r\n25") == .secure)
    #expect(talk.secured() == .say(.helo(bare: false, extended: true)))
    #expect(talk.hear("250 mx\r\n") == .say(.mail))
  }

  @Test("a server that has no TLS for it now gets its mail in clear", arguments: ["454", "502"])
  func noTLS(code: String) {
    let talk = Talk {
      $0.tls = 1
      $0.kind = .sender
      $0.pipelines = 1
    }
    _ = talk.hear("220 mx\r\n")
    #expect(talk.hear(ehlo) == .say(.startTLS))
    #expect(talk.hear("\(code) no\r\n") == .say(.group(recipients: 1)))
    let guesser = Talk {
      $0.tls = 1
      $0.aim = .auth
      $0.logins = .const(1)
    }
    _ = guesser.hear("220 mx\r\n")
    #expect(guesser.hear(ehlo) == .say(.startTLS))
    #expect(guesser.hear("\(code) no\r\n") == .say(.auth))
  }

  @Test("a handshake that fails or is cut off ends the connection, to be tried again")
  func failedHandshake() {
    for isCut in [false, true] {
      let talk = Talk { $0.tls = 1 }
      _ = talk.hear("220 mx\r\n")
      _ = talk.hear(ehlo)
      _ = talk.hear("220 go\r\n")
      if isCut { talk.actor.closed() } else { talk.actor.notSecured() }
      #expect(talk.actor.ending == (isCut ? .cutOff : .broken))
      #expect(talk.actor.endedAt == .startTLS && talk.actor.isShakingHands)
    }
  }

  @Test(
    "patience with STARTTLS is for the reply and for the handshake, each; in it nobody says QUIT")
  func handshakePatience() {
    let talk = Talk {
      $0.tls = 1
      $0.patienceOtherwise = .const(300)
      $0.patience = [.startTLS: .const(5)]
      $0.quitsImpatient = 1
    }
    _ = talk.hear("220 mx\r\n")
    talk.now = 10
    _ = talk.hear(ehlo)
    talk.now = 14
    #expect(talk.hear("220 go\r\n") == .secure)
    #expect(talk.wait(atMost: 18.9) == .nothing)
    #expect(talk.wait() == .leave)
    #expect(abs(talk.now - 19) < 0.01)
    #expect(talk.actor.ending == .impatient && talk.actor.endedAt == .startTLS)
  }

  @Test("whoever does not wait for replies, or wants the banner alone, never says STARTTLS")
  func neverTLS() {
    let changes: [(inout Persona) -> Void] = [
      { $0.pipelinesEarly = 1 }, { $0.bannerOnly = 1 }, { $0.aim = .helo }, { $0.aim = .banner },
      { $0.nonSMTP = 1 },
    ]
    for change in changes {
      let talk = Talk {
        $0.tls = 1
        change(&$0)
      }
      _ = talk.hear("220 mx\r\n")
      #expect(talk.hear(ehlo) != .say(.startTLS))
    }
  }

  @Test("an honest client that is told 500 for EHLO says HELO, once")
  func oldServer() {
    let talk = Talk { $0.kind = .sender }
    _ = talk.hear("220 mx\r\n")
    #expect(talk.hear("500 what\r\n") == .say(.helo(bare: false, extended: false)))
    #expect(talk.hear("250 mx\r\n") == .say(.mail))
  }

  @Test("a harvester that rushes asks for the rest one by one, and never for DATA")
  func rush() {
    let talk = Talk {
      $0.aim = .harvest
      $0.pipelinesEarly = 1
      $0.unknown = 1
      $0.recipients = .const(22)
    }
    #expect(talk.hear("220 mx\r\n") == .say(.rush(bare: false, recipients: 20)))
    #expect(talk.hear("250 mx\r\n250 ok\r\n") == .nothing)
    for _ in 0..<19 { #expect(talk.hear("550 no\r\n") == .nothing) }
    #expect(talk.hear("550 no\r\n") == .say(.rcpt(unknown: true)))
    #expect(talk.hear("550 no\r\n") == .say(.rcpt(unknown: true)))
    #expect(talk.hear("550 no\r\n") == .say(.quit))
    #expect(talk.actor.ending == .done)
  }

  @Test("a bot that rushes goes on to its message where everything was taken")
  func rushedMail() {
    let talk = Talk {
      $0.pipelinesEarly = 1
      $0.bytes = .const(5)
    }
    #expect(talk.hear("220 mx\r\n") == .say(.rush(bare: false, recipients: 1)))
    #expect(talk.hear("250 mx\r\n250 ok\r\n250 ok\r\n") == .nothing)
    #expect(talk.hear("354 go\r\n") == .say(.body(octets: 5)))
  }

  @Test("the same seed is the same client")
  func seeds() {
    var persona = Persona(id: "T")
    persona.pregreet = 0.5
    persona.patienceOtherwise = impatience
    let shared = SharedPersona(persona)
    var early = 0
    for seed in 0..<2_000 as Range<UInt64> {
      var (one, two) = (Actor(), Actor())
      let step = one.opened(shared, seed: seed, now: 0)
      #expect(step == two.opened(shared, seed: seed, now: 0))
      #expect(one.deadline(shared) == two.deadline(shared))
      early += step == .nothing ? 0 : 1
    }
    #expect(abs(early - 1_000) < 70, "\(early) of 2,000 talk early")
  }

  @Test("lines are whole and end in CRLF; a group of a harvester has no DATA")
  func words() {
    var persona = Persona(id: "B7")
    func text(_ line: Line) -> String {
      var bytes: [UInt8] = []
      Words.write(
        line, SharedPersona(persona), number: 12, known: "user@inner.example", into: &bytes)
      return String(decoding: bytes, as: UTF8.self)
    }
    #expect(text(.helo(bare: true, extended: true)) == "EHLO pc12\r\n")
    #expect(text(.helo(bare: false, extended: false)) == "HELO h12.b7.example\r\n")
    #expect(text(.rcpt(unknown: true)) == "RCPT TO:<nobody12@inner.example>\r\n")
    #expect(
      text(.group(recipients: 2))
        == "MAIL FROM:<s12@b7.example>\r\nRCPT TO:<user@inner.example>\r\n"
        + "RCPT TO:<user@inner.example>\r\nDATA\r\n")
    #expect(text(.body(octets: 200)).hasSuffix("\r\n.\r\n"))
    #expect(text(.trickle) == "E")
    persona.aim = .harvest
    persona.unknown = 1
    #expect(!text(.group(recipients: 20)).contains("DATA"))
    #expect(!text(.group(recipients: 20)).contains("user@"))
    persona.unknown = 0.25
    let unknown = text(.group(recipients: 20)).split(separator: "nobody").count - 1
    #expect((4...6).contains(unknown), "a quarter of 20")
    #expect(text(.rush(bare: false, recipients: 20)).utf8.count <= Words.most)
    persona.heloName = "ylmf-pc"
    #expect(text(.helo(bare: false, extended: true)) == "EHLO ylmf-pc\r\n")
  }

  @Test(
    "a line read in pieces is the line, however long it is",
    arguments: [1, 3, 73, 74, 512, 32_768])
  func pieces(size: Int) {
    let persona = SharedPersona(Persona(id: "B7"))
    let lines: [Line] =
      [.mail, .trickle, .rush(bare: true, recipients: 20)]
      + [0, 1, 71, 72, 73, 74, 75, 1_000, 40_000].map { .body(octets: $0) }
    for line in lines {
      var whole: [UInt8] = []
      Words.write(line, persona, number: 12, known: "user@inner.example", into: &whole)
      var read: [UInt8] = []
      var isAll = false
      while !isAll && read.count <= whole.count {
        let before = read.count
        isAll = Words.write(
          line, persona, number: 12, known: "user@inner.example", from: before, atMost: size,
          into: &read)
        #expect(read.count - before <= size)
      }
      #expect(read == whole, "\(line)")
    }
  }

  @Test("a message has as many octets as it should and a line's more at most, in lines of 74")
  func bodies() {
    let persona = SharedPersona(Persona(id: "B7"))
    for octets in [0, 1, 73, 74, 75, 100_000] {
      var bytes: [UInt8] = []
      Words.write(
        .body(octets: Int32(octets)), persona, number: 12, known: "", into: &bytes)
      let text = String(decoding: bytes, as: UTF8.self)
      let head = "Subject: B7 12\r\n\r\n"
      #expect(text.hasPrefix(head) && text.hasSuffix("\r\n.\r\n"))
      #expect((octets...octets + 2).contains(bytes.count - head.utf8.count - 3))
      #expect(text.split(separator: "\r\n").allSatisfy { $0.utf8.count <= 72 })
    }
  }
}
