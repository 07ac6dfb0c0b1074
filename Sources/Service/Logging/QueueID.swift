// SPDX-License-Identifier: Apache-2.0

/// The number under which the mail server keeps a message, found in its reply to the end of the message.
///
/// There is no rule for where it stands (RFC 5321, 4.2, leaves the text to the server), so this knows the words of the
/// common servers. Kept: what comes out is short and printable, and holds no blank and no quote.
package enum QueueID {
  /// Longer ones are no queue ids; Exim's have 16 to 23 characters, UUIDs 36.
  private static let most = 64

  /// The words before it, lower case, in the order in which they are looked for.
  private static let before = [
    "queued as ",  // Postfix, maddy: "2.0.0 Ok: queued as 4XkY5n1Zx9z3hK"
    "queued with id ",  // Stalwart
    "message queued (",  // Haraka: "Message Queued (5C4E...)"
    "internalid=",  // Exchange: "<…> [InternalId=123, Hostname=…] Queued mail for delivery"
    " id=",  // Exim: "OK id=1rVxyz-0000AB-1C"
    " ids=",  // KumoMTA
    " qp ",  // qmail: "ok 1700000000 qp 12345"
  ]

  /// The words behind it: Sendmail and OpenSMTPD, "2.0.0 4AUFnXxA001234 Message accepted for delivery".
  private static let behind = " message accepted for delivery"

  /// - Parameter reply: a line of a reply of 2yz.
  /// - Returns: nil if none of the known words is there.
  package static func find(in reply: some Sequence<UInt8>) -> String? {
    let text = Array(reply.prefix { $0 != 13 && $0 != 10 })
    let lower = text.map { (65...90).contains($0) ? $0 + 32 : $0 }
    for words in before {
      guard let end = index(of: Array(words.utf8), in: lower)?.upperBound else { continue }
      if let id = token(text[end...]) { return id }
    }
    guard let start = index(of: Array(behind.utf8), in: lower)?.lowerBound else { return nil }
    let word = text[..<start].reversed().prefix { $0 != 32 }.reversed()
    // The code alone, or the enhanced code, is none.
    guard word.contains(where: { $0 != 46 && !(48...57).contains($0) }) || word.count > 5 else {
      return nil
    }
    return token(word)
  }

  private static func index(of words: [UInt8], in text: [UInt8]) -> Range<Int>? {
    guard text.count >= words.count else { return nil }
    return (0...(text.count - words.count)).lazy
      .map { $0..<($0 + words.count) }.first { text[$0].elementsEqual(words) }
  }

  private static func token(_ bytes: some Sequence<UInt8>) -> String? {
    let word = bytes.prefix {
      (48...57).contains($0) || (65...90).contains($0) || (97...122).contains($0)
        || [45, 46, 47, 95, 64, 43].contains($0)
    }
    var kept = Array(word.prefix(most + 1))
    if kept.count > most { return nil }
    while kept.last == 46 { kept.removeLast() }
    return kept.isEmpty ? nil : String(decoding: kept, as: UTF8.self)
  }
}
