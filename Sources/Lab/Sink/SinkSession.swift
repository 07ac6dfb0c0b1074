// SPDX-License-Identifier: Apache-2.0
// One client's session with the sink: bytes in, replies and orders out, no sockets. It is not a model of
// how Sluice talks SMTP; it is deliberately strict and naive, so that whatever it accepts is proof.
// Invariants: only CRLF ends a line, only CRLF.CRLF ends a message, a message is stored before its 250.

/// Where a message goes when it is complete, and what is counted on the way.
package protocol SinkBooks: AnyObject {
  /// Stores a message; false when it could not be written.
  func store(_ message: [UInt8], envelope: [String]) -> Bool
  func accepted(bytes: Int)
  func refusedRecipient()
  func bareNewlines(lf: Int, cr: Int)
  /// Takes one of the faults that are left; false when they are used up.
  func takeFault() -> Bool
}

/// The protocol side of one connection to the sink.
package struct SinkSession {
  /// What the loop does with the connection from now on.
  package enum Order: Equatable {
    case proceed
    /// Do not read input on before this many seconds have passed, then call `resume`.
    case wait(Double)
    /// Never answer again; notice only that the client goes away.
    case stall
    /// Send what is queued, then close.
    case finish
    /// Close now, with what is queued lost.
    case abort(SinkEnding)
  }

  /// Where in the dialogue the client is; `awaiting…` states take a log-in's next line.
  private enum Phase {
    case proxyHeader, command, awaitingPlain, awaitingUser, awaitingPassword, body
  }

  /// Where in the message's lines the last byte left us; the end-of-data automaton.
  private enum Place { case lineStart, dot, dotCR, text, cr }

  private let options: SinkOptions
  private var phase: Phase
  private var place = Place.lineStart
  private var input: [UInt8] = []
  /// input[..<head] is done with.
  private var head = 0
  /// input[head..<searched] holds no CRLF.
  private var searched = 0
  private var greeted = false
  private var hasSender = false
  private var recipients = 0
  private var envelope: [String] = []
  private var message: [UInt8] = []
  private var messageBytes = 0
  private var bodyBytes = 0
  private var bodyFaultDone = false
  private var userIsRight = false
  /// Nothing has been said yet: a PROXY header may still come, behind our banner.
  private var isFirst = true
  private var heldReply: String?
  private var orderAfterReply = Order.proceed

  /// What is to be sent.
  package var output: [UInt8] = []
  /// The peer that a PROXY header named.
  private(set) var proxied: String?

  /// Bytes that wait for their turn; the loop stops reading above a limit.
  package var inputWaiting: Int { input.count - head }

  private static let lineMax = 16_384

  package init(_ options: SinkOptions) {
    self.options = options
    phase = options.proxyHeader ? .proxyHeader : .command
  }

  /// The client is there: the banner is due, unless a PROXY header comes first.
  package mutating func connected(_ books: some SinkBooks) -> Order {
    phase == .proxyHeader ? .proceed : banner(books)
  }

  private mutating func banner(_ books: some SinkBooks) -> Order {
    answer(.banner, "220 \(options.hostname) ESMTP sluice sink\r\n", books).order
  }

  /// Bytes came. They are only kept here; `advance` reads them.
  package mutating func received(_ bytes: UnsafeRawBufferPointer) {
    if head == input.count {
      input.removeAll(keepingCapacity: true)
      head = 0
      searched = 0
    } else if head > 65_536 {
      input.removeFirst(head)
      searched -= head
      head = 0
    }
    input.append(contentsOf: bytes)
  }

  /// The wait is over: the held reply goes out.
  package mutating func resume(_ books: some SinkBooks) -> Order {
    if let reply = heldReply { output.append(contentsOf: reply.utf8) }
    heldReply = nil
    let order = orderAfterReply
    orderAfterReply = .proceed
    return order == .proceed ? advance(books) : order
  }

  /// Reads what is there, as far as it goes.
  package mutating func advance(_ books: some SinkBooks) -> Order {
    while true {
      let order: Order?
      switch phase {
      case .body: order = head < input.count ? readBody(books) : nil
      case .proxyHeader: order = readProxyHeader(books)
      case .command where isFirst && mayBeProxyHeader:
        guard let read = readProxyHeader(books, greets: false) else { return .proceed }
        order = read
      default: order = readLine(books)
      }
      guard let order else { return .proceed }
      if order != .proceed { return order }
    }
  }

  /// The client has closed its side; what it left unfinished is looked at for bare newlines only.
  package mutating func ended(_ books: some SinkBooks) {
    if phase != .body { countBare(in: head..<input.count, books) }
    head = input.count
  }

  // Answers and faults

  /// Gives the reply of a stage, or does what the options want instead.
  ///
  /// - Returns: what the connection does now, whether the reply given says yes (2yz or 3yz), and whether
  ///   a fault struck instead of a reply.
  private mutating func answer(
    _ stage: SinkStage, _ usual: String, _ books: some SinkBooks, then: Order = .proceed
  ) -> (order: Order, yes: Bool, faulted: Bool) {
    if options.dieAt.contains(stage), books.takeFault() {
      return (.abort(options.dieBy), false, true)
    }
    if options.stallAt.contains(stage), books.takeFault() { return (.stall, false, true) }
    if options.garbageAt.contains(stage), books.takeFault() {
      output.append(contentsOf: "2x0-\u{1}garbage, not a reply\r\n".utf8)
      return (then, false, true)
    }
    let reply = options.answers[stage] ?? usual
    let yes = reply.utf8.first == UInt8(ascii: "2") || reply.utf8.first == UInt8(ascii: "3")
    if let seconds = options.delays[stage], seconds > 0 {
      heldReply = reply
      orderAfterReply = then
      return (.wait(seconds), yes, false)
    }
    output.append(contentsOf: reply.utf8)
    return (then, yes, false)
  }

  private mutating func say(_ reply: String) -> Order {
    output.append(contentsOf: reply.utf8)
    output.append(13)
    output.append(10)
    return .proceed
  }

  // Lines

  private mutating func readLine(_ books: some SinkBooks) -> Order? {
    // The last byte searched may have been the CR of a CRLF.
    var cursor = max(head, searched - 1)
    while cursor + 1 < input.count {
      if input[cursor] == 13 && input[cursor + 1] == 10 {
        let line = head..<cursor
        isFirst = false
        head = cursor + 2
        searched = head
        return command(line, books)
      }
      cursor += 1
    }
    searched = input.count
    if input.count - head > SinkSession.lineMax {
      _ = say("500 5.5.2 Line too long")
      return .finish
    }
    return nil
  }

  private func countBare(in range: Range<Int>, _ books: some SinkBooks) {
    var lf = 0
    var cr = 0
    for i in range {
      if input[i] == 10 { lf += 1 } else if input[i] == 13 { cr += 1 }
    }
    if lf + cr > 0 { books.bareNewlines(lf: lf, cr: cr) }
  }

  private func hasPrefix(_ word: StaticString, _ line: Range<Int>) -> Bool {
    let count = word.utf8CodeUnitCount
    guard line.count >= count else { return false }
    return word.withUTF8Buffer { letters in
      for i in 0..<count {
        var byte = input[line.lowerBound + i]
        if byte >= UInt8(ascii: "a") && byte <= UInt8(ascii: "z") { byte -= 32 }
        if byte != letters[i] { return false }
      }
      return true
    }
  }

  private mutating func command(_ line: Range<Int>, _ books: some SinkBooks) -> Order {
    // Before the CRLF every LF and CR is bare. (A CR right before the CRLF as well.)
    countBare(in: line, books)
    let text = String(decoding: input[line], as: UTF8.self)
    switch phase {
    case .awaitingPlain: return plain(text)
    case .awaitingUser:
      userIsRight = text == "dGVzdA=="
      phase = text == "*" ? .command : .awaitingPassword
      return say(text == "*" ? "501 5.7.0 Cancelled" : "334 UGFzc3dvcmQ6")
    case .awaitingPassword:
      phase = .command
      if text == "*" { return say("501 5.7.0 Cancelled") }
      return loggedIn(userIsRight && text == "dGVzdA==")
    default: break
    }
    for i in line where input[i] < 32 && input[i] != 9 {
      return say("500 5.5.2 Control characters in a command")
    }
    if hasPrefix("MAIL FROM:<", line) { return mail(text, books) }
    if hasPrefix("RCPT TO:<", line) { return rcpt(text, books) }
    let bare = text.uppercased()
    switch bare {
    case "DATA": return data(books)
    case "RSET":
      forget()
      return say("250 2.0.0 Forgotten")
    case "QUIT": return answer(.quit, "221 2.0.0 Bye\r\n", books, then: .finish).order
    default: break
    }
    if hasPrefix("NOOP", line) { return say("250 2.0.0 Ok") }
    if hasPrefix("EHLO ", line) || hasPrefix("HELO ", line) {
      return hello(extended: hasPrefix("E", line), books)
    }
    if options.auth && hasPrefix("AUTH ", line) { return auth(text) }
    if hasPrefix("VRFY ", line) { return say("252 2.0.0 Send mail and see") }
    if hasPrefix("MAIL", line) || hasPrefix("RCPT", line) { return say("501 5.5.4 Syntax") }
    return say("502 5.5.1 Command not known here")
  }

  private mutating func hello(extended: Bool, _ books: some SinkBooks) -> Order {
    forget()
    greeted = true
    guard extended else { return answer(.ehlo, "250 \(options.hostname)\r\n", books).order }
    var keywords = [
      "PIPELINING", "SIZE \(options.messageBytesMax)", "8BITMIME", "SMTPUTF8", "DSN",
      "ENHANCEDSTATUSCODES",
    ]
    if options.auth { keywords.append("AUTH PLAIN LOGIN") }
    keywords += options.offers
    keywords.removeAll { keyword in
      options.withheld.contains { keyword.uppercased().hasPrefix($0.uppercased()) }
    }
    var reply = ""
    let lines = [options.hostname] + keywords
    for (index, line) in lines.enumerated() {
      reply += "250\(index == lines.count - 1 ? " " : "-")\(line)\r\n"
    }
    return answer(.ehlo, reply, books).order
  }

  private static let parameters: Set<String> = [
    "SIZE", "BODY", "SMTPUTF8", "RET", "ENVID", "NOTIFY", "ORCPT", "AUTH",
  ]

  /// Why a path and its parameters cannot be taken; nil when they can.
  private func complaint(_ text: String) -> String? {
    guard let end = text.lastIndex(of: ">") else { return "501 5.1.7 No closing bracket" }
    for word in text[text.index(after: end)...].split(separator: " ") {
      let name = word.split(separator: "=", maxSplits: 1)[0].uppercased()
      if !SinkSession.parameters.contains(name) { return "555 5.5.4 Unknown parameter \(name)" }
    }
    return nil
  }

  private mutating func mail(_ text: String, _ books: some SinkBooks) -> Order {
    if !greeted { return say("503 5.5.1 Say EHLO first") }
    if hasSender { return say("503 5.5.1 Sender already given") }
    if let complaint = complaint(text) { return say(complaint) }
    let (order, yes, _) = answer(.mail, "250 2.1.0 Ok\r\n", books)
    if yes {
      hasSender = true
      envelope = [text]
    }
    return order
  }

  private mutating func rcpt(_ text: String, _ books: some SinkBooks) -> Order {
    if !hasSender { return say("503 5.5.1 Say MAIL first") }
    if let complaint = complaint(text) { return say(complaint) }
    for rejected in options.rejectedRecipients where contains(text, rejected) {
      books.refusedRecipient()
      return say("550 5.1.1 No such user here")
    }
    // What a probe for open relays asks for (RFC 2606): this server takes everything else.
    if text.lowercased().contains("@example.invalid>") && !options.relaysAll {
      books.refusedRecipient()
      return say("550 5.7.1 Relaying denied")
    }
    let (order, yes, _) = answer(.rcpt, "250 2.1.5 Ok\r\n", books)
    if yes {
      recipients += 1
      envelope.append(text)
    }
    return order
  }

  private func contains(_ text: String, _ part: String) -> Bool {
    let hay = Array(text.utf8)
    let needle = Array(part.utf8)
    guard !needle.isEmpty, hay.count >= needle.count else { return false }
    return (0...(hay.count - needle.count)).contains { start in
      hay[start..<(start + needle.count)].elementsEqual(needle)
    }
  }

  private mutating func data(_ books: some SinkBooks) -> Order {
    if !hasSender { return say("503 5.5.1 Say MAIL first") }
    if recipients == 0 { return say("554 5.5.1 No valid recipients") }
    let (order, yes, _) = answer(.data, "354 End with CRLF.CRLF\r\n", books)
    if yes {
      phase = .body
      place = .lineStart
      message.removeAll(keepingCapacity: message.capacity < 1 << 20)
      messageBytes = 0
      bodyBytes = 0
      bodyFaultDone = false
    }
    return order
  }

  private mutating func forget() {
    hasSender = false
    recipients = 0
    envelope = []
  }

  // Log-in: test and test, base64 of which is compared as text.

  private mutating func auth(_ text: String) -> Order {
    if !greeted { return say("503 5.5.1 Say EHLO first") }
    let words = text.split(separator: " ")
    switch words.count > 1 ? words[1].uppercased() : "" {
    case "PLAIN" where words.count > 2: return plain(String(words[2]))
    case "PLAIN":
      phase = .awaitingPlain
      return say("334 ")
    case "LOGIN" where words.count > 2:
      userIsRight = words[2] == "dGVzdA=="
      phase = .awaitingPassword
      return say("334 UGFzc3dvcmQ6")
    case "LOGIN":
      phase = .awaitingUser
      return say("334 VXNlcm5hbWU6")
    default: return say("504 5.5.4 Mechanism not known")
    }
  }

  private mutating func plain(_ text: String) -> Order {
    phase = .command
    if text == "*" { return say("501 5.7.0 Cancelled") }
    return loggedIn(text == "AHRlc3QAdGVzdA==" || text == "dGVzdAB0ZXN0AHRlc3Q=")
  }

  private mutating func loggedIn(_ right: Bool) -> Order {
    say(right ? "235 2.7.0 Welcome" : "535 5.7.8 Wrong name or password")
  }

  // Body

  private mutating func bodyFault(_ books: some SinkBooks) -> Order? {
    guard !bodyFaultDone, bodyBytes >= options.faultAfterBytes else { return nil }
    bodyFaultDone = true
    if options.dieAt.contains(.body), books.takeFault() { return .abort(options.dieBy) }
    if options.stallAt.contains(.body), books.takeFault() { return .stall }
    if options.garbageAt.contains(.body), books.takeFault() {
      output.append(contentsOf: "2x0-\u{1}garbage amid the body\r\n".utf8)
    }
    return nil
  }

  private mutating func readBody(_ books: some SinkBooks) -> Order {
    let before = head
    let keep = options.storeDirectory != nil
    var lf = 0
    var cr = 0
    let ended = scan(keep: keep, lf: &lf, cr: &cr)
    if lf + cr > 0 { books.bareNewlines(lf: lf, cr: cr) }
    bodyBytes += head - before
    if let order = bodyFault(books) { return order }
    guard ended else { return .proceed }

    phase = .command
    searched = head
    defer { forget() }
    if messageBytes > options.messageBytesMax { return say("552 5.3.4 Message too big") }
    let dot = answer(.dot, "", books)
    if dot.faulted { return dot.order }
    if options.answers[.dot] != nil {
      // The reply is queued or held; whether the message counts is what it says.
      if dot.yes && !keepMessage(books) { return .abort(.rst) }
      return dot.order
    }
    if !keepMessage(books) { return say("452 4.3.1 Could not store the message") }
    if case .wait(let seconds) = dot.order {
      heldReply = "250 2.0.0 Ok: counted\r\n"
      return .wait(seconds)
    }
    return answer(.afterDot, "250 2.0.0 Ok: counted\r\n", books).order
  }

  private mutating func keepMessage(_ books: some SinkBooks) -> Bool {
    if options.storeDirectory != nil, !books.store(message, envelope: envelope) { return false }
    books.accepted(bytes: messageBytes)
    message.removeAll(keepingCapacity: message.capacity < 1 << 20)
    return true
  }

  /// Moves `head` through the message, un-stuffing dots; true when the final dot was found.
  private mutating func scan(keep: Bool, lf: inout Int, cr: inout Int) -> Bool {
    let limit = options.messageBytesMax
    var place = self.place
    var size = messageBytes
    var cursor = head
    var kept = message
    message = []
    defer {
      self.place = place
      messageBytes = size
      head = cursor
      message = kept
    }
    return input.withUnsafeBufferPointer { bytes in
      let end = bytes.count
      func emit(_ range: Range<Int>) {
        size += range.count
        if keep && size <= limit { kept.append(contentsOf: bytes[range]) }
      }
      while cursor < end {
        let byte = bytes[cursor]
        switch place {
        case .lineStart where byte == UInt8(ascii: "."):
          place = .dot
          cursor += 1
        case .dot where byte == 13:
          place = .dotCR
          cursor += 1
        case .dotCR:
          if byte == 10 {
            cursor += 1
            place = .lineStart
            return true
          }
          // The CR was not the end after all: it belongs to the message, bare unless LF follows.
          size += 1
          if keep && size <= limit { kept.append(13) }
          place = .cr
        case .cr:
          if byte == 10 {
            place = .lineStart
            emit(cursor..<(cursor + 1))
            cursor += 1
          } else {
            cr += 1
            place = .text
          }
        case .lineStart, .dot, .text:
          let start = cursor
          while cursor < end && bytes[cursor] != 13 && bytes[cursor] != 10 { cursor += 1 }
          place = .text
          if cursor < end {
            if bytes[cursor] == 13 { place = .cr } else { lf += 1 }
            cursor += 1
          }
          emit(start..<cursor)
        }
      }
      return false
    }
  }

  // PROXY protocol

  /// Whether what has come so far can be the beginning of a PROXY header: taken without being told to expect
  /// one, so that a shield with its usual settings can be tried in front of us.
  private var mayBeProxyHeader: Bool {
    let begin = input[head...].prefix(6)
    return !begin.isEmpty
      && ([13, 10, 13, 10, 0, 13].starts(with: begin) || "PROXY ".utf8.starts(with: begin))
  }

  private mutating func readProxyHeader(_ books: some SinkBooks, greets: Bool = true) -> Order? {
    let signature: [UInt8] = [13, 10, 13, 10, 0, 13, 10, 81, 85, 73, 84, 10]
    let have = input.count - head
    if have >= 12 && input[head..<(head + 12)].elementsEqual(signature) {
      guard have >= 16 else { return nil }
      let length = Int(input[head + 14]) << 8 | Int(input[head + 15])
      guard have >= 16 + length else { return nil }
      let family = input[head + 13]
      let at = head + 16
      if input[head + 12] == 0x20 {
        proxied = "LOCAL"
      } else if family == 0x11 && length >= 12 {
        let host = input[at..<(at + 4)].map { String($0) }.joined(separator: ".")
        proxied = "\(host):\(Int(input[at + 8]) << 8 | Int(input[at + 9]))"
      } else if family == 0x21 && length >= 36 {
        var groups: [String] = []
        for i in stride(from: at, to: at + 16, by: 2) {
          groups.append(String(Int(input[i]) << 8 | Int(input[i + 1]), radix: 16))
        }
        proxied =
          "[\(groups.joined(separator: ":"))]:\(Int(input[at + 32]) << 8 | Int(input[at + 33]))"
      } else {
        proxied = "UNKNOWN"
      }
      head += 16 + length
    } else {
      if have >= 6, !input[head..<(head + 6)].elementsEqual("PROXY ".utf8),
        input[head] != 13
      {
        return .abort(.rst)
      }
      guard let lf = input[head...].firstIndex(of: 10) else {
        return have > 107 ? .abort(.rst) : nil
      }
      // A version 2 signature that is not whole yet also holds LF.
      if input[head] == 13 { return have < 12 ? nil : .abort(.rst) }
      let words = String(decoding: input[head..<lf], as: UTF8.self).split {
        $0 == " " || $0 == "\r"
      }
      proxied =
        words.count == 6 ? "\(words[2]):\(words[4])" : words.dropFirst().joined(separator: " ")
      head = lf + 1
    }
    searched = head
    phase = .command
    isFirst = false
    return greets ? banner(books) : .proceed
  }
}
