// SPDX-License-Identifier: Apache-2.0
//
// What a reply to a recipient whom nobody has tells about relaying. Not a guess: what may have been said for another
// reason counts as unclear, because a server that turned one stranger away for his looks may relay for the next.

extension RelayProbe {
  /// What such a reply shows.
  ///
  /// - Parameters:
  ///   - code: 200 to 599.
  ///   - lines: what follows it in each line.
  static func finding(_ code: Int, _ lines: [String], shown text: String) -> Finding {
    if code < 300 { return .relays(text) }
    if code < 400 { return .unclear(text) }
    let whole = lines.joined(separator: " ").lowercased()
    if code < 500 {
      // Put off is not refused: once the grey list or the name server is content, the answer may be 250.
      return denials.contains { whole.contains($0) } && !isAboutClient(whole)
        ? .refuses(text) : .putsOff(text)
    }
    if isAboutClient(whole) { return .unclear(text) }
    return isAboutRights(code, lines.last ?? "", whole) ? .refuses(text) : .unclear(text)
  }

  /// What is a refusal to relay even behind a 4yz: Postfix says "454 4.7.1 Relay access denied" as it ships
  /// (`defer_unauth_destination`), and Exim may `defer`.
  private static let denials = [
    "relay access denied", "relaying denied", "relay not permitted", "relaying not permitted",
    "unable to relay", "relay not allowed",
  ]

  /// Parts of words that tell why this client was turned away, and words of their own.
  private static let clientParts = [
    "block", "blacklist", "denylist", "greylist", "graylist", "listed", "hostname", "reverse",
    "spamhaus", "dnsbl", "reputation",
  ]
  private static let clientWords: Set = ["ptr", "helo", "ehlo", "spf", "rbl"]
  /// Postfix, of a client or a sender that a table or a restriction refuses.
  private static let clientPhrases = [
    "client host rejected", "client rejected", "sender address rejected",
  ]

  private static func isAboutClient(_ text: String) -> Bool {
    let words = text.split { !$0.isLetter }
    return clientPhrases.contains { text.contains($0) }
      || words.contains { word in
        clientWords.contains(String(word)) || clientParts.contains { word.contains($0) }
      }
  }

  /// How servers say that they do not relay, where the enhanced code does not: "Relay access denied", "Relaying
  /// denied", "relay not permitted", "Unable to relay"; OpenSMTPD; qmail; Haraka; whoever wants a log-in first.
  private static let relayPhrases = [
    "relay", "invalid recipient", "rcpthosts", "cannot deliver mail for", "authentication required",
    "authentication is required",
  ]

  private static func isAboutRights(_ code: Int, _ last: String, _ text: String) -> Bool {
    if relayPhrases.contains(where: { text.contains($0) }) { return true }
    // X.7.X is about rights (RFC 3463, 3.8); 5.1.2 or 5.4.4 mean that the domain was looked for.
    let parts =
      last.split(separator: " ").first.map {
        $0.split(separator: ".", omittingEmptySubsequences: false)
      } ?? []
    if parts.count == 3, parts[0] == "5", parts.allSatisfy({ Int($0) != nil }) {
      return parts[1] == "7"
    }
    // Exim's word where an access list has none of its own.
    return code == 550 && text.contains("administrative prohibition")
  }
}
