// SPDX-License-Identifier: Apache-2.0
import ConfigurationFixtures
import Policy
import Testing

@testable import Configuration
@testable import Service

struct MemoryStatementTests {
  @Test("the sum is that of the rows, and every limit has one")
  func sums() {
    let statement = MemoryStatement(
      limits: Limits(), workers: 3, tables: 1_000, units: .init(.measured))
    #expect(statement.total == statement.rows.reduce(0) { $0 + $1.userSum + $1.kernelSum })
    let names = Set(statement.rows.map(\.name))
    for setting in Setting.all
    where setting.key.hasPrefix("limits.") && setting.key != "limits.input_bytes" {
      #expect(names.contains(String(setting.key.dropFirst(7))), "\(setting.key)")
    }
  }

  @Test("what runs is never less than the limits", arguments: [1, 2, 3, 7, 64])
  func shares(workers: Int) {
    let statement = MemoryStatement(
      limits: Limits(), workers: workers, tables: 0, units: .init(.measured))
    #expect(statement.rows.first { $0.name == "connections" }?.count ?? 0 >= Limits().connections)
  }

  @Test("figures that are measured later replace the estimates")
  func units() {
    var units = MemoryStatement.Units(.measured)
    units.connection = 1_000
    let statement = MemoryStatement(limits: Limits(), workers: 1, tables: 0, units: units)
    #expect(statement.rows.first { $0.name == "connections" }?.userSum == 10_000_000)
  }

  @Test("what is remembered of DNS lists is in the sum, and nothing where none are asked")
  func lists() throws {
    func row(_ answers: Int) throws -> MemoryStatement.Row {
      let statement = MemoryStatement(
        limits: Limits(), workers: 2, tables: 0, answers: answers, units: .init(.measured))
      return try #require(statement.rows.first { $0.name == "answers of DNS lists" })
    }
    #expect(try row(0).userSum == 0)
    #expect(try row(65_536).count == 65_536 && row(65_537).count == 131_072)
    #expect(try row(65_536).user == 28)
  }

  @Test("the table keeps to 80 columns, however large the machine")
  func columns() {
    var limits = Limits()
    limits.connections = 10_000_000
    limits.sources = 1_000_000_000
    for line in MemoryStatement(
      limits: limits, workers: 1024, tables: 1 << 40, units: .init(.measured)
    ).description.split(
      separator: "\n")
    {
      #expect(line.count <= 80, "\(line)")
    }
  }

  @Test(
    "bytes are told with three digits",
    arguments: [
      (0, "0 B"), (999, "999 B"), (1_000, "1.00 KB"), (4_100, "4.10 KB"), (41_600_000, "41.6 MB"),
      (999_499, "999 KB"), (999_500, "1.00 MB"), (123_000_000_000, "123 GB"), (9_999, "10.00 KB"),
    ])
  func bytes(count: Int, text: String) { #expect(bytesText(count) == text) }
}
