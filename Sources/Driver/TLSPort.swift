// SPDX-License-Identifier: Apache-2.0
//
// The driver's way through TLS. A secured slot has the same orders and facts as every other; here its octets are
// sealed on the way out and opened on the way in. Receives take one of a few large buffers, never one of the slot's;
// what a record holds beyond what was asked for waits in the slot's stash, and nothing more is received until it is
// gone. It knows no engine: what came of a call is `News`, for the driver to tell.

import Glibc
import Shield
import Structures
import TLS
import Uring

struct TLSPort: ~Copyable {
  /// What the engine is to be told of a slot, `heard` first.
  struct News {
    enum Heard {
      /// So many bytes of text lie in the region that was named.
      case filled(Int)
      /// So many bytes of text lie in `scratch`.
      case text(Int)
      case ended
      case failed
      case established(TLSInfo)
      case notSecured(Subject)
    }

    var heard: Heard?
    /// Bytes of text that are sealed and out; 0 for none.
    var sent = 0
  }

  private var contexts: TLSContexts
  private var secures: SecureSlots
  private var buffers: BufferRing
  /// Slots whose text was wanted when it was there already.
  private var openable: [UInt32] = []
  /// Slots that found no buffer.
  private var starved: [UInt32] = []
  var handshakes = Handshakes()
  /// What went wrong in the middle of orders.
  private(set) var troubles = Troubles()
  /// Connections that ended because there was no memory for their TLS.
  private(set) var outOfMemory: UInt64 = 0
  /// Where text is opened to that goes nowhere else.
  let scratch: UnsafeMutableRawPointer

  /// A drip that finds so much waiting has a peer that takes nothing.
  private static let dripsWaitingMost = 8_192
  private static var nothing: UnsafeRawBufferPointer {
    UnsafeRawBufferPointer(start: nil, count: 0)
  }

  /// - Parameter slots: how many may speak TLS.
  init(_ contexts: TLSContexts, slots: Int, _ ring: borrowing Ring) throws(RingError) {
    let isSecure = contexts.isSecure
    buffers = try BufferRing(
      ring, group: 2, count: isSecure ? DriverSizes.secureBufferCount : 1,
      bytesEach: isSecure ? DriverSizes.secureBuffer : DriverSizes.buffer)
    self.contexts = contexts
    secures = SecureSlots(capacity: slots)
    scratch = .allocate(byteCount: DriverSizes.buffer, alignment: 16)
  }

  deinit { scratch.deallocate() }

  /// Whether no slot speaks TLS.
  var isEmpty: Bool { secures.isEmpty }

  /// Open sessions keep the context that they began with.
  mutating func adopt(_ contexts: TLSContexts, _ ring: borrowing Ring) {
    self.contexts = contexts
    // Switched on by this reload. Group 2 has had no receive yet.
    if contexts.isSecure && buffers.count == 1 && secures.isEmpty {
      do {
        buffers = try BufferRing(
          ring, group: 3, count: DriverSizes.secureBufferCount,
          bytesEach: DriverSizes.secureBuffer)
      } catch {
        // It works with the small one, only slowly.
        return
      }
    }
  }

  /// What has gone wrong since the last call.
  mutating func takeTroubles() -> [Troubles.Trouble] { troubles.take() }

  /// The slot is closed.
  mutating func remove(_ i: Int) { secures.remove(i) }

  // MARK: Orders

  /// Begins a handshake.
  ///
  /// - Parameter listener: the number of the one that the peer came to, if it was a peer.
  mutating func secure(_ slot: Slot, _ handshake: Handshake, listener: Int, _ wire: inout Wire)
    -> News
  {
    let i = Int(slot.index)
    // A receive of clear text that is in flight would take what belongs to the handshake.
    guard !wire.isReceiving(i), let made = channel(handshake, listener), secures.insert(made, at: i)
    else {
      troubles.note(slot, handshake: .handshake)
      return News()
    }
    wire.becomeSecure(i)
    if handshake == .connect { return shakeHands(slot, TLSPort.nothing, &wire) }
    seekRecords(slot, &wire)
    return News()
  }

  private mutating func channel(_ handshake: Handshake, _ listener: Int) -> SecureSlot? {
    if handshake == .connect {
      guard let context = contexts.client else { return nil }
      return secureSlot(TLSChannel(context), inTurn: false)
    }
    guard listener < contexts.servers.count, let context = contexts.servers[listener] else {
      return nil
    }
    return secureSlot(TLSChannel(context), inTurn: handshake == .acceptInTurn)
  }

  private mutating func secureSlot(
    _ channel: consuming TLSChannel?, inTurn: Bool
  ) -> SecureSlot? {
    guard let channel = consume channel else {
      outOfMemory += 1
      return nil
    }
    return SecureSlot(channel, inTurn: inTurn)
  }

  /// Ends a connection for whose TLS there is no memory.
  private mutating func noMemory(_ slot: Slot) {
    outOfMemory += 1
    troubles.note(slot, handshake: secures[Int(slot.index)].isShakingHands ? .handshake : nil)
  }

  /// Wants plain text: into a region of that place and length, or as it comes.
  mutating func open(_ slot: Slot, into region: Region?, _ wire: inout Wire) {
    let i = Int(slot.index)
    wire.want(region == nil ? .listen : .fill, of: i)
    if let region { secures[i].region = (region.offset, region.count) }
    if wire.isClosing(i) { return }
    // Not at once: the fact would come in the middle of the orders of another one. A close_notify that came with the
    // last text has been read already, and the wire may stay silent for ever.
    if secures[i].stashed.count > 0 || secures[i].channel.holdsInput || secures[i].inputEnded
      || secures[i].channel.hasEnded
    {
      openable.append(slot.index)
    } else {
      seekRecords(slot, &wire)
    }
  }

  /// Wants to know of the end alone.
  mutating func watch(_ slot: Slot, _ wire: inout Wire) {
    let i = Int(slot.index)
    wire.want(.watch, of: i)
    if secures[i].inputEnded { openable.append(slot.index) } else { wire.watchSecurely(slot) }
  }

  /// Sends text that lies at a place of the arena.
  mutating func seal(
    _ slot: Slot, _ region: Region, _ arena: UnsafeMutableRawPointer, _ wire: inout Wire
  ) -> News {
    let i = Int(slot.index)
    secures[i].textOffset = region.offset
    secures[i].textLeft = region.count
    secures[i].textCount = region.count
    return News(sent: pushOut(slot, arena, &wire))
  }

  /// A byte is a record.
  mutating func seal(_ drip: Drip, _ arena: UnsafeMutableRawPointer, _ wire: inout Wire) -> News {
    let i = Int(drip.slot.index)
    if wire.isClosing(i) { return News() }
    guard secures[i].channel.pendingOutput <= TLSPort.dripsWaitingMost,
      case .accepted = secures[i].channel.write(drip.byte)
    else {
      troubles.note(drip.slot)
      return News()
    }
    return News(sent: pushOut(drip.slot, arena, &wire))
  }

  mutating func finish(
    _ slot: Slot, _ arena: UnsafeMutableRawPointer, _ wire: inout Wire
  ) -> News {
    secures[Int(slot.index)].isFinishing = true
    secures[Int(slot.index)].channel.closeNotify()
    return News(sent: pushOut(slot, arena, &wire))
  }

  /// Says goodbye, if that can be done without waiting.
  mutating func sayGoodbye(_ slot: Slot, _ wire: inout Wire) {
    let i = Int(slot.index)
    guard secures.contains(i), !wire.isSending(i) else { return }
    if secures[i].textLeft == 0 { secures[i].channel.closeNotify() }
    guard secures[i].takeOutput() == .taken, let out = secures[i].out else { return }
    wire.send(slot, out, count: secures[i].outCount, flags: Int32(MSG_DONTWAIT))
  }

  // MARK: Out

  /// Seals what is to be sent and sends what is sealed, one send at a time.
  ///
  /// - Returns: how much text of an order is out, whole; 0 if none is.
  private mutating func pushOut(
    _ slot: Slot, _ arena: UnsafeMutableRawPointer, _ wire: inout Wire
  ) -> Int {
    let i = Int(slot.index)
    if wire.isSending(i) || wire.isClosing(i) { return 0 }
    while secures[i].textLeft > 0 {
      let text = UnsafeRawBufferPointer(
        start: arena + secures[i].textOffset, count: secures[i].textLeft)
      guard case .accepted(let count) = secures[i].channel.write(text) else {
        secures[i].textLeft = 0
        secures[i].textCount = 0
        troubles.note(slot)
        break
      }
      secures[i].textOffset += count
      secures[i].textLeft -= count
      if count == 0 || secures[i].channel.pendingOutput >= TLSChannel.outputBytesMax { break }
    }
    return flush(slot, &wire)
  }

  /// Sends what is sealed, unless a send is under way.
  ///
  /// - Returns: how much text of an order is out, whole; 0 if none is.
  private mutating func flush(_ slot: Slot, _ wire: inout Wire) -> Int {
    let i = Int(slot.index)
    if wire.isSending(i) || wire.isClosing(i) { return 0 }
    switch secures[i].takeOutput() {
    case .taken:
      sendRest(slot, &wire)
      return 0
    case .noMemory:
      secures[i].textLeft = 0
      secures[i].textCount = 0
      noMemory(slot)
      return 0
    case .nothing: break
    }
    let sent = secures[i].textCount
    secures[i].textCount = 0
    if secures[i].isFinishing {
      secures[i].isFinishing = false
      wire.finish(slot)
    }
    return sent
  }

  private mutating func sendRest(_ slot: Slot, _ wire: inout Wire) {
    let i = Int(slot.index)
    guard let out = secures[i].out else { return }
    wire.send(slot, out + secures[i].outSent, count: secures[i].outCount - secures[i].outSent)
  }

  /// A send has completed; it is not in flight any more.
  mutating func sent(
    _ slot: Slot, _ result: Int32, _ arena: UnsafeMutableRawPointer, _ wire: inout Wire
  ) -> News {
    let i = Int(slot.index)
    guard result >= 0 else { return News(heard: .failed) }
    var news = News()
    if secures[i].sent(Int(result)) {
      news.sent = pushOut(slot, arena, &wire)
    } else {
      sendRest(slot, &wire)
    }
    if secures[i].isReadWaiting {
      secures[i].isReadWaiting = false
      openable.append(slot.index)
    }
    return news
  }

  // MARK: In

  /// Receives what comes next of the wire, unless that is under way.
  private mutating func seekRecords(_ slot: Slot, _ wire: inout Wire) {
    let begins = wire.receiveRecords(slot, group: buffers.group, bytesMax: buffers.bytesEach)
    // An idle session has no buffers but the ring's.
    if begins { secures[Int(slot.index)].channel.giveBack() }
  }

  /// Octets have come, or the end of them.
  mutating func received(
    _ slot: Slot, _ completion: Completion, _ arena: UnsafeMutableRawPointer, _ wire: inout Wire
  ) -> News {
    let i = Int(slot.index)
    let buffer = buffers.claim(completion)
    defer { if let buffer { buffers.recycle(buffer) } }
    if wire.isClosing(i) { return News() }
    switch completion.result {
    case 1...:
      guard let buffer else { return News() }
      let bytes = UnsafeRawBufferPointer(
        start: buffers.pointer(for: buffer), count: Int(completion.result))
      if secures[i].isShakingHands { return takeTurn(slot, bytes, &wire) }
      let news = openRecords(slot, bytes, arena, &wire)
      if wire.want(i) == .watch { watch(slot, &wire) }
      return news
    case 0:
      secures[i].inputEnded = true
      if secures[i].isShakingHands { return News(heard: .notSecured(.alert)) }
      return wire.want(i) == .nothing ? News() : end(slot, &wire)
    case -ENOBUFS:
      wire.starve(slot)
      starved.append(slot.index)
    case -EAGAIN, -EINTR: seekRecords(slot, &wire)
    case -ECANCELED: break
    default: return News(heard: .failed)
    }
    return News()
  }

  private mutating func end(_ slot: Slot, _ wire: inout Wire) -> News {
    wire.want(.nothing, of: Int(slot.index))
    secures[Int(slot.index)].region = nil
    return News(heard: .ended)
  }

  /// Hands over plain text, one fact of it, from what waited and what has just come.
  private mutating func openRecords(
    _ slot: Slot, _ fresh: UnsafeRawBufferPointer, _ arena: UnsafeMutableRawPointer,
    _ wire: inout Wire
  ) -> News {
    let i = Int(slot.index)
    let isStashed = secures[i].stashed.count > 0
    if isStashed && !secures[i].keep(fresh) {
      noMemory(slot)
      return News()
    }
    var input = isStashed ? secures[i].stashed : fresh
    var news = News()
    if let found = read(slot, &input, arena, wire) {
      switch found {
      case .bytes(let count):
        news.heard = secures[i].region == nil ? .text(count) : .filled(count)
        wire.want(.nothing, of: i)
        secures[i].region = nil
      case .needsMore:
        if secures[i].inputEnded { news = end(slot, &wire) } else { seekRecords(slot, &wire) }
      case .closed: news = end(slot, &wire)
      case .mustSend: secures[i].isReadWaiting = true
      case .failed: news.heard = .failed
      }
      // Alerts, and answers to key updates.
      if secures[i].channel.pendingOutput > 0 { news.sent = pushOut(slot, arena, &wire) }
    } else if wire.want(i) == .watch && secures[i].inputEnded {
      news = end(slot, &wire)
    }
    if isStashed {
      secures[i].drop(keeping: input.count)
    } else if !secures[i].keep(input) {
      noMemory(slot)
    }
    return news
  }

  /// Opens into the region that is wanted, or into `scratch`.
  ///
  /// - Returns: nil where no text is wanted.
  private mutating func read(
    _ slot: Slot, _ input: inout UnsafeRawBufferPointer, _ arena: UnsafeMutableRawPointer,
    _ wire: borrowing Wire
  ) -> TLSRead? {
    let i = Int(slot.index)
    let room: UnsafeMutableRawBufferPointer
    if let region = secures[i].region {
      room = UnsafeMutableRawBufferPointer(start: arena + region.offset, count: region.count)
    } else if wire.want(i) == .listen {
      room = UnsafeMutableRawBufferPointer(start: scratch, count: DriverSizes.buffer)
    } else {
      return nil
    }
    return secures[i].channel.read(&input, into: room)
  }

  // MARK: Handshakes

  /// A step of a handshake, now or in its turn.
  private mutating func takeTurn(
    _ slot: Slot, _ bytes: UnsafeRawBufferPointer, _ wire: inout Wire
  ) -> News {
    let i = Int(slot.index)
    if handshakes.mayStep(inTurn: secures[i].isInTurn) { return shakeHands(slot, bytes, &wire) }
    // Nothing is received until its turn has come, so it waits once.
    if secures[i].keep(bytes) {
      handshakes.wait(slot, inTurn: secures[i].isInTurn)
    } else {
      noMemory(slot)
    }
    return News()
  }

  /// Its turn has come.
  ///
  /// - Returns: nil if there is no handshake any more.
  mutating func goOnShaking(_ slot: Slot, _ wire: inout Wire) -> News? {
    let i = Int(slot.index)
    guard wire.isSecure(i), secures[i].isShakingHands, !wire.isClosing(i) else { return nil }
    return shakeHands(slot, TLSPort.nothing, &wire)
  }

  /// Goes on with a handshake, with what waited and what has just come. No text of an order waits to go out yet.
  private mutating func shakeHands(
    _ slot: Slot, _ fresh: UnsafeRawBufferPointer, _ wire: inout Wire
  ) -> News {
    let i = Int(slot.index)
    let isStashed = secures[i].stashed.count > 0
    if isStashed && !secures[i].keep(fresh) {
      noMemory(slot)
      return News()
    }
    var input = isStashed ? secures[i].stashed : fresh
    let found = secures[i].channel.advance(&input)
    if isStashed {
      secures[i].drop(keeping: input.count)
    } else if !secures[i].keep(input) {
      noMemory(slot)
      return News()
    }
    if case .established = found { secures[i].isShakingHands = false }
    let sent = flush(slot, &wire)
    invariant(sent == 0, "text went out before the handshake of slot \(slot)")
    switch found {
    case .needsMore: seekRecords(slot, &wire)
    case .established(let info): return News(heard: .established(info))
    case .failed(let failure): troubles.note(slot, handshake: Subject(failure))
    }
    return News()
  }

  /// What a handshake came to, for the engine.
  ///
  /// - Parameter isClient: whether the peer is a client, whose name and certificate are of interest.
  func facts(_ i: Int, _ info: TLSInfo, isClient: Bool) -> TLSFacts {
    var facts = TLSFacts(info)
    if isClient { facts.note(secures[i].channel.peerCertificate, secures[i].channel.serverName) }
    return facts
  }

  // MARK: Each turn

  /// How many slots have text that is opened already, or an end.
  var openableCount: Int { openable.count }

  /// Looks at one of them, by its number in their order.
  ///
  /// - Parameter generation: of the present tenant of a place; one that came since is none the worse for a look.
  /// - Returns: whose news, if any.
  mutating func openNext(
    _ k: Int, _ arena: UnsafeMutableRawPointer, _ wire: inout Wire, _ generation: (Int) -> UInt32
  ) -> (slot: Slot, news: News)? {
    let i = Int(openable[k])
    guard wire.isSecure(i), !wire.isClosing(i), !secures[i].isShakingHands else { return nil }
    let slot = Slot(index: openable[k], generation: generation(i))
    return (slot, openRecords(slot, TLSPort.nothing, arena, &wire))
  }

  /// So many of them have been looked at.
  mutating func forgetOpenable(_ count: Int) { openable.removeFirst(count) }

  /// Lets the slots that found no buffer try again.
  mutating func feedStarved(_ wire: inout Wire, _ generation: (Int) -> UInt32) {
    if starved.isEmpty { return }
    for index in starved {
      let i = Int(index)
      guard wire.isSecure(i), wire.endStarving(i) else { continue }
      seekRecords(Slot(index: index, generation: generation(i)), &wire)
    }
    starved.removeAll(keepingCapacity: true)
  }
}
