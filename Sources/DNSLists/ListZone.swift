// SPDX-License-Identifier: Apache-2.0
//
// The zone of a DNS list. Its name can hold the key that the operator pays for, so the name itself cannot be printed, and
// what is printed is made without the key. Kept: a name below the zone is never too long.

/// The zone of a list.
package struct ListZone: Hashable, Sendable {
  /// Octets of a zone's name in text form: with 32 nibbles before it (64 octets on the wire) it is still a name of 255.
  package static let octetsMax = 189

  /// The name, key and all. For questions alone.
  package let name: QueryName
  /// The name without a key: for logs, metrics and replies.
  package let publicName: String

  package init(_ text: some StringProtocol) throws(ListSiteError) {
    let (name, labels) = try Self.read(Array(text.utf8))
    self.name = name
    publicName = Self.publicName(labels)
  }

  package static func == (a: ListZone, b: ListZone) -> Bool { a.name == b.name }
  package func hash(into hasher: inout Hasher) { hasher.combine(name) }

  private static func read(
    _ octets: [UInt8]
  ) throws(ListSiteError) -> (QueryName, [[UInt8]]) {
    var name = QueryName()
    var labels: [[UInt8]] = []
    var label: [UInt8] = []
    if octets.isEmpty { throw ListSiteError(.zoneMissing, at: 1) }
    for (i, octet) in (octets + [UInt8(ascii: ".")]).enumerated() {
      switch octet {
      case UInt8(ascii: "."):
        if label.isEmpty {
          // A dot at the end is the root's, unless there is nothing before it.
          if i == octets.count, !labels.isEmpty { continue }
          throw ListSiteError(.labelEmpty, at: i + 1)
        }
        guard name.append(label.span) else { throw ListSiteError(.zoneTooLong, at: i) }
        labels.append(label)
        label = []
      case 48...57, 65...90, 97...122, UInt8(ascii: "-"), UInt8(ascii: "_"):
        label.append(octet | (octet & 0x40) >> 1)
        if octet == UInt8(ascii: "_") { label[label.count - 1] = octet }
        if label.count > QueryName.labelMax { throw ListSiteError(.labelTooLong, at: i + 1) }
        if i >= octetsMax { throw ListSiteError(.zoneTooLong, at: i + 1) }
      default: throw ListSiteError(.zoneCharacter, at: i + 1)
      }
    }
    return (name, labels)
  }

  /// Whether the name has a part that others may not see.
  package var hasKey: Bool { self != (try? ListZone(publicName)) }

  /// Zones below which customers have names of their own: what stands there of a name, the label of the list included.
  private static let keyed: [(suffix: [String], labelsShown: Int)] = [
    (["dq", "spamhaus", "net"], 4),
    (["mail", "abusix", "zone"], 4),
  ]

  /// A text that people see, such as a line of a configuration, with an asterisk for each character of what is a key or
  /// looks like one. Names of zones are found wherever they are, also with mistakes in them.
  package static func hidingKeys(in text: String) -> String {
    guard text.utf8.count >= 14 else { return text }
    var scalars = Array(text.unicodeScalars)
    var start = 0
    for end in 0...scalars.count where end == scalars.count || endsName(scalars[end]) {
      let labels = scalars[start..<end].split(separator: ".", omittingEmptySubsequences: false)
      let words = labels.map { label in
        String(String.UnicodeScalarView(label)).lowercased()
      }
      var hidden = words.map { looksLikeKey($0) && $0.utf8.contains { (48...57).contains($0) } }
      for (suffix, most) in keyed {
        // Also where a dot is at its end.
        let count = words.last == "" ? words.count - 1 : words.count
        guard words[..<max(count, 0)].suffix(suffix.count).elementsEqual(suffix) else { continue }
        for i in 0..<max(count - most, 0) { hidden[i] = true }
      }
      // A word by itself is no name.
      if labels.count > 1 {
        for (label, isHidden) in zip(labels, hidden) where isHidden {
          for i in label.indices { scalars[i] = "*" }
        }
      }
      start = end + 1
    }
    return String(String.UnicodeScalarView(scalars))
  }

  /// Whether it is never part of a name, not even of one with a mistake in it.
  private static func endsName(_ scalar: Unicode.Scalar) -> Bool {
    scalar.properties.isWhitespace || " \"',;=*:[](){}<>/#@".unicodeScalars.contains(scalar)
  }

  private static func publicName(_ labels: [[UInt8]]) -> String {
    var shown = labels.map { String(decoding: $0, as: UTF8.self) }
    for (suffix, most) in keyed where shown.suffix(suffix.count).elementsEqual(suffix) {
      shown = Array(shown.suffix(most))
    }
    // What looks like a key elsewhere, or a key without a list after it, is none of anyone's business either.
    return shown.map { looksLikeKey($0) ? "*" : $0 }.joined(separator: ".")
  }

  /// Keys are 20 and more letters and digits; names of lists are shorter, or words.
  private static func looksLikeKey(_ label: String) -> Bool {
    let octets = label.utf8
    return octets.count >= 20 && !octets.contains(UInt8(ascii: "-"))
  }
}

extension ListZone: CustomStringConvertible, CustomDebugStringConvertible, CustomReflectable {
  /// The public name.
  package var description: String { publicName }
  package var debugDescription: String { publicName }
  package var customMirror: Mirror { Mirror(self, children: ["publicName": publicName]) }
}
