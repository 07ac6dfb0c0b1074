// SPDX-License-Identifier: Apache-2.0
//
// A worker's look-ups: which clients the DNS lists are being asked about, what has been answered, and the resolver with
// its sockets on the ring. It knows no engine: what a look-up came to waits here until the driver tells it. Kept: each
// look-up that is taken up ends once, at most as late as the resolver's time-out; no more than `bounds.lookUps` at a time.

import DNSLists
import Policy
import Resolver
import Shield
import Structures
import Uring

struct ListDesk: ~Copyable {
  // Not private: with the desk in an optional of another file the compiler (6.3.1) would stop at it.

  /// A client that is looked up. It stays until each zone that was asked has answered, for the cache's sake.
  struct LookUp: BitwiseCopyable {
    var slot = Slot(index: 0, generation: 0)
    var address = Address(high: 0, low: 0)
    var matched = ItemSet()
    /// The items of the zones that have not answered.
    var pending = ItemSet()
    /// Nothing that is still to come changes the opinion.
    var isDecided = false
    var isTold = false
  }

  /// A test of a zone: 127.0.0.2 and 127.0.0.1, then their IPv6 forms if a list has no IPv4 (RFC 5782, 5).
  struct Test {
    var isIPv6 = false
    var two = TestAnswer.failure
    var one = TestAnswer.failure
    /// Questions that have not been answered.
    var outstanding = 0
    /// A question could not be asked. That is our fault and not the zone's.
    var isVoid = false
  }

  /// A socket of the resolver's.
  struct Watched: BitwiseCopyable {
    let socket: WatchedSocket
    var mask: UInt32
    /// The poll that is armed: its token's index.
    var poll: UInt32?
  }

  /// Who asked, as the resolver carries it.
  private enum Ticket {
    case lookUp(Int, zone: Int)
    case test(zone: Int, isTwo: Bool)

    init(_ bits: UInt64) {
      let zone = Int(bits & 0xFF)
      self =
        bits >> 63 == 1
        ? .test(zone: zone, isTwo: bits >> 8 & 1 == 1)
        : .lookUp(Int(bits >> 8), zone: zone)
    }

    var bits: UInt64 {
      switch self {
      case .lookUp(let number, let zone): UInt64(number) << 8 | UInt64(zone)
      case .test(let zone, let isTwo): 1 << 63 | (isTwo ? 1 << 8 : 0) | UInt64(zone)
      }
    }
  }

  let book: ListBook
  /// What answers come to: a reload can change it while questions are in flight.
  var terms: ListTerms
  /// Tells polls of this desk from those of an earlier one.
  let edition: UInt32
  /// One worker tests the zones for all.
  private let isTester: Bool
  private var resolver: Resolver
  private var lookUps: Slab<LookUp>
  private var free: IndexAllocator
  /// Look-ups that are decided and not told, the first one first.
  private var decided: [UInt32] = []
  private var decidedHead = 0
  private var tests: [Test?] = []
  private var notices: [(zone: Int, notice: HealthNotice)] = []
  private var watched: [Watched] = []
  private var polls: UInt32 = 0
  /// Whether a socket stands without its poll, because the kernel refused it.
  private var hasUnarmed = false
  private var counts = LookUpCounters()

  private static let readable: UInt32 = 0x0001  // POLLIN
  private static let broken: UInt32 = 0x0008 | 0x0010  // POLLERR | POLLHUP

  init(
    _ book: ListBook, _ terms: ListTerms, edition: UInt32, isTester: Bool, now: Instant
  ) throws(ResolverError) {
    self.book = book
    self.terms = terms
    self.edition = edition & Token.generationMask
    self.isTester = isTester
    resolver = try Resolver(book.resolverSettings, hash: book.hash, now: now)
    lookUps = Slab(capacity: book.bounds.lookUps, repeating: LookUp())
    free = IndexAllocator(capacity: book.bounds.lookUps)
    decided.reserveCapacity(book.bounds.lookUps)
    if isTester { tests = Array(repeating: nil, count: book.sites.zones.count) }
  }

  /// Bytes of a look-up.
  static var bytesEach: Int { MemoryLayout<LookUp>.stride + MemoryLayout<UInt32>.stride + 1 }

  /// What has been counted.
  var counters: LookUpCounters {
    var all = counts
    all.queries = UInt64(resolver.counters.queries)
    all.joined = UInt64(resolver.counters.joined)
    all.overloaded = UInt64(resolver.counters.overloaded)
    return all
  }

  /// Look-ups that have not ended.
  var inFlight: Int { lookUps.capacity - free.free }

  // MARK: Orders

  /// Looks up the client of a slot. One that finds no room is not looked up.
  mutating func lookUp(_ slot: Slot, _ address: Address, now: Instant, _ ring: inout Ring) {
    guard let number = free.take() else {
      counts.turnedAway += 1
      return
    }
    let found = book.find(address, now: now)
    counts.cached += UInt64(found.known)
    lookUps[number] = LookUp(
      slot: slot, address: address, matched: found.matched, pending: found.pending)
    var unknown = found.unknown
    while unknown != 0 {
      let zone = unknown.trailingZeroBitCount
      unknown &= unknown - 1
      let name = book.sites.queryName(address, inZone: zone)
      let ticket = Ticket.lookUp(number, zone: zone).bits
      if resolver.ask(.a, name, ticket: ticket, now: now) == .overloaded {
        lookUps[number].pending.subtract(book.sites.items(of: zone))
      }
    }
    decideIfPossible(number)
    if found.unknown != 0 { settle(now: now, &ring) }
  }

  /// Nothing more is asked, and nobody told. The sockets are closed when this goes away, so their polls must end now.
  mutating func shut(_ ring: inout Ring) {
    for k in watched.indices { disarm(k, &ring) }
    watched = []
  }

  // MARK: What is to be told

  var hasNews: Bool { decidedHead < decided.count || !notices.isEmpty }

  /// A look-up that has ended: the slot as it was then, and the items that its client is on.
  mutating func takeDecided() -> (slot: Slot, matched: ItemSet)? {
    guard decidedHead < decided.count else { return nil }
    let number = Int(decided[decidedHead])
    decidedHead += 1
    if decidedHead == decided.count {
      decided.removeAll(keepingCapacity: true)
      decidedHead = 0
    }
    lookUps[number].isTold = true
    let lookUp = lookUps[number]
    releaseIfDone(number)
    return (lookUp.slot, lookUp.matched)
  }

  /// A zone that counts no longer, or again.
  mutating func takeNotice() -> (zone: Int, notice: HealthNotice)? {
    notices.isEmpty ? nil : notices.removeFirst()
  }

  private mutating func decideIfPossible(_ number: Int) {
    if lookUps[number].isDecided { return }
    guard terms.isDecided(lookUps[number].matched, pending: lookUps[number].pending) else { return }
    lookUps[number].isDecided = true
    decided.append(UInt32(number))
  }

  private mutating func releaseIfDone(_ number: Int) {
    if lookUps[number].isTold && lookUps[number].pending.isEmpty { free.release(number) }
  }

  // MARK: Time

  /// When `timeReached` is wanted.
  var nextDeadline: Instant {
    isTester ? min(resolver.nextDeadline, book.nextTestAt) : resolver.nextDeadline
  }

  /// Time has come to `now`.
  mutating func timeReached(_ now: Instant, _ ring: inout Ring) {
    if hasUnarmed {
      hasUnarmed = false
      for k in watched.indices where watched[k].poll == nil { arm(k, &ring) }
    }
    if now < nextDeadline { return }
    if isTester && now >= book.nextTestAt {
      let due = book.beginTests(now: now)
      for zone in tests.indices where due >> UInt32(zone) & 1 == 1 && tests[zone] == nil {
        test(zone, isIPv6: false, now: now)
      }
    }
    resolver.timeReached(now)
    settle(now: now, &ring)
  }

  // MARK: The resolver's sockets

  /// A poll has completed. One of a socket that is gone, or that is polled anew, is nobody's.
  mutating func polled(_ completion: Completion, now: Instant, _ ring: inout Ring) {
    guard completion.token.generation == edition,
      let k = watched.firstIndex(where: { $0.poll == completion.token.index })
    else { return }
    watched[k].poll = nil
    guard completion.result >= 0 else {
      // Out of memory: again when something is due.
      counts.pollsFailed += 1
      hasUnarmed = true
      return
    }
    let socket = watched[k].socket
    let events = UInt32(bitPattern: completion.result)
    resolver.process(
      socket, readable: events & (ListDesk.readable | ListDesk.broken) != 0,
      writable: events & Ring.writable != 0, now: now)
    settle(now: now, &ring)
    if let k = watched.firstIndex(where: { $0.socket == socket }), watched[k].poll == nil {
      arm(k, &ring)
    }
  }

  private mutating func watch(_ socket: WatchedSocket, _ mask: UInt32, _ ring: inout Ring) {
    if let k = watched.firstIndex(where: { $0.socket == socket }) {
      if watched[k].poll != nil && watched[k].mask == mask { return }
      disarm(k, &ring)
      watched[k].mask = mask
      arm(k, &ring)
    } else {
      watched.append(Watched(socket: socket, mask: mask))
      arm(watched.count - 1, &ring)
    }
  }

  private mutating func forget(_ socket: WatchedSocket, _ ring: inout Ring) {
    guard let k = watched.firstIndex(where: { $0.socket == socket }) else { return }
    disarm(k, &ring)
    watched.swapAt(k, watched.count - 1)
    watched.removeLast()
  }

  /// One completion a poll: c-ares reads of a TCP connection once, and what is left must be announced again.
  private mutating func arm(_ k: Int, _ ring: inout Ring) {
    polls &+= 1
    watched[k].poll = polls
    ring.pollAdd(
      descriptor: watched[k].socket.descriptor, mask: watched[k].mask,
      token: Token(.lookUp, generation: edition, index: polls))
  }

  /// By the token: the descriptor is closed already, and may be another socket's.
  private mutating func disarm(_ k: Int, _ ring: inout Ring) {
    guard let poll = watched[k].poll else { return }
    watched[k].poll = nil
    ring.cancel(
      Token(.lookUp, generation: edition, index: poll), token: Token(.cancel, index: .max))
  }

  // MARK: Answers

  /// Does what the resolver wants done.
  private mutating func settle(now: Instant, _ ring: inout Ring) {
    while let event = resolver.next() {
      switch event {
      case .forget(let socket): forget(socket, &ring)
      case .watch(let socket, let isReadable, let isWritable):
        watch(
          socket, (isReadable ? ListDesk.readable : 0) | (isWritable ? Ring.writable : 0), &ring)
      case .answered(let ticket, let answer):
        switch Ticket(ticket) {
        case .lookUp(let number, let zone): answered(number, zone, answer, now: now)
        case .test(let zone, let isTwo): tested(zone, isTwo: isTwo, answer, now: now)
        }
      }
    }
  }

  private mutating func answered(_ number: Int, _ zone: Int, _ answer: Answer, now: Instant) {
    let matched = read(answer, of: zone, lookUps[number].address, now: now)
    // A zone that has fallen ill meanwhile counts for nothing, whatever it says.
    if !matched.isEmpty && book.counts(zone) { lookUps[number].matched.formUnion(matched) }
    lookUps[number].pending.subtract(book.sites.items(of: zone))
    decideIfPossible(number)
    releaseIfDone(number)
  }

  /// The items that an answer puts an address on. It goes to the cache, and an error to the zone's health.
  private mutating func read(
    _ answer: Answer, of zone: Int, _ address: Address, now: Instant
  ) -> ItemSet {
    switch answer {
    case .addresses(let list, let seconds):
      switch book.sites.verdict(ofZone: zone, list) {
      case .listed(let items):
        book.keep(.matched(items), of: zone, address, seconds: seconds, now: now)
        return items
      case .notListed: book.keep(.none, of: zone, address, seconds: seconds, now: now)
      case .healthError(let error):
        counts.failed += 1
        note(book.failed(zone, error, now: now), of: zone)
      }
    case .noSuchName(let seconds):
      book.keep(.none, of: zone, address, seconds: seconds, now: now)
    case .failure, .text, .names:
      counts.failed += 1
      book.keep(.failed, of: zone, address, seconds: nil, now: now)
    }
    return ItemSet()
  }

  // MARK: Tests

  private mutating func test(_ zone: Int, isIPv6: Bool, now: Instant) {
    var test = Test(isIPv6: isIPv6)
    for isTwo in [true, false] {
      let name = book.sites.queryName(
        isTwo ? ZoneHealth.two : ZoneHealth.one, inZone: zone, asIPv6: isIPv6)
      let ticket = Ticket.test(zone: zone, isTwo: isTwo).bits
      switch resolver.ask(.a, name, ticket: ticket, now: now) {
      case .waiting: test.outstanding += 1
      case .overloaded: test.isVoid = true
      }
    }
    tests[zone] = test.outstanding > 0 ? test : nil
  }

  private mutating func tested(_ zone: Int, isTwo: Bool, _ answer: Answer, now: Instant) {
    guard var test = tests[zone] else { return }
    let heard = TestAnswer(answer)
    if isTwo { test.two = heard } else { test.one = heard }
    test.outstanding -= 1
    tests[zone] = test
    if test.outstanding > 0 { return }
    tests[zone] = nil
    // A test that is void is due again when that of an ill zone would be.
    if test.isVoid { return }
    let outcome = HealthOutcome(two: test.two, one: test.one)
    if outcome == .listsNothing && !test.isIPv6 {
      self.test(zone, isIPv6: true, now: now)
    } else {
      note(book.tested(zone, outcome, now: now), of: zone)
    }
  }

  private mutating func note(_ notice: HealthNotice?, of zone: Int) {
    if let notice { notices.append((zone, notice)) }
  }
}

extension TestAnswer {
  fileprivate init(_ answer: Answer) {
    switch answer {
    case .addresses(let list, _): self = .addresses((0..<list.count).map { list[$0] })
    case .noSuchName: self = .noSuchName
    case .text, .names, .failure: self = .failure
    }
  }
}
