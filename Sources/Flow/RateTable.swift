// SPDX-License-Identifier: Apache-2.0
package import Structures

/// How fast each source may be: a `cidr_table(5)` file whose results are settings of rates, delays and sharing.
///
/// Not the buckets: it only says which terms hold for an address (`BucketTable` keeps count). Kept: a
/// lookup allocates nothing and gives the terms of the first rule matching the address.
///
/// A million rules mostly repeat a few settings; equal ones are kept once, and only a rule with `per=net`
/// costs 32 bytes more.
package final class RateTable: Sendable {
  package let rules: CIDRTable
  /// Different settings, each as a rule whose `rule` and `network` are still to be filled in.
  private let settings: [RateRule]
  /// The networks of the rules that say `per=net`, in the order of the file.
  private let networks: [(rule: UInt32, network: CIDRPattern)]

  private init(
    rules: CIDRTable, settings: [RateRule], networks: [(rule: UInt32, network: CIDRPattern)]
  ) {
    self.networks = networks
    self.rules = rules
    self.settings = settings
  }

  /// Reads a whole file, whatever is wrong in it.
  ///
  /// - Parameter detail: `explain` needs the text.
  /// - Returns: the table, and everything wrong in the order of the file. A table with an error among its
  ///   problems must not replace a working one: settings with a mistake are missing from it.
  package static func load(content: [UInt8], file: String, keeping detail: TableDetail = .text) -> (
    table: RateTable, problems: [TableProblem]
  ) {
    var settings: [RateRule] = []
    var networks: [(rule: UInt32, network: CIDRPattern)] = []
    var count: UInt32 = 0
    // Settings read before, by a hash of their bytes and family; a clash only means reading them anew.
    // The key need not be secret: whoever writes this file may make it slow.
    let hash = SipHash(k0: 0, k1: 1)
    var known: [UInt64: (setting: UInt32, result: Range<Int>)] = [:]
    func setting(_ rule: CIDRRule, _ network: CIDRPattern, _ problems: inout TableProblems)
      -> UInt32
    {
      let text = rule.text
      let bytes = text.bytes.span
      let range = rule.resultRange
      let isIPv4 = network.block.isIPv4
      let digest = hash(bytes.extracting(range)) ^ (isIPv4 ? 1 : 0)
      if let before = known[digest], settings[Int(before.setting)].isIPv4 == isIPv4,
        text.bytes[before.result] == text.bytes[range]
      {
        return before.setting
      }
      let read = RateSettings(
        bytes, range.lowerBound, range.upperBound, isIPv4: isIPv4, pattern: rule.pattern)
      for mistake in read.mistakes {
        problems.add(
          text.problem(.error, mistake.offset, line: rule.line, mistake.reason, mistake.hint),
          .error)
      }
      let setting = UInt32(settings.count)
      if read.mistakes.isEmpty { known[digest] = (setting, range) }
      var terms = read.rule
      // Says for which family the settings were read until the rule's own network is filled in.
      terms.network = CIDRPattern(block: isIPv4 ? .allIPv4 : .allIPv6, isNegated: false)
      settings.append(terms)
      return setting
    }
    let rules = CIDRTable(content: content, file: file, keeping: detail) { rule, problems in
      let network = rule.network
      let setting = setting(rule, network, &problems)
      if settings[Int(setting)].sharing == .wholeNetwork { networks.append((count, network)) }
      count += 1
      return setting
    }
    return (RateTable(rules: rules, settings: settings, networks: networks), rules.problems)
  }

  /// The terms for an address, or nil when no rule matches.
  @inline(__always)
  package func lookup(_ address: Address) -> RateRule? {
    guard let found = rules.find(address) else { return nil }
    var rule = settings[Int(found.outcome)]
    rule.rule = found.place
    if rule.sharing == .wholeNetwork { rule.network = network(at: found.place) }
    return rule
  }

  private func network(at place: UInt32) -> CIDRPattern {
    let rule = rules.rule(at: place) ?? 0
    var low = 0
    var high = networks.count - 1
    while low < high {
      let middle = (low + high) / 2
      if Int(networks[middle].rule) < rule { low = middle + 1 } else { high = middle }
    }
    return networks[low].network
  }

  /// The terms for an address with the rule they come from, for people; nil when there is none or the
  /// text was not kept.
  package func explain(
    _ address: Address
  ) -> (rule: RateRule, written: CIDRRule, position: SourcePosition)? {
    guard let rule = lookup(address), let index = rules.rule(at: rule.rule),
      index < rules.rules.count
    else { return nil }
    return (rule, rules.rules[index], rules.rules[index].position)
  }

  /// Where the rule stands that `RateRule.rule` of this table names, or nil when it has none of that name.
  package func position(_ rule: Int) -> SourcePosition? {
    UInt32(exactly: rule).flatMap { rules.position(at: $0) }
  }

  /// How many different settings the rules have.
  package var settingsCount: Int { settings.count }

  /// Bytes this table takes.
  package var footprint: Int {
    rules.footprint + settings.count * MemoryLayout<RateRule>.stride
      + networks.count * MemoryLayout<(rule: UInt32, network: CIDRPattern)>.stride
  }
}

extension RateRule {
  fileprivate var isIPv4: Bool { network.block.isIPv4 }
}
