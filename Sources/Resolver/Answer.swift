// SPDX-License-Identifier: Apache-2.0
//
// Questions and answers as the caller sees them: values in fixed buffers. A question cannot be printed, because it may
// hold the key of a list; what is in an answer can be, because everything unprintable was taken out of it.

package import DNSLists
package import Structures

/// What is asked for, by its number in DNS.
package enum RecordType: UInt16, BitwiseCopyable, Sendable {
  case a = 1
  case pointer = 12
  case text = 16
  case aaaa = 28
}

/// A question. Who asks makes it of a name: a list's zone and an address (`ListSites.queryName`), or of these below.
package struct Question: BitwiseCopyable, Hashable, Sendable {
  package let type: RecordType
  package let name: QueryName

  package init(_ type: RecordType, _ name: QueryName) {
    self.type = type
    self.name = name
  }

  /// The names of a host.
  package static func names(of address: Address) -> Question {
    Question(.pointer, QueryName(pointerOf: address))
  }

  /// The addresses that a name has in the family of `address`: whether it is among them is forward confirmation.
  package static func addresses(of host: HostName, inFamilyOf address: Address) -> Question {
    Question(address.isIPv4 ? .a : .aaaa, host.name)
  }
}

/// Why there is no answer.
package enum LookupFailure: UInt8, BitwiseCopyable, Hashable, Sendable {
  /// None came in time.
  case timedOut
  /// Each server answered SERVFAIL, REFUSED or the like, or cannot be reached. Not told apart: c-ares 1.18 goes on to the
  /// next server after any of them, and reports ECONNREFUSED at the end.
  case unavailable
  /// Something came that is no answer to the question.
  case malformed
  /// No memory, or no descriptors.
  case outOfResources
}

/// What came of a question. TTLs are in seconds and as they were told: bounds are the caller's.
package enum Answer: BitwiseCopyable, Sendable {
  case addresses(AddressList, seconds: UInt32)
  case text(ShortText, seconds: UInt32)
  case names(HostNames, seconds: UInt32)
  /// The name does not exist, or has nothing of the kind that was asked for. The time is that of the SOA record
  /// (RFC 2308, 5), or nil if there was none.
  case noSuchName(seconds: UInt32?)
  case failure(LookupFailure)
}

/// The first names of a host.
package struct HostNames: BitwiseCopyable, Sendable {
  /// How many are kept. Who has more than one has it by mistake most of the time; who has many hides behind them.
  package static let countMax = 3

  private var places = InlineArray<3, QueryName>(repeating: QueryName())
  package private(set) var count = 0

  /// None.
  package init() {}

  /// A name, 0 ..< count.
  package subscript(_ i: Int) -> HostName {
    guard i < count, let name = HostName(places[i]) else {
      invariantFailed("there is no name \(i)")
    }
    return name
  }

  mutating func append(_ name: HostName) {
    guard count < Self.countMax else { return }
    places[count] = name.name
    count += 1
  }
}

/// Text of a list, for the log and for replies: at most 255 octets, each printable ASCII.
package struct ShortText: BitwiseCopyable, Sendable, CustomStringConvertible {
  /// More is cut off.
  package static let octetsMax = 255

  private var octets = InlineArray<255, UInt8>(repeating: 0)
  package private(set) var count = 0

  /// None.
  package init() {}

  package var description: String {
    String(decoding: (0..<count).map { octets[$0] }, as: UTF8.self)
  }

  /// What cannot be printed becomes a question mark.
  mutating func append(_ octet: UInt8) {
    guard count < Self.octetsMax else { return }
    octets[count] = (32...126).contains(octet) ? octet : UInt8(ascii: "?")
    count += 1
  }
}
