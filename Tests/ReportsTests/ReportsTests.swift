// SPDX-License-Identifier: Apache-2.0
import Foundation
import Personas
import Testing

@testable import Reports

/// All pages there are, with what they are of.
private let pages: [(name: String, text: String)] = {
  let hostile = Hostile.report
  let empty = RunReport(kind: "simulated", scenario: "empty", configuration: "none")
  var nobody = RunReport(kind: "real", scenario: "nobody", configuration: "none")
  nobody.duration = 60
  nobody.personas = [
    PersonaFindings(id: "B1", name: "bot", kind: "bot"),
    PersonaFindings(id: "L1", name: "sender", kind: "sender"),
    PersonaFindings(id: "P1", name: "probe", kind: "probe"),
  ]
  nobody.samples = [Sample()]
  nobody.checks = [Check("none broken")]
  let usual = Samples.report()
  return [
    ("usual", HTMLReport.page([usual])),
    ("real", HTMLReport.page([Samples.report(kind: "real")])),
    (
      "compared",
      HTMLReport.page([
        usual, Samples.report(kind: "real", configuration: "slower.yaml", slow: 2, longest: 900),
      ])
    ),
    (
      "forecast and real",
      {
        let real = Samples.report(seed: 2, kind: "real")
        let agreement = Agreement(
          forecast: usual, real: real, others: [Samples.report(seed: 3), empty])
        return HTMLReport.page([usual, real], agreement: agreement)
      }()
    ),
    (
      "hostile agreement",
      HTMLReport.page([hostile, hostile], agreement: Agreement(forecast: hostile, real: hostile))
    ),
    (
      "agreement of nothing",
      HTMLReport.page([empty, nobody], agreement: Agreement(forecast: empty, real: nobody))
    ),
    ("seven", HTMLReport.page([RunReport](repeating: nobody, count: 7))),
    ("empty", HTMLReport.page([empty])), ("nobody", HTMLReport.page([nobody])),
    ("empty beside usual", HTMLReport.page([empty, usual])), ("none", HTMLReport.page([])),
    ("hostile", HTMLReport.page([hostile])),
    ("hostile twice", HTMLReport.page([hostile, hostile])),
    ("sweep", SweepReport.page(Samples.sweep())),
    ("sweep of nothing", SweepReport.page(Sweep(parameter: "banner", unit: "s", points: []))),
    (
      "sweep of nobody",
      SweepReport.page(
        Sweep(
          parameter: "x", unit: "",
          points: [
            .init(value: 3, report: empty), .init(value: .nan, report: nobody),
            .init(value: 5, report: nobody),
          ]))
    ),
    (
      "hostile sweep",
      SweepReport.page(
        Sweep(
          parameter: Hostile.text, unit: Hostile.text, points: [.init(value: 1, report: hostile)],
          command: Hostile.text))
    ),
  ]
}()

/// Names that would break out of a page or a terminal.
enum Hostile {
  static let text =
    "<script>alert(1)</script>\" onload='x' &amp; \u{1B}[31m\u{0}\u{202E}\r\n]]>--><!--"

  static var report: RunReport {
    var report = Samples.report()
    report.scenario = text
    report.configuration = text
    report.kind = text
    report.trace = text
    report.command = text
    report.personas.append(PersonaFindings(id: text, name: text, kind: "bot"))
    report.personas.append(PersonaFindings(id: text + "2", name: text, kind: "sender"))
    report.personas[report.personas.count - 1].lost[text] = 3
    report.personas[report.personas.count - 2].endings[text] = 3
    report.personas[report.personas.count - 2].held.add(3)
    report.personas[report.personas.count - 2].leftAfter.add(3)
    report.personas.append(PersonaFindings(id: "k", name: "k", kind: text))
    var check = Check(text)
    (check.looked, check.broken, check.first) = (2, 1, text)
    report.checks.append(check)
    return report
  }
}

@Suite("Pages")
struct PageTests {
  @Test("are well-formed, with quoted values and unique ids")
  func wellFormed() {
    for page in pages {
      let problem = WellFormed.problem(page.text)
      #expect(problem == nil, "\(page.name): \(problem ?? "")")
    }
  }

  @Test("the reader of pages finds what is wrong")
  func reader() {
    for body in [
      "<p>", "<p></b>", "<p>a & b</p>", "<p a=b></p>", "<p>></p>", "<p a=\"1\" a=\"2\"></p>",
      "<p id=\"a\"></p><p id=\"a\"></p>", "<a href=\"x\"></a>", "<p>\u{1}</p>", "<p", "text",
    ] {
      #expect(WellFormed.problem("<!DOCTYPE html>\n\(body)") != nil, "\(body)")
    }
    #expect(WellFormed.problem("<!DOCTYPE html>\n<p a=\"b\">&amp;<br /></p>\n") == nil)
  }

  @Test("load nothing and run nothing")
  func selfContained() {
    for page in pages where !page.name.contains("hostile") {
      for wrong in [
        "http://", "https://", "src=", "href=", "url(", "@import", "<script", "<link", "<img",
        "<iframe",
      ] {
        #expect(!page.text.contains(wrong), "\(page.name) has \(wrong)")
      }
      #expect(page.text.contains("default-src 'none'"))
    }
  }

  @Test("never show a number that is none")
  func numbers() {
    let sweep = Sweep(
      parameter: "x", unit: "",
      points: [
        .init(
          value: 0, report: RunReport(kind: "simulated", scenario: "empty", configuration: "none"))
      ])
    let texts =
      pages
      + [("sweep as text", SweepReport.text(sweep))]
    for page in texts {
      let found = Set(page.text.components(separatedBy: CharacterSet.letters.inverted))
      for word in ["nan", "inf", "NaN", "Infinity", "Optional"] {
        #expect(!found.contains(word), "\(page.name) has \(word)")
      }
    }
  }

  @Test("escape what others wrote")
  func hostile() {
    for page in pages where page.name.contains("hostile") {
      #expect(!page.text.contains("<script"))
      #expect(page.text.contains("&lt;script&gt;"))
      for scalar in page.text.unicodeScalars {
        #expect(scalar == "\n" || Figures.isHarmless(scalar))
      }
    }
    for text in [
      TerminalReport.text(Hostile.report, color: false),
      SweepReport.text(
        Sweep(
          parameter: Hostile.text, unit: Hostile.text,
          points: [.init(value: 1, report: Hostile.report)], command: Hostile.text)),
    ] {
      for scalar in text.unicodeScalars { #expect(scalar == "\n" || Figures.isHarmless(scalar)) }
    }
  }

  @Test("say the same as the report")
  func figures() {
    let report = Samples.report()
    let page = HTMLReport.page([report])
    let text = TerminalReport.text(report, color: false)
    for found in report.personas {
      #expect(
        page.contains(
          "<th scope=\"row\">\(found.label)</th><td>\(Figures.count(found.clients))</td>"
            + "<td>\(Figures.count(found.connections))</td>"))
      if found.kind == "sender" {
        let delay = [0.5, 0.95, 0.99].map {
          "<td>\(Figures.seconds(found.delay.quantile($0)))</td>"
        }.joined()
        #expect(page.contains("<td>\(Figures.count(found.delay.total))</td>\(delay)"))
      }
      for (reason, count) in found.lost {
        #expect(page.contains("\(count) × \(reason)"))
        #expect(text.contains("\(found.label): \(count) × \(reason)"))
      }
      #expect(text.contains(found.label))
    }
    let lost = report.personas.reduce(0) { $0 + $1.lost.values.reduce(0, +) }
    #expect(lost > 0)
    #expect(page.contains("<b>\(lost)</b><span>honest messages lost"))
    #expect(page.contains(report.trace) && text.contains(report.trace))
    #expect(page.contains(report.command) && text.contains("again: \(report.command)"))
    #expect(page.contains("4,512,332 events") && text.contains("4,512,332 events"))
    #expect(page.contains("\(Figures.short(report.little.expected)) expected"))
    #expect(text.contains("\(Figures.short(report.little.expected)) held expected"))
  }

  @Test("show the patience that is built in as a spike with its name")
  func spikes() {
    let page = HTMLReport.page([Samples.report(slow: 6)])
    #expect(page.contains(">21 s: B2"))
    #expect(page.contains(">100 s: B3"))
  }

  @Test("compare: both runs in each plot, and how they differ")
  func comparison() throws {
    let first = Samples.report()
    let second = Samples.report(seed: 2, configuration: "slower.yaml", slow: 2)
    let page = HTMLReport.page([first, second])
    #expect(page.contains("shipped defaults") && page.contains("slower.yaml"))
    #expect(page.contains("B against A"))
    let plots = page.components(separatedBy: "<svg ").dropFirst()
    #expect(plots.count > 20)
    for plot in plots {
      let plot = try #require(plot.components(separatedBy: "</svg>").first)
      #expect(plot.contains("var(--s0)") && plot.contains("var(--s1)"), "\(plot.prefix(200))")
    }
    #expect(HTMLReport.page([first]).contains("What differs") == false)
  }

  @Test("have a title and words for each plot")
  func accessible() {
    for page in pages {
      let plots = page.text.components(separatedBy: "<svg ").dropFirst()
      for plot in plots {
        #expect(plot.contains("role=\"img\""))
        #expect(plot.contains("<title id=") && plot.contains("<desc id="))
        #expect(!plot.contains("</desc></title>"))
      }
    }
  }

  @Test("the same reports give the same bytes")
  func deterministic() {
    #expect(HTMLReport.page([Samples.report()]) == HTMLReport.page([Samples.report()]))
    #expect(SweepReport.page(Samples.sweep()) == SweepReport.page(Samples.sweep()))
    #expect(SweepReport.text(Samples.sweep()) == SweepReport.text(Samples.sweep()))
    // Dictionaries built in another order.
    var turned = Samples.report()
    for k in turned.personas.indices {
      let pairs = turned.personas[k].endings.sorted { $0.key > $1.key }
      turned.personas[k].endings = [:]
      for (name, count) in pairs { turned.personas[k].endings[name] = count }
    }
    #expect(HTMLReport.page([turned]) == HTMLReport.page([Samples.report()]))
  }

  @Test("a sweep as values has a line for each persona at each value, with its counts")
  func values() {
    let sweep = Samples.sweep()
    let lines = SweepReport.csv(sweep).split(separator: "\n").map(String.init)
    let names = lines[0].split(separator: ",").map(String.init)
    #expect(names.first == "value" && Set(names).count == names.count)
    #expect(lines.count == 1 + sweep.points.reduce(0) { $0 + $1.report.merged.count })
    let values = sweep.points.map(\.value).sorted()
    #expect(lines[1].hasPrefix(Figures.trimmed(values[0], 3) + ","))
    for line in lines.dropFirst() {
      let fields = line.split(separator: ",", omittingEmptySubsequences: false)
      #expect(fields.count == names.count, "\(line)")
    }
    let hostile = SweepReport.csv(
      Sweep(parameter: "x", unit: "", points: [.init(value: 1, report: Hostile.report)]))
    for scalar in hostile.unicodeScalars { #expect(scalar == "\n" || Figures.isHarmless(scalar)) }
    #expect(hostile.contains("\"<script>alert(1)</script>\"\" onload"))
  }

  @Test("a persona in two entries is one row")
  func merged() {
    var report = Samples.report()
    let one = report.personas[0]
    report.personas.append(one)
    #expect(report.merged.count == report.personas.count - 1)
    #expect(report.merged[0].connections == 2 * one.connections)
    #expect(report.merged[0].held.total == 2 * one.held.total)
  }

  /// For looking at: SLUICE_PAGES names a folder that is there.
  @Test("are written for looking at where the environment asks for it")
  func write() throws {
    guard let folder = ProcessInfo.processInfo.environment["SLUICE_PAGES"] else { return }
    for page in pages {
      try page.text.write(toFile: "\(folder)/\(page.name).html", atomically: true, encoding: .utf8)
    }
  }
}

@Suite("The terminal report")
struct TerminalTests {
  @Test("tells of TLS where there was any, as the page does")
  func handshakes() {
    var report = Samples.report()
    #expect(!TerminalReport.text(report, color: false).contains("TLS:"))
    #expect(!HTMLReport.page([report]).contains("TLS handshakes"))
    report.personas[0].handshakes = 1_234
    report.personas[0].handshakesFailed = 5
    report.personas[1].handshakes = 1
    #expect(
      TerminalReport.text(report, color: false).contains("TLS: 1,235 handshakes, 5 failed"))
    let page = HTMLReport.page([report])
    let connections = Figures.count(report.personas[0].connections)
    #expect(page.contains("TLS handshakes"))
    #expect(page.contains("<td>\(connections)</td><td>1,234</td><td>5</td>"))
  }

  @Test("fits into 100 columns, with colours only where asked for")
  func width() {
    var large = Samples.report(kind: "real")
    for k in large.personas.indices {
      large.personas[k].clients *= 100_000
      large.personas[k].connections *= 100_000
    }
    for report in [Samples.report(), large] {
      let text = TerminalReport.text(report, color: false)
      for line in text.split(separator: "\n") { #expect(line.count <= 100, "\(line)") }
      #expect(!text.contains("\u{1B}"))
      #expect(TerminalReport.text(report, color: true).contains("\u{1B}[31m"))
    }
    for line in SweepReport.text(Samples.sweep()).split(separator: "\n") {
      #expect(line.count <= 110, "\(line)")
    }
  }

  @Test("of nothing says so")
  func empty() {
    let text = TerminalReport.text(
      RunReport(kind: "simulated", scenario: "empty", configuration: "none"), color: false)
    #expect(text.contains("no personas"))
  }

  @Test("shows a broken promise with its first case")
  func broken() {
    var report = Samples.report()
    report.checks[0].broken = 2
    report.checks[0].first = "slot 7 at 3.2 s"
    let text = TerminalReport.text(report, color: false)
    #expect(text.contains("BROKEN no reply before its release time (2 of 37,171)"))
    #expect(text.contains("first: slot 7 at 3.2 s"))
    let page = HTMLReport.page([report])
    #expect(page.contains("slot 7 at 3.2 s") && page.contains("<b>Broken:</b>"))
  }
}

@Suite("What reached the mail server")
struct OutcomeTests {
  /// 1,000 of the bots' connections and 100 honest messages without Sluice.
  private func report(bots: Int, lists: String = "", lost: Int = 0) -> RunReport {
    var report = RunReport(
      kind: "simulated", scenario: "mix", configuration: "shipped defaults in mode enforce")
    report.lists = lists
    report.duration = 600
    report.after = 6 * 86_400
    var bot = PersonaFindings(id: "B1", name: "bot", kind: "bot")
    (bot.begunWithin, bot.letThroughWithin, bot.deliveredWithin) = (2_000, bots, bots)
    // What the retries of six days bring is no part of the ten minutes.
    (bot.connections, bot.letThrough, bot.delivered) = (9_000, 8_000, 8_000)
    var sender = PersonaFindings(id: "L1", name: "sender", kind: "sender")
    (sender.clients, sender.begunWithin, sender.letThroughWithin) = (100, 100, 100)
    sender.deliveredWithin = 100
    for _ in lost..<100 { sender.delay.add(5) }
    if lost > 0 { sender.lost["left: banner"] = lost }
    report.personas = [bot, sender]
    var without = Reach()
    (without.connections, without.botConnections) = (1_100, 1_000)
    (without.messages, without.botMessages, without.atOnce) = (1_100, 1_000, 80)
    report.without = without
    var sample = Sample()
    sample.downstream = 40
    report.samples = [sample]
    return report
  }

  private func tones(_ reports: [RunReport], _ row: Int) -> [Outcome.Tone] {
    Outcome(reports).within[row].cells.map(\.tone)
  }

  @Test("half of the bots let in is bad news, a tenth is good, and honest mail lost is bad")
  func tones() {
    #expect(tones([report(bots: 560)], 1) == [.plain, .bad])
    #expect(tones([report(bots: 300)], 1) == [.plain, .plain])
    #expect(tones([report(bots: 80)], 1) == [.plain, .good])
    #expect(
      tones([report(bots: 560), report(bots: 80, lists: "bad")], 3) == [.plain, .bad, .good])
    #expect(Outcome([report(bots: 80, lost: 1)]).whole[0].cells.map(\.tone) == [.plain, .bad])
    #expect(Outcome([report(bots: 80)]).whole[0].cells.map(\.tone) == [.plain, .good])
    let text = TerminalReport.text(report(bots: 560), color: true)
    #expect(text.contains("\u{1B}[31m560 (−44 %)\u{1B}[0m"))
    #expect(HTMLReport.page([report(bots: 560)]).contains("<td class=\"w bad\"><b>560</b>"))
  }

  @Test("each figure is of its time: ten minutes of clients, or the days of their retries")
  func times() {
    for text in [
      TerminalReport.text(report(bots: 560), color: false),
      HTMLReport.page([report(bots: 560)]).replacing("\u{A0}", with: " "),
    ] {
      #expect(text.contains("In the 10 min in which clients arrive"))
      #expect(text.contains("With all retries, up to 6 d later"))
      #expect(text.contains("The whole run: 10 min, and retries for up to 6 d afterwards"))
    }
    let page = HTMLReport.page([report(bots: 560)]).replacing("\u{A0}", with: " ")
    #expect(
      page.contains(
        "Within 10 min, 1,100 connections and 1,100 messages reach the mail server without Sluice, and 660 "
          + "connections and 660 messages with it."))
  }

  @Test(
    "lists that do not ship have a column of their own, and are named wherever they were loaded")
  func lists() {
    let both = [report(bots: 560), report(bots: 80, lists: "bad")]
    #expect(Outcome(both).columns == ["without Sluice", "as shipped", "with lists"])
    #expect(Outcome([both[0]]).columns == ["without Sluice", "with Sluice"])
    let text = TerminalReport.text(both, color: false)
    #expect(text.components(separatedBy: "which do not ship").count == 2)
    #expect(HTMLReport.page(both).contains("which do not ship"))
    #expect(!TerminalReport.text(both[0], color: false).contains("do not ship"))
    for line in text.split(separator: "\n") { #expect(line.count <= 100, "\(line)") }
  }

  @Test("without a run without Sluice, connections are measured against those that came")
  func alone() {
    var real = report(bots: 560)
    real.without = nil
    let found = Outcome([real])
    #expect(found.columns == ["with Sluice"])
    #expect(found.within[1].cells.map(\.text) == ["560 of 2,000"])
    #expect(found.within[1].cells.map(\.change) == ["28 %"])
  }
}

@Suite("Sweeps")
struct SweepTests {
  @Test("say up to where nobody is lost")
  func conclusions() {
    let text = SweepReport.text(Samples.sweep())
    #expect(text.contains("No honest message is lost up to 25 s; from 30 s on there are losses."))
    #expect(SweepReport.page(Samples.sweep()).contains("up to 25\u{A0}s; from 30\u{A0}s on"))
  }

  @Test("have the loss of each sender and the share of each bot, by rising value")
  func table() {
    var sweep = Samples.sweep()
    sweep.points.reverse()
    #expect(SweepReport.page(sweep) == SweepReport.page(Samples.sweep()))
    let text = SweepReport.text(sweep)
    for point in sweep.points {
      for found in point.report.personas where found.kind == "sender" {
        #expect(text.contains(Figures.percent(found.lostShare)))
      }
    }
  }
}

@Suite("Figures")
struct FigureTests {
  @Test(
    "are rounded and never all or nothing by rounding",
    arguments: [
      (Figures.percent(0), "0 %"), (Figures.percent(0.00001), "< 0.01 %"),
      (Figures.percent(0.99999), "> 99.9 %"), (Figures.percent(1), "100 %"),
      (Figures.percent(0.0042), "0.42 %"), (Figures.percent(.nan), "–"),
      (Figures.percent(0, of: 0), "–"), (Figures.count(1_234_567), "1,234,567"),
      (Figures.count(-1_000), "-1,000"), (Figures.count(.min), "-9,223,372,036,854,775,808"),
      (Figures.fixed(0.05, 1), "0.1"), (Figures.fixed(-0.5, 2), "-0.50"),
      (Figures.trimmed(-0.001, 1), "0"), (Figures.trimmed(12, 2), "12"),
      (Figures.fixed(1e300, 1), "–"), (Figures.short(999.9), "1 k"),
      (Figures.short(1_234_567), "1.23 M"), (Figures.short(21.44), "21.4"),
      (Figures.seconds(0.31), "0.31 s"), (Figures.seconds(21.4), "21.4 s"),
      (Figures.seconds(310), "310 s"), (Figures.seconds(750), "12.5 min"),
      (Figures.seconds(18_720), "5.2 h"), (Figures.seconds(267_840), "3.1 d"),
      (Figures.bytes(131_800), "131.8 KB"), (Figures.bytes(189), "189 B"),
    ])
  func figures(said: String, wanted: String) {
    #expect(said == wanted)
  }

  @Test("names at the ends of curves do not overlap")
  func apart() {
    let places = Plot.apart([10, 10, 11, 200, 199], gap: 14, from: 0, to: 200)
    let order = places.sorted()
    for (a, b) in zip(order, order.dropFirst()) { #expect(b - a >= 14 - 1e-9) }
    #expect(order[4] <= 200)
  }

  @Test("axes go to the end and have ticks")
  func axes() {
    for most in [0, 0.004, 1, 7, 99, 310, 1_000_000, .infinity, .nan] as [Double] {
      for axis in [
        Axis.linear(to: most, title: ""), Axis.time(to: most), Axis.root(to: most, title: ""),
        Axis.hold(to: most, steps: 5), Axis.duration(from: 0.1, to: most, title: ""),
      ] {
        #expect(axis.high.isFinite && axis.high > axis.low, "\(most)")
        #expect((1...21).contains(axis.ticks.count), "\(most): \(axis.ticks.count)")
        for share in [0, 0.25, 1] as [Double] {
          #expect(abs(axis.place(axis.value(at: share)) - share) < 1e-6)
        }
      }
    }
  }
}

@Suite("Colours")
struct ColourTests {
  /// What is written, on what.
  static let texts: [(String, on: [String])] =
    [("ink", ["bg", "card"]), ("soft", ["bg", "card"]), ("grey", ["bg"])]
    + [("good", ["bg", "card"]), ("bad", ["bg", "card"])]
    + ["bot", "sender", "probe", "s0", "s1", "s2", "s3", "s4", "s5"].map { ($0, ["bg"]) }
    // The letter of a run, on its colour.
    + [("bg", ["s0", "s1", "s2", "s3", "s4", "s5"])]
  /// What is drawn: curves, bars, axes and lines to names.
  static let drawn = [
    "grey", "bot", "sender", "probe", "s0", "s1", "s2", "s3", "s4", "s5",
  ]
  /// Nothing is read from these alone: borders of tables and tiles, and the grid behind curves.
  static let decoration = ["line", "grid"]

  static let palettes: [(name: String, palette: Palette)] = [
    ("light", .light), ("dark", .dark), ("print", .print),
  ]

  /// Relative luminance, WCAG 2.1.
  private func luminance(_ hex: String) throws -> Double {
    let value = try #require(hex.count == 6 ? Int(hex, radix: 16) : nil)
    func part(_ shift: Int) -> Double {
      let c = Double(value >> shift & 255) / 255
      return c <= 0.03928 ? c / 12.92 : pow((c + 0.055) / 1.055, 2.4)
    }
    return 0.2126 * part(16) + 0.7152 * part(8) + 0.0722 * part(0)
  }

  private func contrast(_ a: String, _ b: String, _ palette: Palette) throws -> Double {
    let (x, y) = try (
      luminance(#require(palette[a])), luminance(#require(palette[b]))
    )
    return (max(x, y) + 0.05) / (min(x, y) + 0.05)
  }

  @Test("the measure is WCAG's: black on white 21, grey 767676 on white 4.54")
  func measure() throws {
    let known = Palette(colors: [("a", "000000"), ("b", "ffffff"), ("c", "767676")])
    #expect(try abs(contrast("a", "b", known) - 21) < 1e-9)
    #expect(try abs(contrast("c", "b", known) - 4.54) < 0.005)
  }

  @Test("text is readable, 4.5 at least, and what is drawn is seen, 3 at least")
  func contrasts() throws {
    for (name, palette) in Self.palettes {
      for (text, grounds) in Self.texts {
        for ground in grounds {
          let found = try contrast(text, ground, palette)
          #expect(found >= 4.5, "\(name): \(text) on \(ground) \(found)")
        }
      }
      for color in Self.drawn {
        let found = try contrast(color, "bg", palette)
        #expect(found >= 3, "\(name): \(color) on bg \(found)")
      }
    }
  }

  @Test("every colour that a page uses is one of those, and has a value for each way of looking")
  func complete() throws {
    let known = Set(Self.texts.map(\.0) + Self.texts.flatMap(\.on) + Self.drawn + Self.decoration)
    for (name, palette) in Self.palettes {
      #expect(Set(palette.colors.map(\.name)) == known, "\(name)")
      #expect(palette.colors.count == known.count, "\(name)")
    }
    for page in pages {
      let uses = page.text.components(separatedBy: "var(--").dropFirst()
      for use in uses {
        let color = String(use.prefix { $0 != ")" })
        #expect(known.contains(color), "\(page.name) uses \(color)")
      }
      // Nothing beside them.
      let style = page.text.components(separatedBy: "* { box-sizing").last ?? ""
      let body = style.components(separatedBy: "</style>").first ?? ""
      #expect(!body.contains("#"), "\(page.name)")
    }
  }
}

@Suite("A forecast beside what happened")
struct AgreementTests {
  @Test("a run agrees with itself")
  func same() {
    let report = Samples.report()
    let found = Agreement(forecast: report, real: report, others: [Samples.report(seed: 2)])
    #expect((found.overall + found.tables.flatMap(\.rows)).allSatisfy { !$0.isFar })
    #expect(found.text(color: false).contains("None of"))
  }

  @Test("what lies beyond all forecasts is marked, what other seeds have too is not")
  func far() throws {
    let report = Samples.report()
    var real = Samples.report(kind: "real")
    var other = Samples.report(seed: 2)
    real.personas[0].letThrough += 500
    real.personas[1].connections += 300
    other.personas[1].connections += 300
    let found = Agreement(forecast: report, real: real, others: [other])
    func marked(_ title: String) throws -> [String] {
      try #require(found.tables.first { $0.title == title }).rows.filter(\.isFar).map(\.of)
    }
    #expect(try marked("Connections let through") == ["B1 impatient"])
    #expect(try marked("Connections") == [])
    let text = found.text(color: false)
    #expect(text.split(separator: "\n").contains { $0.contains("B1") && $0.hasSuffix("*") })
    #expect(text.split(separator: "\n").allSatisfy { $0.count <= 100 })
  }
}
