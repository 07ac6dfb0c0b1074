// SPDX-License-Identifier: Apache-2.0
//
// TLS of one connection: bytes from the wire in, bytes for the wire out, plain text on the other side. No
// sockets, no timers. Input is lent for the length of a call and copied nowhere; what a call does not take
// stays the caller's. Output waits here until it is taken. Keeps: a failure is final and told again at
// each call; no plain text is given out after one, nor after close_notify; pending output < outputBytesMax
// + what one call with its input can cause.

import COpenSSL
import CTLS
import Glibc
import Structures

/// What became of a handshake after more bytes.
public enum TLSHandshake: Sendable, Equatable {
  /// All bytes given were taken; send what is pending, and more must come.
  case needsMore
  /// Done. Send what is pending; bytes that were not taken are for `read`.
  case established(TLSInfo)
  /// Over. Send what is pending (the alert), then close.
  case failed(TLSFailure)
}

/// What became of an attempt to read plain text.
public enum TLSRead: Sendable, Equatable {
  /// So many bytes, more than 0. Call again: there may be more.
  case bytes(Int)
  /// All bytes given were taken, and more must come.
  case needsMore
  /// The peer said that it sends no more (close_notify). What it sends after that is no plain text.
  case closed
  /// So much output waits that some must be taken first.
  case mustSend
  /// Over. Send what is pending (the alert), then close.
  case failed(TLSFailure)
}

/// What became of plain text to be sent.
public enum TLSWrite: Sendable, Equatable {
  /// So many bytes were sealed: all, unless `TLSChannel.outputBytesMax` bytes wait; then offer the rest
  /// again once some were taken.
  case accepted(Int)
  /// Over.
  case failed(TLSFailure)
}

/// How the peer's sending ended.
public enum TLSEnd: Sendable, Equatable {
  /// By close_notify.
  case clean
  /// Without: what came may not be all of it (a truncated message, say).
  case cut
}

/// TLS of one connection. For one thread at a time.
///
/// Of STARTTLS it knows nothing: whoever makes a channel must have no byte of the peer in hand, for bytes
/// that came before the handshake are not part of it (CVE-2011-0411).
public struct TLSChannel: ~Copyable {
  let state: UnsafeMutablePointer<ChannelState>

  /// From this many waiting bytes on nothing is sealed and nothing is read.
  public static let outputBytesMax = 65_536
  /// The largest ClientHello. OpenSSL's own limit is 131 KB, taken at once on the word of its header; with
  /// every post-quantum key share there is it has less than 8 KB.
  public static let helloBytesMax = 16_384

  /// A server's side of a connection on which nothing has been said yet; nil without memory.
  public init?(_ context: TLSServerContext) {
    guard let made = ChannelState.make(context.context) else { return nil }
    state = made
    SSL_set_accept_state(state.pointee.session)
    state.pointee.isServer = true
  }

  /// A client's side; nil without memory. Call `advance` without bytes first: it speaks first.
  public init?(_ context: TLSClientContext) {
    guard let made = ChannelState.make(context.context) else { return nil }
    SSL_set_connect_state(made.pointee.session)
    guard context.prepare(made.pointee.session) else {
      ChannelState.end(made)
      return nil
    }
    state = made
  }

  deinit {
    // A connection that ends without close_notify is no reason to forget its session (RFC 5246, 7.2.1).
    if state.pointee.failure == nil && state.pointee.isEstablished {
      SSL_set_shutdown(state.pointee.session, SSL_SENT_SHUTDOWN | SSL_RECEIVED_SHUTDOWN)
    }
    ChannelState.end(state)
  }

  // MARK: - From the wire

  /// Goes on with the handshake; once it is done, or has failed, the same answer comes again.
  ///
  /// - Parameter input: what came; the bytes taken are cut off its front.
  public mutating func advance(_ input: inout UnsafeRawBufferPointer) -> TLSHandshake {
    if let failure = state.pointee.failure { return .failed(failure) }
    let session = state.pointee.session
    if state.pointee.isEstablished { return .established(TLSInfo(session)) }
    while true {
      // One record at a time: what is said in clear is looked at before OpenSSL believes it.
      let (count, failure) = state.pointee.admit(input)
      if let failure {
        state.pointee.failure = failure
        return .failed(failure)
      }
      lend(UnsafeRawBufferPointer(rebasing: input[..<count]))
      ERR_clear_error()
      let status = SSL_do_handshake(session)
      let why = status == 1 ? SSL_ERROR_NONE : SSL_get_error(session, status)
      input = UnsafeRawBufferPointer(rebasing: input[(count - takeBack().count)...])
      switch why {
      case SSL_ERROR_NONE:
        state.pointee.isEstablished = true
        return .established(TLSInfo(session))
      case SSL_ERROR_WANT_READ, SSL_ERROR_WANT_WRITE:
        if input.isEmpty { return .needsMore }
      default: return .failed(fail())
      }
    }
  }

  /// Opens what came and puts plain text into `room`. The handshake must be done.
  ///
  /// - Parameters:
  ///   - input: what came; the bytes taken are cut off its front. Some are left when `room` is full.
  ///   - room: at least one byte.
  public mutating func read(
    _ input: inout UnsafeRawBufferPointer, into room: UnsafeMutableRawBufferPointer
  ) -> TLSRead {
    invariant(room.count > 0, "plain text needs room")
    if let failure = state.pointee.failure { return .failed(failure) }
    invariant(state.pointee.isEstablished, "there is no plain text before the handshake is done")
    if state.pointee.isClosed { return .closed }
    let session = state.pointee.session
    var filled = 0
    lend(input)
    defer { input = takeBack() }
    while filled < room.count {
      if pendingOutput >= TLSChannel.outputBytesMax {
        return filled > 0 ? .bytes(filled) : .mustSend
      }
      // To look in vain costs a buffer, which OpenSSL makes anew each time.
      if state.pointee.inputCount == 0 && !holdsInput {
        return filled > 0 ? .bytes(filled) : .needsMore
      }
      var count = 0
      ERR_clear_error()
      let status = SSL_read_ex(
        session, room.baseAddress.map { $0 + filled }, room.count - filled, &count)
      if status == 1 {
        filled += count
        continue
      }
      switch SSL_get_error(session, status) {
      case SSL_ERROR_WANT_READ, SSL_ERROR_WANT_WRITE:
        return filled > 0 ? .bytes(filled) : .needsMore
      case SSL_ERROR_ZERO_RETURN:
        state.pointee.isClosed = true
        return filled > 0 ? .bytes(filled) : .closed
      default:
        let failure = fail()
        // What was opened before is good; the failure comes at the next call.
        return filled > 0 ? .bytes(filled) : .failed(failure)
      }
    }
    return .bytes(filled)
  }

  /// The peer has closed the connection, or its sending side: was that all it had to say?
  public func inputEnded() -> TLSEnd { state.pointee.isClosed ? .clean : .cut }

  /// Whether the next `read` needs no input to say that the peer has closed its side, or that the session has failed.
  public var hasEnded: Bool { state.pointee.isClosed || state.pointee.failure != nil }

  /// Whether bytes of the wire wait inside: the front of a record, or plain text that found no room.
  /// Before the first `advance` it is false.
  public var holdsInput: Bool { SSL_has_pending(state.pointee.session) == 1 }

  // MARK: - To the wire

  /// Seals plain text. The handshake must be done.
  ///
  /// Each call makes at least one record; a single byte is a record of its own. A record takes 22 bytes
  /// more than its text in TLS 1.3, 29 (AES-GCM) or 21 (ChaCha20) in TLS 1.2.
  public mutating func write(_ text: UnsafeRawBufferPointer) -> TLSWrite {
    if let failure = state.pointee.failure { return .failed(failure) }
    invariant(state.pointee.isEstablished, "nothing is sealed before the handshake is done")
    var done = 0
    while done < text.count && pendingOutput < TLSChannel.outputBytesMax {
      var count = 0
      ERR_clear_error()
      // SSL_MODE_ENABLE_PARTIAL_WRITE: one record a call. Our BIO takes every record whole, so there
      // never is one that must be offered again with the same bytes.
      let status = SSL_write_ex(
        state.pointee.session, text.baseAddress.map { $0 + done }, text.count - done, &count)
      if status != 1 { return .failed(fail()) }
      done += count
    }
    return .accepted(done)
  }

  /// Tells the peer that nothing more comes. Does nothing before the handshake is done or after a failure.
  public mutating func closeNotify() {
    guard state.pointee.isEstablished, state.pointee.failure == nil else { return }
    ERR_clear_error()
    SSL_shutdown(state.pointee.session)
    ERR_clear_error()
  }

  /// Bytes that wait to be sent.
  public var pendingOutput: Int { state.pointee.outputEnd - state.pointee.outputStart }

  /// Moves bytes for the wire into `room`.
  ///
  /// - Returns: how many: the lesser of `room.count` and `pendingOutput`.
  public mutating func take(into room: UnsafeMutableRawBufferPointer) -> Int {
    let count = min(room.count, pendingOutput)
    guard count > 0, let output = state.pointee.output else { return 0 }
    room.copyMemory(
      from: UnsafeRawBufferPointer(start: output + state.pointee.outputStart, count: count))
    state.pointee.outputStart += count
    if state.pointee.outputStart == state.pointee.outputEnd {
      state.pointee.outputStart = 0
      state.pointee.outputEnd = 0
    }
    return count
  }

  // MARK: - At rest, and what is known

  /// Gives back what an idle session does not need: OpenSSL's buffers, and that of the output if it is
  /// empty. They come back with the next byte. A session in the middle of a record keeps its own.
  public mutating func giveBack() {
    // It answers 0 when something is still in them, and then keeps them.
    if state.pointee.isEstablished { _ = SSL_free_buffers(state.pointee.session) }
    if pendingOutput == 0 { state.pointee.freeOutput() }
  }

  /// What was agreed on; nil before the handshake is done.
  public var info: TLSInfo? {
    state.pointee.isEstablished ? TLSInfo(state.pointee.session) : nil
  }

  /// Why it failed, if it has.
  public var failure: TLSFailure? { state.pointee.failure }

  /// The name the client asked for (SNI), 255 octets at most; as it came, so escape it before you log it.
  public var serverName: String? {
    SSL_get_servername(state.pointee.session, TLSEXT_NAMETYPE_host_name).map {
      String(cString: $0)
    }
  }

  /// The certificate that the peer showed, in this session or in the one it goes on with.
  public var peerCertificate: TLSPeerCertificate? {
    guard let certificate = SSL_get0_peer_certificate(state.pointee.session) else { return nil }
    var digest = [UInt8](repeating: 0, count: 32)
    var count: UInt32 = 0
    guard X509_digest(certificate, EVP_sha256(), &digest, &count) == 1 else { return nil }
    let result = SSL_get_verify_result(state.pointee.session)
    return TLSPeerCertificate(
      commonName: TLSIdentity.commonName(of: certificate), fingerprint: digest,
      isVerified: result == X509_V_OK,
      verification: X509_verify_cert_error_string(result).map { String(cString: $0) } ?? "")
  }

  // MARK: - Inside

  private func lend(_ input: UnsafeRawBufferPointer) {
    state.pointee.input = input.baseAddress
    state.pointee.inputCount = input.count
  }

  private func takeBack() -> UnsafeRawBufferPointer {
    let rest = UnsafeRawBufferPointer(
      start: state.pointee.input, count: state.pointee.inputCount)
    state.pointee.input = nil
    state.pointee.inputCount = 0
    return rest
  }

  private func fail() -> TLSFailure {
    var failure = TLSFailure.take(state.pointee.session)
    if state.pointee.lateSteps > ChannelState.lateStepsMax {
      failure = TLSFailure(.tooManyHandshakes)
    }
    state.pointee.failure = failure
    return failure
  }
}

extension TLSChannel {
  /// `advance` with the bytes of a span from `taken` on, which is moved forward.
  public mutating func advance(_ input: Span<UInt8>, taken: inout Int) -> TLSHandshake {
    input.withUnsafeBytes { raw in
      var rest = UnsafeRawBufferPointer(rebasing: raw[taken...])
      defer { taken = raw.count - rest.count }
      return advance(&rest)
    }
  }

  /// `read` with the bytes of a span from `taken` on, which is moved forward.
  public mutating func read(
    _ input: Span<UInt8>, taken: inout Int, into room: inout MutableSpan<UInt8>
  ) -> TLSRead {
    input.withUnsafeBytes { raw in
      var rest = UnsafeRawBufferPointer(rebasing: raw[taken...])
      defer { taken = raw.count - rest.count }
      return room.withUnsafeMutableBytes { read(&rest, into: $0) }
    }
  }

  /// `write` with the bytes of a span.
  public mutating func write(_ text: Span<UInt8>) -> TLSWrite {
    text.withUnsafeBytes { write($0) }
  }

  /// Seals one byte as a record of its own: a drip.
  public mutating func write(_ byte: UInt8) -> TLSWrite {
    withUnsafeBytes(of: byte) { write($0) }
  }

  /// `take` into a span.
  public mutating func take(into room: inout MutableSpan<UInt8>) -> Int {
    room.withUnsafeMutableBytes { take(into: $0) }
  }
}

/// What a channel and its BIO work on, at an address that does not change.
struct ChannelState {
  let session: OpaquePointer
  /// Lent for the length of a call.
  var input: UnsafeRawPointer?
  var inputCount = 0
  /// start ≤ end ≤ capacity; what waits is between the two.
  var output: UnsafeMutableRawPointer?
  var outputCapacity = 0
  var outputStart = 0
  var outputEnd = 0
  var failure: TLSFailure?
  var isServer = false
  var isEstablished = false
  var isClosed = false
  /// Steps of OpenSSL's state machine after the handshake: nine or so for a key update, one for a refused
  /// renegotiation. Each costs a key or an alert, and OpenSSL 3.0 sets no limit to them.
  var lateSteps: UInt16 = 0
  /// A session of mail needs next to none: keys are good for 2^24 records and more (RFC 8446, 5.5).
  static let lateStepsMax: UInt16 = 300
  /// Where in its records and messages the peer is, as long as the handshake lasts.
  var walk = HandshakeWalk()

  /// - Returns: nil without memory: any peer can ask for a session, so that ends no more than its connection.
  static func make(_ context: OpaquePointer) -> UnsafeMutablePointer<ChannelState>? {
    // malloc, because `allocate` ends the process where there is none.
    guard let method = channelMethod, let room = malloc(MemoryLayout<ChannelState>.size) else {
      return nil
    }
    guard let session = SSL_new(context) else {
      free(room)
      ERR_clear_error()
      return nil
    }
    guard let bio = BIO_new(method.pointer) else {
      SSL_free(session)
      free(room)
      ERR_clear_error()
      return nil
    }
    let state = room.bindMemory(to: ChannelState.self, capacity: 1)
    state.initialize(to: ChannelState(session: session))
    BIO_set_data(bio, state)
    BIO_set_init(bio, 1)
    // One BIO for both ways; the session owns it.
    SSL_set_bio(session, bio, bio)
    return state
  }

  static func end(_ state: UnsafeMutablePointer<ChannelState>) {
    SSL_free(state.pointee.session)
    state.pointee.freeOutput()
    state.deinitialize(count: 1)
    free(state)
    ERR_clear_error()
  }

  private init(session: OpaquePointer) { self.session = session }

  /// How many of these bytes OpenSSL may see now: not beyond the end of a record.
  mutating func admit(_ bytes: UnsafeRawBufferPointer) -> (count: Int, failure: TLSFailure?) {
    // Before the first hello was understood this is the newest version.
    walk.admit(bytes, isServer: isServer, isTLS13: SSL_version(session) == TLS1_3_VERSION)
  }

  /// - Returns: false without memory for it.
  mutating func append(_ bytes: UnsafeRawBufferPointer) -> Bool {
    if outputEnd + bytes.count > outputCapacity {
      let waiting = outputEnd - outputStart
      var wanted = max(outputCapacity, 1_024)
      while wanted < waiting + bytes.count { wanted *= 2 }
      guard let larger = malloc(wanted) else { return false }
      if let output {
        larger.copyMemory(from: output + outputStart, byteCount: waiting)
        free(output)
      }
      output = larger
      outputCapacity = wanted
      outputStart = 0
      outputEnd = waiting
    }
    guard let output, let start = bytes.baseAddress else { return true }
    (output + outputEnd).copyMemory(from: start, byteCount: bytes.count)
    outputEnd += bytes.count
    return true
  }

  mutating func freeOutput() {
    free(output)
    output = nil
    outputCapacity = 0
    outputStart = 0
    outputEnd = 0
  }
}

/// Follows the headers of a handshake's records, to stop two things before OpenSSL acts on them: text in
/// clear, and hellos that claim to be long.
///
/// After a HelloRetryRequest a second hello comes, also in clear. Other messages have limits of OpenSSL's.
struct HandshakeWalk {
  /// 0 ..< 5 in the header of a record, 5 in what follows.
  private var headerSeen: UInt8 = 0
  /// 0 ..< 4 in the header of a hello, 4 elsewhere.
  private var messageSeen: UInt8 = 4
  private var type: UInt8 = 0
  private var messageType: UInt8 = 0
  private var hasStarted = false
  /// The first message of a server's peer was seen.
  private var hasHello = false
  /// A hello in the form of SSL 2 has other headers; OpenSSL reads it, with a limit of its own.
  private var isOld = false
  private var recordLeft = 0
  private var messageLeft = 0

  /// - Returns: how many bytes there are up to the end of the record, or of `bytes`.
  mutating func admit(
    _ bytes: UnsafeRawBufferPointer, isServer: Bool, isTLS13: Bool
  ) -> (count: Int, failure: TLSFailure?) {
    var count = 0
    while count < bytes.count && !isOld {
      let byte = bytes[count]
      if headerSeen < 5 {
        if let failure = sawHeader(byte, isServer, isTLS13) { return (count, failure) }
        count += 1
      } else if messageSeen < 4 {
        if let failure = sawMessageHeader(byte) { return (count, failure) }
        count += 1
        recordLeft -= 1
      } else {
        let part = min(bytes.count - count, recordLeft)
        count += part
        recordLeft -= part
        messageLeft -= min(messageLeft, part)
      }
      if headerSeen == 5 && recordLeft == 0 {
        headerSeen = 0
        return (count, nil)
      }
    }
    return (isOld ? bytes.count : count, nil)
  }

  private mutating func sawHeader(
    _ byte: UInt8, _ isServer: Bool, _ isTLS13: Bool
  ) -> TLSFailure? {
    switch headerSeen {
    case 0:
      type = byte
      // Records are of type 20 to 23.
      if !hasStarted && !(20...23).contains(byte) {
        if byte < 0x80 {
          let isText = (32...126).contains(byte) || (9...13).contains(byte)
          return TLSFailure(isText ? .plainText : .malformed)
        }
        isOld = true
      }
      hasStarted = true
    case 3: recordLeft = Int(byte) << 8
    case 4:
      recordLeft |= Int(byte)
      // In TLS 1.2 only the first message is a hello, and later ones may be sealed.
      let mayBeHello = isServer && type == 22 && (!hasHello || isTLS13)
      if mayBeHello && messageLeft == 0 {
        if recordLeft < 4 { return TLSFailure(.badHello) }
        messageSeen = 0
      }
    default: break
    }
    headerSeen += 1
    return nil
  }

  private mutating func sawMessageHeader(_ byte: UInt8) -> TLSFailure? {
    if messageSeen == 0 {
      messageType = byte
    } else {
      messageLeft = messageLeft << 8 | Int(byte)
    }
    messageSeen += 1
    if messageType == 1 && messageLeft > TLSChannel.helloBytesMax { return TLSFailure(.badHello) }
    if messageSeen == 4 { hasHello = true }
    return nil
  }
}

/// Counts what a peer makes us do after the handshake.
func handshakeCallback(_ session: OpaquePointer?, _ event: Int32, _ value: Int32) {
  // For key updates of TLS 1.3 no start is told, only each message.
  let isUpdate = event & SSL_CB_LOOP != 0
  // SSL_CB_ALERT in the direction of SSL_CB_WRITE; the level is above the number.
  let isRefusal =
    event == SSL_CB_ALERT | SSL_CB_WRITE && value & 0xFF == SSL_AD_NO_RENEGOTIATION
  guard isUpdate || isRefusal, let data = BIO_get_data(SSL_get_rbio(session)) else { return }
  let state = data.assumingMemoryBound(to: ChannelState.self)
  if state.pointee.isEstablished && state.pointee.lateSteps < .max {
    state.pointee.lateSteps += 1
  }
}

/// Reads from what is lent, writes to what waits. Smaller than two memory BIOs, and no byte of the input
/// is copied before OpenSSL itself does. nil without memory for it at the first session.
private let channelMethod: Handle? = {
  guard let method = BIO_meth_new(BIO_get_new_index() | BIO_TYPE_SOURCE_SINK, "sluice") else {
    return nil
  }
  BIO_meth_set_read_ex(method) { bio, room, size, count in
    guard let bio, let room, let count, let data = BIO_get_data(bio) else { return 0 }
    let state = data.assumingMemoryBound(to: ChannelState.self)
    ctls_clear_retry(bio)
    // No more input: OpenSSL gives up in the middle of what it was given.
    if state.pointee.lateSteps > ChannelState.lateStepsMax { return 0 }
    let given = min(size, state.pointee.inputCount)
    count.pointee = given
    guard given > 0, let input = state.pointee.input else {
      ctls_read_again(bio)
      return 0
    }
    UnsafeMutableRawPointer(room).copyMemory(from: input, byteCount: given)
    state.pointee.input = input + given
    state.pointee.inputCount -= given
    return 1
  }
  BIO_meth_set_write_ex(method) { bio, bytes, size, count in
    guard let bio, let bytes, let count, let data = BIO_get_data(bio) else { return 0 }
    ctls_clear_retry(bio)
    let isTaken = data.assumingMemoryBound(to: ChannelState.self).pointee.append(
      UnsafeRawBufferPointer(start: bytes, count: size))
    count.pointee = isTaken ? size : 0
    return isTaken ? 1 : 0
  }
  BIO_meth_set_ctrl(method) { bio, command, _, _ in
    // What was written is there at once; OpenSSL flushes at the end of each flight.
    command == BIO_CTRL_FLUSH ? 1 : 0
  }
  return Handle(pointer: method)
}()
