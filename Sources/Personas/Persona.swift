// SPDX-License-Identifier: Apache-2.0

/// The moment of a dialogue at which a client waits for a reply.
public enum Awaited: UInt8, Sendable, CaseIterable, BitwiseCopyable {
  case banner, helo, startTLS, auth, mail, rcpt, data, dot, rset, quit

  /// The word in the files and reports.
  public var name: String {
    switch self {
    case .banner: "banner"
    case .helo: "helo"
    case .startTLS: "starttls"
    case .auth: "auth"
    case .mail: "mail"
    case .rcpt: "rcpt"
    case .data: "data"
    case .dot: "dot"
    case .rset: "rset"
    case .quit: "quit"
    }
  }
}

/// What a client's patience is counted from.
public enum PatienceClock: String, Sendable, CaseIterable {
  /// From the last byte it heard: a drip buys time.
  case read
  /// From the moment it began to wait for this reply, until the reply is whole.
  case reply
  /// From the connection's first moment.
  case session
}

/// A kind of client, bot or honest, as data: how many there are, what they say and how long they wait. One
/// model for the simulator, which has thousands of them in virtual time, and for the flood on real sockets.
///
/// Times are in seconds, shares 0…1. The files under tuning/personas give each parameter with its source.
public struct Persona: Sendable {
  /// Whether it is wanted.
  public enum Kind: String, Sendable, CaseIterable {
    /// Not wanted.
    case bot
    /// Its mail must arrive.
    case sender
    /// Asks and leaves; no mail, but it should be answered in time.
    case probe
  }

  /// What it is about on a connection.
  public enum Aim: String, Sendable, CaseIterable {
    case mail
    /// Leaves after the banner, or after EHLO's reply.
    case banner, helo
    /// TLS handshakes: leaves when the server has done its part of one, or at once where STARTTLS is not offered.
    case tls
    /// Recipients, one after the other, and never DATA.
    case harvest
    /// Log-ins.
    case auth
    /// A sender check: MAIL FROM:<>, RCPT, QUIT.
    case callout
    /// To hold the connection for as long as it can.
    case hold
  }

  /// What scenarios call it, `B1`.
  public var id: String
  /// What reports call it.
  public var name = ""
  /// A sentence on what it is modelled after.
  public var about = ""
  /// Whether it is wanted.
  public var kind = Kind.bot
  /// What it is about.
  public var aim = Aim.mail

  /// How long it waits for each reply.
  public var patience: [Awaited: Distribution] = [:]
  /// Where `patience` says nothing.
  public var patienceOtherwise = Distribution.const(300)
  /// What patience is counted from.
  public var clock = PatienceClock.reply
  /// The longest that a whole session may take, whatever the clock.
  public var sessionMost: Double = .infinity
  /// It leaves after this many replies that each took longer than `slowReply`; 0: never.
  public var slowStrikes = 0
  /// Seconds from which on a reply is a slow one.
  public var slowReply = 4.0

  /// Says its HELO before the banner.
  public var pregreet = 0.0
  /// Leaves when it has the banner, whatever it is about.
  public var bannerOnly = 0.0
  /// Says HELO with a bare word, which no honest server does.
  public var bareHelo = 0.0
  /// The name it gives, where it has a name of its own: `ylmf-pc`.
  public var heloName = ""
  /// Sends the next commands without waiting for the replies, though nothing was offered.
  public var pipelinesEarly = 0.0
  /// Uses PIPELINING where it is offered.
  public var pipelines = 0.0
  /// Speaks another protocol instead.
  public var nonSMTP = 0.0
  /// Says STARTTLS where it is offered, and goes on in TLS; in clear text if it is told 4xx or 5xx. Not who leaves with
  /// the banner or the answer to EHLO, nor who does not wait for replies.
  public var tls = 0.0
  /// Says QUIT when it is done.
  public var quits = 1.0
  /// Says QUIT when it loses patience.
  public var quitsImpatient = 0.0
  /// Log-ins it tries on a connection; leaves at once where AUTH is not offered.
  public var logins = Distribution.const(0)

  /// Messages on one connection.
  public var messages = Distribution.const(1)
  /// Recipients of a message.
  public var recipients = Distribution.const(1)
  /// Of its recipients, how many do not exist.
  public var unknown = 0.0
  /// Octets of a message.
  public var bytes = Distribution.lognormal(4_000, 0.8)
  /// Between two bytes of its own; 0: whole lines.
  public var trickle = Distribution.const(0)

  /// Connections of one client at a time.
  public var concurrency = Distribution.const(1)
  /// Between the end of a connection and the next one of the same client that has more to do; for a bot also
  /// after it was refused.
  public var again = Distribution.const(60)
  /// How often a bot tries in all: the shares that try once, twice, 3, 4, 5 to 10, 11 to 20 and 21 times.
  /// Empty: as `attempts` says.
  public var tries: [Double] = []
  /// The same as a number; 0: once more than there are `retries`. From 65,535 on it never ends.
  public var attempts = Distribution.const(0)
  /// A sender's schedule: from one try of a message to the next.
  public var retries: [Double] = []
  /// After so long a message is given back as undeliverable.
  public var life: Double = 5 * 86_400
  /// It does not come back for so long to a server that was slow.
  public var remembersSlow = 0.0
  /// A new address for each try, out of its pool.
  public var rotates = false

  /// How many addresses all clients of this kind have.
  public var addresses = 1
  /// How many of the addresses share a network of /24 (/64).
  public var perNetwork = 1
  /// How uneven the networks are used: the exponent of Zipf's law.
  public var zipf = 0.0
  /// Which share is IPv6.
  public var ipv6 = 0.0
  /// Share of its addresses that block lists know at first sight.
  public var listed = 0.0

  /// A bot that sends one message and waits five minutes for each reply.
  public init(id: String) { self.id = id }

  /// How many connections a client opens on the average that begins at some moment of a run, if nobody is
  /// slowed and no message has to be sent twice: the factor from clients to connections.
  ///
  /// - Parameter duration: of the run, in seconds: what comes after it does not count.
  public func connectionsEach(within duration: Double) -> Double {
    guard kind == .bot, duration > 0 else { return max(1, concurrency.mean) }
    // The least time a connection takes is part of the gap: nobody is back at once for ever.
    let gap = again.mean + 1
    var sum = 0.0
    for (share, count) in attemptCounts {
      // Tries 1, 2, …, n that begin in time, for a first one at any moment of the run.
      let n = Double(min(count, Int((duration / gap).rounded(.down)) + 1))
      sum += share * (n - n * (n - 1) / 2 * gap / duration)
    }
    return max(1, concurrency.mean) * sum
  }

  /// Which share of clients tries how often; the shares' sum is 1.
  private var attemptCounts: [(share: Double, count: Int)] {
    if !tries.isEmpty {
      let sum = tries.reduce(0, +)
      var counts: [(share: Double, count: Int)] = []
      for (k, share) in tries.enumerated() {
        let range = k < 4 ? k + 1...k + 1 : k == 4 ? 5...10 : k == 5 ? 11...20 : 21...21
        for count in range { counts.append((share / sum / Double(range.count), count)) }
      }
      return counts
    }
    if attempts == .const(0) { return [(1, retries.count + 1)] }
    let steps = 1_000
    return (0..<steps).map { k in
      let value = attempts.value(at: (Double(k) + 0.5) / Double(steps))
      return (1 / Double(steps), Int(min(max(value.rounded(), 1), 65_535)))
    }
  }
}

/// A persona by reference: it has some forty fields, and to copy them for every byte that a client hears would cost
/// more than what it does with the byte.
public final class SharedPersona: Sendable {
  /// The fields.
  public let value: Persona

  /// Never changes any more.
  public init(_ value: Persona) { self.value = value }
}
