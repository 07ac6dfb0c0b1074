// SPDX-License-Identifier: Apache-2.0
import CAllocations
import Policy
import Shield
import Structures
import Suspicion
import Testing

/// A driver that allocates nothing: it answers each order at once, with bytes made before.
///
/// It plays one client after the other through a whole mail: connect, greet, MAIL, RCPT, DATA, a message,
/// QUIT; its downstream says yes to everything.
private struct TightDriver: ~Copyable {
  var engine: Engine
  var effects = Moment(capacity: 256)
  var now = Instant(seconds: 1)
  /// What the client says next, and the places of the pieces in `script`.
  let script: [[UInt8]]
  let banner = Array("220 inner.test ESMTP\r\n".utf8)
  let ehlo = Array(
    "250-inner.test\r\n250-PIPELINING\r\n250-XFORWARD ADDR HELO PORT\r\n250-XCLIENT ADDR HELO PORT\r\n250 8BITMIME\r\n"
      .utf8)
  let fine = Array("250 2.0.0 Fine\r\n".utf8)
  let goOn = Array("354 Go on\r\n".utf8)
  var piece = 0
  var delivered = 0
  var work: [Effect] = []

  init(_ engine: consuming Engine, _ script: [[UInt8]]) {
    self.engine = engine
    self.script = script
    work.reserveCapacity(256)
  }

  mutating func takeEffects() {
    for k in 0..<effects.count { work.append(effects[k]) }
    effects.removeAll()
  }

  mutating func settle() {
    takeEffects()
    var k = 0
    while k < work.count {
      step(work[k])
      takeEffects()
      k += 1
    }
    work.removeAll(keepingCapacity: true)
  }

  private mutating func step(_ effect: Effect) {
    switch effect {
    case .listen(let slot):
      guard piece == 0 else { return }
      let bytes = script[piece]
      piece += 1
      engine.received(slot, bytes.span, now: now, into: &effects)
    case .fill(let slot, let region):
      if engine.isClient(Int(slot.index)) {
        guard piece < script.count else { return }
        if piece == messagePiece && !mayContinue {
          waiting = (slot, region)
        } else {
          speak(slot, region)
        }
      } else {
        pending = (slot, region)
      }
    case .send(let slot, let region):
      engine.sent(slot, region.count, now: now, into: &effects)
    case .connect(let slot, _):
      engine.connected(slot, now: now, into: &effects)
    case .close(let slot): engine.closed(slot, now: now, into: &effects)
    case .watch, .narrow, .widen, .finish, .secure, .lookUp, .hand: break
    }
  }

  /// Where the downstream's next reply goes.
  var pending: (Slot, Region)?

  /// Where the message goes: the receive stands since DATA, a well-behaved client waits for 354.
  var waiting: (Slot, Region)?
  var mayContinue = false
  let messagePiece = 4

  mutating func speak(_ slot: Slot, _ region: Region) {
    let bytes = script[piece]
    piece += 1
    engine.core.arena.write(bytes.span, at: region.offset)
    engine.filled(slot, bytes.count, now: now, into: &effects)
  }

  /// Lets the downstream answer what it was told.
  mutating func downstreamAnswers(_ reply: [UInt8]) {
    guard let (slot, region) = pending else { return }
    pending = nil
    engine.core.arena.write(reply.span, at: region.offset)
    engine.filled(slot, reply.count, now: now, into: &effects)
    settle()
    mayContinue = reply[0] == UInt8(ascii: "3")
    if mayContinue, let (slot, region) = waiting {
      waiting = nil
      speak(slot, region)
      settle()
    }
  }
}

@Suite("Steady state", .serialized)
struct AllocationTests {
  @Test("the counter counts")
  func counter() {
    let before = allocations_of_this_thread()
    let array = [UInt8](repeating: 1, count: 10_000)
    #expect(array.count == 10_000 && allocations_of_this_thread() > before)
  }

  @Test(
    "a mail from connect to QUIT allocates nothing, whatever the downstream is told about its client",
    arguments: [Introduction.none, .proxyV1, .proxyV2, .xclient, .xforward, .received])
  func mail(introduction: Introduction) {
    let script = [
      "EHLO client.example.org\r\n", "MAIL FROM:<a@b.c> SIZE=100\r\n", "RCPT TO:<d@e.f>\r\n",
      "DATA\r\n", "Subject: x\r\n\r\nhello\r\n.\r\n", "QUIT\r\n",
    ].map { Array($0.utf8) }
    var policy = policy(
      access: "10.0.0.0/8 trusted\n", rates: "10.0.0.0/8 conn=9999/s rcpt=9999/s\n")
    policy.timeouts.command = 30_000_000
    var driver = TightDriver(
      Engine(
        policy: policy, limits: limits(), seed: 1, servers: [Server(DownstreamTerms(introduction))]),
      script)
    let probed = driver.engine.timeReached(driver.now, into: &driver.effects)
    driver.settle()
    driver.downstreamAnswers(driver.banner)
    driver.downstreamAnswers(driver.ehlo)
    if introduction == .xclient {
      driver.downstreamAnswers(driver.banner)
      driver.downstreamAnswers(driver.ehlo)
    }
    driver.downstreamAnswers(driver.fine)
    #expect(probed == false)
    var before: UInt64 = 0
    let rounds = 300
    for round in 0..<rounds {
      // The first hundred fill the tables; from there on nothing may be asked for.
      if round == 100 { before = allocations_of_this_thread() }
      driver.piece = 0
      driver.now = driver.now + .milliseconds(20)
      _ = driver.engine.timeReached(driver.now, into: &driver.effects)
      _ = driver.engine.accepted(
        Peer(address: Address(v4: 0x0A00_0001), port: 1, listener: 0), now: driver.now,
        into: &driver.effects)
      driver.settle()
      driver.downstreamAnswers(driver.banner)
      driver.downstreamAnswers(driver.ehlo)
      if introduction == .xclient {
        driver.downstreamAnswers(driver.banner)
        driver.downstreamAnswers(driver.ehlo)
      }
      if introduction == .xforward { driver.downstreamAnswers(driver.fine) }
      driver.downstreamAnswers(driver.fine)  // MAIL
      driver.downstreamAnswers(driver.fine)  // RCPT
      driver.downstreamAnswers(driver.goOn)  // DATA
      driver.downstreamAnswers(driver.fine)  // the message
      driver.downstreamAnswers(driver.fine)  // QUIT
      while let entry = driver.engine.core.journal.next() {
        if entry.event == .accepted { driver.delivered += 1 }
      }
    }
    let asked = allocations_of_this_thread() - before
    #expect(driver.delivered == rounds, "\(driver.delivered) of \(rounds) mails went through")
    #expect(asked == 0, "\(asked) allocations in \(rounds - 100) mails")
  }

  @Test("reading a load balancer's header allocates nothing", arguments: [1, 1_000])
  func header(piece: Int) throws {
    let prefix = try #require(Prefix(Address(v4: 0x0A00_0000), length: 8))
    let terms = ListenerTerms(
      address: Address(v4: 0), port: 25, balancers: PrefixTable([(prefix, 0)]))
    var engine = Engine(
      policy: policy(access: "192.0.2.0/24 reject\n") { $0.listeners = [terms] }, limits: limits(),
      seed: 1)
    var effects = Moment(capacity: 256)
    let header = Array("PROXY TCP4 192.0.2.7 127.0.0.1 4321 25\r\n".utf8)
    let peer = Peer(address: Address(v4: 0x0A00_0001), port: 1, listener: 0)
    var before: UInt64 = 0
    var refused = 0
    for round in 0..<300 {
      if round == 100 { before = allocations_of_this_thread() }
      guard case .held(let slot) = engine.accepted(peer, now: .origin, into: &effects) else {
        break
      }
      var sent = 0
      while sent < header.count {
        var wanted = Region(offset: 0, count: 0)
        for k in 0..<effects.count { if case .fill(_, let region) = effects[k] { wanted = region } }
        effects.removeAll()
        let count = min(piece, wanted.count, header.count - sent)
        engine.core.arena.write(header.span.extracting(sent..<(sent + count)), at: wanted.offset)
        sent += count
        engine.filled(slot, count, now: .origin, into: &effects)
      }
      while let entry = engine.core.journal.next() {
        if entry.event == .denylisted { refused += 1 }
      }
      engine.failed(slot, now: .origin, into: &effects)
      engine.closed(slot, now: .origin, into: &effects)
      effects.removeAll()
    }
    let asked = allocations_of_this_thread() - before
    #expect(refused == 300 && asked == 0, "\(refused) headers, \(asked) allocations")
  }

  @Test("holding and dripping allocate nothing")
  func drips() {
    var driver = TightDriver(
      Engine(
        policy: policy(access: "10.0.0.0/8 bad\n") { $0.badSessionsPerSource = 100 },
        limits: limits { $0.connections = 64 }, seed: 1), [])
    for n in 0..<30 {
      _ = driver.engine.accepted(
        Peer(address: Address(v4: 0x0A00_0000 + UInt32(n)), port: 1, listener: 0), now: driver.now,
        into: &driver.effects)
      driver.settle()
    }
    var before: UInt64 = 0
    for tick in 0..<6_000 {
      if tick == 1_000 { before = allocations_of_this_thread() }
      driver.now = driver.now + .milliseconds(10)
      while driver.engine.timeReached(driver.now, into: &driver.effects) { driver.settle() }
      driver.settle()
    }
    let asked = allocations_of_this_thread() - before
    #expect(driver.engine.core.counters.drips > 300, "\(driver.engine.core.counters.drips) drips")
    #expect(asked == 0, "\(asked) allocations in 5,000 ticks")
  }
}
