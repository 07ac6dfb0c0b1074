// SPDX-License-Identifier: Apache-2.0
import Flow
import Structures
import TableTwins
import Testing

/// What the bucket table promises of sources under and over their limits, in traffic that does not fit it.
/// The full sizes are `table-benchmark replay` and `attack`.
@Suite("Sources in a table that is too small")
struct SourceReplayTests {
  #if DEBUG
    static let scale = 4
  #else
    static let scale = 20
  #endif

  private func table(_ capacity: Int, _ seed: UInt64) -> BucketTable {
    BucketTable(capacity: capacity, hash: SipHash(k0: seed, k1: 0x5678))
  }

  @Test("no source under its rate is ever limited, nor longer than it must", arguments: 0..<6)
  func replayed(seed: UInt64) {
    // From a table that holds nearly nobody to one that holds all who are not full again.
    let capacity = [8, 64, 500, 2_000, 8_000, 60_000][Int(seed % 6)]
    var buckets = table(capacity, seed)
    let result = replay(&buckets, sources: 30_000, events: 20_000 * Self.scale, seed: seed)
    #expect(result.falselyLimited == 0, "seed \(seed)")
    #expect(result.decisions > 10_000 && (capacity < 500 || result.limited > 0), "seed \(seed)")
    if capacity <= 500 { #expect(buckets.evicted > 0, "seed \(seed): the table was not full") }
    if capacity == 60_000 { #expect(result.forgiven == 0 && buckets.evicted == 0, "seed \(seed)") }
  }

  @Test(
    "an attacker with fresh addresses pushes out nobody who is over the limit",
    arguments: [(256, 20), (2_048, 200), (2_048, 1_000)])
  func attacked(capacity: Int, offenders: Int) {
    var buckets = table(capacity, 1)
    let result = attack(&buckets, offenders: offenders, addresses: 30_000 * Self.scale)
    #expect(result.stillLimited == offenders)
    #expect(result.evicted > 0 && result.unrecorded > 0, "the attack was too small")
  }
}
