// SPDX-License-Identifier: Apache-2.0
import ConfigurationFixtures
import SMTP
import Testing

@testable import Configuration
@testable import Driver
@testable import Service

/// What the answers to the probes mean together, and whom they are asked as.
struct PreflightTests {
  private static let v4 = "{address: \"192.0.2.1:25\"}"
  private static let v6 = "{address: \"[2001:db8::9]:25\"}"
  private static let wildcard = "{address: \"[::]:26\"}"
  private static let balanced =
    "{address: \"192.0.2.1:27\", proxy_protocol: {from: [10.0.0.0/8]}}"

  private func askers(_ identity: String, _ listeners: String...) throws -> [String] {
    let yaml = """
      listeners: [\(listeners.joined(separator: ", "))]
      downstream: {address: "127.0.0.1:10025", identity: \(identity)}
      """
    let configuration = try #require(read(yaml).configuration, "\(read(yaml).problems)")
    return Preflight.askers(configuration).map { "\($0.client.address)\($0.isSure ? "" : "?")" }
  }

  @Test("it is asked as those that can come, and as one where it cannot see them")
  func families() throws {
    #expect(try askers("proxy_v2", Self.v4) == ["192.0.2.1"])
    #expect(try askers("proxy_v1", Self.v6) == ["2001:db8::1"])
    #expect(try askers("xclient", Self.wildcard) == ["2001:db8::1"])
    #expect(try askers("proxy_v2", Self.v4, Self.wildcard) == ["192.0.2.1", "2001:db8::1"])
    #expect(try askers("proxy_v2", Self.balanced) == ["192.0.2.1?", "2001:db8::1?"])
    #expect(try askers("proxy_v2", Self.v4, Self.balanced) == ["192.0.2.1", "2001:db8::1?"])
    for identity in ["none", "received", "xforward"] {
      #expect(try askers(identity, Self.v4, Self.v6) == ["192.0.2.1"])
    }
  }

  private static func preflight(
    _ first: RelayProbe.Finding, _ second: RelayProbe.Finding? = nil, sure: Bool = true
  ) -> Preflight {
    var answers = [
      Preflight.Answer(client: .stranger, isSure: true, outcome: .init(first))
    ]
    if let second {
      answers.append(.init(client: .strangerV6, isSure: sure, outcome: .init(second)))
    }
    return Preflight(Downstream(), answers)
  }

  /// Exit code, an open relay, something still to be learnt.
  private static let table:
    [(RelayProbe.Finding, RelayProbe.Finding?, Bool, code: Int32, relay: Bool, open: Bool)] = [
      (.refuses("550"), nil, true, 0, false, false),
      (.unclear("550"), nil, true, 0, false, false),
      (.putsOff("450"), nil, true, 0, false, true),
      (.relays("250"), nil, true, 78, true, false),
      (.silent("x"), nil, true, 69, false, true),
      (.mismatch("x"), nil, true, 78, false, true),
      (.insecure("x"), nil, true, 78, false, true),
      (.refuses("550"), .refuses("550"), true, 0, false, false),
      (.refuses("550"), .relays("250"), true, 78, true, false),
      (.relays("250"), .silent("x"), true, 78, true, true),
      (.refuses("550"), .silent("x"), true, 69, false, true),
      (.refuses("550"), .mismatch("x"), true, 69, false, true),
      (.silent("x"), .refuses("550"), true, 69, false, true),
      // Who only may come spoils nothing.
      (.refuses("550"), .silent("x"), false, 0, false, false),
      (.refuses("550"), .mismatch("x"), false, 0, false, false),
      (.refuses("550"), .relays("250"), false, 78, true, false),
      (.silent("x"), .silent("x"), true, 69, false, true),
      (.silent("x"), .mismatch("x"), false, 78, false, true),
      (.putsOff("450"), .refuses("550"), true, 0, false, true),
    ]

  @Test("answers together", arguments: table.indices)
  func verdict(_ row: Int) {
    let (first, second, sure, code, relay, open) = Self.table[row]
    let found = Self.preflight(first, second, sure: sure)
    #expect(found.exitCode == code && found.isOpenRelay == relay && found.isOpen == open)
    #expect(found.sentences.contains { $0.level == .error } == (code == 78))
  }

  @Test("of one family it is not said that all mail is lost")
  func words() {
    let part = Self.preflight(.refuses("550"), .mismatch("x")).sentences
    #expect(part.map(\.level) == [.good, .warning])
    #expect(part[1].text.contains("for IPv6 clients: x. Mail from other clients is delivered"))
    #expect(part[1].text.contains("remove the IPv6 listeners"))
    let perhaps = Self.preflight(.refuses("550"), .silent("x", hint: ": y"), sure: false).sentences
    #expect(
      perhaps[1].text.contains(
        "if the load balancers have no such clients, nothing needs to be done"))
    #expect(!perhaps[1].text.contains(": y"))
    let all = Self.preflight(.mismatch("x"), .mismatch("y")).sentences
    #expect(all.count == 1 && all[0].text.contains("All mail would be deferred"))
  }
}
