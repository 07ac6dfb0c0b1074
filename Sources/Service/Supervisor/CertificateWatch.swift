// SPDX-License-Identifier: Apache-2.0
package import Configuration
import TLS

/// Says once a day that a certificate comes to its end. What a start or a reload has said is not said again before a
/// day is over.
package struct CertificateWatch: Sendable {
  private let section: TLSSection
  private var dueAt: Int64
  private static let day: Int64 = 86_400

  /// - Parameter now: seconds since 1970, as in all that follows.
  package init(_ section: TLSSection, now: Int64) {
    self.section = section
    dueAt = now + CertificateWatch.day
  }

  /// Whole days until the first certificate ends, negative after that; nil without any.
  package func daysLeft(now: Int64) -> Int64? { section.daysLeft(at: now) }

  /// What is to be said now, if anything.
  package mutating func warning(now: Int64) -> String? {
    guard now >= dueAt else { return nil }
    dueAt = now + CertificateWatch.day
    guard let days = daysLeft(now: now), days < TLSIdentity.warningDays else { return nil }
    if days < 0 {
      return
        "a TLS certificate has expired: senders that verify it deliver in clear text or not at all"
    }
    return
      "a TLS certificate expires \(days == 0 ? "today" : "in \(days) day\(days == 1 ? "" : "s")"): "
      + "renew it and send HUP"
  }
}
