// SPDX-License-Identifier: Apache-2.0
import Personas
import Structures

/// The clients' side of a simulated world: who has a connection, what each has said and is about to hear, until when
/// it waits, and who is between two connections. Each connection is an `Actor`; here it hears and decides, and what it
/// decides comes back as a value. Nothing here knows the engine, or when anything arrives.
struct Crowd: ~Copyable {
  /// A connection of a client, from both ends.
  struct Bot: Linked {
    var actor = Actor()
    /// Which of those it is that had this record: events of an earlier one are not for it.
    var generation: UInt16 = 0
    /// Its place in the engine, or -1 once that is given back.
    var slot: Int32 = -1
    var client: Client
    /// One way, in milliseconds.
    var latency: UInt16 = 0
    var isTaken = false
    /// It has closed, and the shield has been told.
    var hasEnded = false
    var endTold = false
    var isReset = false
    var marks = Marks()
    /// The shield has closed.
    var isClosed = false
    var said = Sayings.Queue()

    /// Who is free has said nothing.
    var link: Int32 {
      get { said.link }
      set { said.link = newValue }
    }
  }

  /// What the scenario has in store for a connection. An octet, because there are many.
  struct Marks: OptionSet {
    let rawValue: UInt8
    /// It reads slowly.
    static let slow = Marks(rawValue: 1)
    /// The mail server behind was away or broke in the middle of it.
    static let metFault = Marks(rawValue: 2)
    /// Of its TLS handshake the hello, or the end, is at the shield.
    static let hello = Marks(rawValue: 4)
    static let finished = Marks(rawValue: 8)
  }

  /// A client between two connections.
  struct Waiting: Linked {
    var client: Client
    var link: Int32 = -1
  }

  /// The part of a client in a TLS handshake that is at the shield.
  enum Handshake { case nothing, hello, finished }

  private(set) var population: Population
  private var bots = Pool(Bot(client: .nobody))
  /// When each will do something by itself: not after its deadline, perhaps before.
  private var timers = TimeLists()
  private var sayings = Sayings()
  private var letters = Letters()
  private var waiting = Pool(Waiting(client: .nobody))
  /// By entry, when its last client began, in microseconds.
  private var arrivedAt: [Int64]
  /// What `read` took last.
  private(set) var words: [UInt8] = []
  /// Connections that were opened, and those of which the mail server has judged a recipient.
  private(set) var offered = 0
  private(set) var letThrough = 0
  private let staysPut = StaysPut()

  init(_ population: consuming Population) {
    arrivedAt = population.scenario.entries.map { _ in 0 }
    self.population = population
  }

  /// Records there are, of connections and of clients between two.
  var count: Int { bots.count }
  var waitingCount: Int { waiting.count }

  /// Bytes of memory that grow with the clients.
  var footprint: Int {
    bots.footprint + timers.footprint + sayings.footprint + letters.footprint + waiting.footprint
  }

  // MARK: Coming

  /// When the next client of an entry comes, in milliseconds; nil if none does.
  mutating func nextArrival(_ entry: Int) -> Int64? {
    // From the moment of the last one, not from the millisecond that it was put off to: half a millisecond more
    // for each would be 5 % fewer of 100 a second.
    guard let at = population.nextArrival(entry, after: arrivedAt[entry]) else { return nil }
    arrivedAt[entry] = at
    return (at + 999) / 1_000
  }

  /// A client of an entry comes, with so many connections at once.
  mutating func begin(_ entry: Int, now: Int64) -> (client: Client, connections: Int) {
    let client = population.begin(entry, now: now * 1_000)
    return (client, population.concurrency(client))
  }

  /// A client opens a connection.
  ///
  /// - Returns: its number, the seed of its chances, and when it breaks by itself, in milliseconds from now; below 0:
  ///   never.
  mutating func connect(_ client: Client) -> (i: Int, seed: UInt64, resetAfter: Int64) {
    var client = client
    let seed = population.connects(&client)
    let faults = LineFaults(population.scenario, seed: seed)
    let i = bots.take(Bot(client: client))
    timers.makeRoom(bots.count)
    bots[i].generation = UInt16(truncatingIfNeeded: offered)
    bots[i].isTaken = true
    bots[i].latency = max(1, faults.latency)
    if faults.isSlow { bots[i].marks.insert(.slow) }
    offered += 1
    return (i, seed, Int64(faults.resetAfter))
  }

  /// Its SYN is answered: the client's clock starts.
  mutating func opened(_ i: Int, seed: UInt64, now: Int64) -> Actor.Step {
    bots[i].actor.opened(persona(i), seed: seed, now: now * 1_000)
  }

  /// The engine has taken it into a slot.
  mutating func isHeld(_ i: Int, inSlot slot: Int32) { bots[i].slot = slot }

  // MARK: Looking

  /// The connection whose record it is, and not another that had it before.
  @inline(__always)
  func isThere(_ i: Int, _ generation: UInt16) -> Bool {
    bots[i].isTaken && bots[i].generation == generation
  }

  @inline(__always)
  func hasEnded(_ i: Int) -> Bool { bots[i].hasEnded }

  @inline(__always)
  func isSlow(_ i: Int) -> Bool { bots[i].marks.contains(.slow) }

  /// Its place in the engine, or -1.
  @inline(__always)
  func slot(_ i: Int) -> Int32 { bots[i].slot }

  @inline(__always)
  func latency(_ i: Int) -> Int64 { Int64(bots[i].latency) }

  @inline(__always)
  func generation(_ i: Int) -> UInt16 { bots[i].generation }

  func client(_ i: Int) -> Client { bots[i].client }

  @inline(__always)
  func number(_ i: Int) -> UInt32 { bots[i].client.number }

  @inline(__always)
  func ending(_ i: Int) -> Ending { bots[i].actor.ending }

  @inline(__always)
  func awaited(_ i: Int) -> Awaited { bots[i].actor.awaited }

  @inline(__always)
  func delivered(_ i: Int) -> Int { Int(bots[i].actor.delivered) }

  @inline(__always)
  func seen(_ i: Int) -> Seen {
    Seen(
      isReset: bots[i].isReset, hasEnded: bots[i].endTold, hasSaid: bots[i].said.arrived > 0)
  }

  func handshake(_ i: Int) -> Handshake {
    bots[i].marks.contains(.finished)
      ? .finished : bots[i].marks.contains(.hello) ? .hello : .nothing
  }

  @inline(__always)
  private func persona(_ i: Int) -> SharedPersona {
    population.shared[Int(bots[i].client.persona)]
  }

  // MARK: Hearing

  /// A byte reaches a client.
  @inline(__always)
  mutating func hear(_ i: Int, _ byte: UInt8, now: Int64) -> Actor.Step {
    bots[i].actor.heard(byte, persona(i), now: now * 1_000)
  }

  /// A letter does.
  @inline(__always)
  mutating func hear(_ i: Int, letter: UInt32, now: Int64) -> Actor.Step {
    let wasLetThrough = bots[i].actor.isLetThrough
    let step = letters.read(letter, by: &bots[i].actor, persona(i), now: now * 1_000)
    if !wasLetThrough && bots[i].actor.isLetThrough { letThrough += 1 }
    return step
  }

  /// The shield's part of a TLS handshake does.
  mutating func secured(_ i: Int, now: Int64) -> Actor.Step {
    bots[i].actor.secured(persona(i), now: now * 1_000)
  }

  /// A client sees the end of its connection.
  mutating func seeEnd(_ i: Int) { bots[i].actor.closed(broken: bots[i].isReset) }

  /// The moment has come at which its deadline may be.
  @inline(__always)
  mutating func wake(_ i: Int, now: Int64) -> Actor.Step {
    bots[i].actor.timer(persona(i), now: now * 1_000)
  }

  /// Keeps what a client will hear; returns the letter's number.
  @inline(__always)
  mutating func post(_ shield: borrowing Arena, _ region: Region) -> UInt32 {
    letters.put(shield, region)
  }

  /// A letter has been read, or nobody is there who could.
  @inline(__always)
  mutating func give(letter: UInt32) { letters.give(letter) }

  // MARK: Waiting

  /// No client does anything by itself before this.
  var nextDeadline: Int64 {
    @inline(__always) get { timers.next }
  }

  /// Those that are due at `moment`, which `nextDeadline` does not precede, are those that are taken next.
  @inline(__always)
  mutating func openDeadlines(_ moment: Int64) { timers.advance(to: moment) }

  @inline(__always)
  mutating func takeDue() -> Int? { timers.takeFirst() }

  /// A client waits until its deadline at most, not before `earliest` and not beyond `horizon`.
  @inline(__always)
  mutating func wait(_ i: Int, notBefore earliest: Int64, horizon: Int64) {
    if bots[i].hasEnded { return }
    let deadline = bots[i].actor.deadline(persona(i))
    if deadline == .max { return timers.takeOut(i) }
    let due = max((deadline + 999) / 1_000, earliest)
    // One that is later now is seen to when the earlier moment comes.
    if due >= timers.moment(of: i) { return }
    timers.takeOut(i)
    if due <= horizon { timers.put(i, at: due) }
  }

  // MARK: Saying

  /// Whether what a client says goes anywhere.
  @inline(__always)
  func isHeard(_ i: Int) -> Bool { bots[i].slot >= 0 && !bots[i].isClosed }

  /// A client says a line.
  @inline(__always)
  mutating func say(_ i: Int, _ line: Line) { sayings.say(line, to: &bots[i].said) }

  /// A client begins a TLS handshake.
  mutating func secure(_ i: Int) { population.secures(bots[i].client) }

  /// Takes what has arrived of a client, at most so many octets, into `words`.
  mutating func read(_ i: Int, atMost most: Int) {
    words.removeAll(keepingCapacity: true)
    let persona = persona(i)
    let number = Int(bots[i].client.number)
    sayings.read(&bots[i].said, persona, number: number, atMost: most, into: &words)
  }

  // MARK: Arriving at the shield

  /// A line is there; the end is; a reset is; the first part of a handshake is, or is answered; the end of one is.
  @inline(__always)
  mutating func lineArrived(_ i: Int) { bots[i].said.arrived += 1 }
  mutating func endArrived(_ i: Int) { bots[i].endTold = true }
  mutating func resetArrived(_ i: Int) { bots[i].isReset = true }
  mutating func helloArrived(_ i: Int) { bots[i].marks.insert(.hello) }
  mutating func helloAnswered(_ i: Int) { bots[i].marks.remove(.hello) }
  mutating func finishedArrived(_ i: Int) { bots[i].marks.insert(.finished) }

  /// The mail server was away or broke: what comes of this connection is not the shield's fault.
  mutating func metFault(_ i: Int) { bots[i].marks.insert(.metFault) }

  // MARK: Going

  /// A client closes its end.
  ///
  /// - Returns: false if it had done so already.
  mutating func leave(_ i: Int) -> Bool {
    if bots[i].hasEnded { return false }
    bots[i].hasEnded = true
    timers.takeOut(i)
    return true
  }

  /// What became of a connection that its client has closed, and whether it comes again.
  ///
  /// - Parameter isAway: the mail server is, so it was not the shield's fault.
  /// - Returns: the client's place among those that wait, and when it comes, in milliseconds; nil if it does not
  ///   before `horizon`.
  mutating func end(_ i: Int, isAway: Bool, now: Int64, horizon: Int64) -> (
    place: Int, at: Int64
  )? {
    var client = bots[i].client
    let isFault = bots[i].marks.contains(.metFault) || bots[i].isReset || isAway
    let again = population.ended(
      &client, bots[i].actor, letThrough: bots[i].actor.isLetThrough, byFault: isFault,
      now: now * 1_000)
    guard let again, again / 1_000 <= horizon else { return nil }
    return (waiting.take(Waiting(client: client)), max(again / 1_000, now + 1))
  }

  /// A client that waited comes again.
  mutating func takeWaiting(_ place: Int) -> Client {
    let client = waiting[place].client
    waiting.give(place)
    return client
  }

  /// The shield has closed its end.
  mutating func closed(_ i: Int) {
    bots[i].isClosed = true
    bots[i].slot = -1
  }

  /// Gives the record back if both ends are through with the connection.
  mutating func forget(_ i: Int) {
    if bots[i].hasEnded && bots[i].isClosed { free(i) }
  }

  /// Gives the record back.
  mutating func free(_ i: Int) {
    guard bots[i].isTaken else { return }
    bots[i].isTaken = false
    sayings.clear(&bots[i].said)
    bots.give(i)
  }

  /// The run is over: notes who is still there.
  ///
  /// - Returns: how many of them have a slot.
  mutating func finish(now: Int64) -> Int {
    var held = 0
    for i in 0..<bots.count where bots[i].isTaken {
      if bots[i].slot >= 0 { held += 1 }
      if !bots[i].hasEnded {
        population.stillThere(
          bots[i].client, bots[i].actor, letThrough: bots[i].actor.isLetThrough, now: now * 1_000)
      }
    }
    return held
  }
}
