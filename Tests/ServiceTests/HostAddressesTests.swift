// SPDX-License-Identifier: Apache-2.0
import ConfigurationFixtures
import Glibc
import Structures
import Synchronization
import Testing

@testable import Configuration
@testable import Driver
@testable import Service

/// Where the server behind is, and when it is looked for.
@Suite("Addresses of a host")
struct HostAddressesTests {
  private static let one = Address(v4: 0xC000_0201)
  private static let two = Address(v4: 0xC000_0202)
  private static let six = Address(high: 0x2001_0DB8_0000_0000, low: 1)

  /// A resolver that waits to be told what to answer.
  private final class Script: Sendable {
    private let state = Mutex<(asked: Int, answers: [[Address]])>((0, []))

    var asked: Int { state.withLock { $0.asked } }
    func answer(_ addresses: [Address]) { state.withLock { $0.answers.append(addresses) } }

    func look(_ host: String) -> [Address] {
      let number = state.withLock { state in
        state.asked += 1
        return state.asked
      }
      while true {
        if let answer = state.withLock({ $0.answers.count >= number ? $0.answers[number - 1] : nil }
        ) {
          return answer
        }
        usleep(500)
      }
    }
  }

  private func taken(_ host: HostAddresses) -> [Address] {
    while true {
      if let found = host.take(where: { _ in true }) { return found }
      usleep(500)
    }
  }

  @Test("what is found takes the place of what was, in its order, and is told once")
  func change() {
    let script = Script()
    let host = HostAddresses("mail.test", found: [Self.one], resolver: script.look)
    script.answer([Self.six, Self.two])
    host.lookUp()
    let found = taken(host)
    #expect(found == [Self.six, Self.two] && host.current == found)
    let again = host.take(where: { _ in true })
    #expect(again == nil)
  }

  @Test("a question that comes during a look-up is asked again, and the last answer counts")
  func overlapping() {
    let script = Script()
    let host = HostAddresses("mail.test", found: [Self.one], resolver: script.look)
    host.lookUp()
    while script.asked < 1 { usleep(500) }
    for _ in 0..<5 { host.lookUp() }
    script.answer([Self.one])
    script.answer([Self.two])
    #expect(taken(host) == [Self.two])
    #expect(script.asked == 2)
  }

  @Test("nothing found, the same in another order, or nothing that may be used: all stays as it is")
  func same() {
    let script = Script()
    let host = HostAddresses("mail.test", found: [Self.one, Self.six], resolver: script.look)
    for (number, answer) in [[], [Self.six, Self.one], [Self.two]].enumerated() {
      script.answer(answer)
      host.lookUp()
      while script.asked <= number { usleep(500) }
      let found = host.take(where: { $0 != Self.two })
      #expect(found == nil && host.current == [Self.one, Self.six])
    }
  }

  @Test("while the server does not answer it is looked for, less and less often; an address never")
  func pace() {
    for name in ["mail.test", "192.0.2.1"] {
      let script = Script()
      for _ in 0..<50 { script.answer([Self.one]) }
      let host = HostAddresses(name, found: [Self.one], resolver: script.look)
      var times: [Int64] = []
      for second in Int64(0)..<300 {
        // It answers in between.
        let isFailing = second < 100 || second >= 200
        let before = script.asked
        host.attend(isFailing: isFailing, now: second * 1_000_000)
        if name == "mail.test" && isFailing && [0, 5, 15, 35, 75, 200, 205].contains(second) {
          while script.asked == before { usleep(500) }
        }
        if script.asked > before { times.append(second) }
      }
      #expect(Array(times.prefix(7)) == (name == "mail.test" ? [0, 5, 15, 35, 75, 200, 205] : []))
    }
  }

  @Test("an address is its own, and the machine's own name has one")
  func resolver() {
    #expect(addresses(of: "2001:db8::1") == [Self.six])
    let found = addresses(of: "localhost")
    #expect(!found.isEmpty && found.allSatisfy(\.isLoopback))
    #expect(addresses(of: "localhost.") == found)
    #expect(addresses(of: "no_such.invalid") == [])
  }

  @Test(
    "names of container networks and names with a dot at the end may be looked up",
    arguments: [
      ("mail_server:25", "mail_server"), ("_smtp._tcp.example.org:25", "_smtp._tcp.example.org"),
      ("mx.example.org.:25", "mx.example.org."), ("MX.Example.Org:25", "mx.example.org"),
    ])
  func names(text: String, host: String) throws {
    let read = try Form.endpoint(text, allowsName: true)
    #expect(read.host == host && read.port == 25)
  }

  @Test("and no others", arguments: ["mx..org:25", ".:25", "-a.org:25", "a b:25", "1.2.3:25"])
  func badNames(text: String) {
    #expect(throws: BadValue.self) { try Form.endpoint(text, allowsName: true) }
  }
}
