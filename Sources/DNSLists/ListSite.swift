// SPDX-License-Identifier: Apache-2.0
//
// One item of Postfix's `postscreen_dnsbl_sites`, word for word: `zone[=filter][*weight]`. Not the same in two things,
// both for safety: without a filter only 127.0.0.[2..254] is a listing (Postfix: any answer), and what can never be a
// listing is an error of the configuration. Kept: an answer outside 127.0.0.0/8, or in 127.255.255.0/24, is no listing.

package import Structures

/// What is wrong with an item, and where. The item itself is not repeated: it may hold a key.
package struct ListSiteError: Error, Hashable, Sendable, CustomStringConvertible {
  package enum Kind: Hashable, Sendable {
    case zoneMissing, zoneCharacter, zoneTooLong, labelEmpty, labelTooLong
    case fieldMissing, numberTooLarge, rangeReversed, bracketOpen, filterCharacter
    case filterNeverMatches
    case weightMissing, weightTooLarge, weightCharacter
  }

  package let kind: Kind
  /// Which character of the item, from 1 on; one after the last if something is missing at the end.
  package let character: Int

  init(_ kind: Kind, at character: Int) {
    self.kind = kind
    self.character = character
  }

  package var description: String { "character \(character): \(reason)" }

  /// The same without the place.
  package var reason: String {
    switch kind {
    case .zoneMissing: "the name of a zone is missing"
    case .zoneCharacter:
      "the name of a zone has letters, digits, hyphens, underscores and dots only"
    case .zoneTooLong: "the name of a zone has at most \(ListZone.octetsMax) characters"
    case .labelEmpty: "there is nothing between two dots, or before the first"
    case .labelTooLong: "a label has at most \(QueryName.labelMax) characters"
    case .fieldMissing:
      "a number or [numbers] is missing; a filter has four, as in 127.0.0.[2..11]"
    case .numberTooLarge: "the number is larger than 255"
    case .rangeReversed: "the range ends before it begins"
    case .bracketOpen: "the ] is missing"
    case .filterCharacter:
      "a filter is four numbers or [n;n..m] with dots between them, as in 127.0.0.[2;4..11]"
    case .filterNeverMatches:
      "the filter matches no listing: listings are in 127.0.0.0/8 and outside 127.255.255.0/24"
    case .weightMissing: "the weight is missing after *"
    case .weightTooLarge:
      "a weight is between \(ListSite.weights.lowerBound) and \(ListSite.weights.upperBound)"
    case .weightCharacter: "a weight is a whole number, as in *3 or *-2"
    }
  }
}

/// Why an answer is none: the list, or what is between it and us, is out of order.
package enum ListError: Hashable, Sendable, BitwiseCopyable {
  /// 127.255.255.252: the name of the zone is misspelt.
  case typo
  /// 127.255.255.254: the question came by a public resolver, which the list does not serve.
  case publicResolver
  /// 127.255.255.255: too many questions.
  case tooManyQueries
  /// Another address in 127.255.255.0/24: its last octet.
  case reserved(UInt8)
  /// An address outside 127.0.0.0/8: a zone that has been given up and sold, or a resolver that invents answers.
  case outsideLoopback

  /// nil for an address that can be a listing.
  package init?(_ answer: Address) {
    guard answer.isIPv4, answer.v4 >> 24 == 127 else {
      self = .outsideLoopback
      return
    }
    guard answer.v4 >> 8 == 0x7FFFFF else { return nil }
    switch answer.v4 & 255 {
    case 252: self = .typo
    case 254: self = .publicResolver
    case 255: self = .tooManyQueries
    default: self = .reserved(UInt8(truncatingIfNeeded: answer.v4))
    }
  }
}

/// What an answer says of an address.
package enum ListVerdict: Hashable, Sendable {
  case listed
  case notListed
  /// The answer counts for nothing, whatever else is in it.
  case healthError(ListError)
}

/// One item: a zone, which of its answers count, and how much.
package struct ListSite: Hashable, Sendable {
  /// What an item may weigh. 0 is only counted and logged; the sum of 32 items fits an Int32 by far.
  package static let weights: ClosedRange<Int32> = -10_000...10_000

  package let zone: ListZone
  package let filter: AnswerFilter
  /// What the score of a client rises by; below 0 for a list of good clients.
  package let weight: Int32

  /// Reads `zone[=filter][*weight]`.
  package init(_ text: some StringProtocol) throws(ListSiteError) {
    let octets = Array(text.utf8)
    let star = octets.firstIndex(of: UInt8(ascii: "*")) ?? octets.count
    let equals = octets[..<star].firstIndex(of: UInt8(ascii: "=")) ?? star
    zone = try ListZone(String(decoding: octets[..<equals], as: UTF8.self))
    filter =
      equals < star
      ? try AnswerFilter(octets[..<star], from: equals + 1) : .standard
    weight = star < octets.count ? try Self.readWeight(octets, from: star + 1) : 1
  }

  private static func readWeight(
    _ octets: [UInt8], from start: Int
  ) throws(ListSiteError) -> Int32 {
    var place = start
    var sign: Int32 = 1
    if place < octets.count,
      octets[place] == UInt8(ascii: "-") || octets[place] == UInt8(ascii: "+")
    {
      if octets[place] == UInt8(ascii: "-") { sign = -1 }
      place += 1
    }
    if place == octets.count { throw ListSiteError(.weightMissing, at: place + 1) }
    var value: Int32 = 0
    while place < octets.count {
      guard (48...57).contains(octets[place]) else {
        throw ListSiteError(.weightCharacter, at: place + 1)
      }
      value = value * 10 + Int32(octets[place] - 48)
      if !weights.contains(sign * value) { throw ListSiteError(.weightTooLarge, at: place + 1) }
      place += 1
    }
    return sign * value
  }

  /// Whether an answer is a listing by this item.
  package func matches(_ answer: Address) -> Bool {
    ListError(answer) == nil && filter.contains(answer.v4)
  }

  /// What the answers to one question say.
  package func verdict(of answers: AddressList) -> ListVerdict {
    var isListed = false
    for i in 0..<answers.count {
      if let error = ListError(answers[i]) { return .healthError(error) }
      if filter.contains(answers[i].v4) { isListed = true }
    }
    return isListed ? .listed : .notListed
  }
}

/// Which answers count: a set of octets for each of the four places.
package struct AnswerFilter: Hashable, Sendable {
  private struct Octets: Hashable, Sendable {
    var words: InlineArray<4, UInt64> = [0, 0, 0, 0]

    static func == (a: Octets, b: Octets) -> Bool {
      for i in 0..<4 where a.words[i] != b.words[i] { return false }
      return true
    }

    func hash(into hasher: inout Hasher) { for i in 0..<4 { hasher.combine(words[i]) } }

    func contains(_ octet: UInt8) -> Bool { words[Int(octet >> 6)] >> UInt64(octet & 63) & 1 == 1 }

    mutating func insert(_ octet: UInt8) { words[Int(octet >> 6)] |= 1 << UInt64(octet & 63) }

    /// Whether there is another than this one.
    func hasOther(than octet: UInt8) -> Bool {
      var rest = self
      rest.words[Int(octet >> 6)] &= ~(1 << UInt64(octet & 63))
      for i in 0..<4 where rest.words[i] != 0 { return true }
      return false
    }
  }

  private var places: InlineArray<4, Octets> = [Octets(), Octets(), Octets(), Octets()]
  /// 127.0.0.1 is what broken lists and resolvers answer: a listing only where each of its octets is written as such.
  private var namesLoopback = true

  package static func == (a: AnswerFilter, b: AnswerFilter) -> Bool {
    for i in 0..<4 where a.places[i] != b.places[i] { return false }
    return a.namesLoopback == b.namesLoopback
  }

  package func hash(into hasher: inout Hasher) { for i in 0..<4 { places[i].hash(into: &hasher) } }

  /// 127.0.0.[2..254].
  package static let standard: AnswerFilter = {
    var filter = AnswerFilter()
    filter.places[0].insert(127)
    filter.places[1].insert(0)
    filter.places[2].insert(0)
    for octet in 2...254 { filter.places[3].insert(UInt8(octet)) }
    filter.namesLoopback = false
    return filter
  }()

  private init() {}

  /// Reads `d.d.d.d` up to the end of `text`, each a number or `[n;n..m;...]`.
  fileprivate init(_ text: ArraySlice<UInt8>, from start: Int) throws(ListSiteError) {
    var reader = Reader(text: text, place: start)
    for i in 0..<4 {
      if i > 0 { try reader.expect(UInt8(ascii: "."), or: .fieldMissing) }
      let loopback: UInt8 = i == 0 ? 127 : i == 3 ? 1 : 0
      if try !reader.field(into: &places[i], naming: loopback) { namesLoopback = false }
    }
    if !reader.isAtEnd { throw ListSiteError(.filterCharacter, at: reader.place + 1) }
    let isReserved = !places[1].hasOther(than: 255) && !places[2].hasOther(than: 255)
    guard places[0].contains(127), !isReserved else {
      throw ListSiteError(.filterNeverMatches, at: start + 1)
    }
  }

  /// Whether an answer is in the filter.
  func contains(_ answer: UInt32) -> Bool {
    if answer == 0x7F00_0001 && !namesLoopback { return false }
    for i in 0..<4 {
      let octet = UInt8(truncatingIfNeeded: answer >> UInt32(24 - 8 * i))
      if !places[i].contains(octet) { return false }
    }
    return true
  }

  private struct Reader {
    let text: ArraySlice<UInt8>
    var place: Int

    var isAtEnd: Bool { place == text.endIndex }

    func isAt(_ octet: UInt8) -> Bool { !isAtEnd && text[place] == octet }

    mutating func expect(_ octet: UInt8, or missing: ListSiteError.Kind) throws(ListSiteError) {
      if isAtEnd { throw ListSiteError(missing, at: place + 1) }
      guard isAt(octet) else { throw ListSiteError(.filterCharacter, at: place + 1) }
      place += 1
    }

    /// - Returns: whether a number stands there by itself.
    mutating func field(
      into octets: inout Octets, naming number: UInt8
    ) throws(ListSiteError) -> Bool {
      guard isAt(UInt8(ascii: "[")) else {
        let value = try self.number()
        octets.insert(value)
        return value == number
      }
      place += 1
      var isNamed = false
      while true {
        let beginning = place
        let first = try self.number()
        if isAt(UInt8(ascii: ".")) {
          place += 1
          try expect(UInt8(ascii: "."), or: .bracketOpen)
          let last = try self.number()
          if last < first { throw ListSiteError(.rangeReversed, at: beginning + 1) }
          for octet in first...last { octets.insert(octet) }
        } else {
          octets.insert(first)
          if first == number { isNamed = true }
        }
        if isAt(UInt8(ascii: "]")) { break }
        try expect(UInt8(ascii: ";"), or: .bracketOpen)
      }
      place += 1
      return isNamed
    }

    private mutating func number() throws(ListSiteError) -> UInt8 {
      var value = 0
      let start = place
      while !isAtEnd, (48...57).contains(text[place]) {
        value = value * 10 + Int(text[place] - 48)
        if value > 255 { throw ListSiteError(.numberTooLarge, at: start + 1) }
        place += 1
      }
      if place == start {
        throw ListSiteError(isAtEnd ? .fieldMissing : .filterCharacter, at: place + 1)
      }
      return UInt8(value)
    }
  }
}
