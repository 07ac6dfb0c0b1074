// SPDX-License-Identifier: Apache-2.0
import SMTP
import Structures

/// What a downstream connection is doing.
enum LinkState: UInt8, BitwiseCopyable, Sendable {
  case free
  case connecting
  /// Waits for 220.
  case greeting
  case ehlo
  case helo
  /// STARTTLS is outstanding.
  case starttls
  /// A handshake is under way.
  case securing
  /// A line about the client is outstanding (XCLIENT, XFORWARD).
  case introducing
  /// Nothing outstanding.
  case ready
  /// A command of the session is outstanding.
  case busy
  /// Message bytes are going through.
  case body
  /// The end of data is sent; its reply is outstanding.
  case final
  /// Octets pass both ways.
  case spliced
  case quitting
  case closing
}

/// A downstream connection. It knows its session by number alone, and what a reply means by itself.
struct Link: BitwiseCopyable, Sendable {
  let generation: UInt32
  private(set) var state = LinkState.free
  /// The session it serves, or none: a probe, or an orphan that waits for its last reply.
  private(set) var session = SessionIndex.none
  /// The session from whose memory it is still sending while it closes, or none.
  private(set) var pinned = SessionIndex.none
  /// The source for which it counts, until it is closed.
  let holder: Address?
  /// It is for a known sender, for whom places are kept.
  let isForKnown: Bool
  /// Made to ask what the downstream offers; it serves no session.
  private(set) var isProbe: Bool
  var output = LinkOutput()
  var input = LinkInput()
  var client: Acquaintance
  var outstanding = OutstandingCommands()
  /// The command that stands alone, where that is outstanding.
  private(set) var atHand = Verb.unknown
  /// What the current reply answers.
  var repliedVerb = Verb.unknown
  /// AUTH is being ended: what comes answers `*`.
  private(set) var isCancelling = false
  /// The client has the beginning of a challenge whose end has not come.
  private(set) var hasPassedPiece = false
  /// How many recipients it was told, and how many of those it has answered: places in the ring of their paths.
  private var recipientsTold: UInt8 = 0
  private var recipientsAnswered: UInt8 = 0
  /// Which of the downstream's addresses it goes to, and how many were tried in vain before.
  let server: UInt8
  let addressesTried: UInt8
  /// Whether it was greeted with EHLO.
  private(set) var isExtended = false
  /// What it was offered, in the name of its client.
  var offer = LinkOffer()
  /// Whether TLS is spoken on it.
  private(set) var isSecured = false
  /// It was asked for TLS and refused, or its client's handshake is to pass: it is used as it is.
  private(set) var staysClear = false
  /// The session whose client left after its final dot; only the outcome is of interest now.
  private(set) var orphanOf: UInt64 = 0

  /// A free place.
  init(generation: UInt32 = 0) {
    self.generation = generation
    holder = nil
    isForKnown = false
    isProbe = false
    client = Acquaintance()
    server = 0
    addressesTried = 0
  }

  /// One that is being made.
  init(
    generation: UInt32, for session: SessionIndex, _ client: Acquaintance, holder: Address?,
    isForKnown: Bool, server: Int, addressesTried: UInt8
  ) {
    self.generation = generation
    self.session = session
    self.client = client
    self.holder = holder
    self.isForKnown = isForKnown
    self.server = UInt8(server)
    self.addressesTried = addressesTried
    isProbe = !session.exists
    staysClear = client.handshakes
    state = .connecting
  }

  mutating func enter(_ next: LinkState) { state = next }

  // MARK: Its session

  /// Its session goes on without it.
  mutating func release() { session = .none }

  /// Its client has left while the outcome of a whole message is open.
  mutating func orphan(_ id: UInt64) { orphanOf = id }

  /// It closes while it may be sending from its session's memory.
  mutating func pin() {
    if output.isForwarding { pinned = session }
  }

  /// Another one takes its place.
  mutating func replaced() { isProbe = false }

  // MARK: Commands

  /// A command of the session is with it.
  mutating func begin(_ verb: Verb, isCancelling: Bool = false) {
    state = .busy
    atHand = verb
    self.isCancelling = isCancelling
  }

  mutating func greeted(isExtended: Bool) {
    state = isExtended ? .ehlo : .helo
    self.isExtended = isExtended
    input.expect()
  }

  mutating func secured() { isSecured = true }

  mutating func refusedTLS() { staysClear = true }

  mutating func passedPiece() { hasPassedPiece = true }
  mutating func passedReply() { hasPassedPiece = false }

  /// The number of the next recipient it is told, and of the one it answers.
  mutating func tellRecipient() -> UInt8 {
    defer { recipientsTold &+= 1 }
    return recipientsTold
  }
  mutating func answerRecipient() -> UInt8 {
    defer { recipientsAnswered &+= 1 }
    return recipientsAnswered
  }
}

/// What a link is sending: octets of its own buffer, or a piece of its session's input as it lies there.
struct LinkOutput: BitwiseCopyable, Sendable {
  private var start: Int32 = 0
  private var end: Int32 = 0
  /// A send is outstanding.
  private(set) var isSending = false
  /// Octets of the current AUTH line, CRLF included, for which there was no room yet: the last of it.
  private(set) var unsaid: Int32 = 0
  /// Message bytes of the session are under way, by the way of the buffer or as they lie.
  private(set) var isForwarding = false
  private var piece = Region(offset: 0, count: 0)

  /// Whether nothing of the buffer is to be sent any more.
  var isEmpty: Bool { end == 0 }
  /// Octets that wait in the buffer or are being sent from it.
  var count: Int { Int(end) }

  /// Where the next octets go.
  func free(in region: Region) -> Region { region.from(Int(end)) }
  mutating func append(_ count: Int) { end += Int32(count) }

  /// Whether there is something of the buffer to be sent now, and nothing is being sent.
  @inline(__always)
  var mayGo: Bool { !isSending && start < end }

  /// What is to be sent now; there is something.
  mutating func send(from region: Region) -> Region {
    isSending = true
    return Region(offset: region.offset + Int(start), count: Int(end - start))
  }

  /// `count` octets of the buffer are out.
  ///
  /// - Returns: whether that is all.
  mutating func sent(_ count: Int) -> Bool {
    isSending = false
    start += Int32(count)
    if start < end { return false }
    start = 0
    end = 0
    return true
  }

  // MARK: A piece of message

  mutating func forward(_ piece: Region) {
    isForwarding = true
    self.piece = piece
  }

  /// Bytes of the message are in the buffer.
  mutating func forwardBuffer() {
    isForwarding = true
    piece = Region(offset: 0, count: 0)
  }

  /// The rest of the piece, once the buffer is out.
  mutating func sendPiece() -> Region? {
    guard isForwarding, end == 0, piece.count > 0 else { return nil }
    isSending = true
    return piece
  }

  /// `count` octets of the piece are out.
  mutating func sentPiece(_ count: Int) {
    isSending = false
    piece = piece.from(count)
  }

  /// Whether what is being sent is a piece as it lies in the session's input.
  var isSendingPiece: Bool { isForwarding && end == 0 }
  var isForwarded: Bool { isForwarding && piece.count == 0 && end == 0 }
  mutating func forwarded() { isForwarding = false }

  // MARK: A long line

  mutating func beginLine(_ count: Int) { unsaid = Int32(count) }
  mutating func said(_ count: Int) { unsaid -= Int32(count) }
}

/// What a link receives.
struct LinkInput: BitwiseCopyable, Sendable {
  /// Bytes at `start..<end` of the input region are not read yet.
  private var start: Int32 = 0
  private var end: Int32 = 0
  private var reader = ReplyReader()
  /// Bytes of the kept reply in the reply region.
  private(set) var replyCount: Int32 = 0
  /// Replies wait in the input region until the client has taken earlier ones.
  private(set) var isPaused = false

  /// The code of the reply that was read last.
  var code: UInt16 { reader.code }
  var unread: Int { Int(end - start) }

  /// A reply is to come.
  mutating func expect() { reader.reset() }
  /// The next reply is another one.
  mutating func expectNext() {
    reader.reset()
    replyCount = 0
  }
  /// The end of the message is out. The reader was made ready at 354, so a reply that has come in part is read on.
  mutating func expectFinal() { replyCount = 0 }

  mutating func filled(_ count: Int) {
    start = 0
    end = Int32(count)
  }

  /// What came before is forgotten (RFC 3207, 4.2).
  mutating func forget() {
    start = 0
    end = 0
    expectNext()
  }

  mutating func pause() { isPaused = true }
  mutating func resume() { isPaused = false }

  /// Octets that pass as they are.
  var passing: Int { Int(end) }
  mutating func passed() {
    start = 0
    end = 0
  }

  /// Reads on.
  ///
  /// - Parameters:
  ///   - source: the input region.
  ///   - target: where the reply is re-made.
  mutating func read(
    from source: Region, into target: Region, for use: ReplyUse, _ arena: inout Arena
  ) -> ReplyStep {
    var reader = reader
    var consumed = 0
    var step = ReplyStep.needMore
    let piece = source.from(Int(start)).prefix(unread)
    arena.exchange(from: piece, into: target) { bytes, text in
      step = reader.read(bytes, consumed: &consumed, into: &text, for: use)
    }
    self.reader = reader
    start += Int32(consumed)
    if case .complete = step { replyCount = Int32(reader.length) }
    return step
  }

  /// Octets of a reply that has not ended.
  var pieceCount: Int { reader.length }
  /// They were handed on.
  mutating func pieceTaken() { reader.taken() }
}

/// What a link knows of its client, and which part of that the downstream was told.
struct Acquaintance: BitwiseCopyable, Sendable {
  /// Of a probe: a stranger.
  var details = ClientDetails(.stranger)
  /// The name it gave itself, if it is one that can go on to the downstream; else empty.
  var helo = Region(offset: 0, count: 0)
  /// STARTTLS is to be passed on: the handshake is the client's.
  var handshakes = false
  /// What of a client the downstream wants to be told, by XCLIENT or XFORWARD, and how many lines it was told.
  private(set) var listed = ClientAttributes()
  private(set) var linesSaid: UInt8 = 0
  /// It was told.
  private(set) var isIntroduced = false

  /// The same client, as it is now.
  mutating func renew(_ other: Acquaintance) {
    details = other.details
    helo = other.helo
  }

  mutating func learn(_ listed: ClientAttributes) { self.listed = listed }
  mutating func beginLines() { linesSaid = 0 }
  mutating func saidLine() { linesSaid += 1 }
  mutating func introduced() { isIntroduced = true }
  /// What it was told holds for one transaction.
  mutating func forget() { isIntroduced = false }
}
