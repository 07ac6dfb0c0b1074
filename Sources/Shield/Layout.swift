// SPDX-License-Identifier: Apache-2.0
import DNSLists
import Policy
import Structures

/// What one of each thing the engine keeps takes, in bytes, for the statement at start.
package enum Footprint {
  /// A held connection: its record, its timer, its part of the concurrency counts and of the shares.
  package static var connection: Int {
    MemoryLayout<Connection>.stride + 8 + 7 + Shares.bytesOfSlot
  }
  /// What a connection has more where DNS lists are asked: the items that it is on.
  package static var listMatch: Int { MemoryLayout<ItemSet>.stride }
  /// A session without its input buffer.
  package static var session: Int {
    MemoryLayout<Session>.stride + Layout.sessionBytes + Shares.bytesEach
  }
  package static var link: Int {
    MemoryLayout<Link>.stride + 8 + Layout.linkStride + Shares.bytesEach
  }
  /// A place for TLS: what is known of it, and its part of the shares.
  package static var tlsPlace: Int { SecuredTable.bytesEach + 2 * Shares.bytesEach }
  /// A connection whose PROXY header is still to come.
  package static var header: Int { MemoryLayout<PendingHeader>.stride + Layout.headerBytes + 7 }
  /// A journal entry, in the engine's journal and in the queue to the log.
  package static var journalEntry: Int { 2 * MemoryLayout<JournalEntry>.stride }
}

/// Where each session's and each link's bytes are in the arena.
struct Layout: BitwiseCopyable {
  static let textSets = 4
  static let textBytes = 512
  static let heloBytes = 256
  static let pathBytes = 128
  /// MAIL as the downstream was told it (RFC 5321, 4.5.3.1.4: 512 octets), to say it again.
  static let mailBytes = 512
  /// A whole re-made reply of the downstream fits, and what may stand before it.
  static let outboxBytes = 8_192
  /// Kept free behind a reply of the downstream: for two short replies of our own.
  static let outboxReserve = 512
  static let replyBytes = 6_144
  /// The most of a challenge that is handed on at once.
  static let challengeBytes = 4_096
  /// Of a session, without its input.
  static let sessionBytes = heloBytes + 2 * pathBytes + mailBytes + outboxBytes
  static let linkInBytes = 4_096
  static let linkOutBytes = 4_096
  /// The paths of recipients that are with the downstream: the length and the beginning of each.
  static let linkPathBytes = 16 * pathBytes
  /// Of a PROXY header what must be kept, 107 octets of version 1 or 52 of version 2, and room for what is
  /// read only to be passed over.
  static let headerBytes = 256
  static let headerKept = 112
  static let linkStride = linkInBytes + replyBytes + linkOutBytes + linkPathBytes

  let inputBytes: Int
  let sessionStride: Int
  let firstSession: Int
  let firstLink: Int
  let firstHeader: Int
  let total: Int

  init(_ limits: Limits, headers: Int) {
    inputBytes = limits.inputBytes
    sessionStride = Self.sessionBytes + inputBytes
    firstSession = Self.textSets * PitText.allCases.count * Self.textBytes
    firstLink = firstSession + limits.sessions * sessionStride
    firstHeader = firstLink + limits.downstreamConnections * Self.linkStride
    total = firstHeader + headers * Self.headerBytes
  }

  /// Where a ready text of a set is kept.
  func text(_ text: PitText, set: Int) -> Region {
    let place = set * PitText.allCases.count + Int(text.rawValue)
    return Region(offset: place * Self.textBytes, count: Self.textBytes)
  }

  // MARK: Sessions

  func helo(_ s: SessionIndex) -> Region {
    Region(offset: firstSession + s.number * sessionStride, count: Self.heloBytes)
  }
  func sender(_ s: SessionIndex) -> Region {
    Region(offset: helo(s).offset + Self.heloBytes, count: Self.pathBytes)
  }
  func recipient(_ s: SessionIndex) -> Region {
    Region(offset: sender(s).offset + Self.pathBytes, count: Self.pathBytes)
  }
  func mail(_ s: SessionIndex) -> Region {
    Region(offset: recipient(s).offset + Self.pathBytes, count: Self.mailBytes)
  }
  func outbox(_ s: SessionIndex) -> Region {
    Region(offset: mail(s).offset + Self.mailBytes, count: Self.outboxBytes)
  }
  func input(_ s: SessionIndex) -> Region {
    Region(offset: outbox(s).offset + Self.outboxBytes, count: inputBytes)
  }

  // MARK: Links

  func linkIn(_ l: LinkIndex) -> Region {
    Region(offset: firstLink + l.number * Self.linkStride, count: Self.linkInBytes)
  }
  func linkReply(_ l: LinkIndex) -> Region {
    Region(offset: linkIn(l).offset + Self.linkInBytes, count: Self.replyBytes)
  }
  func linkOut(_ l: LinkIndex) -> Region {
    Region(offset: linkReply(l).offset + Self.replyBytes, count: Self.linkOutBytes)
  }
  /// Where the path of the recipient with this number is kept while it is with the downstream.
  func linkPath(_ l: LinkIndex, _ number: UInt8) -> Region {
    Region(
      offset: linkOut(l).offset + Self.linkOutBytes + Int(number & 15) * Self.pathBytes,
      count: Self.pathBytes)
  }

  /// Where the PROXY header with this number is read.
  func header(_ place: Int) -> Region {
    Region(offset: firstHeader + place * Self.headerBytes, count: Self.headerBytes)
  }
}
