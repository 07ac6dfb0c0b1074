// SPDX-License-Identifier: Apache-2.0
import Flow
import Glibc
import Structures
import Synchronization
import TableTwins

/// Which made-up table.
struct PrefixMixName {
  let mix: PrefixMix
  let isIPv4: Bool

  init(_ mix: String, _ family: String) {
    self.mix = PrefixMix(rawValue: mix) ?? .bgp
    isIPv4 = family == "4"
  }

  /// What the budgets are stated for.
  var count: Int { isIPv4 ? 1_000_000 : 200_000 }
  var name: String { "\(mix.rawValue) IPv\(isIPv4 ? 4 : 6)" }

  func prefixes(_ options: Options) -> [Prefix] {
    mix.prefixes(options.number("prefixes", count), isIPv4: isIPv4, seed: options.seed)
  }

  /// One of four things that may follow from a prefix; in a block list nearly always the same.
  static func outcomes(_ prefixes: [Prefix], _ mix: PrefixMix, seed: UInt64) -> [(Prefix, UInt32)] {
    var random = SeededGenerator(seed: seed ^ 0xACC)
    return prefixes.map { prefix in
      let draw = UInt32.random(in: 0..<40, using: &random)
      return (prefix, mix == .bgp ? draw % 4 : draw < 4 ? 1 : 0)
    }
  }

  static func order(_ options: Options) -> String {
    options.text("order", "random", of: ["random", "sorted", "longest"])
  }

  /// An access table in the order of the list; or with the addresses rising; or, since the first match wins,
  /// with the longest networks first, as nested ones must be written to take effect.
  func file(_ prefixes: [Prefix], _ options: Options) -> [UInt8] {
    var prefixes = prefixes
    let order = Self.order(options)
    if order != "random" {
      prefixes.sort { a, b in
        if order == "longest" && a.length != b.length { return a.length > b.length }
        return (a.address.high, a.address.low, b.length) < (b.address.high, b.address.low, a.length)
      }
    }
    let words = ["reject", "suspicious", "permit", "bad"]
    var text: [UInt8] = Array("# made up\n".utf8)
    for (prefix, outcome) in Self.outcomes(prefixes, mix, seed: options.seed) {
      text += Array("\(prefix) \(words[Int(outcome)])\n".utf8)
    }
    return text
  }
}

/// Nanoseconds a lookup, of a table that fits the cache as badly as it does in a daemon with other things
/// to do: 65,536 different addresses in turn.
struct LookupBenchmark {
  private let options: Options
  init(_ options: Options) { self.options = options }

  func run() {
    let mix = options.mix
    let table = options.text("table", "ours", of: ["ours", "access", "naive", "poptrie"])
    let prefixes = mix.prefixes(options)
    let rows = PrefixMixName.outcomes(prefixes, mix.mix, seed: options.seed)
    let probes = PrefixMix.probes(65_536, of: prefixes, seed: options.seed)
    let lookups = options.number("lookups", table == "naive" ? 2_000 : 10_000_000)
    let name = "\(table), \(mix.name)"
    switch table {
    case "naive":
      let naive = NaivePrefixes(rows)
      measure(name, probes, lookups) { naive.lookup($0) }
      footprint(name, naive.footprint, prefixes.count)
    case "access":
      let text = mix.file(prefixes, options)
      let access = AccessTable.load(content: text, file: "access.cidr", keeping: .lines).table
      measure(name, probes, lookups) { access.lookup($0).map { _ in 0 } }
      footprint(name, access.footprint, prefixes.count)
    case "poptrie":
      let trie = PoptrieTable(rows)
      measure(name, probes, lookups) { trie.lookup($0) }
      footprint(name, trie.footprint(isIPv4: mix.isIPv4), prefixes.count)
    default:
      let ours = PrefixTable(rows)
      measure(name, probes, lookups) { ours.find($0)?.outcome }
      footprint(name, ours.footprint, prefixes.count)
    }
  }

  private func footprint(_ name: String, _ bytes: Int, _ count: Int) {
    report("bytes per prefix", Double(bytes) / Double(count), "B", name)
  }

  @inline(__always)
  private func measure(
    _ name: String, _ probes: [Address], _ lookups: Int, _ lookup: (Address) -> UInt32?
  ) {
    var runs: [Double] = []
    var found = 0
    // Ten runs, of which each does a tenth.
    let each = max(lookups / 10, 1)
    var next = 0
    for _ in 0..<10 {
      let start = nanoseconds()
      for _ in 0..<each {
        if let value = lookup(probes[next & 65_535]) { found &+= Int(value) + 1 }
        next &+= 1
      }
      runs.append(Double(nanoseconds() - start) / Double(each))
    }
    keep(found)
    let (middle, spread) = median(runs)
    report("ns per lookup", middle, "ns", name)
    report("spread of it", spread, "ns", name)
    report("sum of what was found", found, "", name)
  }
}

/// Bytes a prefix: the bare table, and an access table as a daemon and as `explain` has it.
struct MemoryBenchmark {
  private let options: Options
  init(_ options: Options) { self.options = options }

  func run() {
    let mix = options.mix
    let prefixes = mix.prefixes(options)
    let count = Double(prefixes.count)
    let rows = PrefixMixName.outcomes(prefixes, mix.mix, seed: options.seed)
    let name = "\(mix.name), \(PrefixMixName.order(options))"
    let bare = PrefixTable(rows)
    report("bare table, bytes per prefix", Double(bare.footprint) / count, "B", name)
    let text = mix.file(prefixes, options)
    report("text of the file, bytes per prefix", Double(text.count) / count, "B", name)
    let lines = AccessTable.load(content: text, file: "access.cidr", keeping: .lines).table
    report(
      "access table, decisions, bytes per prefix",
      Double(lines.rules.footprintOfDecisions) / count, "B", name)
    report(
      "access table, lines for the log, bytes per prefix",
      Double(lines.rules.footprintOfLines) / count, "B", name)
    report("access table in serve, bytes per prefix", Double(lines.footprint) / count, "B", name)
    let whole = AccessTable.load(content: text, file: "access.cidr", keeping: .text).table
    report("access table in explain, bytes per prefix", Double(whole.footprint) / count, "B", name)
    let trie = PoptrieTable(rows)
    report(
      "poptrie, bytes per prefix", Double(trie.footprint(isIPv4: mix.isIPv4)) / count, "B", name)
  }
}

/// How long reading an access table takes, from its text in memory.
struct LoadBenchmark {
  private let options: Options
  init(_ options: Options) { self.options = options }

  func run() {
    let mix = options.mix
    let prefixes = mix.prefixes(options)
    let text = mix.file(prefixes, options)
    var runs: [Double] = []
    for _ in 0..<options.number("runs", 5) {
      let start = nanoseconds()
      let table = AccessTable.load(content: text, file: "access.cidr", keeping: .lines).table
      runs.append(Double(nanoseconds() - start) / 1e6)
      keep(table.rules.count)
    }
    let (middle, spread) = median(runs)
    report("load time", middle, "ms", mix.name)
    report("spread of it", spread, "ms", mix.name)
    report("load time per line", middle * 1e6 / Double(prefixes.count), "ns", mix.name)
    var usage = rusage()
    getrusage(__rusage_who_t(RUSAGE_SELF.rawValue), &usage)
    // With the prefixes and the text that the benchmark itself holds.
    report("most memory of the process", Double(usage.ru_maxrss) / 1024, "MB", mix.name)
  }
}

/// One thread looks up without a pause and takes over each new table as a worker does: an order under a
/// mutex, of which a flag tells it; the last reference to the old table is its own, so it is the one who
/// frees it. Another thread loads tables. The longest time between two lookups is the stall.
struct SwapBenchmark {
  private let options: Options
  init(_ options: Options) { self.options = options }

  private final class Mailbox: Sendable {
    let order: Mutex<AccessTable?> = Mutex(nil)
    let isWaiting = Atomic(false)
    let isDone = Atomic(false)
    let gaps: Mutex<Gaps> = Mutex(Gaps())
  }

  private struct Gaps {
    var longest = 0
    /// Of those in which the thread was not taken off its processor.
    var longestOwn = 0
    var over100 = 0
    /// From seeing the order to the first lookup in the new table, the old one freed.
    var longestSwap = 0
    var lookups = 0
    var swaps = 0
  }

  func run() {
    let mix = options.mix
    let prefixes = mix.prefixes(options)
    let text = mix.file(prefixes, options)
    let probes = PrefixMix.probes(65_536, of: prefixes, seed: options.seed)
    let swaps = options.number("swaps", 5)
    func load() -> AccessTable {
      AccessTable.load(content: text, file: "access.cidr", keeping: .lines).table
    }
    let first = load()
    // The same work beside the lookups, once with the tables handed over and once with them thrown away.
    let swapped = measure(first, probes) { mailbox in
      for _ in 0..<swaps {
        let next = load()
        mailbox.order.withLock { $0 = next }
        mailbox.isWaiting.store(true, ordering: .releasing)
      }
      usleep(20_000)
    }
    let still = measure(first, probes) { _ in
      for _ in 0..<swaps { keep(load().rules.count) }
      usleep(20_000)
    }
    let name = mix.name
    report("tables swapped in", swapped.swaps, "", name)
    report("longest swap, the old table freed", Double(swapped.longestSwap) / 1e3, "us", name)
    for (gaps, when) in [(swapped, "swapping"), (still, "only loading")] {
      report("longest gap, \(when)", Double(gaps.longest) / 1e3, "us", name)
      report(
        "longest gap without losing the processor, \(when)", Double(gaps.longestOwn) / 1e3, "us",
        name)
      report("gaps over 100 us, \(when)", gaps.over100, "", name)
      report("lookups, \(when)", gaps.lookups, "", name)
    }
  }

  private func measure(
    _ table: AccessTable, _ probes: [Address], _ body: (Mailbox) -> Void
  ) -> Gaps {
    let mailbox = Mailbox()
    let thread = Thread {
      var table = table
      var gaps = Gaps()
      var found = 0
      var losses = 0
      var last = nanoseconds()
      while !mailbox.isDone.load(ordering: .relaxed) {
        if mailbox.isWaiting.load(ordering: .acquiring) {
          let start = nanoseconds()
          mailbox.isWaiting.store(false, ordering: .relaxed)
          if let next = mailbox.order.withLock({ $0.take() }) { table = next }
          found &+= table.lookup(probes[0])?.rule ?? 0
          gaps.longestSwap = max(gaps.longestSwap, nanoseconds() - start)
          gaps.swaps += 1
        }
        found &+= table.lookup(probes[gaps.lookups & 65_535])?.rule ?? 0
        gaps.lookups += 1
        let now = nanoseconds()
        let gap = now - last
        last = now
        if gap > 5_000 {
          var usage = rusage()
          // RUSAGE_THREAD, which needs _GNU_SOURCE by its name.
          getrusage(1, &usage)
          let all = usage.ru_nivcsw + usage.ru_nvcsw
          if all == losses { gaps.longestOwn = max(gaps.longestOwn, gap) }
          losses = all
          gaps.longest = max(gaps.longest, gap)
          if gap > 100_000 { gaps.over100 += 1 }
          last = nanoseconds()
        }
      }
      keep(found)
      mailbox.gaps.withLock { $0 = gaps }
    }
    body(mailbox)
    mailbox.isDone.store(true, ordering: .relaxed)
    thread.join()
    return mailbox.gaps.withLock { $0 }
  }
}

/// A thread that is waited for.
private struct Thread {
  private final class Box {
    let body: @Sendable () -> Void
    init(_ body: @escaping @Sendable () -> Void) { self.body = body }
  }
  private let thread: pthread_t

  init(_ body: @escaping @Sendable () -> Void) {
    var thread = pthread_t()
    let status = pthread_create(
      &thread, nil,
      { raw in
        if let raw { Unmanaged<Box>.fromOpaque(raw).takeRetainedValue().body() }
        return nil
      }, Unmanaged.passRetained(Box(body)).toOpaque())
    if status != 0 { TableBenchmark.fail("a thread could not be started: error \(status)") }
    self.thread = thread
  }

  func join() { pthread_join(thread, nil) }
}
