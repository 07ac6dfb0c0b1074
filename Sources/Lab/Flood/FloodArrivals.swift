// SPDX-License-Identifier: Apache-2.0
// When clients come: those that begin, by entry of the scenario, and those that come again. `Population` says the
// moments; here they wait for their time. Times are microseconds of the run.

import Personas

/// The clients of a thread that are still to come.
struct FloodArrivals {
  private var returns = DeadlineHeap<Client>()
  /// By entry: when its next client begins.
  private var begins: [Int64]
  /// By entry: how many begin with the run.
  private var atOnce: [Int]

  /// Clients that will come again, at most.
  private static let awayMost = 500_000

  init(_ population: inout Population) {
    let entries = population.scenario.entries
    atOnce = entries.map(\.atOnce)
    begins = entries.indices.map { population.nextArrival($0, after: 0) ?? .max }
  }

  /// Clients that will come again.
  var away: Int { returns.count }
  /// Bytes of memory.
  var bytes: Int { returns.entries.capacity * MemoryLayout<DeadlineHeap<Client>.Entry>.stride }

  var entries: Range<Int> { begins.indices }

  /// When the next client comes.
  var next: Int64 {
    if atOnce.contains(where: { $0 > 0 }) { return 0 }
    return min(returns.next, begins.min() ?? .max)
  }

  /// Whether nobody comes until then.
  func isOver(_ end: Int64) -> Bool { next > end }

  /// A client that comes again now.
  mutating func returning(until now: Int64) -> DeadlineHeap<Client>.Entry? {
    returns.pop(until: now)
  }

  /// A client comes again later.
  ///
  /// - Returns: false if there are too many of those already.
  mutating func add(_ client: Client, at moment: Int64) -> Bool {
    guard returns.count < Self.awayMost else { return false }
    returns.push(client, at: moment)
    return true
  }

  /// Takes the next client of an entry if it begins now.
  ///
  /// - Returns: how late it is; nil if none begins.
  mutating func begin(_ entry: Int, _ population: inout Population, now: Int64) -> Int64? {
    if atOnce[entry] > 0 {
      atOnce[entry] -= 1
      return 0
    }
    let moment = begins[entry]
    guard moment <= now else { return nil }
    begins[entry] = population.nextArrival(entry, after: moment) ?? .max
    return now - moment
  }
}
