// SPDX-License-Identifier: Apache-2.0
//
// Measures the tables: what they take, what a lookup or a decision costs, and what happens while they are
// swapped. Each figure is one line of JSON. Not part of the program; for instructions, run a command under
// `valgrind --tool=callgrind` with two counts and divide the difference.

import Glibc
import Structures

@main
enum TableBenchmark {
  static let usage = """
    table-benchmark lookup  [--table ours|access|naive|poptrie] [--mix bgp|blocklist] [--family 4|6]
                            [--prefixes N] [--lookups N] [--seed S]
    table-benchmark memory  [--mix bgp|blocklist] [--family 4|6] [--prefixes N] [--order random|sorted|longest]
                            [--seed S]
    table-benchmark load    [--mix bgp|blocklist] [--family 4|6] [--prefixes N] [--order random|sorted|longest]
                            [--runs N] [--seed S]
    table-benchmark swap    [--mix bgp|blocklist] [--family 4|6] [--prefixes N] [--swaps N] [--seed S]
    table-benchmark sources [--table buckets|reputation] [--sources N] [--decisions N] [--seed S]
    table-benchmark replay  [--sources N] [--capacity N] [--decisions N] [--seed S]
    table-benchmark attack  [--capacity N] [--offenders N] [--addresses N]
    """

  static func main() {
    var words = Array(CommandLine.arguments.dropFirst())
    guard let command = words.first else { fail("a command is missing") }
    words.removeFirst()
    let options = Options(words)
    switch command {
    case "lookup": LookupBenchmark(options).run()
    case "memory": MemoryBenchmark(options).run()
    case "load": LoadBenchmark(options).run()
    case "swap": SwapBenchmark(options).run()
    case "sources": SourceBenchmark(options).run()
    case "replay": SourceBenchmark(options).replay()
    case "attack": SourceBenchmark(options).attack()
    default: fail("there is no command '\(command)'")
    }
  }

  static func fail(_ reason: String) -> Never {
    let text = Array("table-benchmark: \(reason)\n\(usage)\n".utf8)
    _ = write(STDERR_FILENO, text, text.count)
    exit(64)
  }
}

/// `--name value` pairs; a name that no command knows ends the program.
struct Options {
  private var values: [String: String] = [:]

  init(_ words: [String]) {
    let known = [
      "table", "mix", "family", "prefixes", "lookups", "seed", "order", "runs", "swaps", "sources",
      "decisions", "capacity", "offenders", "addresses",
    ]
    var rest = words[...]
    while let name = rest.popFirst() {
      guard name.hasPrefix("--"), known.contains(String(name.dropFirst(2))),
        let value = rest.popFirst()
      else { TableBenchmark.fail("'\(name)' is no option with a value") }
      values[String(name.dropFirst(2))] = value
    }
  }

  func text(_ name: String, _ standard: String, of allowed: [String]) -> String {
    let value = values[name] ?? standard
    if !allowed.contains(value) {
      TableBenchmark.fail("--\(name) is one of: \(allowed.joined(separator: ", "))")
    }
    return value
  }

  /// A whole number from 1 to a thousand million.
  func number(_ name: String, _ standard: Int) -> Int {
    guard let text = values[name] else { return standard }
    guard let number = Int(text), (1...1_000_000_000).contains(number) else {
      TableBenchmark.fail("--\(name) is a number of 1 and more")
    }
    return number
  }

  var mix: PrefixMixName {
    PrefixMixName(
      text("mix", "bgp", of: ["bgp", "blocklist"]), text("family", "4", of: ["4", "6"]))
  }
  var seed: UInt64 { UInt64(number("seed", 1)) }
}

/// Nanoseconds of a clock that only runs forwards.
func nanoseconds() -> Int {
  var time = timespec()
  clock_gettime(CLOCK_MONOTONIC, &time)
  return time.tv_sec * 1_000_000_000 + time.tv_nsec
}

/// One figure as a line of JSON. Names and units are written by us and need no escaping.
func report(_ what: String, _ value: Double, _ unit: String, _ labels: String = "") {
  let thousandths = Int((value * 1_000).rounded())
  let fraction = String(thousandths % 1_000 + 1_000).dropFirst()
  let label = labels.isEmpty ? "" : ", \"of\": \"\(labels)\""
  print(
    "{\"what\": \"\(what)\"\(label), \"value\": \(thousandths / 1_000).\(fraction), \"unit\": \"\(unit)\"}"
  )
}

func report(_ what: String, _ value: Int, _ unit: String, _ labels: String = "") {
  let label = labels.isEmpty ? "" : ", \"of\": \"\(labels)\""
  print("{\"what\": \"\(what)\"\(label), \"value\": \(value), \"unit\": \"\(unit)\"}")
}

/// The middle one, and half the distance between the quartiles as its spread.
func median(_ figures: [Double]) -> (middle: Double, spread: Double) {
  let sorted = figures.sorted()
  let quarter = sorted.count / 4
  return (
    sorted[sorted.count / 2], (sorted[sorted.count - 1 - quarter] - sorted[quarter]) / 2
  )
}

/// Keeps a result from being optimised away.
@inline(never)
func keep(_ value: Int) { if value == .min { print("") } }
