// SPDX-License-Identifier: Apache-2.0
package import Personas

/// How a test server behaves: what it offers, what it says at each moment of a session, how long it takes, and where it
/// fails. A value of `TestServer`, with nothing of a session in it.
package struct ServerScript: Sendable {
  /// A moment of a session at which the server can be told what to do.
  package enum Stage: String, CaseIterable, Sendable {
    case banner, ehlo, mail, rcpt, data
    /// While the message is arriving.
    case body
    /// The final dot is here; nothing is stored or counted yet.
    case dot
    /// The message is stored and counted; its 250 is not sent yet.
    case afterDot = "after-dot"
    case quit
  }

  /// How the server hangs up in the middle of things.
  package enum Ending: String, CaseIterable, Sendable { case fin, rst }

  /// What the server does at a moment, in place of its usual reply.
  package enum Answer: Sendable, Equatable {
    /// A whole reply, CR LF included: whether it accepts is what its first digit says.
    case say([UInt8])
    /// Octets that are no reply, or more than one: they accept nothing.
    case raw([UInt8])
    case hangUp(Ending)
    /// This moment goes by without a reply.
    case silence
    /// Neither reads nor answers from now on.
    case stall

    /// A reply of one line or more; its last line end is added.
    package static func reply(_ text: String) -> Answer { .say(Array((text + "\r\n").utf8)) }
    package static var close: Answer { .hangUp(.fin) }
  }

  /// What to do at a line that begins like this, in letters of either case.
  package struct Rule: Sendable {
    /// The stage, or else the line's beginning in upper case.
    let stage: Stage?
    let prefix: [UInt8]
    let answer: Answer

    /// - Parameter prefix: `connect` and `dot` are moments, everything else is the beginning of a line.
    package init(prefix: String, answer: Answer) {
      stage = prefix == "connect" ? .banner : prefix == "dot" ? .dot : nil
      self.prefix = Array(prefix.uppercased().utf8)
      self.answer = answer
    }

    func covers(_ line: [UInt8]) -> Bool {
      stage == nil && line.count >= prefix.count
        && zip(line, prefix).allSatisfy { $0 == $1 || $0 >= 97 && $0 <= 122 && $0 - 32 == $1 }
    }
  }

  /// A misbehaviour, which is used up after `faultTimes` of all of them together.
  struct Fault: Sendable {
    let stage: Stage
    let answer: Answer
  }

  /// What is checked beyond what the server must understand to follow a session.
  package struct Checks: OptionSet, Sendable {
    package let rawValue: UInt8
    package init(rawValue: UInt8) { self.rawValue = rawValue }
    /// Commands come in the order of RFC 5321, 4.1.4, and DATA only behind a recipient.
    package static let order = Checks(rawValue: 1)
    /// Commands are spelt as in the RFC, with parameters that were offered.
    package static let syntax = Checks(rawValue: 2)
    /// Only CR LF ends a line; without it LF does, and is counted as bare.
    package static let lineEnds = Checks(rawValue: 4)
    package static let all: Checks = [.order, .syntax, .lineEnds]
  }

  /// Whether a PROXY protocol header comes before everything else.
  package enum Header: Sendable { case never, mayCome, mustCome }

  /// Its usual replies.
  struct Texts: Sendable {
    var banner = text("220 sink.example ESMTP sluice sink")
    var ehlo: [UInt8] = []
    var helo = text("250 sink.example")
    var sender = text("250 2.1.0 Ok")
    var recipient = text("250 2.1.5 Ok")
    var goOn = text("354 End with CRLF.CRLF")
    var queued = text("250 2.0.0 Ok: counted")
    var ok = text("250 2.0.0 Ok")
    var bye = text("221 2.0.0 Bye")
    var unknown = text("502 5.5.1 Command not known here")
    var cannotVerify = text("252 2.0.0 Send mail and see")

    static func text(_ line: String) -> [UInt8] { Array((line + "\r\n").utf8) }
  }

  package var hostname = "sink.example" {
    didSet {
      texts.banner = Texts.text("220 \(hostname) ESMTP sluice sink")
      texts.helo = Texts.text("250 \(hostname)")
      spell()
    }
  }
  /// The EHLO keywords that it offers.
  package var offers = [
    "PIPELINING", "SIZE 52428800", "8BITMIME", "SMTPUTF8", "DSN", "ENHANCEDSTATUSCODES",
  ]
  { didSet { spell() } }
  var texts = Texts()
  package var checks = Checks.all
  package var header = Header.mayCome
  /// Offer AUTH PLAIN LOGIN; user and password are `test`.
  package var hasLogin = false { didSet { spell() } }
  /// Recipients that contain one of these are refused with 550 5.1.1.
  package var rejectedRecipients: [String] {
    get { rejected.map { String(decoding: $0, as: UTF8.self) } }
    set { rejected = newValue.map { Array($0.utf8) }.filter { !$0.isEmpty } }
  }
  private(set) var rejected: [[UInt8]] = []
  /// Takes example.invalid as well, as an open relay would (the domain of the probe for open relays; RFC 2606).
  package var relaysAll = false
  /// Messages are handed to whoever stores them, dot stuffing and final dot included.
  package var keepsMessages = false
  /// Lines outside of messages are kept.
  package var keepsLines = false
  /// Octets of one line; more end the session with 500 5.5.2.
  package var lineBytesMax = 16_384
  /// Octets of one message; more are refused with 552 5.3.4.
  package var messageBytesMax = 50 << 20
  /// Connections at once; more are refused with 421 4.3.2.
  package var connectionsMax = 5_000

  // MARK: What it does instead

  /// The first that covers a moment decides.
  package var rules: [Rule] = [] { didSet { weigh() } }
  /// How many times faults strike before the server behaves.
  package var faultTimes = Int.max
  /// Octets of the message after which a fault at `body` strikes.
  package var faultAfterBytes = 1
  private(set) var faults: [Fault] = []
  private var answers: [Stage: Answer] = [:]
  /// Nothing but usual replies.
  private(set) var isPlain = true

  // MARK: How long it takes

  /// Seconds to its reply to a command; several commands are worked on at once.
  package var reply = Distribution.const(0)
  /// Seconds to the reply to the end of a message.
  package var dot = Distribution.const(0)
  /// Messages a second that it can take: while more come, their replies wait in line. 0: any number.
  package var capacity = 0.0
  /// Seconds more at a stage, one reply after the other.
  package var delays: [Stage: Double] = [:] { didSet { weigh() } }

  /// Accepts all that is in order, at once.
  package init() { spell() }

  /// Gives an answer in place of the usual reply of a stage.
  package mutating func answer(_ stage: Stage, _ answer: Answer) {
    answers[stage] = answer
    weigh()
  }

  /// Misbehaves at a stage, ahead of any answer that was set for it.
  package mutating func fault(_ stage: Stage, _ answer: Answer) {
    faults.append(Fault(stage: stage, answer: answer))
    weigh()
  }

  /// A reply that nobody can read.
  package static let garbage = Answer.raw(Array("2x0-\u{1}garbage, not a reply\r\n".utf8))

  /// The answer that was set for a stage, faults aside.
  func answer(at stage: Stage) -> Answer? {
    rules.first { $0.stage == stage }?.answer ?? answers[stage]
  }

  /// The answer that was set for a line.
  func answer(to line: [UInt8]) -> Answer? { rules.first { $0.covers(line) }?.answer }

  private mutating func weigh() {
    isPlain = rules.isEmpty && faults.isEmpty && answers.isEmpty && delays.isEmpty
  }

  /// Writes the reply to EHLO anew.
  private mutating func spell() {
    let lines = [hostname] + offers + (hasLogin ? ["AUTH PLAIN LOGIN"] : [])
    texts.ehlo = lines.enumerated().flatMap { number, line in
      Texts.text("250\(number == lines.count - 1 ? " " : "-")\(line)")
    }
  }
}

extension ServerScript {
  /// The mail server of a scenario, in a simulated run and beside a flood alike: recipients that begin with `nobody`
  /// do not exist. Not an initializer: one would leave the texts as they ship, because in it no observer runs.
  package static func of(_ server: Scenario.Downstream) -> ServerScript {
    var script = ServerScript()
    script.hostname = "inner.example"
    script.offers = ["PIPELINING", "SIZE 52428800", "8BITMIME", "ENHANCEDSTATUSCODES"]
    script.checks = [.order]
    script.header = .never
    script.rejectedRecipients = ["<nobody"]
    script.connectionsMax = server.connections
    script.reply = server.reply
    script.dot = server.dot
    script.capacity = server.capacity
    return script
  }

  /// Accepts whatever comes in whatever order, and remembers it: for scripts that say what is to be refused.
  package static var agreeable: ServerScript {
    var script = ServerScript()
    script.hostname = "inner.test"
    script.offers = [
      "PIPELINING", "SIZE 1000000", "8BITMIME", "SMTPUTF8", "DSN", "ENHANCEDSTATUSCODES",
    ]
    script.checks = []
    script.header = .never
    script.relaysAll = true
    script.keepsMessages = true
    script.keepsLines = true
    script.connectionsMax = .max
    script.lineBytesMax = .max
    let fine = Texts.text("250 2.0.0 Fine")
    script.texts.banner = Texts.text("220 inner.test ESMTP")
    script.texts.goOn = Texts.text("354 Go on")
    script.texts.queued = Texts.text("250 2.0.0 Taken")
    script.texts.helo = fine
    script.texts.sender = fine
    script.texts.recipient = fine
    script.texts.ok = fine
    script.texts.unknown = fine
    script.texts.cannotVerify = fine
    return script
  }
}
