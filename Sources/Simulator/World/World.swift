// SPDX-License-Identifier: Apache-2.0
package import Personas
package import Policy
package import Shield
import Structures

/// The engine, unchanged, among the clients of a scenario, on a virtual clock and a virtual network.
///
/// One seed decides everything: who comes when, every delay, every loss. `trace` is a hash over all that
/// happened, the same on every machine and in every build. Time moves in milliseconds.
///
/// The world is the parent of its parts and moves things between them: the clients (`Crowd`), the shield's sockets
/// (`Sockets`) and the mail server (`ServerSide`), none of which knows another; `Course` is the time, `Observer` looks
/// on. It stands in floors, each of which calls only those below it: `World`, `Telling`, `Obeying`, `Steps`.
package struct World: ~Copyable {
  package internal(set) var engine: Engine
  var effects = Moment(capacity: 256)
  var course = Course()
  var crowd: Crowd
  var sockets: Sockets
  var server: ServerSide
  var observer: Observer
  private var random: SeededGenerator
  private let sampleEvery: Int64

  package init(
    policy: Policy, limits: Limits, population: consuming Population, seed: UInt64,
    sampleEvery seconds: Double = 1
  ) {
    engine = Engine(policy: policy, limits: limits, seed: seed)
    sockets = Sockets(count: engine.slotCount, clients: limits.connections)
    server = ServerSide(
      population.scenario.downstream, links: limits.downstreamConnections, seed: seed &+ 1)
    random = SeededGenerator(seed: seed &+ 2)
    sampleEvery = max(Int64(seconds * 1_000), 100)
    observer = Observer(sampleEvery: sampleEvery)
    crowd = Crowd(population)
  }

  package var population: Population { crowd.population }
  package var eventCount: Int { course.eventCount }
  package var trace: UInt64 { course.trace }
  package var samples: [Sample] { observer.samples }
  package var checks: Checks { observer.checks }
  /// The number of the client whose connections are written down as facts and orders, and what was written.
  package var traced: UInt32 {
    get { observer.traced }
    set { observer.traced = newValue }
  }
  package var lines: [String] { observer.lines }

  // MARK: The run

  /// Runs the scenario to its end, and then until everybody is gone or `after` seconds have passed; 49 days at most
  /// in all.
  ///
  /// - Parameter progress: hears how far the run is, in seconds of its own time, a few hundred times at most.
  package mutating func run(after: Double = 0, progress: (@Sendable (Double) -> Void)? = nil) {
    let scenario = population.scenario
    let end = Int64(min(scenario.duration * 1_000, Double(TimeLists.end)))
    course.ends(at: end + Int64(min(max(after, 0) * 1_000, Double(TimeLists.end))))
    for entry in scenario.entries.indices {
      for _ in 0..<scenario.entries[entry].atOnce { begin(entry) }
      arrange(entry)
    }
    course.add(.sample, at: sampleEvery, 0)
    let horizon = course.horizon
    guard let progress else {
      advance(to: end)
      advance(to: horizon)
      return finish()
    }
    // In steps, which change nothing: an event belongs to its millisecond, whichever step that is in.
    for (last, steps) in [(end, 100), (horizon, 100)] {
      let first = course.now
      for step in 1...Int64(steps) {
        advance(to: first + (last - first) * step / Int64(steps))
        progress(Double(course.now) / 1_000)
      }
    }
    finish()
  }

  /// Lets time pass up to `end`, in milliseconds.
  mutating func advance(to end: Int64) {
    while true {
      let due = max(
        (engine.nextDeadline(now: course.instant).microseconds + 999) / 1_000, course.now)
      let next = min(course.next, crowd.nextDeadline, due)
      if next > end { break }
      course.goOn(to: next)
      if due <= course.now { tick() }
      while true {
        let at = min(course.next, crowd.nextDeadline)
        if at > course.now { break }
        course.open(at)
        crowd.openDeadlines(at)
        while let event = course.takeFirst() { happen(event) }
        while let i = crowd.takeDue() {
          reach(i)
          settle()
        }
      }
    }
    course.goOn(to: end)
  }

  private mutating func tick() {
    while engine.timeReached(course.instant, into: &effects) { settle() }
    settle()
    // A deadline that is not a whole tick is kept at the next one.
    let now = course.now
    if engine.nextDeadline(now: course.instant).microseconds <= now * 1_000 {
      course.goOn(to: now + 1)
    }
  }

  private mutating func happen(_ event: SimEvent) {
    course.happened()
    let i = Int(event.index)
    switch event.kind {
    case .arrival:
      begin(i)
      arrange(i)
    case .comeBack: connect(crowd.takeWaiting(i))
    case .sample: sample()
    case .linkUp, .linkDown, .linkReply, .linkEnd, .taken: happen(event, atSlot: i)
    case .hearByte, .hear, .seeEnd, .arrive, .arriveEnd, .arriveReset, .hello, .helloAnswer,
      .finished:
      if crowd.isThere(i, event.generation) { happen(event, toClient: i) }
      if event.kind == .hear { crowd.give(letter: event.payload) }
    }
    settle()
  }

  // MARK: Clients come

  private mutating func arrange(_ entry: Int) {
    if let at = crowd.nextArrival(entry) { course.add(.arrival, at: at, entry) }
  }

  mutating func begin(_ entry: Int) {
    let (client, connections) = crowd.begin(entry, now: course.now)
    for _ in 0..<connections { connect(client) }
  }

  private mutating func connect(_ client: Client) {
    let (i, seed, resetAfter) = crowd.connect(client)
    let address = crowd.client(i).address
    let port = UInt16(1_024 + random.next() % 60_000)
    course.note(1, i, UInt64(crowd.number(i)))
    let admission = engine.accepted(
      Peer(address: address, port: port, listener: 0), now: course.instant, into: &effects)
    let first = crowd.opened(i, seed: seed, now: course.now)
    switch admission {
    case .held(let slot):
      sockets.open(Int(slot.index), bot: i)
      crowd.isHeld(i, inSlot: Int32(slot.index))
      if isTraced(i) { tell("connects from \(address), slot \(slot)") }
      goOn(i, first, notBefore: course.now + 1)
      if resetAfter >= 0 {
        course.add(
          .arriveReset, at: course.now + resetAfter, i, generation: crowd.generation(i))
      }
    case .refused(let region):
      if isTraced(i) { tell("is refused: there is no slot") }
      hand(i, region)
      send(.seeEnd, i)
    case .dropped: send(.seeEnd, i)
    }
    settle()
  }

  // MARK: What is seen

  private mutating func sample() {
    engine.measure()
    var count = Observer.Count()
    count.offered = crowd.offered
    count.letThrough = crowd.letThrough
    count.recipients = server.recipients
    count.held = engine.heldCount
    count.waiting = Int(engine.core.counters.waiting)
    count.dripping = Int(engine.core.counters.dripping)
    count.talking = Int(engine.core.counters.talking)
    count.downstream = server.open
    observer.sample(count, now: course.now)
    observer.filled(
      held: engine.heldCount, sessions: engine.leasedSessions, links: engine.linkCount,
      engine.limits, now: course.now)
    if Double(course.now) < crowd.population.scenario.duration * 1_000 {
      course.add(.sample, at: course.now + sampleEvery, 0)
    }
  }

  /// What can only be seen at the end.
  mutating func finish() {
    let connections = crowd.finish(now: course.now)
    observer.finish(
      slots: engine.heldCount, connections: connections, crowd.population.findings)
    course.close(messages: server.messages)
  }

  /// The bytes of memory that the simulation has for each client that was there at once, be it with a connection or
  /// between two: its records of both, its deadline, what it has said, its end of the shield's socket, and everything
  /// on its way to or from anybody. All that was allocated counts, also what was idle at the end. Not the engine's
  /// own memory, the mail server's, and findings and samples, which do not grow with the clients.
  package var bytesEach: Double {
    let clients = max(crowd.count + crowd.waitingCount, 1)
    let bytes =
      crowd.footprint + course.footprint + min(crowd.count, sockets.clientSlots)
      * MemoryLayout<Sockets.Socket>.stride
    return Double(bytes) / Double(clients)
  }

  /// What the run showed.
  package func report(configuration: String, took: Double) -> RunReport {
    let scenario = population.scenario
    var report = RunReport(kind: "simulated", scenario: scenario.name, configuration: configuration)
    report.seed = population.seed
    report.lists = scenario.listedAre
    report.duration = scenario.duration
    report.after = max(Double(course.horizon) / 1_000 - report.duration, 0)
    report.took = took
    report.events = eventCount
    report.trace = String(trace, radix: 16)
    report.bytesEach = bytesEach
    report.personas = population.findings
    report.samples = samples
    report.checks = checks.all
    return report
  }
}
