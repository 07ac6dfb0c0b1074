// SPDX-License-Identifier: Apache-2.0
import Personas
import Reports
import Structures

/// Reports as a run of ten minutes would give them, from a seed: for tests and for looking at pages.
enum Samples {
  private static let bots: [(id: String, name: String, patience: Distribution)] = [
    ("B1", "impatient", .lognormal(4, 0.4)), ("B2", "rustock-like", .normal(21, 0.3)),
    ("B3", "climbot-like", .normal(100, 0.5)), ("B4", "greylist-aware", .const(60)),
    ("B5", "ylmf AUTH bot", .const(8)), ("B6", "distributed spray", .const(30)),
    ("B7", "harvester", .uniform(18, 24)), ("B8", "snowshoe", .const(300)),
    ("B9", "proxy or router relay", .const(30)), ("B10", "ESP abuse, e-mail bomb", .const(300)),
    ("B11", "scanner", .uniform(2, 6)), ("B12", "slowloris", .lognormal(200, 0.3)),
    ("B13", "TLS burner", .const(0.2)), ("B14", "tarpit-hardened", .const(2)),
  ]
  private static let senders = [
    "Gmail-like", "Microsoft 365, Exchange", "Postfix, Exim, sendmail", "ESP, bulk",
    "30-second class", "cloud gateway", "60-second class", "whole-session cap", "short-life mail",
    "few tries",
  ]

  /// - Parameters:
  ///   - slow: how much longer the shield holds.
  ///   - longest: seconds after which the shield lets go.
  static func report(
    seed: UInt64 = 1, kind: String = "simulated", configuration: String = "shipped defaults",
    slow: Double = 1, longest: Double = 300, losses: Bool = true
  ) -> RunReport {
    var generator = SeededGenerator(seed: seed)
    func draw() -> Double { Double(generator.next() >> 11) * 0x1p-53 }
    var report = RunReport(kind: kind, scenario: "flood of the tests", configuration: configuration)
    report.seed = seed
    report.duration = 600
    report.took = kind == "real" ? 600 : 3.21
    report.events = 4_512_332
    report.trace = kind == "real" ? "" : "b34cc5e5e2eff952"
    report.command = "sluice simulate --scenario flood --seed \(seed)"
    report.bytesEach = 189
    for (n, bot) in bots.enumerated() {
      var found = PersonaFindings(id: bot.id, name: bot.name, kind: "bot")
      for _ in 0..<(2_400 / (n + 1)) {
        found.clients += 1
        found.series += 1
        found.connections += 1
        let patience = bot.patience.value(at: draw())
        let shield = min(longest, (5 + 60 * draw()) * slow)
        found.held.add(min(patience, shield))
        if patience < shield {
          found.endings["left: \(draw() < 0.8 ? "banner" : "helo")", default: 0] += 1
          found.leftAfter.add(patience)
          found.gaveUp += 1
        } else if draw() < 0.5 {
          found.endings["cut off", default: 0] += 1
        } else {
          found.endings["delivered", default: 0] += 1
          found.delivered += 1
          found.letThrough += 1
        }
      }
      found.begunWithin = found.connections
      found.secondsWithin = found.held.sum
      found.letThroughWithin = found.letThrough
      found.deliveredWithin = found.delivered
      report.personas.append(found)
    }
    for (n, name) in senders.enumerated() {
      var found = PersonaFindings(id: "L\(n + 1)", name: name, kind: "sender")
      for k in 0..<(400 / (n + 1)) {
        found.clients += 1
        found.series += 1
        found.connections += 1
        let delay = Distribution.lognormal(4 * slow, 0.5 + Double(n) / 4).value(at: draw())
        found.held.add(min(delay, 60))
        if losses && n > 7 && k % 9 == 0 {
          found.lost[k % 2 == 0 ? "left: banner" : "deferred (4xx), 450 at rcpt", default: 0] += 1
          found.endings["left: banner", default: 0] += 1
        } else {
          found.letThrough += 1
          found.delivered += 1
          found.delay.add(delay)
          found.endings["delivered", default: 0] += 1
        }
      }
      found.begunWithin = found.connections
      found.secondsWithin = found.held.sum
      found.letThroughWithin = found.letThrough
      found.deliveredWithin = found.delivered
      report.personas.append(found)
    }
    var probe = PersonaFindings(id: "P-check", name: "check_smtp", kind: "probe")
    for _ in 0..<60 {
      probe.clients += 1
      probe.connections += 1
      probe.held.add(0.2 + draw())
      probe.endings["done", default: 0] += 1
    }
    report.personas.append(probe)

    for second in 1...600 {
      var sample = Sample()
      sample.at = Double(second)
      let burst = second > 200 && second < 320 ? 6.0 : 1
      sample.offered = burst * (14 + 5 * draw())
      sample.letThrough = 1.5 + draw()
      sample.waiting = Int(burst * slow * 60 + 20 * draw())
      sample.dripping = Int(burst * slow * 120 + 30 * draw())
      sample.talking = Int(12 + 6 * draw())
      sample.held = sample.waiting + sample.dripping + sample.talking
      sample.downstream = Int(3 + 4 * draw())
      sample.downstreamWithout = Int(burst * 20 + 8 * draw())
      if kind == "real" {
        sample.memory = 24_000_000 + sample.held * 900
        sample.cpu = Int(burst * 40_000 + 20_000 * draw())
      }
      report.samples.append(sample)
    }
    for name in ["no reply before its release time", "no delay beyond its ceiling"] {
      var check = Check(name)
      check.looked = 37_171
      report.checks.append(check)
    }
    return report
  }

  /// One run for each value, with losses from 30 s on.
  static func sweep() -> Sweep {
    let values = stride(from: 0.0, through: 60, by: 5)
    return Sweep(
      parameter: "banner", unit: "s",
      points: values.map {
        Sweep.Point(
          value: $0, report: report(slow: 0.1 + $0 / 30, losses: $0 >= 30))
      }, command: "sluice simulate --sweep banner=0..60/5")
  }
}
