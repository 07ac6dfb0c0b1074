// SPDX-License-Identifier: Apache-2.0
//
// Asks the server behind whether it relays for strangers: connects as the configuration says, names a client
// out of a TEST-NET, and asks for a recipient that nobody has. No message is ever sent. For the time before the
// service runs and for `check`; bounded by a deadline over the whole conversation.

import Glibc
package import Policy
package import SMTP
package import Structures
package import TLS

/// One conversation with the downstream, and what came of it.
package struct RelayProbe: Sendable {
  package enum Finding: Sendable, Equatable {
    /// It refused to relay; its reply.
    case refuses(String)
    /// It refused the recipient, and perhaps not because it would not relay; its reply.
    case unclear(String)
    /// It said "later", which tells nothing of what it will say then; its reply.
    case putsOff(String)
    /// It would relay for anybody; its reply.
    case relays(String)
    /// It is not there, or does not answer: why, and what could be behind that.
    case silent(String, hint: String = "")
    /// It does not understand how it is told about the client: why.
    case mismatch(String)
    /// It must be asked under TLS, and that cannot be had: why.
    case insecure(String)
  }

  /// TLS, as mail will go to it.
  package struct Security: Sendable {
    let context: TLSClientContext
    /// From the first byte on, without STARTTLS.
    let isImplicit: Bool

    package init(_ context: TLSClientContext, isImplicit: Bool) {
      self.context = context
      self.isImplicit = isImplicit
    }

    /// Whether clear text does as well.
    var isOptional: Bool { context.level == .opportunistic && !isImplicit }
  }

  /// What came of a conversation.
  package struct Outcome: Sendable {
    package let finding: Finding
    /// What TLS it was asked under; nil for clear text.
    package internal(set) var agreed: TLSInfo?
    /// Why it was asked in clear, although TLS was tried.
    package internal(set) var insecurity: String?

    init(_ finding: Finding, agreed: TLSInfo? = nil) {
      self.finding = finding
      self.agreed = agreed
    }
  }

  /// The most a whole conversation may take, in milliseconds. Postfix waits 5 s for a header, postscreen 6 s.
  package static let limit: Int64 = 10_000

  package let address: Address
  package let port: UInt16
  package let identity: Introduction
  /// Whom it is told about.
  package let client: ClientEnds
  /// Our own name, for the sender if `<>` is not taken.
  package let hostname: String
  /// Nil for clear text.
  package let security: Security?

  package init(
    address: Address, port: UInt16, identity: Introduction, client: ClientEnds,
    hostname: String, security: Security?
  ) {
    self.address = address
    self.port = port
    self.identity = identity
    self.client = client
    self.hostname = hostname
    self.security = security
  }

  /// How far a conversation has come with TLS.
  private struct Progress {
    var isSecuring = false
    var agreed: TLSInfo?
  }

  /// The name a client gives itself by its address: no server can hold it to be its own or unknown in DNS.
  private var helo: String {
    let text = "\(client.address)"
    return client.address.isIPv4 ? "[\(text)]" : "[IPv6:\(text)]"
  }

  /// Holds the conversation; a second one in clear, as mail would go, if TLS fails and need not be. Takes `limit`
  /// at most.
  package func run() -> Outcome {
    let deadline = ProbeLine.clock() + RelayProbe.limit
    let outcome = run(security, until: deadline)
    guard case .insecure(let why) = outcome.finding, security?.isOptional == true else {
      return outcome
    }
    var plain = run(nil, until: deadline)
    plain.insecurity = why
    return plain
  }

  private func run(_ security: Security?, until deadline: Int64) -> Outcome {
    var line: ProbeLine
    do {
      line = try ProbeLine(address, port, until: deadline)
    } catch .connect(let number) {
      return Outcome(.silent(String(cString: strerror(number))))
    } catch { return Outcome(.silent("it does not answer")) }
    var progress = Progress()
    let finding: Finding
    do {
      finding = try converse(&line, security, &progress)
    } catch .insecure(let why) {
      finding = .insecure("the handshake failed: \(why)")
    } catch .closed {
      finding = silence("it closed the connection", line, progress)
    } catch { finding = silence("it does not answer", line, progress) }
    return Outcome(finding, agreed: progress.agreed)
  }

  /// Silence means that a header is missing, or TLS, or nothing.
  private func silence(
    _ what: String, _ line: borrowing ProbeLine, _ progress: Progress
  ) -> Finding {
    if progress.isSecuring { return .insecure("in the handshake \(what)") }
    if isHeader && line.replies > 0 {
      return .mismatch("it greeted, and after the PROXY header \(what)")
    }
    guard line.replies == 0 else { return .silent(what) }
    var wants: [String] = []
    if !isHeader { wants.append("a PROXY header") }
    if progress.agreed == nil { wants.append("TLS from the first byte on") }
    let hint = wants.isEmpty ? "" : ": it may be waiting for \(wants.joined(separator: " or for "))"
    return .silent("\(what) without a greeting", hint: hint)
  }

  private var isHeader: Bool { identity == .proxyV1 || identity == .proxyV2 }

  private func converse(
    _ line: inout ProbeLine, _ security: Security?, _ progress: inout Progress
  ) throws(ProbeLine.Failure) -> Finding {
    if isHeader { try line.send(header) }
    if let security, security.isImplicit { try secure(&line, security, &progress) }
    let greeting = try line.reply()
    guard greeting.code == 220 else {
      // Postfix, 5 s later.
      let hint = isHeader || greeting.code != 421 ? "" : ": it may be waiting for a PROXY header"
      return .silent("it greets with '\(greeting.code) \(greeting.text)'", hint: hint)
    }
    var hello = try line.ask("EHLO \(helo)")
    if isHeader && (hello.code >= 500 || line.hasMore) {
      return .mismatch("it answered '\(hello.code) \(hello.text)' to the PROXY header")
    }
    if hello.code >= 400 { hello = try line.ask("HELO \(helo)") }
    if let security, !security.isImplicit {
      if hello.lines.contains(where: { $0.uppercased() == "STARTTLS" }) {
        let reply = try line.ask("STARTTLS")
        guard reply.code == 220 else {
          return .insecure("it answered '\(reply.code) \(reply.text)' to STARTTLS")
        }
        try secure(&line, security, &progress)
        hello = try line.ask("EHLO \(helo)")
      } else if !security.isOptional {
        return .insecure("its EHLO does not list STARTTLS")
      }
    }
    if identity == .xclient || identity == .xforward {
      if let finding = try introduce(&line, hello) { return finding }
    }
    return try ask(&line)
  }

  private func secure(
    _ line: inout ProbeLine, _ security: Security, _ progress: inout Progress
  ) throws(ProbeLine.Failure) {
    progress.isSecuring = true
    progress.agreed = try line.secure(security.context)
    progress.isSecuring = false
  }

  private var header: [UInt8] {
    [UInt8](capacity: 256) { out in
      if identity == .proxyV1 {
        ProxyHeader.writeV1(client, into: &out)
      } else {
        ProxyHeader.writeV2(client, into: &out)
      }
    }
  }

  /// Tells the server about the client inside SMTP.
  ///
  /// - Returns: a finding if it does not let itself be told.
  private func introduce(
    _ line: inout ProbeLine, _ hello: ProbeLine.Reply
  ) throws(ProbeLine.Failure) -> Finding? {
    let word: StaticString = identity == .xclient ? "XCLIENT" : "XFORWARD"
    let offer = Array(hello.lines.map { "250-\($0)\r\n" }.joined().utf8)
    guard let listed = ClientAttributes(word, inEHLO: offer.span),
      identity == .xforward || listed.contains(.address)
    else {
      // XFORWARD changes the log and not the rights: mail goes through without it.
      return identity == .xforward
        ? nil : .mismatch("its EHLO does not list \(word) for this machine's address")
    }
    var details = ClientDetails(client)
    details.isExtended = true
    let name = Array(helo.utf8)
    for number in 0..<4 {
      let bytes = [UInt8](capacity: 1_024) { out in
        _ = writeClientLine(word, number, of: listed, details, helo: name.span, into: &out)
      }
      if bytes.isEmpty { break }
      try line.send(bytes)
      let reply = try line.reply()
      if reply.code >= 300 {
        return .mismatch("it answered '\(reply.code) \(reply.text)' to \(word)")
      }
    }
    if identity == .xclient { _ = try line.ask("EHLO \(helo)") }
    return nil
  }

  /// Asks for a recipient whom no server has: `.invalid` is nobody's domain (RFC 2606).
  private func ask(_ line: inout ProbeLine) throws(ProbeLine.Failure) -> Finding {
    // The null sender first: a server that looks senders up could refuse any other for another reason.
    var mail = try line.ask("MAIL FROM:<>")
    if mail.code >= 400 { mail = try line.ask("MAIL FROM:<postmaster@\(hostname)>") }
    guard mail.code < 400 else {
      let text = "\(mail.code) \(mail.text)"
      return mail.code < 500 ? .putsOff(text) : .unclear(text)
    }
    let reply = try line.ask("RCPT TO:<probe@example.invalid>")
    let text = "\(reply.code) \(reply.text)"
    _ = try? line.ask("RSET")
    _ = try? line.ask("QUIT")
    return RelayProbe.finding(reply.code, reply.lines, shown: text)
  }
}
