// SPDX-License-Identifier: Apache-2.0
// The fake mail server of the laboratory: octets and time in, replies with the moment at which they are due out. No
// sockets and no clock, so that the simulated world, the virtual driver of the tests and `sluice sink` drive the same
// one. It understands SMTP on its own, strictly and naively: whatever it accepts is proof. Kept: a message is stored and
// counted before its 250 is given out, and nothing is read behind a QUIT.

import Personas
import SMTP
import Structures

/// A mail server with all its sessions, for trying the shield.
package struct TestServer: Sendable {
  /// What becomes of a connection after a reply.
  package enum Then: Sendable, Equatable {
    case goOn
    /// It is closed once everything is sent.
    case finish
    /// It is closed, and what is queued is lost.
    case hangUp(ServerScript.Ending)
  }

  /// Something that a server does about one session.
  package struct Reply: Sendable {
    package var session: Int
    package var text: [UInt8]
    /// In microseconds; not before the one that the session got before.
    package var at: Int64
    package var then = Then.goOn
  }

  /// What it has seen since it started.
  package struct Counts: Sendable, Equatable, CustomStringConvertible {
    /// Messages that it accepted.
    package var messages = 0
    /// Octets of them, without dot stuffing and final dots.
    package var bytes = 0
    package var connections = 0
    /// Recipients that it was told, good and bad.
    package var recipients = 0
    package var rejectedRecipients = 0
    package var bare = BareOctets()

    package init() {}

    package var description: String {
      "accepted \(messages) messages, \(bytes) bytes, \(connections) connections, "
        + "bare_lf \(bare.lf), bare_cr \(bare.cr)"
    }
  }

  package var script: ServerScript
  package private(set) var counts = Counts()
  /// Sessions that are open now.
  package private(set) var open = 0
  /// What it does, in order: taken and removed by whoever drives it.
  package var replies: [Reply] = []
  /// Lines outside of messages, of all sessions, in order, if the script keeps them.
  package private(set) var lines: [String] = []
  /// Stores a message (without stuffing and final dot) with its MAIL and RCPT lines; false if that failed. Without one
  /// messages that are kept are in `accepted`.
  package var store: (@Sendable (_ message: [UInt8], _ envelope: [String]) -> Bool)?
  /// The accepted messages as they came, final dots included, if the script keeps them and nobody stores them.
  package private(set) var accepted: [[UInt8]] = []

  private var sessions: [ServerSession] = []
  private var random: SeededGenerator
  private var faultsLeft: Int
  /// When it is done with the messages that it has.
  private var busyUntil: Int64 = 0
  /// The moment of the fact that is worked on.
  private var now: Int64 = 0

  package init(_ script: ServerScript, seed: UInt64 = 0) {
    self.script = script
    random = SeededGenerator(seed: seed)
    faultsLeft = script.faultTimes
  }

  // MARK: What happens to a session

  /// A client connects under this number, 0…, which is free.
  package mutating func connected(_ id: Int, now: Int64) {
    self.now = now
    while sessions.count <= id { sessions.append(ServerSession()) }
    sessions[id] = ServerSession()
    open += 1
    counts.connections += 1
    if open > script.connectionsMax {
      sessions[id].phase = .over
      give(ServerText.tooMany, id, at: now, then: .finish)
      return
    }
    sessions[id].phase = script.header == .never ? .command : .header
    if script.header != .mustCome { greet(id) }
  }

  /// Octets came.
  package mutating func received(_ id: Int, _ bytes: Span<UInt8>, now: Int64) {
    self.now = now
    if sessions[id].phase == .header {
      for k in bytes.indices { sessions[id].line.append(bytes[k]) }
      if readHeader(id) {
        let rest = sessions[id].line
        sessions[id].line.removeAll()
        read(id, rest.span)
      }
    } else {
      read(id, bytes)
    }
  }

  private mutating func read(_ id: Int, _ bytes: Span<UInt8>) {
    var rest = 0
    while rest < bytes.count {
      switch sessions[id].phase {
      case .gone, .over, .stalled, .header: return
      case .body: rest += readMessage(id, bytes.extracting(rest..<bytes.count))
      case .command, .awaitingPlain, .awaitingUser, .awaitingPassword:
        rest += readLine(id, bytes.extracting(rest..<bytes.count))
      }
    }
  }

  /// The connection is gone, or its client has closed its side and will be answered no more.
  package mutating func gone(_ id: Int) {
    guard knows(id) else { return }
    if sessions[id].phase == .body {
      sessions[id].body.cutOff()
      counts.bare += sessions[id].body.bare
    } else if sessions[id].line.last == 13 {
      counts.bare.cr += 1
    }
    sessions[id] = ServerSession()
    open -= 1
  }

  package func knows(_ id: Int) -> Bool { id < sessions.count && sessions[id].phase != .gone }

  /// It does nothing more about this session.
  package func isStalled(_ id: Int) -> Bool { knows(id) && sessions[id].phase == .stalled }

  /// The peer that a PROXY header named.
  package func proxied(_ id: Int) -> String? { knows(id) ? sessions[id].proxied : nil }

  /// What clients sent by itself that may not be; also of messages that are not over.
  package var breaches: Int { counts.bare.sum }

  // MARK: Replies

  /// How long something takes, in microseconds.
  private mutating func draw(_ time: Distribution) -> Int64 {
    Int64(time.value(at: Double(random.next() >> 11) * 0x1p-53) * 1_000_000)
  }

  private mutating func give(_ text: [UInt8], _ id: Int, at: Int64, then: Then = .goOn) {
    sessions[id].repliedAt = max(sessions[id].repliedAt, at)
    replies.append(Reply(session: id, text: text, at: sessions[id].repliedAt, then: then))
  }

  /// A moment with what the script delays its stage by: one reply after the other.
  private func delayed(_ at: Int64, _ stage: ServerScript.Stage, _ id: Int) -> Int64 {
    guard !script.isPlain, let seconds = script.delays[stage] else { return at }
    return max(at, sessions[id].repliedAt) + Int64(seconds * 1_000_000)
  }

  /// What the script has for a stage in place of the usual reply, a fault first.
  private mutating func scripted(_ stage: ServerScript.Stage) -> ServerScript.Answer? {
    if script.isPlain { return nil }
    return takeFault(stage) ?? script.answer(at: stage)
  }

  private mutating func takeFault(_ stage: ServerScript.Stage) -> ServerScript.Answer? {
    guard faultsLeft > 0, let fault = script.faults.first(where: { $0.stage == stage }) else {
      return nil
    }
    if faultsLeft != .max { faultsLeft -= 1 }
    return fault.answer
  }

  /// Answers a line as the script says, or else with the usual reply.
  ///
  /// - Returns: the reply's first digit; 0 if there was no reply.
  @discardableResult
  private mutating func answer(
    _ usual: [UInt8], _ id: Int, at stage: ServerScript.Stage? = nil, then: Then = .goOn
  ) -> UInt8 {
    var at = now + draw(script.reply)
    if script.isPlain {
      if then != .goOn { sessions[id].phase = .over }
      give(usual, id, at: at, then: then)
      return usual[0] &- 48
    }
    if let stage { at = delayed(at, stage, id) }
    let answer =
      stage.flatMap { takeFault($0) } ?? script.answer(to: sessions[id].line)
      ?? stage.flatMap { script.answer(at: $0) }
    return perform(answer ?? .say(usual), id, at: at, then: then)
  }

  @discardableResult
  private mutating func perform(
    _ answer: ServerScript.Answer, _ id: Int, at: Int64, then: Then = .goOn
  ) -> UInt8 {
    if then != .goOn { sessions[id].phase = .over }
    switch answer {
    case .say(let text):
      give(text, id, at: at, then: then)
      return text.first.map { $0 &- 48 } ?? 0
    case .raw(let octets): give(octets, id, at: at, then: then)
    case .silence: if then != .goOn { give([], id, at: at, then: then) }
    case .stall: sessions[id].phase = .stalled
    case .hangUp(let ending):
      sessions[id].phase = .over
      give([], id, at: at, then: .hangUp(ending))
    }
    return 0
  }

  /// As `answer`, where nothing follows from it.
  private mutating func refuse(_ text: [UInt8], _ id: Int) { answer(text, id) }

  private mutating func greet(_ id: Int) {
    let at = delayed(now + draw(script.reply), .banner, id)
    perform(scripted(.banner) ?? .say(script.texts.banner), id, at: at)
  }

  // MARK: Reading

  /// Takes a PROXY header away, if there is one.
  ///
  /// - Returns: whether what has come behind it is to be read.
  private mutating func readHeader(_ id: Int) -> Bool {
    let isDue = script.header == .mustCome
    switch ProxyText.read(sessions[id].line) {
    case .more: return false
    case .none where !isDue: sessions[id].phase = .command
    case .none, .bad:
      perform(.hangUp(.rst), id, at: now)
      return false
    case .header(let octets, let peer):
      sessions[id].phase = .command
      sessions[id].proxied = peer
      sessions[id].line.removeFirst(octets)
      if isDue { greet(id) }
    }
    return true
  }

  /// Takes octets up to the end of a line.
  ///
  /// - Returns: how many.
  private mutating func readLine(_ id: Int, _ bytes: Span<UInt8>) -> Int {
    var end = 0
    while end < bytes.count && bytes[end] != 10 { end += 1 }
    sessions[id].line.append(addingCapacity: end) { out in
      for k in 0..<end { out.append(bytes[k]) }
    }
    if end == bytes.count {
      if sessions[id].line.count > script.lineBytesMax {
        perform(.say(ServerText.lineTooLong), id, at: now, then: .finish)
      }
      return end
    }
    if sessions[id].line.last == 13 {
      sessions[id].line.removeLast()
    } else {
      counts.bare.lf += 1
      if script.checks.contains(.lineEnds) {
        sessions[id].line.append(10)
        return end + 1
      }
    }
    var hasControl = false
    for byte in sessions[id].line where byte < 32 {
      if byte == 13 { counts.bare.cr += 1 }
      if byte == 0 { counts.bare.nul += 1 }
      if byte != 9 { hasControl = true }
    }
    obey(id, hasControl: hasControl)
    sessions[id].line.removeAll(keepingCapacity: true)
    return end + 1
  }

  /// Takes octets up to the end of a message.
  ///
  /// - Returns: how many.
  private mutating func readMessage(_ id: Int, _ bytes: Span<UInt8>) -> Int {
    let end = sessions[id].body.read(bytes)
    let count = end ?? bytes.count
    if script.keepsMessages && sessions[id].body.size <= script.messageBytesMax {
      sessions[id].message.append(addingCapacity: count) { out in
        for k in 0..<count { out.append(bytes[k]) }
      }
    }
    if !script.isPlain {
      sessions[id].bodyBytes += count
      if !sessions[id].bodyFaultDone && sessions[id].bodyBytes >= script.faultAfterBytes {
        sessions[id].bodyFaultDone = true
        if let fault = takeFault(.body) { perform(fault, id, at: now) }
      }
    }
    if end != nil && sessions[id].phase == .body { endMessage(id) }
    return count
  }

  private mutating func endMessage(_ id: Int) {
    sessions[id].phase = .command
    counts.bare += sessions[id].body.bare
    defer { sessions[id].forgetTransaction() }
    let work = script.capacity > 0 ? Int64(1_000_000 / script.capacity) : 0
    busyUntil = max(busyUntil, now) + work
    let at = delayed(busyUntil + draw(script.dot), .dot, id)
    if sessions[id].body.size > script.messageBytesMax {
      perform(.say(ServerText.tooBig), id, at: at)
    } else if let answer = scripted(.dot) {
      var answer = answer
      if case .say(let text) = answer, text.first == 50, !keep(id) { answer = .hangUp(.rst) }
      perform(answer, id, at: at)
    } else if script.checks.contains(.order) && sessions[id].recipients == 0 {
      perform(.say(ServerText.noRecipients), id, at: at)
    } else if !keep(id) {
      perform(.say(ServerText.notStored), id, at: at)
    } else {
      perform(
        scripted(.afterDot) ?? .say(script.texts.queued), id, at: delayed(at, .afterDot, id))
    }
  }

  /// Stores and counts a message; false if it could not be stored.
  private mutating func keep(_ id: Int) -> Bool {
    if script.keepsMessages {
      let message = sessions[id].message
      sessions[id].message = []
      if let store {
        guard store(MessageReader.unstuffed(message), sessions[id].envelope) else { return false }
      } else {
        accepted.append(message)
      }
    }
    counts.messages += 1
    counts.bytes += sessions[id].body.size
    return true
  }

  // MARK: Commands

  private static let verbs = [
    Verb.mail, .rcpt, .data, .ehlo, .quit, .rset, .noop, .helo, .vrfy, .auth,
  ].map { (letters: $0.fourLetters ?? 0, verb: $0) }

  private static func verb(_ line: [UInt8]) -> Verb {
    if line.count < 4 { return .unknown }
    var letters: UInt32 = 0
    for k in 0..<4 { letters = letters << 8 | UInt32(line[k] & 0xDF) }
    for k in verbs.indices where verbs[k].letters == letters { return verbs[k].verb }
    return .unknown
  }

  private func begins(_ id: Int, _ word: StaticString) -> Bool {
    guard sessions[id].line.count >= word.utf8CodeUnitCount else { return false }
    return word.withUTF8Buffer { letters in
      letters.indices.allSatisfy { k in
        let byte = sessions[id].line[k]
        return (byte >= 97 && byte <= 122 ? byte - 32 : byte) == letters[k]
      }
    }
  }

  private func text(_ id: Int) -> String { String(decoding: sessions[id].line, as: UTF8.self) }

  private mutating func obey(_ id: Int, hasControl: Bool) {
    if script.keepsLines { lines.append(text(id)) }
    let isStrict = script.checks.contains(.syntax)
    switch sessions[id].phase {
    case .awaitingPlain, .awaitingUser, .awaitingPassword: return logIn(id, text(id))
    default: break
    }
    if isStrict && hasControl { return refuse(ServerText.controls, id) }
    let isAlone = sessions[id].line.count == 4
    switch Self.verb(sessions[id].line) {
    case .ehlo where !isStrict || begins(id, "EHLO "): hello(id, script.texts.ehlo)
    case .helo where !isStrict || begins(id, "HELO "): hello(id, script.texts.helo)
    case .mail: mail(id, isStrict: isStrict)
    case .rcpt: recipient(id, isStrict: isStrict)
    case .data where isAlone: data(id)
    case .rset where isAlone:
      sessions[id].forgetTransaction()
      answer(script.texts.ok, id)
    case .quit where isAlone: answer(script.texts.bye, id, at: .quit, then: .finish)
    case .noop: answer(script.texts.ok, id)
    case .vrfy where !isStrict || begins(id, "VRFY "): answer(script.texts.cannotVerify, id)
    case .auth where script.hasLogin && begins(id, "AUTH "): beginLogIn(id)
    default: answer(script.texts.unknown, id)
    }
  }

  private mutating func hello(_ id: Int, _ usual: [UInt8]) {
    sessions[id].forgetTransaction()
    sessions[id].greeted = true
    answer(usual, id, at: .ehlo)
  }

  private mutating func mail(_ id: Int, isStrict: Bool) {
    if script.checks.contains(.order) {
      if !sessions[id].greeted { return refuse(ServerText.notGreeted, id) }
      if sessions[id].hasSender { return refuse(ServerText.hasSender, id) }
    }
    if isStrict, let complaint = complaint(id, "MAIL FROM:<") {
      return refuse(complaint, id)
    }
    guard answer(script.texts.sender, id, at: .mail) == 2 else { return }
    sessions[id].hasSender = true
    sessions[id].recipients = 0
    if script.keepsMessages { sessions[id].envelope = [text(id)] }
  }

  private mutating func recipient(_ id: Int, isStrict: Bool) {
    if script.checks.contains(.order) && !sessions[id].hasSender {
      return refuse(ServerText.noSender, id)
    }
    if isStrict, let complaint = complaint(id, "RCPT TO:<") { return refuse(complaint, id) }
    counts.recipients += 1
    if script.rejected.contains(where: { contains(id, $0) }) {
      counts.rejectedRecipients += 1
      return refuse(ServerText.noUser, id)
    }
    if !script.relaysAll && contains(id, ServerText.probed) {
      counts.rejectedRecipients += 1
      return refuse(ServerText.relayingDenied, id)
    }
    guard answer(script.texts.recipient, id, at: .rcpt) == 2 else { return }
    sessions[id].recipients += 1
    if script.keepsMessages { sessions[id].envelope.append(text(id)) }
  }

  private mutating func data(_ id: Int) {
    if script.checks.contains(.order) {
      if !sessions[id].hasSender { return refuse(ServerText.noSender, id) }
      if sessions[id].recipients == 0 { return refuse(ServerText.noRecipients, id) }
    }
    if answer(script.texts.goOn, id, at: .data) == 3 { sessions[id].beginMessage() }
  }

  private func contains(_ id: Int, _ part: [UInt8]) -> Bool {
    let count = sessions[id].line.count - part.count
    if count < 0 { return false }
    for start in 0...count where sessions[id].line[start] == part[0] {
      if (1..<part.count).allSatisfy({ sessions[id].line[start + $0] == part[$0] }) { return true }
    }
    return false
  }

  private static let parameters: Set<String> = [
    "SIZE", "BODY", "SMTPUTF8", "RET", "ENVID", "NOTIFY", "ORCPT", "AUTH",
  ]

  /// Why a path and its parameters cannot be taken; nil if they can.
  private func complaint(_ id: Int, _ word: StaticString) -> [UInt8]? {
    if !begins(id, word) { return ServerText.syntax }
    let line = text(id)
    guard let end = line.lastIndex(of: ">") else { return ServerText.noBracket }
    for word in line[line.index(after: end)...].split(separator: " ") {
      let name = word.split(separator: "=", maxSplits: 1)[0].uppercased()
      if !Self.parameters.contains(name) {
        return Array("555 5.5.4 Unknown parameter \(name)\r\n".utf8)
      }
    }
    return nil
  }

  // MARK: Log-ins: test and test, of which the base64 is compared

  private mutating func beginLogIn(_ id: Int) {
    if !sessions[id].greeted { return refuse(ServerText.notGreeted, id) }
    let words = text(id).split(separator: " ")
    let mechanism = words.count > 1 ? words[1].uppercased() : ""
    let phase: ServerSession.Phase? =
      mechanism == "PLAIN" ? .awaitingPlain : mechanism == "LOGIN" ? .awaitingUser : nil
    guard let phase else { return refuse(ServerText.noMechanism, id) }
    sessions[id].phase = phase
    if words.count > 2 { return logIn(id, String(words[2])) }
    answer(phase == .awaitingPlain ? ServerText.goOnPlain : ServerText.userName, id)
  }

  private mutating func logIn(_ id: Int, _ text: String) {
    let phase = sessions[id].phase
    sessions[id].phase = .command
    if text == "*" { return refuse(ServerText.cancelled, id) }
    let isTest = text == "dGVzdA=="
    var isRight = sessions[id].userIsRight && isTest
    switch phase {
    case .awaitingUser:
      sessions[id].userIsRight = isTest
      sessions[id].phase = .awaitingPassword
      return refuse(ServerText.password, id)
    case .awaitingPlain: isRight = text == "AHRlc3QAdGVzdA==" || text == "dGVzdAB0ZXN0AHRlc3Q="
    default: break
    }
    answer(isRight ? ServerText.loggedIn : ServerText.notLoggedIn, id)
  }
}
