// SPDX-License-Identifier: Apache-2.0
import DNSLists
import Flow
import Glibc
package import Policy
import Structures
import Suspicion

/// What the operator decides about DNS lists, as it is written.
///
/// Not what the engine works with: that is `Policy.lists`, made of this once all of it has been read. Kept: an item's
/// text, which may hold a key, is printed by `dump` alone.
package struct ListSection: Sendable {
  /// An item of `lists.sites`.
  struct Item: Sendable, CustomStringConvertible, CustomReflectable {
    let site: ListSite
    /// As written, key and all.
    let text: String
    let place: SourcePosition

    /// As others may see it.
    var description: String {
      let end = text.firstIndex { $0 == "=" || $0 == "*" } ?? text.endIndex
      return site.zone.publicName + text[end...]
    }
    var customMirror: Mirror { Mirror(self, children: ["description": description]) }
  }

  var items: [Item] = []
  var threshold = 1
  /// nil for off.
  var allowThreshold: Int?
  var rejectAt = ListRejection.never
  /// Whom the lists are asked through, for the driver.
  package internal(set) var lookUps = LookUpSettings()

  package init() {}

  /// What `check` says about them; nil without lists.
  package var summary: String? {
    if items.isEmpty { return nil }
    let zones = Set(items.map(\.site.zone)).count
    let allow = allowThreshold.map { ", allow threshold \($0)" } ?? ""
    return
      "DNS lists: \(zones) zone\(zones == 1 ? "" : "s"), threshold \(threshold)\(allow), reject_at \(rejectAt.rawValue)"
  }
}

extension Setting {
  static let lists: [Setting] = [
    Setting(
      key: "lists.sites", range: "a list of items",
      read: { (node, reader) throws(BadValue) in try reader.readSites(node) },
      show: { configuration in
        "[\(configuration.lists.items.map { Form.write(text: $0.text) }.joined(separator: ", "))]"
      }),
    count("lists.threshold", \.lists.threshold, 1...100_000),
    Setting(
      key: "lists.allow_threshold", range: "-100000…-1, or off",
      read: { (node, reader) throws(BadValue) in
        let word = try text(node, "a negative number such as -2, or off")
        if word == "off" || word == "no" {
          reader.draft.lists.allowThreshold = nil
          return
        }
        guard word.hasPrefix("-"), let value = try? Form.count(String(word.dropFirst())),
          (1...100_000).contains(value)
        else {
          let isPositive = (try? Form.count(word)).map { (1...100_000).contains($0) } ?? false
          throw BadValue(
            reason: "'\(ConfigNode.cut(word))' is not a number from -100000 to -1",
            hint: isPositive
              ? "write -\(word): lists of good clients have negative weights"
              : "write a number such as -2, or off")
        }
        reader.draft.lists.allowThreshold = -value
      },
      show: { $0.lists.allowThreshold.map { "\($0)" } ?? "off" }),
    choice(
      "lists.reject_at", \.lists.rejectAt, ListRejection.allCases.map { ($0.rawValue, $0) }),
    Setting(
      key: "lists.servers", range: "a list of addresses",
      read: { (node, reader) throws(BadValue) in try reader.readNameServers(node) },
      show: { configuration in
        let all = configuration.lists.lookUps.servers.map { "\"\($0)\"" }
        return "[\(all.joined(separator: ", "))]"
      }),
    duration("lists.timeout", \.lists.lookUps.timeout, 500_000...10_000_000),
    count("lists.cache", \.lists.lookUps.cacheEntries, 1_024...10_000_000),
  ]
}

extension ConfigurationReader {
  private static let siteExample = "zen.spamhaus.org or zen.spamhaus.org=127.0.0.[2..11]*3"

  /// `lists.sites`: each value may hold several items, as main.cf has them.
  mutating func readSites(_ node: ConfigNode) throws(BadValue) {
    let nodes: [ConfigNode]
    switch node.content {
    case .list(let list): nodes = list
    case .scalar: nodes = [node]
    case .null, .map:
      throw BadValue(
        reason: "found \(node.kind) instead of a list of items",
        hint: "write [\"zen.spamhaus.org=127.0.0.[2..11]*3\"]")
    }
    var items: [ListSection.Item] = []
    for value in nodes {
      do {
        items += try readItems(value)
      } catch {
        problems.add(.error, at: value.place, error.reason, error.hint)
      }
    }
    if items.count > ListSites.itemsMax {
      problems.add(
        .error, at: items[ListSites.itemsMax].place,
        "these are \(items.count) items, and \(ListSites.itemsMax) at most are possible",
        "delete the lists that find least")
      items.removeLast(items.count - ListSites.itemsMax)
    }
    draft.lists.items = items
  }

  private mutating func readItems(_ node: ConfigNode) throws(BadValue) -> [ListSection.Item] {
    let text = try Setting.text(node, "an item such as \(ConfigurationReader.siteExample)")
    let words = Self.items(in: text)
    if words.isEmpty {
      throw BadValue(reason: "there is no item in this", hint: "write [] for no lists")
    }
    var items: [ListSection.Item] = []
    var next = node.place
    for word in words {
      // Not there as it is if it is written with escapes; then the value's own place must do.
      let found = problems.find(word, from: next)
      if let found {
        next = found
        next.column += word.unicodeScalars.count
      }
      do throws(ListSiteError) {
        items.append(
          ListSection.Item(site: try ListSite(word), text: word, place: found ?? node.place))
      } catch {
        report(error, in: word, at: found, value: node.place)
      }
    }
    return items
  }

  /// As Postfix parts them (CHARS_COMMA_SP), but not at a comma in brackets: that one is a mistake to be told.
  private static func items(in text: String) -> [String] {
    var isOpen = false
    return text.split { character in
      if character == "[" { isOpen = true }
      if character == "]" || character.isWhitespace { isOpen = false }
      return character.isWhitespace || character == "," && !isOpen
    }.map(String.init)
  }

  private mutating func report(
    _ error: ListSiteError, in item: String, at found: SourcePosition?, value: SourcePosition
  ) {
    let hint =
      switch error.kind {
      case .zoneMissing, .zoneCharacter, .zoneTooLong, .labelEmpty, .labelTooLong:
        "write an item as in Postfix: \(ConfigurationReader.siteExample)"
      case .fieldMissing, .numberTooLarge, .rangeReversed, .filterCharacter:
        "write numbers from 0 to 255; ';' is between them and '..' in a range: 127.0.0.[2;4..11]"
      case .bracketOpen:
        "in brackets ';' is between numbers and '..' in a range: 127.0.0.[2;4..11]"
      case .filterNeverMatches: "write a filter such as 127.0.0.[2..11], or delete it"
      case .weightMissing, .weightTooLarge, .weightCharacter:
        "write a weight such as *3, or *-2 for a list of good clients"
      }
    guard var place = found else {
      problems.add(
        .error, at: value, "an item of this, '\(ConfigNode.cut(item))', \(error)", hint)
      return
    }
    place.column += error.character - 1
    problems.add(.error, at: place, error.reason, hint)
  }

  mutating func readNameServers(_ node: ConfigNode) throws(BadValue) {
    var places: [SourcePosition] = []
    if case .list(let list) = node.content { places = list.map(\.place) }
    if case .scalar = node.content { places = [node.place] }
    let servers = try readList(node, "DNS servers") { (word) throws(BadValue) in
      try Form.nameServer(word)
    }
    if servers.count > LookUpSettings.serversMax {
      throw BadValue(
        reason:
          "these are \(servers.count) DNS servers, and \(LookUpSettings.serversMax) at most are possible",
        hint: "write two or three: the time for an answer is divided among them")
    }
    draft.lists.lookUps.servers = servers
    serverPlaces = servers.count == places.count ? places : []
  }

  // What can only be told from several keys together

  mutating func finishLists(_ whole: SourcePosition) {
    let section = draft.lists
    guard !section.items.isEmpty else { return }
    do throws(ListSites.Failure) {
      var terms = ListTerms(try ListSites(section.items.map(\.site)))
      terms.threshold = Int32(section.threshold)
      terms.allowThreshold = section.allowThreshold.map { Int32($0) }
      terms.rejectAt = section.rejectAt
      draft.policy.lists = terms
    } catch {
      // Counted while they were read.
      invariantFailed("more items than there can be")
    }
    checkWeights(whole)
    checkUse(whole)
    checkNameServers(whole)
    checkReaders()
  }

  private mutating func checkWeights(_ whole: SourcePosition) {
    let section = draft.lists
    let place = places["lists.sites"] ?? whole
    let weights = section.items.map { Int($0.site.weight) }
    let most = weights.reduce(0) { $0 + max($1, 0) }
    let least = weights.reduce(0) { $0 + min($1, 0) }
    // Lists of good clients alone, or lists that are only looked at, need no threshold.
    if section.threshold > most && (most > 0 || places["lists.threshold"] != nil) {
      problems.add(
        .warning, at: places["lists.threshold"] ?? place,
        "lists.threshold (\(section.threshold)) is above the sum of all positive weights (\(most)): no client "
          + "can ever be listed",
        "lower it, or raise the weights: an item without *N weighs 1")
    }
    if let allow = section.allowThreshold, allow < least {
      problems.add(
        .warning, at: places["lists.allow_threshold"] ?? place,
        "lists.allow_threshold (\(allow)) is below the sum of all negative weights (\(least)): no client can ever "
          + "be allowed",
        least == 0
          ? "give lists of good clients a negative weight, such as list.dnswl.org*-2"
          : "write \(least) or more")
    }
    if section.allowThreshold == nil && least < 0 && most == 0 {
      problems.add(
        .warning, at: place,
        "these are lists of good clients only, and lists.allow_threshold is off: they change nothing",
        "write allow_threshold: -1, or a lower number")
    }
    for (index, item) in section.items.enumerated()
    where section.items[..<index].contains(where: {
      $0.site.zone == item.site.zone && $0.site.filter == item.site.filter
    }) {
      problems.add(
        .warning, at: item.place,
        "this list is there twice with the same answers: both weights count",
        "delete one of the two, or give each its own filter")
    }
  }

  private mutating func checkUse(_ whole: SourcePosition) {
    let place = places["lists.sites"] ?? whole
    if !draft.listeners.contains(where: { $0.role == .inbound }) {
      problems.add(
        .warning, at: place,
        "DNS lists are asked about clients of inbound listeners only, and there is none",
        "write role: inbound for a listener, or delete the lists")
    }
    if draft.lists.rejectAt != .never && draft.policy[.dnsListed].action != .enforce {
      let action = draft.policy[.dnsListed].action.name
      problems.add(
        .warning, at: places["lists.reject_at"] ?? place,
        "with signals.dns_listed.action: \(action) no listed client is rejected",
        "write action: enforce there, or reject_at: never")
    }
  }

  /// Lists refuse public resolvers, but for those that know their customers by a key.
  private mutating func checkNameServers(_ whole: SourcePosition) {
    guard draft.lists.items.contains(where: { !$0.site.zone.hasKey }) else { return }
    let hint = "write servers: [127.0.0.1] for a resolver of your own, such as Unbound"
    let servers = draft.lists.lookUps.servers
    for (index, server) in servers.enumerated() where Self.isPublic(server.address) {
      problems.add(
        .warning,
        at: index < serverPlaces.count ? serverPlaces[index] : places["lists.servers"] ?? whole,
        "\(server.address) is a public resolver: most DNS lists refuse to answer it", hint)
    }
    let system = draft.environment.nameServers
    if servers.isEmpty && !system.isEmpty && system.allSatisfy(Self.isPublic) {
      problems.add(
        .warning, at: places["lists.sites"] ?? whole,
        "the DNS servers of /etc/resolv.conf (\(system.map(\.description).joined(separator: ", "))) are public "
          + "resolvers: most DNS lists refuse to answer them", hint)
    }
  }

  private static func isPublic(_ address: Address) -> Bool { publicResolvers.contains(address) }

  /// Of Cloudflare, Google, Quad9, OpenDNS and Level 3.
  private static let publicResolvers = Set(
    [
      "1.1.1.1", "1.0.0.1", "1.1.1.2", "1.0.0.2", "1.1.1.3", "1.0.0.3", "2606:4700:4700::1111",
      "2606:4700:4700::1001", "8.8.8.8", "8.8.4.4", "2001:4860:4860::8888", "2001:4860:4860::8844",
      "9.9.9.9", "9.9.9.10", "9.9.9.11", "149.112.112.112", "149.112.112.10", "149.112.112.11",
      "2620:fe::fe", "2620:fe::9", "2620:fe::10", "2620:fe::11", "208.67.222.222",
      "208.67.220.220", "2620:119:35::35", "2620:119:53::53", "4.2.2.1", "4.2.2.2", "4.2.2.3",
      "4.2.2.4",
    ].compactMap { Address($0) })

  /// A key that every user of the machine can read is no secret.
  private mutating func checkReaders() {
    var seen: Set<String> = []
    for item in draft.lists.items where item.site.zone.hasKey {
      var facts = stat()
      guard seen.insert(item.place.file).inserted, stat(item.place.file, &facts) == 0,
        facts.st_mode & (S_IROTH | S_IWOTH) != 0
      else { continue }
      let mode = String(facts.st_mode & 0o777, radix: 8)
      problems.add(
        .warning, at: item.place,
        "the key of \(item.site.zone.publicName) is readable by every user of this machine (mode \(mode))",
        "chmod 640 \(item.place.file), with Sluice's group")
    }
  }
}

extension Form {
  /// A DNS server: `127.0.0.1`, `127.0.0.1:5353`, `::1` or `[::1]:5353`.
  package static func nameServer(_ text: String) throws(BadValue) -> NameServer {
    if let address = Address(text) { return NameServer(address) }
    if text.hasPrefix("["), text.hasSuffix("]"), let address = Address(text.dropFirst().dropLast()),
      !address.isIPv4
    {
      return NameServer(address)
    }
    let hint = "write an IP address, with a port if it is not 53: 127.0.0.1 or [::1]:5353"
    if text.contains(":") {
      do throws(BadValue) {
        let (_, address, port) = try endpoint(text, allowsName: false)
        if let address { return NameServer(address, port: port) }
      } catch {
        throw BadValue(reason: error.reason, hint: hint)
      }
    }
    throw BadValue(
      reason: "'\(ConfigNode.cut(text))' is not the address of a DNS server",
      hint: hint)
  }
}

/// The servers of /etc/resolv.conf (resolv.conf(5)); none if there is no such file.
func systemNameServers(in file: String = "/etc/resolv.conf") -> [Address] {
  guard let content = try? readFile(file, bytesMax: 1 << 20) else { return [] }
  return content.split(separator: 10).compactMap { line in
    let words = String(decoding: line, as: UTF8.self).split { $0 == " " || $0 == "\t" }
    return words.count > 1 && words[0] == "nameserver" ? Address(words[1]) : nil
  }
}
