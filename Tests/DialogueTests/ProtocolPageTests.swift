// SPDX-License-Identifier: Apache-2.0
import Foundation
import SMTP
import Shield
import Simulator
import Structures
import TestServer
import Testing

/// docs/protocol.md says what the code does.
@Suite("The page on the protocol")
struct ProtocolPageTests {
  private static let page =
    (try? String(
      contentsOf: dialogueFolder.deletingLastPathComponent().deletingLastPathComponent()
        .appendingPathComponent("docs/protocol.md"), encoding: .utf8)) ?? ""

  /// The cells of the rows of one of its tables, the first one without backquotes.
  private static func rows(under heading: String) -> [(name: String, cells: [String])] {
    let sections = page.components(separatedBy: "\n## ")
    let section = sections.first { $0.hasPrefix(heading + "\n") } ?? ""
    return section.split(separator: "\n").filter { $0.hasPrefix("| `") }.map { row in
      let cells = row.split(separator: "|").map { $0.trimmingCharacters(in: .whitespaces) }
      return (cells[0].replacing("`", with: ""), cells)
    }
  }

  private static let commands = rows(under: "Commands")
  private static let keywords = rows(under: "Keywords")

  @Test(
    "every command of Sluice's own is answered as the page says", arguments: commands.map(\.name))
  func answered(command: String) throws {
    let row = try #require(Self.commands.first { $0.name == command })
    guard let code = UInt16(row.cells[1].replacing("`", with: "")) else {
      #expect(row.cells[1] == "server")
      return
    }
    var shield = try virtualShield(configuration: "", access: "127.0.5.0/24 trusted\n", rates: "")
    shield.advance(by: .seconds(1))
    let address = try #require(Address("127.0.5.1"))
    let admitted = shield.driver.connect(Peer(address: address, port: 40_000, listener: 0))
    let client = try #require(admitted)
    shield.settle()
    _ = shield.driver.heard(client)
    shield.driver.say(
      client, command + (command == "EHLO" || command == "HELO" ? " c.example\r\n" : "\r\n"))
    shield.settle()
    let heard = String(decoding: shield.driver.heard(client).bytes, as: UTF8.self)
    #expect(heard.hasPrefix(String(code)), "\(heard)")
    // Nothing of it reaches the server, whose first client was the probe with its EHLO and QUIT.
    let told = shield.downstream.lines.map { $0.prefix(4).uppercased() }
    #expect(Set(told).isSubset(of: ["EHLO", "QUIT"]))
  }

  @Test("every command that is known is on the page", arguments: Verb.allCases)
  func complete(verb: Verb) {
    if verb == .unknown || verb.isForeign { return }
    let listed = Self.commands.map { Command(line: Array($0.name.utf8).span).verb }
    #expect(listed.contains(verb))
  }

  /// What a client is offered where the server behind offers all that the page names.
  private func offer(_ role: Capabilities.Role) -> [String] {
    let all = Self.keywords.map { "250-\($0.name)" + ($0.name == "AUTH" ? " PLAIN" : "") }
    let reply = Array("250-inner.test\r\n\(all.joined(separator: "\r\n"))\r\n250 X-LAST\r\n".utf8)
    var own = Capabilities()
    own.keywords = Capabilities.Keywords(rawValue: .max)
    let offered = Capabilities(ehloReply: reply.span).offered(by: own, role: role)
    let host = Array("mx.test".utf8)
    let written = [UInt8](capacity: 2_048) { out in
      _ = offered.writeEHLOReply(hostname: host.span, into: &out)
    }
    return String(decoding: written, as: UTF8.self).components(separatedBy: "\r\n").dropFirst()
      .compactMap { $0.dropFirst(4).split(separator: " ").first.map(String.init) }
  }

  @Test("every keyword is offered or withheld as the page says")
  func offered() {
    #expect(!Self.keywords.isEmpty)
    let offer = offer(.outbound)
    for row in Self.keywords {
      #expect(offer.contains(row.name) == (row.cells[1] != "never"), "\(row.name)")
    }
    // And nothing that is not on it.
    #expect(Set(offer).isSubset(of: Set(Self.keywords.map(\.name))))
    #expect(!self.offer(.inbound).contains("AUTH"))
  }

  @Test("every keyword that is known is on the page")
  func known() {
    func line(_ name: String) -> String { name == "AUTH" ? "AUTH PLAIN" : name }
    let all = Self.keywords.map { "250-\(line($0.name))" }.joined(separator: "\r\n")
    let reply = Array("250-inner.test\r\n\(all)\r\n250 X-LAST\r\n".utf8)
    let found = Capabilities(ehloReply: reply.span).keywords
    // Each is one bit, and the bits are in use without a gap.
    #expect(found.rawValue & (found.rawValue &+ 1) == 0)
    for row in Self.keywords {
      let one = Array("250-inner.test\r\n250 \(line(row.name))\r\n".utf8)
      #expect(
        Capabilities(ehloReply: one.span).keywords.rawValue.nonzeroBitCount == 1, "\(row.name)")
    }
    #expect(found.rawValue.nonzeroBitCount == Self.keywords.count)
  }

  @Test("HELP names what is offered")
  func help() {
    func text(_ tls: Bool, _ auth: Bool) -> String {
      OwnReply.help(tls: tls, auth: auth).text.description
    }
    #expect(!text(false, false).contains("STARTTLS") && !text(false, false).contains("AUTH"))
    #expect(text(true, false).contains(" STARTTLS ") && !text(true, false).contains("AUTH"))
    #expect(text(false, true).contains(" AUTH ") && !text(false, true).contains("STARTTLS"))
    #expect(text(true, true).contains(" STARTTLS ") && text(true, true).contains(" AUTH "))
  }
}
