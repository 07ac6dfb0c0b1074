// SPDX-License-Identifier: Apache-2.0
import ConfigurationFixtures
import DNSLists
import Flow
import Glibc
import Policy
import Structures
import Suspicion
import Testing

@testable import Configuration

/// The section `lists` is what Postfix has, what is wrong in it is told at its character, and a key in it stays secret.
struct ListSectionTests {
  private static let key = "abcdefghij0123456789klmnop"

  @Test("without a word about lists there are none")
  func none() throws {
    for yaml in ["", "lists:", "lists: {sites: []}", "lists: {threshold: 3, reject_at: rcpt}"] {
      let (configuration, problems) = read(yaml)
      #expect(problems == [], "\(yaml)")
      let found = try #require(configuration)
      #expect(found.policy.lists == nil && found.lists.summary == nil)
    }
    let shipped = Configuration(environment: machine).lists
    #expect(shipped.threshold == 1 && shipped.allowThreshold == nil && shipped.rejectAt == .never)
    #expect(shipped.lookUps == LookUpSettings())
    #expect(shipped.lookUps.servers == [] && shipped.lookUps.timeout == 3_000_000)
    #expect(shipped.lookUps.cacheEntries == 65_536)
  }

  @Test("every key lands where engine and driver look for it")
  func whole() throws {
    let (configuration, problems) = read(
      """
      lists:
        sites:
          - zen.example=127.0.0.[2..11]*3
          - "bl.example*2"
          - list.example=127.0.[0..255].1*-2
        threshold: 3
        allow_threshold: -2
        reject_at: rcpt
        servers: [127.0.0.1, "192.0.2.53:5353", "::1", "[2001:db8::53]", "[2001:db8::53]:5353"]
        timeout: 1500ms
        cache: 4096
      """)
    #expect(problems == [])
    let found = try #require(configuration)
    let terms = try #require(found.policy.lists)
    #expect(found.enginePolicy.lists?.threshold == 3)
    #expect(terms.sites.items.map(\.weight) == [3, 2, -2])
    #expect(terms.sites.zones.map(\.publicName) == ["zen.example", "bl.example", "list.example"])
    #expect(terms.threshold == 3 && terms.allowThreshold == -2 && terms.rejectAt == .rcpt)
    #expect(
      found.lists.lookUps.servers.map(\.description) == [
        "127.0.0.1", "192.0.2.53:5353", "::1", "2001:db8::53", "[2001:db8::53]:5353",
      ])
    #expect(found.lists.lookUps.timeout == 1_500_000)
    #expect(found.lists.lookUps.cacheEntries == 4_096)
    #expect(
      found.lists.summary
        == "DNS lists: 3 zones, threshold 3, allow threshold -2, reject_at rcpt")
    for changed in [false, true] {
      let again = read(found.dump(changed: changed))
      #expect(again.problems == [])
      #expect(again.configuration?.dump() == found.dump())
      #expect(again.configuration?.policy.lists?.sites.items == terms.sites.items)
    }
  }

  @Test(
    "a value of main.cf is taken as it is",
    arguments: [
      "lists: {sites: \"zen.example*3, bl.example=127.0.0.[2;4..11]*2,c.example\"}",
      "lists:\n  sites: zen.example*3 bl.example=127.0.0.[2;4..11]*2\n    c.example",
      "lists:\n  sites: |\n    zen.example*3,\n    bl.example=127.0.0.[2;4..11]*2\n\n    c.example\n",
      "lists:\n  sites:\n  - zen.example*3, bl.example=127.0.0.[2;4..11]*2\n  - c.example",
    ])
  func copied(yaml: String) throws {
    let (configuration, problems) = read(yaml)
    #expect(problems == [])
    let items = try #require(configuration?.policy.lists).sites.items
    #expect(items.map(\.zone.publicName) == ["zen.example", "bl.example", "c.example"])
    #expect(items.map(\.weight) == [3, 2, 1])
  }

  /// Line and column, a part of the reason, a part of the hint.
  static let mistakes: [(yaml: String, place: String, reason: String, hint: String)] = [
    ("lists:\n  sites: zen.example=127.0.0.300", "2:30", "larger than 255", "from 0 to 255"),
    ("lists:\n  sites: \"a.example, b..example\"", "2:24", "nothing between two dots", "zen."),
    ("lists:\n  sites:\n  - a.example\n  - b_%.example", "4:7", "letters, digits", "as in Postfix"),
    ("lists:\n  sites:\n  - 'a.example*'", "3:16", "the weight is missing", "*-2"),
    ("lists: {sites: [a.example*x]}", "1:27", "a weight is a whole number", "*3"),
    ("lists: {sites: [a.example*10001]}", "1:31", "between -10000 and 10000", "*3"),
    ("lists:\n  sites: a.example=127.0.0.[2,4]", "2:30", "[n;n..m]", "';' is between"),
    ("lists:\n  sites: a.example=127.0.0.[9..2]", "2:29", "ends before it begins", "'..'"),
    ("lists:\n  sites: a.example=127.0.0", "2:27", "a filter has four", "127.0.0.[2;4..11]"),
    ("lists:\n  sites: a.example=10.0.0.1", "2:20", "matches no listing", "127.0.0.[2..11]"),
    ("lists:\n  sites: >\n    a.example\n    b.example*1.5", "4:16", "whole number", "*3"),
    // Written with an escape, so the column of a character cannot be known.
    ("lists:\n  sites: \"a\\x2Eexample*y\"", "2:10", "'a.example*y', character 11:", "*3"),
    ("lists: {sites: [a.example=127.0.0.[2..11]*3]}", "1:35", "not YAML", "in quotes"),
    ("lists: {sites: \" \"}", "1:16", "no item", "[]"),
    ("lists: {sites: {a.example: 2}}", "1:16", "instead of a list of items", "[\"zen."),
    ("lists: {sites: [[a.example]]}", "1:17", "found a list instead of an item", "zen."),
    ("lists: {sites: [null]}", "1:17", "found nothing instead of an item", "zen."),
    ("lists: zen.example", "1:8", "is a section", "write lists: {sites: [\"zen.example\"]}"),
    ("lists: {site: [a.example]}", "1:9", "unknown key 'site'", "'sites'"),
    (
      "lists: {sites: \(Array(repeating: "a.example", count: 33))}".replacing("\"", with: ""),
      "1:369", "these are 33 items, and 32", "delete"
    ),
    ("lists: {threshold: 0}", "1:20", "0 is below the minimum, 1", "1 to 100000"),
    ("lists: {threshold: -1}", "1:20", "not a whole number", "digits"),
    ("lists: {allow_threshold: 2}", "1:26", "not a number from -100000 to -1", "write -2"),
    ("lists: {allow_threshold: 0}", "1:26", "not a number from", "such as -2, or off"),
    ("lists: {allow_threshold: -100001}", "1:26", "not a number from", "or off"),
    ("lists: {allow_threshold: [-1]}", "1:26", "found a list", "or off"),
    ("lists: {reject_at: helo}", "1:20", "not one of never, connect, rcpt", "write never"),
    ("lists: {servers: [dns.example]}", "1:19", "not the address of a DNS server", "127.0.0.1"),
    ("lists: {servers: [\"127.0.0.1:0\"]}", "1:19", "no port from 1 to 65535", "[::1]:5353"),
    ("lists: {servers: [\"dns.example:53\"]}", "1:19", "does not begin with an IP", "[::1]:5353"),
    ("lists: {servers: [\"[127.0.0.1]\"]}", "1:19", "not the address", "[::1]:5353"),
    (
      "lists: {servers: [::1,::2,::3,::4,::5,::6,::7,::8,::9]}".replacing(
        /::\d/, with: { "\"\($0.output)\"" }), "1:18", "9 DNS servers, and 8", "two or three"
    ),
    ("lists: {timeout: 400ms}", "1:18", "400ms is below the minimum, 500ms", "10s"),
    ("lists: {timeout: 11s}", "1:18", "11s is above the maximum, 10s", "500ms"),
    ("lists: {cache: 10}", "1:16", "below the minimum, 1024", "1024 to 10000000"),
  ]

  @Test("a mistake is told at its character, with what to write", arguments: mistakes)
  func mistake(yaml: String, place: String, reason: String, hint: String) {
    expectMistake(in: yaml, at: place, reason, hint: hint)
  }

  @Test("each mistake of several items is told")
  func everything() {
    let yaml = "lists:\n  sites: a..example b.example*3 c.example*x, d.example*x\n"
    let columns = read(yaml).problems.map(\.position.column)
    #expect(columns == [12, 43, 56])
  }

  @Test(
    "what works and may not be meant is a warning",
    arguments: [
      ("sites: [a.example, b.example*-9], threshold: 2", "1:54", "sum of all positive weights (1)"),
      ("sites: [a.example*-1], allow_threshold: -1, threshold: 1", "1:64", "can ever be listed"),
      ("sites: [a.example, b.example*-2], allow_threshold: -3", "1:60", "(-2): no client can"),
      ("sites: [a.example], allow_threshold: -1", "1:46", "negative weights (0)"),
      ("sites: [a.example*-2]", "1:16", "they change nothing"),
      ("sites: [a.example, A.Example*2]", "1:28", "there twice"),
      ("sites: [a.example], servers: [127.0.0.1, 8.8.8.8]", "1:50", "8.8.8.8 is a public"),
      ("sites: [a.example], servers: \"[2620:fe::fe]:53\"", "1:38", "2620:fe::fe is a public"),
    ])
  func warnings(lists: String, place: String, reason: String) {
    let (configuration, problems) = read("lists: {\(lists)}")
    #expect(configuration?.policy.lists != nil)
    #expect(problems.map(\.severity) == [.warning], "\(problems)")
    guard let problem = problems.first else { return }
    #expect("\(problem.position.line):\(problem.position.column)" == place, "\(problem)")
    #expect(problem.reason.contains(reason), "\(problem)")
    #expect(!problem.hint.isEmpty)
  }

  @Test(
    "what may well be meant is none",
    arguments: [
      "sites: [a.example*-1], allow_threshold: -1", "sites: [a.example*0]",
      "sites: [\"a.example=127.0.0.2\", \"a.example=127.0.0.3\"], threshold: 2",
      "threshold: 5", "allow_threshold: -3", "servers: [8.8.8.8]",
      "sites: [\(key).zen.dq.spamhaus.net], servers: [8.8.8.8]",
    ])
  func silence(lists: String) { #expect(read("lists: {\(lists)}").problems == []) }

  @Test("lists need an inbound listener, and a rejection a signal that counts")
  func use() {
    let outbound = read(
      "listeners: [{address: \"[::]:587\", role: outbound}]\nlists: {sites: [a.example]}")
    #expect(outbound.problems.map(\.severity) == [.warning])
    #expect(outbound.problems.first?.reason.contains("inbound listeners only") == true)
    let quiet = read(
      "signals: {dns_listed: {action: observe}}\nlists: {sites: [a.example], reject_at: rcpt}")
    #expect(quiet.problems.map(\.severity) == [.warning])
    #expect(quiet.problems.first?.reason.contains("action: observe") == true)
    #expect(quiet.configuration?.policy.refusesListed == false)
  }

  @Test("the servers of resolv.conf are a warning if all of them are public")
  func systemServers() throws {
    let folder = try Folder()
    let file = try folder.write(
      "resolv.conf",
      "# nameserver 192.0.2.1\nsearch example\nnameserver\t8.8.8.8\nnameserver fe80::1%eth0\n")
    let servers = systemNameServers(in: file)
    #expect(servers == [try #require(Address("8.8.8.8"))])
    #expect(systemNameServers(in: folder.path + "/none") == [])
    func problems(_ servers: [String], _ yaml: String) -> [Problem] {
      let environment = Environment(
        machineName: "mx.example.org", processors: 1,
        nameServers: servers.compactMap { Address($0) })
      return read(yaml, environment: environment).problems
    }
    let lists = "lists: {sites: [a.example]}"
    #expect(problems(["8.8.8.8", "1.1.1.1"], lists).map(\.severity) == [.warning])
    #expect(
      problems(["8.8.8.8"], lists).first?.reason.contains("/etc/resolv.conf (8.8.8.8)") == true)
    #expect(problems(["127.0.0.1", "1.1.1.1"], lists) == [])
    #expect(problems(["8.8.8.8"], "lists: {sites: [a.example], servers: [127.0.0.1]}") == [])
    #expect(problems(["8.8.8.8"], "") == [])
  }

  @Test("a reload from lists to none and back has the policy of each file")
  func reload() throws {
    let folder = try Folder()
    let with = "mode: enforce\nlists: {sites: [a.example*2], threshold: 2}\n"
    let main = try folder.write("sluice.yaml", with)
    func load() throws -> Configuration {
      try #require(Configuration.load(file: main, environment: machine).configuration)
    }
    let first = try load()
    #expect(first.enginePolicy.lists?.threshold == 2)
    try folder.write("sluice.yaml", "mode: enforce\n")
    let second = try load()
    #expect(second.enginePolicy.lists == nil && second.losses(of: first).isEmpty)
    try folder.write("sluice.yaml", with)
    let third = try load()
    #expect(third.enginePolicy.lists?.sites.items == first.policy.lists?.sites.items)
    #expect(third.losses(of: second).isEmpty)
  }

  @Test(
    "no message shows a key",
    arguments: [
      "lists: {sites: [KEY.zen.dq.spamhaus.net*x]}",
      "lists: {sites: [KEY.zen.dq.spamhaus.net*2], threshold: 0}",
      "lists: {sites: [KEY.zen.dq.spamhaus.net=127.0.0.999]}",
      "lists: {sites: [KE!Y.zen.dq.spamhaus.net.]}",
      "lists: {sites: \"KEY\\x2Ezen.dq.spamhaus.net*x\"}",
      "lists: KEY.zen.dq.spamhaus.net",
      "lists: {KEY.zen.dq.spamhaus.net: 3}",
      "lists: {servers: KEY.zen.dq.spamhaus.net}",
      "lists: {reject_at: KEY.zen.dq.spamhaus.net}",
      "lists: {sites: [KEY.zen.dq.spamhaus.net=127.0.0.[2..11]*3]}",
      "lists: {sites: [KEY.zen.dq.spamhaus.net",
      "KEY.zen.dq.spamhaus.net: 1\nKEY.zen.dq.spamhaus.net: 2",
      "lists: {sites: [bl.KEY.list.example*x]}",
      "lists: {sites: [KEY.combined.mail.abusix.zone, KEY.combined.mail.abusix.zone]}",
    ])
  func secrecy(yaml: String) {
    for key in [Self.key, Self.key.uppercased()] {
      let parts = [key.prefix(13), key.suffix(13)]
      let text = yaml.replacing("KEY", with: key).replacing("KE!Y", with: parts[0] + "!" + parts[1])
      let problems = read(text).problems
      #expect(!problems.isEmpty, "\(text)")
      for problem in problems {
        for part in parts { #expect(!problem.description.contains(part), "\(problem)") }
      }
    }
  }

  @Test("a dump alone shows a key, and a file with one that all can read is a warning")
  func keys() throws {
    let folder = try Folder()
    let zone = "\(Self.key).zen.dq.spamhaus.net"
    let main = try folder.write("sluice.yaml", "lists: {sites: [\(zone)*3], threshold: 3}\n")
    chmod(main, 0o644)
    let open = Configuration.load(file: main, environment: machine)
    #expect(open.problems.map(\.severity) == [.warning])
    let problem = try #require(open.problems.first)
    #expect(problem.reason.contains("the key of zen.dq.spamhaus.net is readable by every user"))
    #expect(problem.hint.contains("chmod 640"))
    #expect(!problem.description.contains(Self.key))
    chmod(main, 0o640)
    let closed = Configuration.load(file: main, environment: machine)
    #expect(closed.problems == [])
    let configuration = try #require(closed.configuration)
    #expect(configuration.dump(changed: true).contains(zone))
    var printed = ""
    dump(configuration.lists, to: &printed)
    #expect(!printed.contains(Self.key))
    let explanation = try #require(Explanation(of: "192.0.2.1", in: configuration))
    for text in [explanation.description, explanation.json] {
      #expect(text.contains("zen.dq.spamhaus.net*3") && !text.contains(Self.key))
    }
    #expect(configuration.lists.summary?.contains("1 zone, threshold 3") == true)
  }

  @Test("lines without a key are shown as they are")
  func otherLines() {
    for line in [
      "    commandUnderStressAndMore: 6s",
      "certificate: /etc/letsencrypt/live/mx.example.org/a.pem",
      "- zen.spamhaus.org=127.0.0.[2..11]*3",
      "address: thequickbrownfoxjumpsoverthelazydog.example",
      "  key: 0123456789abcdef0123456789abcdef", "zen.dq.spamhaus.net", "dq.spamhaus.net.", "....",
    ] {
      #expect(ListZone.hidingKeys(in: line) == line)
    }
    #expect(
      ListZone.hidingKeys(in: "- \"abc.zen.dq.spamhaus.net*3\" x")
        == "- \"***.zen.dq.spamhaus.net*3\" x")
  }

  @Test("an explanation says which lists would be asked, and that nobody has been")
  func explained() throws {
    let folder = try Folder()
    let main = try folder.write(
      "sluice.yaml",
      """
      mode: enforce
      tables: {access: a.cidr}
      lists:
        sites: ["zen.example=127.0.0.[2..11]*3", "list.example*-2"]
        threshold: 3
        allow_threshold: -2
        reject_at: rcpt
      """)
    try folder.write("a.cidr", "192.0.2.1 trusted\n192.0.2.2 reject\n")
    let configuration = try #require(
      Configuration.load(file: main, environment: machine).configuration)
    func explain(_ address: String) throws -> Explanation {
      try #require(Explanation(of: address, in: configuration))
    }
    let stranger = try explain("192.0.2.9")
    #expect(
      stranger.description.contains(
        """
          lists    asked at inbound listeners; the answers are not known offline
                     zen.example=127.0.0.[2..11]*3 (weight 3)
                     list.example*-2 (weight -2)
                   at a sum of 3 it is listed; at -2 or less it is allowed (T0)
                   a listed client is rejected at rcpt
        """), "\(stranger)")
    #expect(
      stranger.json.contains(
        #""lists":{"asked":true,"items":[{"text":"zen.example=127.0.0.[2..11]*3","zone":"zen.example","weight":3},"#
      ))
    #expect(stranger.json.contains(#""threshold":3,"allow_threshold":-2,"reject_at":"rcpt"}"#))
    #expect(try explain("192.0.2.1").description.contains("not asked about a trusted client"))
    #expect(try explain("192.0.2.2").description.contains("not asked about a rejected client"))
    for line in stranger.description.split(separator: "\n") { #expect(line.count <= 80) }
    let plain = try #require(Explanation(of: "192.0.2.9", in: Configuration(environment: machine)))
    #expect(plain.lists == nil && !plain.description.contains("lists"))
    #expect(plain.json.contains(#""lists":null"#))
  }
}
