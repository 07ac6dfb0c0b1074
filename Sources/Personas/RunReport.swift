// SPDX-License-Identifier: Apache-2.0

/// What one kind of client did and what became of it, in a simulated run or a real one.
public struct PersonaFindings: Sendable, Codable {
  /// Of the persona.
  public var id: String
  /// What reports call it.
  public var name: String
  /// `bot`, `sender` or `probe`.
  public var kind: String
  /// Clients that began.
  public var clients = 0
  /// Connections they opened.
  public var connections = 0
  /// Those of them on which a TLS handshake began.
  public var handshakes = 0
  /// Of these, handshakes that failed or were cut off. The others were done, or the client left in the middle.
  public var handshakesFailed = 0
  /// Connections on which the mail server behind judged a recipient, as far as the client can know: it was
  /// accepted, or refused with 550.
  public var letThrough = 0
  /// Messages that were accepted.
  public var delivered = 0
  /// How connections ended: by `Ending.name`, for those that lost patience with the stage after a colon
  /// ("left: banner").
  public var endings: [String: Int] = [:]
  /// Seconds from the connection to its end, all connections: the survival curve.
  public var held = Histogram()
  /// Seconds after which those left that lost patience.
  public var leftAfter = Histogram()
  /// Seconds to the whole banner.
  public var banner = Histogram()
  /// Of honest mail: seconds from the first try to 250.
  public var delay = Histogram()
  /// Messages given up for good, by the reason of the last try ("impatient: banner", "450 at rcpt").
  public var lost: [String: Int] = [:]
  /// Those of them whose only try met a fault that the scenario has in it, a mail server that breaks or a network that
  /// does: they are lost without a shield, too.
  public var lostByFault = 0
  /// Connections that began within the scenario: what follows until the last retry belongs to no steady state.
  public var begunWithin = 0
  /// The seconds of them that lie within it.
  public var secondsWithin = 0.0
  /// Those of `begunWithin` that were let through.
  public var letThroughWithin = 0
  /// Messages that were accepted on those.
  public var deliveredWithin = 0
  /// Series of tries: a client that opens three connections at once has three, each with its own retries.
  public var series = 0
  /// Series that never got anything through and do not come back: bots that were driven off.
  public var gaveUp = 0

  /// Nothing found yet.
  public init(id: String, name: String, kind: String) {
    self.id = id
    self.name = name
    self.kind = kind
  }

  /// Adds what another entry, or another thread, found of the same persona.
  public mutating func add(_ other: PersonaFindings) {
    clients += other.clients
    connections += other.connections
    handshakes += other.handshakes
    handshakesFailed += other.handshakesFailed
    letThrough += other.letThrough
    delivered += other.delivered
    begunWithin += other.begunWithin
    secondsWithin += other.secondsWithin
    letThroughWithin += other.letThroughWithin
    deliveredWithin += other.deliveredWithin
    series += other.series
    gaveUp += other.gaveUp
    endings.merge(other.endings, uniquingKeysWith: +)
    lost.merge(other.lost, uniquingKeysWith: +)
    lostByFault += other.lostByFault
    held.add(other.held)
    leftAfter.add(other.leftAfter)
    banner.add(other.banner)
    delay.add(other.delay)
  }
}

/// The state of the run at one moment.
public struct Sample: Sendable, Codable {
  /// Seconds since the start.
  public var at = 0.0
  /// Connections offered since the sample before, per second.
  public var offered = 0.0
  /// Let through to the downstream, per second.
  public var letThrough = 0.0
  /// Connections that clients have.
  public var held = 0
  /// Of those, waiting for a banner.
  public var waiting = 0
  /// In the tarpit.
  public var dripping = 0
  /// With a session of their own.
  public var talking = 0
  /// Connections to the downstream.
  public var downstream = 0
  /// What there would be without a shield.
  public var downstreamWithout = 0
  /// Bytes of the daemon's own memory (pages it shares are divided by who shares them); 0 in a simulated run.
  public var memory = 0
  /// Microseconds of CPU since the sample before; 0 in a simulated run.
  public var cpu = 0
  /// Recipients that reached the mail server behind, a second; 0 in a real run.
  public var recipients = 0.0
  /// A moment with nothing in it.
  public init() {}
}

/// A promise that was checked during the run, and how often it was broken.
public struct Check: Sendable, Codable {
  /// The promise, in a few words.
  public var name: String
  /// How often it was looked at.
  public var looked: Int
  /// How often it was broken.
  public var broken: Int
  /// The first case, in words.
  public var first: String?
  /// Not looked at yet.
  public init(_ name: String) {
    self.name = name
    looked = 0
    broken = 0
  }
}

/// What reached the mail server behind on connections that began within the scenario.
public struct Reach: Sendable, Codable, Equatable {
  /// Connections on which it judged a recipient, and those of them that were bots'.
  public var connections = 0
  /// Of the connections.
  public var botConnections = 0
  /// Messages that it accepted, and those of them that were bots'.
  public var messages = 0
  /// Of the messages.
  public var botMessages = 0
  /// Connections to it at one moment, at most; nil where nobody looked.
  public var atOnce: Int?
  /// Nothing.
  public init() {}
}

/// What a run showed, simulated or real: what reports are made from, and what two runs are compared by.
public struct RunReport: Sendable, Codable {
  /// "simulated" or "real".
  public var kind: String
  /// Its name.
  public var scenario: String
  /// The configuration in a few words: its file, or "shipped defaults", and the mode if it is another than there.
  public var configuration: String
  /// What the access table said of addresses that the scenario's block lists know, which no configuration has by
  /// itself: "bad". Empty: they were not loaded.
  public var lists = ""
  /// From which all chances follow; 0 in a real run.
  public var seed: UInt64 = 0
  /// Seconds of the run's own time in which clients began.
  public var duration = 0.0
  /// Seconds of its own time that it went on behind that at most, for retries. A simulated run has no samples of them.
  public var after = 0.0
  /// Seconds it took.
  public var took = 0.0
  /// Events: bytes heard, lines said, connections made and ended, timers.
  public var events = 0
  /// A hash over everything that happened, in hexadecimal; empty in a real run.
  public var trace = ""
  /// Bytes of memory for each client of a simulation; 0 in a real run: what a daemon has for a connection is
  /// measured where all are held and none talks (`scripts/bench`).
  public var bytesEach = 0.0
  /// By entry of the scenario.
  public var personas: [PersonaFindings] = []
  /// In the order of time.
  public var samples: [Sample] = []
  /// All that were looked at.
  public var checks: [Check] = []
  /// The command that does it again.
  public var command = ""
  /// What the same clients reach where nobody is slowed, if that was run too.
  public var without: Reach?

  /// What reached the mail server.
  public var reach: Reach {
    var reach = Reach()
    for persona in personas {
      reach.connections += persona.letThroughWithin
      reach.messages += persona.deliveredWithin
      if persona.kind == "bot" {
        reach.botConnections += persona.letThroughWithin
        reach.botMessages += persona.deliveredWithin
      }
    }
    // Where nobody looked from behind it is 0 at each moment.
    let most = samples.map(\.downstream).max() ?? 0
    reach.atOnce = most > 0 || reach.connections == 0 && !samples.isEmpty ? most : nil
    return reach
  }

  /// An empty report.
  public init(kind: String, scenario: String, configuration: String) {
    self.kind = kind
    self.scenario = scenario
    self.configuration = configuration
  }

  /// Little's law: the mean number held is the rate of arrivals times the mean time held, both of the connections
  /// that began within the scenario, as far as they lie within it.
  public var little: (rate: Double, hold: Double, expected: Double, seen: Double) {
    var connections = personas.reduce(0) { $0 + $1.begunWithin }
    var sum = personas.reduce(0) { $0 + $1.secondsWithin }
    if connections == 0 {
      connections = personas.reduce(0) { $0 + $1.held.total }
      sum = personas.reduce(0) { $0 + $1.held.sum }
    }
    let rate = duration > 0 ? Double(connections) / duration : 0
    let hold = connections > 0 ? sum / Double(connections) : 0
    // A run may go on when nobody new comes; a second's sample may be late by half of it.
    let within = samples.filter { duration <= 0 || $0.at <= duration + 0.5 }
    let seen =
      within.isEmpty ? 0 : within.reduce(0.0) { $0 + Double($1.held) } / Double(within.count)
    return (rate, hold, rate * hold, seen)
  }
}
