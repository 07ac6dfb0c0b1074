// SPDX-License-Identifier: Apache-2.0
//
// Asks DNS servers for one worker thread: questions in, answers out, sockets as values between. c-ares does what is long
// settled (retries, the next server, TCP after a truncated reply); this file bounds it: one query for the same question of
// many, a window for what is in flight, a queue behind it, an end to the waiting. Not a cache, and it does not know what
// an answer is worth. Kept: waiters <= waitersMax, in flight <= inFlightMax, queued <= queueMax, every ticket that was
// taken is answered once, within `timeout`, and the caller is never called back.

package import DNSLists
package import Structures

/// A socket that the caller polls. The serial number tells it from later ones with the same descriptor.
package struct WatchedSocket: BitwiseCopyable, Hashable, Sendable {
  package let descriptor: Int32
  package let serial: UInt32
}

/// What the caller is to know or to do.
package enum ResolverEvent: BitwiseCopyable, Sendable {
  /// Nothing more is wanted of the socket. It is closed already, and its descriptor may be another's.
  case forget(WatchedSocket)
  /// The socket is to be polled, from now on and until it is said otherwise.
  case watch(WatchedSocket, readable: Bool, writable: Bool)
  /// The answer to the question that was asked with this ticket.
  case answered(ticket: UInt64, Answer)
}

/// What became of a question.
package enum Asked: Hashable, Sendable {
  /// An answer will come.
  case waiting
  /// Too much is asked already. No answer will come.
  case overloaded
}

package struct Resolver: ~Copyable {
  /// A question that is being asked.
  private struct Flight: BitwiseCopyable {
    enum State: UInt8 { case free, queued, asked, done }
    var state = State.free
    var question = Question(.a, QueryName())
    var bucket: Int32 = -1
    /// The next one in the bucket.
    var nextInBucket: Int32 = -1
    /// Neighbours by age, while it is queued or asked.
    var older: Int32 = -1
    var younger: Int32 = -1
    /// The next one in the queue, or of those that are done.
    var next: Int32 = -1
    var firstWaiter: Int32 = -1
    var lastWaiter: Int32 = -1
    /// While it is asked, and when it is done with an answer.
    var landing: Int32 = -1
    var deadline = Instant.origin
  }

  private struct Waiter: BitwiseCopyable {
    var ticket: UInt64 = 0
    var next: Int32 = -1
  }

  /// A list of flights linked by `next`.
  private struct Line {
    var first: Int32 = -1
    var last: Int32 = -1
    var count = 0
  }

  private let settings: ResolverSettings
  private let timeout: Int64
  private let renewAfter: Int64
  private let hash: SipHash
  private let desk: UnsafeMutablePointer<Desk>
  private let channels: UnsafeMutablePointer<Channel>
  private var landings: IndexAllocator
  private var flights: Slab<Flight>
  private var freeFlights: IndexAllocator
  private var waiters: Slab<Waiter>
  private var freeWaiters: IndexAllocator
  private var buckets: Slab<Int32>
  private var queue = Line()
  private var done = Line()
  private var oldest: Int32 = -1
  private var youngest: Int32 = -1
  /// The channel whose turn it is.
  private var turn = 0
  private var hasRetiring = false
  private var random = SystemRandomNumberGenerator()
  private var identifiers: UInt64 = 0
  private var identifiersLeft = 0
  /// The latest time that was told.
  private var now: Instant
  /// What has been counted.
  package private(set) var counters = ResolverCounters()

  /// - Parameters:
  ///   - hash: with a secret key; finds questions again.
  ///   - now: on the caller's clock, as in all calls: it may begin anywhere, and runs as CLOCK_MONOTONIC does.
  package init(
    _ settings: ResolverSettings = ResolverSettings(), hash: SipHash, now: Instant
  ) throws(ResolverError) {
    if let complaint = settings.complaint { throw ResolverError(setting: complaint) }
    let desk = Desk.make(
      landings: settings.inFlightMax, channels: settings.channels,
      sockets: Self.socketCount(settings))
    let channels: UnsafeMutablePointer<Channel>
    do throws(ResolverError) {
      channels = try Self.makeChannels(settings, desk, now)
    } catch {
      Desk.free(desk)
      throw error
    }
    self.settings = settings
    self.hash = hash
    self.now = now
    self.desk = desk
    self.channels = channels
    timeout = settings.timeout.microseconds
    renewAfter = settings.renewAfter.microseconds
    // Beside those in flight and in the queue there are those whose answer has not been fetched.
    let questions = settings.inFlightMax + settings.queueMax
    landings = IndexAllocator(capacity: settings.inFlightMax)
    flights = Slab(capacity: questions, repeating: Flight())
    freeFlights = IndexAllocator(capacity: questions)
    waiters = Slab(capacity: settings.waitersMax, repeating: Waiter())
    freeWaiters = IndexAllocator(capacity: settings.waitersMax)
    buckets = Slab(capacity: Self.bucketCount(questions), repeating: -1)
  }

  private static func makeChannels(
    _ settings: ResolverSettings, _ desk: UnsafeMutablePointer<Desk>, _ now: Instant
  ) throws(ResolverError) -> UnsafeMutablePointer<Channel> {
    let channels = UnsafeMutablePointer<Channel>.allocate(capacity: settings.channels)
    var made = 0
    do throws(ResolverError) {
      while made < settings.channels {
        let channel = try Channel(settings, label: desk.pointee.labels + made, now: now)
        (channels + made).initialize(to: channel)
        made += 1
      }
    } catch {
      channels.deinitialize(count: made)
      channels.deallocate()
      throw error
    }
    return channels
  }

  deinit {
    // Destroying a channel ends its queries, which writes to the desk once more.
    channels.deinitialize(count: settings.channels)
    channels.deallocate()
    Desk.free(desk)
  }

  /// Bytes of its own tables; c-ares takes some 300 more for each query in flight.
  package var footprint: Int { Resolver.footprint(settings) }

  /// The same of a resolver that is not there yet.
  package static func footprint(_ settings: ResolverSettings) -> Int {
    let questions = settings.inFlightMax + settings.queueMax
    return questions * MemoryLayout<Flight>.stride
      + settings.waitersMax * MemoryLayout<Waiter>.stride
      + bucketCount(questions) * MemoryLayout<Int32>.stride
      + settings.inFlightMax * MemoryLayout<Landing>.stride
      + socketCount(settings) * MemoryLayout<SocketPlace>.stride
  }

  private static func bucketCount(_ questions: Int) -> Int {
    var count = 2
    while count < 2 * questions { count *= 2 }
    return count
  }

  /// One of UDP and one of TCP for each server, and as many that are gone and not yet reported.
  private static func socketCount(_ settings: ResolverSettings) -> Int {
    settings.channels * ResolverSettings.serversMax * 4
  }

  /// Our own bytes for a query in flight with one waiting question.
  package static var bytesPerQuery: Int {
    MemoryLayout<Flight>.stride + MemoryLayout<Landing>.stride + MemoryLayout<Waiter>.stride + 8
  }

  /// Queries in flight, those included that nobody waits for any longer.
  package var inFlight: Int { settings.inFlightMax - landings.free }
  /// Questions that wait for room in the window.
  package var queued: Int { queue.count }
  /// Whether there is nothing to wait for.
  package var isIdle: Bool { oldest < 0 && done.first < 0 && landings.free == settings.inFlightMax }

  // MARK: Facts

  /// Asks. The answer comes as an event with the ticket.
  ///
  /// - Parameter ticket: tells the caller who asked; may be used again and again.
  package mutating func ask(_ question: Question, ticket: UInt64, now: Instant) -> Asked {
    self.now = now
    counters.questions += 1
    let bucket = bucket(of: question)
    if let flight = find(question, in: bucket) {
      guard wait(ticket, for: flight) else { return turnAway() }
      counters.joined += 1
      return .waiting
    }
    guard queue.count < settings.queueMax || landings.free > 0, freeWaiters.free > 0,
      let flight = freeFlights.take()
    else { return turnAway() }
    flights[flight] = Flight()
    flights[flight].question = question
    flights[flight].deadline = now.after(microseconds: timeout)
    enter(flight, into: bucket)
    _ = wait(ticket, for: flight)
    flights[flight].state = .queued
    Self.append(flight, to: &queue, &flights)
    pump()
    return .waiting
  }

  /// The same, of a name.
  package mutating func ask(
    _ type: RecordType, _ name: QueryName, ticket: UInt64, now: Instant
  ) -> Asked {
    ask(Question(type, name), ticket: ticket, now: now)
  }

  /// A socket is ready. One that is to be forgotten is left alone.
  package mutating func process(
    _ socket: WatchedSocket, readable: Bool, writable: Bool, now: Instant
  ) {
    self.now = now
    guard let channel = desk.pointee.channel(of: socket) else {
      counters.staleEvents += 1
      return
    }
    channels[channel].process(socket.descriptor, readable: readable, writable: writable)
    settle()
  }

  /// When `timeReached` is to be called, at the latest.
  package var nextDeadline: Instant {
    var earliest = oldest < 0 ? Instant.distantFuture : flights[Int(oldest)].deadline
    for i in 0..<settings.channels { earliest = min(earliest, channels[i].timerAt) }
    return earliest
  }

  /// Time has passed.
  package mutating func timeReached(_ now: Instant) {
    self.now = now
    for i in 0..<settings.channels { channels[i].timeReached(now) }
    takeLandings()
    while oldest >= 0, flights[Int(oldest)].deadline <= now { giveUp(Int(oldest)) }
    settle()
  }

  // MARK: Orders

  /// The next event, until there is none: after each of the calls above. Answers that are not fetched keep their place in
  /// the window.
  package mutating func next() -> ResolverEvent? {
    // Forgetting comes first: a descriptor may be in use again.
    if let socket = desk.pointee.takeGone() { return .forget(socket) }
    if done.first >= 0 { return nextAnswer() }
    if let place = desk.pointee.takeChanged() {
      return .watch(place.socket, readable: place.isReadable, writable: place.isWritable)
    }
    return nil
  }

  private mutating func nextAnswer() -> ResolverEvent {
    let flight = Int(done.first)
    let waiter = Int(flights[flight].firstWaiter)
    let ticket = waiters[waiter].ticket
    flights[flight].firstWaiter = waiters[waiter].next
    freeWaiters.release(waiter)
    let landing = Int(flights[flight].landing)
    let answer =
      landing >= 0 ? desk.pointee.landings[landing].answer : Answer.failure(.timedOut)
    if flights[flight].firstWaiter < 0 {
      _ = Self.removeFirst(from: &done, &flights)
      flights[flight].state = .free
      freeFlights.release(flight)
      if landing >= 0 { landings.release(landing) }
      pump()
    }
    return .answered(ticket: ticket, answer)
  }

  // MARK: Who waits for what

  private mutating func turnAway() -> Asked {
    counters.overloaded += 1
    return .overloaded
  }

  private mutating func wait(_ ticket: UInt64, for flight: Int) -> Bool {
    guard let waiter = freeWaiters.take() else { return false }
    waiters[waiter] = Waiter(ticket: ticket)
    let last = flights[flight].lastWaiter
    if last >= 0 {
      waiters[Int(last)].next = Int32(waiter)
    } else {
      flights[flight].firstWaiter = Int32(waiter)
    }
    flights[flight].lastWaiter = Int32(waiter)
    return true
  }

  private func bucket(of question: Question) -> Int {
    let hash = hash(question.name.wire) ^ UInt64(question.type.rawValue)
    return Int(truncatingIfNeeded: hash) & (buckets.capacity - 1)
  }

  private func find(_ question: Question, in bucket: Int) -> Int? {
    var flight = buckets[bucket]
    while flight >= 0 {
      if flights[Int(flight)].question == question { return Int(flight) }
      flight = flights[Int(flight)].nextInBucket
    }
    return nil
  }

  /// It can be joined from here on, and is the youngest.
  private mutating func enter(_ flight: Int, into bucket: Int) {
    flights[flight].bucket = Int32(bucket)
    flights[flight].nextInBucket = buckets[bucket]
    buckets[bucket] = Int32(flight)
    flights[flight].older = youngest
    if youngest >= 0 {
      flights[Int(youngest)].younger = Int32(flight)
    } else {
      oldest = Int32(flight)
    }
    youngest = Int32(flight)
  }

  /// It cannot be joined any longer, and has no deadline.
  private mutating func leave(_ flight: Int) {
    let bucket = Int(flights[flight].bucket)
    let next = flights[flight].nextInBucket
    if buckets[bucket] == Int32(flight) {
      buckets[bucket] = next
    } else {
      var before = Int(buckets[bucket])
      while flights[before].nextInBucket != Int32(flight) {
        before = Int(flights[before].nextInBucket)
      }
      flights[before].nextInBucket = next
    }
    let (older, younger) = (flights[flight].older, flights[flight].younger)
    if older >= 0 { flights[Int(older)].younger = younger } else { oldest = younger }
    if younger >= 0 { flights[Int(younger)].older = older } else { youngest = older }
  }

  private static func append(_ flight: Int, to line: inout Line, _ flights: inout Slab<Flight>) {
    flights[flight].next = -1
    if line.last >= 0 {
      flights[Int(line.last)].next = Int32(flight)
    } else {
      line.first = Int32(flight)
    }
    line.last = Int32(flight)
    line.count += 1
  }

  private static func removeFirst(from line: inout Line, _ flights: inout Slab<Flight>) -> Int {
    let flight = Int(line.first)
    line.first = flights[flight].next
    if line.first < 0 { line.last = -1 }
    line.count -= 1
    return flight
  }

  // MARK: Ends

  /// The answer is there, or none will come.
  private mutating func finish(_ flight: Int) {
    leave(flight)
    flights[flight].state = .done
    Self.append(flight, to: &done, &flights)
  }

  /// Its time is over. What c-ares still does for it will land and be thrown away.
  private mutating func giveUp(_ flight: Int) {
    counters.timedOut += 1
    if flights[flight].state == .queued {
      // The queue is in the order of age, and nothing in it is younger than what is in flight.
      let first = Self.removeFirst(from: &queue, &flights)
      invariant(first == flight, "the oldest question of the queue is not its first")
    } else {
      desk.pointee.landings[Int(flights[flight].landing)].flight = -1
      flights[flight].landing = -1
    }
    finish(flight)
  }

  private mutating func takeLandings() {
    while let landing = desk.pointee.takeLanded() {
      channels[Int(desk.pointee.landings[landing].channel)].landed()
      let flight = Int(desk.pointee.landings[landing].flight)
      guard flight >= 0 else {
        landings.release(landing)
        continue
      }
      if case .failure(let failure) = desk.pointee.landings[landing].answer {
        if failure == .timedOut { counters.timedOut += 1 } else { counters.failures += 1 }
      }
      finish(flight)
    }
  }

  // MARK: Sending

  private mutating func settle() {
    takeLandings()
    if hasRetiring {
      for i in 0..<settings.channels where channels[i].isRetiring && channels[i].inFlight == 0 {
        renew(i)
      }
    }
    pump()
  }

  /// Sends what the window has room for.
  private mutating func pump() {
    while queue.first >= 0, let landing = landings.take() {
      let flight = Self.removeFirst(from: &queue, &flights)
      let channel = nextChannel()
      let place = desk.pointee.landings + landing
      place.pointee.channel = Int32(channel)
      place.pointee.flight = Int32(flight)
      place.pointee.type = flights[flight].question.type
      flights[flight].state = .asked
      flights[flight].landing = Int32(landing)
      counters.queries += 1
      let (question, identifier) = (flights[flight].question, nextIdentifier())
      channels[channel].send(question, identifier: identifier, landing: place, now: now)
      // It can have failed at once.
      takeLandings()
    }
  }

  /// 16 unguessable bits; one call of the system's generator gives four.
  private mutating func nextIdentifier() -> UInt16 {
    if identifiersLeft == 0 {
      identifiers = random.next()
      identifiersLeft = 4
    }
    identifiersLeft -= 1
    defer { identifiers >>= 16 }
    return UInt16(truncatingIfNeeded: identifiers)
  }

  // MARK: Channels

  /// In turn; one that has done its time is renewed if it is idle, or is left out until it is. One at a time, so that
  /// there are always others.
  private mutating func nextChannel() -> Int {
    while true {
      let i = turn
      turn = turn + 1 == settings.channels ? 0 : turn + 1
      if channels[i].isRetiring { continue }
      if isWorn(i) {
        if channels[i].inFlight == 0 {
          renew(i)
        } else if !hasRetiring && settings.channels > 1 {
          channels[i].isRetiring = true
          hasRetiring = true
          continue
        }
      }
      return i
    }
  }

  private func isWorn(_ i: Int) -> Bool {
    let queries = channels[i].queries
    return queries >= settings.renewAfterQueries
      || (queries > 0 && now.microseconds - channels[i].madeAt.microseconds >= renewAfter)
  }

  private mutating func renew(_ i: Int) {
    if channels[i].isRetiring {
      channels[i].isRetiring = false
      hasRetiring = false
    }
    do throws(ResolverError) {
      channels[i] = try Channel(settings, label: desk.pointee.labels + i, now: now)
      counters.renewals += 1
    } catch {
      // No memory or no descriptors: the old one still works.
      counters.renewalsFailed += 1
    }
  }
}
