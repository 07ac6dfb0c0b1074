// SPDX-License-Identifier: Apache-2.0
import Structures

/// A flood, or an ordinary day: who comes how often, over what network, to what mail server behind.
///
/// Times in seconds, rates per second.
public struct Scenario: Sendable {
  /// Who takes part, and how often.
  public struct Entry: Sendable {
    /// Its id.
    public var persona: String
    /// New clients a second; for a sender, new messages.
    public var rate: Double
    /// So many at the start at once, besides.
    public var atOnce = 0
    /// From the first moment to the last.
    public init(persona: String, rate: Double) {
      self.persona = persona
      self.rate = rate
    }
  }

  /// Bots come `times` as often for a while.
  public struct Burst: Sendable {
    /// Seconds since the start.
    public var at: Double
    /// Seconds.
    public var lasting: Double
    /// The factor.
    public var times: Double
    /// All three figures.
    public init(at: Double, lasting: Double, times: Double) {
      self.at = at
      self.lasting = lasting
      self.times = times
    }
  }

  /// The mail server behind.
  public struct Downstream: Sendable {
    /// Seconds to its reply to a command.
    public var reply = Distribution.const(0.002)
    /// Seconds to the reply to the end of a message.
    public var dot = Distribution.const(0.02)
    /// Connections it takes at a time; those beyond hear 421.
    public var connections = 1_000
    /// Messages a second that it can take: while more come, their replies wait in line. 0: any number.
    public var capacity = 0.0
    /// Share of its connections that break at some moment.
    public var breaks = 0.0
    /// When it is away, from and for how long.
    public var outages: [(at: Double, lasting: Double)] = []
    /// Quick and roomy.
    public init() {}
  }

  /// What reports call it.
  public var name: String
  /// Seconds in which clients begin.
  public var duration = 600.0
  /// Each persona once.
  public var entries: [Entry] = []
  /// May overlap: their factors multiply.
  public var bursts: [Burst] = []
  /// What is behind the shield.
  public var downstream = Downstream()
  /// Seconds a byte is under way, each direction.
  public var latency = Distribution.uniform(0.01, 0.12)
  /// Share of connections that break by themselves at some moment.
  public var resets = 0.0
  /// Share of clients that take in a byte a millisecond.
  public var slowReaders = 0.0
  /// What block lists would say of listed addresses: "bad", "suspicious", or nothing.
  public var listedAre = ""

  /// Ten minutes with nobody.
  public init(name: String) { self.name = name }
}

/// What the network does to one connection: drawn from the connection's own seed, so that it is the same in a
/// simulated run and a real one.
public struct LineFaults: Sendable, Equatable, BitwiseCopyable {
  /// Milliseconds that a byte is under way, each direction; 0…65,535.
  public var latency: UInt16
  /// Its client takes in a byte a millisecond.
  public var isSlow: Bool
  /// Milliseconds after which it breaks, 0 ..< 60,000; -1: never.
  public var resetAfter: Int32

  /// - Parameter seed: of the connection's actor.
  public init(_ scenario: Scenario, seed: UInt64) {
    // Chances of its own: what the client does must not depend on the network it is in.
    var random = SeededGenerator(seed: seed ^ 0x6C69_6E65_2066_6175)
    func draw() -> Double { Double(random.next() >> 11) * 0x1p-53 }
    latency = UInt16(min(max(scenario.latency.value(at: draw()) * 1_000, 0), 65_535))
    isSlow = draw() < scenario.slowReaders
    resetAfter = draw() < scenario.resets ? Int32(draw() * 60_000) : -1
  }
}
