// SPDX-License-Identifier: Apache-2.0
//
// Reads a message of DNS (RFC 1035, 4.1). Our own and not c-ares' parsers, because these allocate for every record and do
// not show the SOA's time. The octets come from whoever owns the name that was asked for. Kept: every access is inside the
// message; a compressed name only points backwards and has 255 octets at most, so reading ends.

import DNSLists
import Structures

/// A reply to a question of one type.
package struct Reply: ~Escapable {
  private let message: Span<UInt8>
  private let type: RecordType

  @_lifetime(copy message)
  private init(_ message: Span<UInt8>, _ type: RecordType) {
    self.message = message
    self.type = type
  }

  /// What a reply says. That it belongs to the question (identifier, question section) was seen to by c-ares.
  package static func read(_ message: Span<UInt8>, type: RecordType) -> Answer {
    Reply(message, type).answer()
  }

  /// How many aliases are followed (RFC 2317 needs one; resolvers give up at 8 to 16).
  private static let aliasesMax = 8

  private func answer() -> Answer {
    guard message.count >= 12, message[2] & 0x80 != 0, message[2] & 2 == 0, short(4) == 1 else {
      return .failure(.malformed)
    }
    switch message[3] & 15 {
    case 0, 3: break
    default: return .failure(.unavailable)
    }
    var asked = QueryName()
    guard let end = expand(at: 12, into: &asked), end + 4 <= message.count,
      short(end) == type.rawValue, short(end + 2) == 1
    else { return .failure(.malformed) }

    var found = Found(owner: asked)
    // Records of a chain of aliases stand in their order nearly always; where they do not, another pass finds the rest.
    var authority = end + 4
    for _ in 0...Self.aliasesMax {
      let aliases = found.aliases
      guard let next = readAnswers(from: end + 4, &found) else { return .failure(.malformed) }
      authority = next
      if found.isSomething || found.aliases == aliases { break }
    }
    if let answer = found.answer(type) { return answer }
    return .noSuchName(seconds: negativeTime(from: authority, found))
  }

  // MARK: Records

  private struct Record {
    let ownerAt: Int
    let type: UInt16
    let isInternet: Bool
    let seconds: UInt32
    let data: Range<Int>
  }

  /// What has been found of the name that is looked for.
  private struct Found {
    var owner: QueryName
    var aliases = 0
    var seconds = UInt32.max
    /// Whether there was a record of the type, usable or not.
    var isSomething = false
    var addresses = AddressList()
    var names = HostNames()
    var text = ShortText()

    init(owner: QueryName) { self.owner = owner }

    /// nil if there is nothing; a host that has unusable names only has none.
    func answer(_ type: RecordType) -> Answer? {
      guard isSomething else { return nil }
      return switch type {
      case .a, .aaaa: .addresses(addresses, seconds: seconds)
      case .text: .text(text, seconds: seconds)
      case .pointer: names.count > 0 ? .names(names, seconds: seconds) : nil
      }
    }
  }

  /// - Returns: where the section ends; nil if it is not well-formed.
  private func readAnswers(from start: Int, _ found: inout Found) -> Int? {
    var place = start
    for _ in 0..<short(6) {
      guard let record = record(at: place) else { return nil }
      place = record.data.upperBound
      guard record.isInternet, record.type == type.rawValue || record.type == 5 else { continue }
      guard let isOurs = isOwner(record, found.owner) else { return nil }
      guard isOurs else { continue }
      if record.type == type.rawValue {
        guard take(record, &found) else { return nil }
        found.seconds = min(found.seconds, record.seconds)
      } else {
        guard found.aliases < Self.aliasesMax, !found.isSomething else { return nil }
        var target = QueryName()
        guard let end = expand(at: record.data.lowerBound, into: &target),
          end == record.data.upperBound
        else { return nil }
        found.owner = target
        found.aliases += 1
        found.seconds = min(found.seconds, record.seconds)
      }
    }
    return place
  }

  /// - Returns: false if its data are not well-formed.
  private func take(_ record: Record, _ found: inout Found) -> Bool {
    let data = record.data
    let isFirst = !found.isSomething
    found.isSomething = true
    switch type {
    case .a:
      guard data.count == 4 else { return false }
      found.addresses.append(Address(v4: long(data.lowerBound)))
    case .aaaa:
      guard data.count == 16 else { return false }
      let words = (0..<4).map { UInt64(long(data.lowerBound + 4 * $0)) }
      found.addresses.append(
        Address(high: words[0] << 32 | words[1], low: words[2] << 32 | words[3]))
    case .pointer:
      var target = QueryName()
      guard let end = expand(at: data.lowerBound, into: &target), end == data.upperBound else {
        return false
      }
      if let name = HostName(target) { found.names.append(name) }
    case .text:
      // The first record only: lists have one, and order says nothing.
      var place = data.lowerBound
      while place < data.upperBound {
        let end = place + 1 + Int(message[place])
        guard end <= data.upperBound else { return false }
        if isFirst { for i in (place + 1)..<end { found.text.append(message[i]) } }
        place = end
      }
    }
    return true
  }

  /// RFC 2308, 5: the smaller one of the SOA's own TTL and of its last field. nil if there is none.
  private func negativeTime(from start: Int, _ found: Found) -> UInt32? {
    // There were names, but none that is usable: what counts is how long they stand.
    if found.isSomething { return found.seconds }
    var place = start
    for _ in 0..<short(8) {
      guard let record = record(at: place) else { return nil }
      place = record.data.upperBound
      // Two names, one octet each at least, and five numbers.
      if record.type == 6, record.isInternet, record.data.count >= 22 {
        return min(record.seconds, Self.time(long(place - 4)), found.seconds)
      }
    }
    return nil
  }

  private func record(at place: Int) -> Record? {
    guard let end = skipName(at: place), end + 10 <= message.count else { return nil }
    let length = short(end + 8)
    guard end + 10 + length <= message.count else { return nil }
    return Record(
      ownerAt: place, type: UInt16(short(end)), isInternet: short(end + 2) == 1,
      seconds: Self.time(long(end + 4)), data: (end + 10)..<(end + 10 + length))
  }

  /// RFC 2181, 8: a time with the highest bit set is none.
  private static func time(_ seconds: UInt32) -> UInt32 { seconds >> 31 == 1 ? 0 : seconds }

  // MARK: Names

  /// nil if the record's name is not well-formed.
  private func isOwner(_ record: Record, _ name: QueryName) -> Bool? {
    var owner = QueryName()
    guard expand(at: record.ownerAt, into: &owner) != nil else { return nil }
    return owner == name
  }

  /// Where what follows a name begins.
  private func skipName(at start: Int) -> Int? {
    var place = start
    while place < message.count {
      let length = message[place]
      switch length >> 6 {
      case 3: return place + 2 <= message.count ? place + 2 : nil
      case 0:
        if length == 0 { return place + 1 }
        place += 1 + Int(length)
      default: return nil
      }
    }
    return nil
  }

  /// Reads a name; nil if it is not well-formed or too long.
  ///
  /// - Returns: where what follows it begins.
  private func expand(at start: Int, into name: inout QueryName) -> Int? {
    var place = start
    // Pointers go backwards, each beyond where the part that it ends began: there is an end to that.
    var limit = start
    var after: Int?
    while place < message.count {
      let length = message[place]
      switch length >> 6 {
      case 3:
        guard place + 2 <= message.count else { return nil }
        let target = short(place) & 0x3FFF
        guard target < limit else { return nil }
        if after == nil { after = place + 2 }
        limit = target
        place = target
      case 0:
        if length == 0 { return after ?? place + 1 }
        let end = place + 1 + Int(length)
        guard end <= message.count, name.append(message.extracting((place + 1)..<end)) else {
          return nil
        }
        place = end
      default: return nil
      }
    }
    return nil
  }

  // MARK: Numbers

  private func short(_ place: Int) -> Int { Int(message[place]) << 8 | Int(message[place + 1]) }

  private func long(_ place: Int) -> UInt32 {
    UInt32(short(place)) << 16 | UInt32(short(place + 2))
  }
}
