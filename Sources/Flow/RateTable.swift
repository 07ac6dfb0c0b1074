// SPDX-License-Identifier: Apache-2.0
package import Structures

/// How fast whom: a `cidr_table(5)` file whose results are settings of rates, delays and sharing.
///
/// Not the buckets: it only says which terms hold for an address (`BucketTable` keeps count). Kept: a
/// lookup allocates nothing and gives the terms of the first rule matching the address.
///
/// A million rules mostly repeat a few settings; equal ones are kept once, and a rule costs
/// four bytes, and 24 more in a file where `per=net` occurs.
package final class RateTable: Sendable {
  package let rules: CIDRTable
  /// Different settings, each as a rule whose `rule` and `network` are still to be filled in.
  private let settings: [RateRule]
  /// Which of `settings` each rule has.
  private let setting: [UInt32]
  /// The network of each rule; empty unless some rule says `per=net`.
  private let networks: [CIDRPattern]

  private init(
    rules: CIDRTable, settings: [RateRule], setting: [UInt32], networks: [CIDRPattern]
  ) {
    self.networks = networks
    self.rules = rules
    self.settings = settings
    self.setting = setting
  }

  /// Reads a whole file, whatever is wrong in it.
  ///
  /// - Returns: the table, and everything wrong in the order of the file. A table with an error among its
  ///   problems must not replace a working one: settings with a mistake are missing from it.
  package static func load(content: [UInt8], file: String) -> (
    table: RateTable, problems: [TableProblem]
  ) {
    let rules = CIDRTable(content: content, file: file)
    let text = rules.text
    var problems = rules.found
    var settings: [RateRule] = []
    var setting: [UInt32] = []
    setting.reserveCapacity(rules.records.count)
    // Settings read before, by a hash of their bytes and family; a clash only means reading them anew.
    // The key need not be secret: whoever writes this file may make it slow.
    let hash = SipHash(k0: 0, k1: 1)
    var known: [UInt64: (setting: UInt32, result: Range<Int>)] = [:]
    for rule in rules.rules {
      let bytes = text.bytes.span
      let range = rule.resultRange
      let isIPv4 = rule.network.block.isIPv4
      let digest = hash(bytes.extracting(range)) ^ (isIPv4 ? 1 : 0)
      if let before = known[digest], settings[Int(before.setting)].isIPv4 == isIPv4,
        text.bytes[before.result] == text.bytes[range]
      {
        setting.append(before.setting)
        continue
      }
      let read = RateSettings(
        bytes, range.lowerBound, range.upperBound, isIPv4: isIPv4, pattern: rule.pattern)
      for mistake in read.mistakes {
        problems.add(
          text.problem(.error, mistake.offset, line: rule.line, mistake.reason, mistake.hint),
          .error)
      }
      if read.mistakes.isEmpty { known[digest] = (UInt32(settings.count), range) }
      setting.append(UInt32(settings.count))
      var terms = read.rule
      // Says for which family the settings were read until the rule's own network is filled in.
      terms.network = CIDRPattern(block: isIPv4 ? .allIPv4 : .allIPv6, isNegated: false)
      settings.append(terms)
    }
    let shares = settings.contains { $0.sharing == .wholeNetwork }
    let table = RateTable(
      rules: rules, settings: settings, setting: setting,
      networks: shares ? rules.rules.map(\.network) : [])
    return (table, problems.sorted(file: file))
  }

  /// The terms for an address, or nil when no rule matches.
  package func lookup(_ address: Address) -> RateRule? {
    guard let index = rules.lookup(address) else { return nil }
    var rule = settings[Int(setting[index])]
    rule.rule = UInt32(index)
    if rule.sharing == .wholeNetwork { rule.network = networks[index] }
    return rule
  }

  /// The same with the place of the rule, for people.
  package func explain(_ address: Address) -> (rule: RateRule, position: SourcePosition)? {
    guard let rule = lookup(address) else { return nil }
    return (rule, rules.rules[Int(rule.rule)].position)
  }

  /// How many different settings the rules have.
  package var settingsCount: Int { settings.count }

  /// Bytes this table takes.
  package var footprint: Int {
    rules.footprint + settings.count * MemoryLayout<RateRule>.stride + setting.count * 4
      + networks.count * MemoryLayout<CIDRPattern>.stride
  }
}

extension RateRule {
  fileprivate var isIPv4: Bool { network.block.isIPv4 }
}
