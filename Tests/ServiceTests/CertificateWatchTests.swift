// SPDX-License-Identifier: Apache-2.0
import ConfigurationFixtures
import Foundation
import Testing

@testable import Configuration
@testable import Service

struct CertificateWatchTests {
  @Test("once a day, in its last three weeks, it is said that a certificate ends")
  func watch() throws {
    let folder = try certificateFolder()
    let section = try #require(try loadCertificates(folder, "mx.pem", "mx.key").configuration).tls
    let start = Int64(Date().timeIntervalSince1970)
    var watch = CertificateWatch(section, now: start)
    // Sixty days, hour by hour, and some days more.
    var said: [(day: Int64, words: String)] = []
    for hour in Int64(0)..<(64 * 24) {
      let now = start + hour * 3_600
      if let words = watch.warning(now: now) { said.append((hour / 24, words)) }
    }
    #expect(said.map(\.day) == said.map(\.day).sorted())
    #expect(Set(said.map(\.day)).count == said.count)
    #expect((38...40).contains(try #require(said.first?.day)))
    #expect(said.last?.day == 63)
    #expect(said.first?.words.contains("in 20 days: renew it and send HUP") == true)
    #expect(said.contains { $0.words.contains("in 1 day:") })
    #expect(said.contains { $0.words.contains("expires today") })
    #expect(said.last?.words.contains("has expired") == true)
    var none = CertificateWatch(TLSSection(), now: start)
    #expect(none.warning(now: start + 1_000_000) == nil)
    #expect(none.daysLeft(now: start) == nil)
  }
}
