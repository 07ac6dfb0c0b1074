// SPDX-License-Identifier: Apache-2.0
import SMTP
import Structures

/// A talking client: what is leased from its first command on.
struct Session: BitwiseCopyable, Sendable {
  /// The connection that owns it, or none.
  private(set) var owner = ClientIndex.none
  /// How many closing slots may still have an operation in flight on its memory.
  private var pins: Int8 = 0
  /// Its downstream connection, or none.
  private(set) var link = LinkIndex.none
  private(set) var phase = Phase.command
  /// It is among those that go on at the end of this fact.
  var isWoken = false
  var inbox: Inbox
  var outbox = Outbox()
  var greeting = Greeting()
  var envelope = Envelope()
  var login = Login()
  var passage = Passage()
  var use = SessionUse()
  /// Bytes of its input region are being sent to the downstream.
  private(set) var isRelaying = false
  /// The command being dealt with.
  private(set) var verb = Verb.unknown
  private(set) var form = Command.Form.strict
  /// When it came to something last: got its session, its downstream connection, the reply to a message.
  private(set) var progress: Instant
  private(set) var bytesIn: UInt64 = 0
  private(set) var bytesOut: UInt64 = 0
  private(set) var messages: UInt32 = 0
  private(set) var badRecipients: UInt32 = 0
  private(set) var lastReply: UInt16 = 0
  private(set) var tallies = CommandTallies()
  /// What became of it, where that is decided before its end.
  var ending: Verdict?
  /// The reply owed at the end of a message that is thrown away, or of an AUTH exchange that we end.
  private(set) var owed = OwnReply.downstreamLost
  /// The downstream's own verdict on the message lies in the outbox already.
  private(set) var hasVerdict = false

  /// - Parameter owner: none for the record of a free place.
  init(of owner: ClientIndex = .none, lineEnds: LineEnds = .strict, now: Instant = .origin) {
    self.owner = owner
    inbox = Inbox(lineEnds: lineEnds)
    progress = now
  }

  // MARK: Its place

  var isPinned: Bool { pins > 0 }

  /// Its connection goes on without it.
  mutating func disown(pins more: Int) {
    owner = .none
    pins += Int8(more)
  }

  /// A slot that had something of it in flight is closed.
  ///
  /// - Returns: whether it was the last.
  mutating func unpin() -> Bool {
    invariant(pins > 0, "a session was unpinned more often than pinned")
    pins -= 1
    return pins == 0
  }

  mutating func attach(_ link: LinkIndex, now: Instant) {
    self.link = link
    progress = now
  }
  mutating func detach() { link = .none }

  // MARK: Its turn

  /// Goes to another phase. One that the table does not have is a fault of ours, which debug builds stop at.
  mutating func enter(_ next: Phase) {
    assert(phase.mayBecome(next), "a session went from \(phase) to \(next)")
    phase = next
  }

  /// A command is at hand.
  mutating func begin(_ verb: Verb, _ form: Command.Form = .strict) {
    self.verb = verb
    self.form = form
  }

  /// What is answered is this, not the command said last.
  mutating func resume(_ verb: Verb) { self.verb = verb }

  /// Is done with the current command: its line leaves the input.
  ///
  /// - Parameter next: what follows it, where that is not the next command.
  mutating func finish(to next: Phase = .command) {
    inbox.finish()
    enter(next)
    switch verb {
    case .mail, .rcpt, .data: use.countMail()
    default: break
    }
  }

  mutating func beginRelaying() { isRelaying = true }
  mutating func endRelaying() { isRelaying = false }

  // MARK: What is counted

  mutating func heard(_ count: Int) { bytesIn += UInt64(count) }
  mutating func sent(_ count: Int) { bytesOut += UInt64(count) }

  mutating func replied(_ code: UInt16) { lastReply = code }
  mutating func tally(_ verb: Verb, good: Bool) { tallies.count(verb, isGood: good) }

  mutating func messageAccepted(now: Instant) {
    progress = now
    messages += 1
  }

  mutating func countBadRecipient() { badRecipients += 1 }

  // MARK: Verdicts

  /// The message is read to its end and thrown away, or an AUTH exchange is ended: then the client gets this reply.
  mutating func owe(_ reply: OwnReply) { owed = reply }

  /// What is owed lies in the outbox already.
  mutating func keepVerdict() { hasVerdict = true }

  /// - Returns: whether it did.
  mutating func takeVerdict() -> Bool {
    defer { hasVerdict = false }
    return hasVerdict
  }

  /// Whether a client could be told to go without hurting a transaction.
  var isBetweenMessages: Bool { phase == .command && !envelope.hasMail && outbox.isEmpty }
}
