// SPDX-License-Identifier: Apache-2.0
import ConfigurationFixtures
import Glibc
import Policy
import Suspicion
import Testing

@testable import Configuration

/// What a reload would lose, and how that is meant.
struct LossTests {
  private static let networks =
    (0..<40).map { "192.0.2.\($0) reject" }.joined(separator: "\n") + "\n"
  private static let full = """
    mode: enforce
    hostname: mx.example.org
    delays: {banner: {clean: 2s}}
    smtp: {errors: 7, recipients: 200}
    tables: {access: a.cidr}

    """

  /// The reasons why a reload from the first files to the second is refused.
  private func refusals(
    _ config: String, _ table: String = Self.networks, from first: String = Self.full,
    _ firstTable: String = Self.networks
  ) throws -> [String] {
    let folder = try Folder()
    let main = try folder.write("sluice.yaml", first)
    try folder.write("a.cidr", firstTable)
    let before = try #require(Configuration.load(file: main, environment: machine).configuration)
    try folder.write("sluice.yaml", config)
    try folder.write("a.cidr", table)
    let (after, problems) = Configuration.load(file: main, environment: machine)
    let found = after.map { $0.losses(of: before) } ?? problems
    return found.filter { $0.severity == .error }.map(\.reason)
  }

  @Test(
    "an empty main file is an error, at a start too",
    arguments: ["", "\n\n", "# mode: enforce\n", "---\n"])
  func empty(text: String) throws {
    let found = try refusals(text)
    #expect(found == ["there is no setting in this file"])
  }

  @Test("a file cut off after any octet is refused or has lost no more than few settings")
  func cutAnywhere() throws {
    let folder = try Folder()
    let main = try folder.write("sluice.yaml", Self.full)
    try folder.write("a.cidr", Self.networks)
    let before = try #require(Configuration.load(file: main, environment: machine).configuration)
    for count in 0..<Self.full.utf8.count - 1 {
      try folder.write("sluice.yaml", String(decoding: Self.full.utf8.prefix(count), as: UTF8.self))
      let after = Configuration.load(file: main, environment: machine).configuration
      let isRefused = after.map { !$0.losses(of: before).isEmpty } ?? true
      #expect(isRefused, "cut after \(count) octets")
    }
  }

  @Test("mode falls back to observe only where that is written")
  func mode() throws {
    let rest = String(Self.full.dropFirst("mode: enforce\n".count))
    let lost = try refusals(rest)
    #expect(lost == ["'mode: enforce' is in force, and mode is no longer set"])
    let meant = try refusals("mode: observe\n" + rest)
    #expect(meant == [])
  }

  @Test("a table that loses its rules is refused, unless it says so; one that loses some is taken")
  func tables() throws {
    let few = "192.0.2.1 reject\n192.0.2.2 reject\n192.0.2.3 reject\n"
    let cases: [(table: String, first: String, isRefused: Bool)] = [
      ("", Self.networks, true),
      ("# nothing\n", few, true),
      (few, Self.networks, true),
      ("# sluice: may lose rules\n", Self.networks, false),
      ("# a list\n# sluice: may lose rules\n" + few, Self.networks, false),
      (few + "192.0.2.4 reject\n", Self.networks, false),
      ("192.0.2.1 reject\n", few, false),
      ("", "", false),
      (few, "", false),
    ]
    for (table, first, isRefused) in cases {
      let found = try refusals(Self.full, table, from: Self.full, first)
      #expect(found.isEmpty != isRefused, "\(table.prefix(40)): \(found)")
    }
    let unnamed = try refusals(
      Self.full.replacing("tables: {access: a.cidr}", with: "own: {names: [a.example]}"))
    #expect(unnamed == ["tables.access is no longer set, and 40 rules are in force"])
  }

  @Test(
    "a last line without its end is refused where it had one before, and taken where it never had")
  func lineEnds() throws {
    let cut = try refusals(Self.full, String(Self.networks.dropLast()))
    #expect(cut == ["the last line has lost its line break: the file may be truncated"])
    let always = try refusals(
      Self.full, String(Self.networks.dropLast()), from: Self.full, String(Self.networks.dropLast())
    )
    #expect(always == [])
  }

  @Test("most of the settings at once are not lost by a reload; a few are")
  func settings() throws {
    let few = try refusals(Self.full.replacing("smtp: {errors: 7, recipients: 200}\n", with: ""))
    #expect(few == [])
    let most = try refusals("mode: enforce\ntables: {access: a.cidr}\n")
    #expect(most == ["4 of 6 settings that are in force are no longer set"])
  }

  @Test("a named pipe is refused at once, a pipe without a name is read")
  func pipes() throws {
    let folder = try Folder()
    let path = "\(folder.path)/pipe"
    try #require(mkfifo(path, 0o600) == 0)
    let problems = Configuration.load(file: path, environment: machine).problems
    #expect(problems.map(\.reason) == ["cannot read \(path): it is a named pipe"])
    var ends: [Int32] = [0, 0]
    try #require(pipe(&ends) == 0)
    let text = Array("mode: observe\n".utf8)
    try #require(write(ends[1], text, text.count) == text.count)
    close(ends[1])
    let read = Configuration.load(file: "/dev/fd/\(ends[0])", environment: machine)
    close(ends[0])
    #expect(read.configuration != nil && read.problems == [])
  }
}
