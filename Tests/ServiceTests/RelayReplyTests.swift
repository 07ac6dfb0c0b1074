// SPDX-License-Identifier: Apache-2.0
import Testing

@testable import Configuration
@testable import Driver
@testable import Service

/// What the words of a mail server tell about relaying, and what they do not.
struct RelayReplyTests {
  private func finding(_ line: String) throws -> RelayProbe.Finding {
    let code = try #require(Int(line.prefix(3)))
    return RelayProbe.finding(code, [String(line.dropFirst(4))], shown: line)
  }

  @Test(
    "who says that it does not relay is believed",
    arguments: [
      // Postfix, Exim, OpenSMTPD, Sendmail, Exchange.
      "554 5.7.1 <probe@example.invalid>: Relay access denied",
      // As Postfix ships: defer_unauth_destination.
      "454 4.7.1 <probe@example.invalid>: Relay access denied",
      "550 relay not permitted",
      "550 Administrative prohibition",
      "550 Invalid recipient: <probe@example.invalid>",
      "550 5.7.1 <probe@example.invalid>... Relaying denied",
      "550 5.7.1 <probe@example.invalid>... Relaying denied. IP name lookup failed [192.0.2.1]",
      "550 5.7.1 Unable to relay",
      "550 5.7.54 SMTP; Unable to relay recipient in non-accepted domain",
      // Postfix's `reject`, qmail, Haraka, Courier, Stalwart, submission services.
      "554 5.7.1 <probe@example.invalid>: Recipient address rejected: Access denied",
      "553 sorry, that domain isn't in my list of allowed rcpthosts (#5.7.1)",
      "550 I cannot deliver mail for <probe@example.invalid>",
      "513 Relaying denied.",
      "550 5.1.2 Relay not allowed.",
      "530 5.7.0 Authentication Required",
    ])
  func refuses(_ line: String) throws {
    #expect(try finding(line) == .refuses(line))
  }

  @Test(
    "what may be about the client, its name or the domain is unclear",
    arguments: [
      "554 5.7.1 <unknown[192.0.2.1]>: Client host rejected: Access denied",
      "554 5.7.1 Service unavailable; Client host [192.0.2.1] blocked using relays.example.org",
      "554 5.7.1 Service unavailable; client [192.0.2.1] BLOCKED using zen.example",
      "550 5.7.1 192.0.2.1 is on our blacklist",
      "550 5.7.1 denylisted",
      "550 5.7.1 Your address is listed",
      "550 5.7.25 Client host rejected: cannot find your hostname, [192.0.2.1]",
      "550 5.7.25 no reverse DNS",
      "550 5.7.1 no PTR record",
      "550 5.7.1 <[192.0.2.1]>: Helo command rejected: Access denied",
      "550 5.7.23 SPF check failed",
      "550 5.7.1 found in an RBL",
      "550 5.7.1 <>: Sender address rejected: Access denied",
      // A domain that was looked for.
      "550 5.1.2 <probe@example.invalid>: Recipient address rejected: Domain not found",
      "550 5.4.4 no such host",
      "550 Unrouteable address",
      "554 Transaction failed",
      "550 5.1.1 no such user",
      "550 5.1 malformed", "550 5.7.x malformed", "550 4.7.1 malformed", "550", "354 go on",
    ])
  func unclear(_ line: String) throws {
    #expect(try finding(line) == .unclear(line))
  }

  @Test(
    "later is no verdict",
    arguments: [
      "450 4.7.25 Client host rejected: cannot find your hostname, [192.0.2.1]",
      "450 4.7.1 Greylisted, come back in 300 seconds",
      "451 4.3.0 Temporary lookup failure", "451 4.7.1 Service unavailable - try again later",
      "450 4.7.1 relays are busy", "450 try again",
      "454 4.7.1 Relay access denied: cannot find your reverse hostname",
    ])
  func putsOff(_ line: String) throws {
    #expect(try finding(line) == .putsOff(line))
  }

  @Test("taken is taken, and each line of a reply counts")
  func others() throws {
    for line in ["250 2.1.5 Ok", "251 2.1.5 will forward", "252 cannot verify, but takes it"] {
      #expect(try finding(line) == .relays(line))
    }
    #expect(
      RelayProbe.finding(550, ["5.7.1 Access denied:", "5.7.1 you are listed"], shown: "x")
        == .unclear("x"))
    #expect(
      RelayProbe.finding(550, ["relay not permitted", "see our pages"], shown: "x")
        == .refuses("x"))
    // A part of another word is no sign.
    #expect(try finding("550 5.7.1 terrible helot") == .refuses("550 5.7.1 terrible helot"))
  }
}
