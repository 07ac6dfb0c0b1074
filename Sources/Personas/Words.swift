// SPDX-License-Identifier: Apache-2.0

/// The octets of lines.
public enum Words {
  /// The most octets of any line but a body.
  public static let most = 2_048

  /// Appends the octets of a line.
  ///
  /// - Parameters:
  ///   - number: of the client: it is in its HELO name and in the addresses it gives.
  ///   - known: an address that exists behind the server; unknown ones are at the same domain.
  public static func write(
    _ line: Line, _ persona: SharedPersona, number: Int, known: String, into bytes: inout [UInt8]
  ) {
    func helo(_ bare: Bool, _ extended: Bool) {
      bytes.append(contentsOf: (extended ? "EHLO " : "HELO ").utf8)
      if !persona.value.heloName.isEmpty {
        bytes.append(contentsOf: persona.value.heloName.utf8)
      } else {
        bytes.append(contentsOf: (bare ? "pc" : "h").utf8)
        decimal(number, into: &bytes)
        if !bare {
          bytes.append(UInt8(ascii: "."))
          domain(persona, into: &bytes)
        }
      }
      endLine(&bytes)
    }
    func mail() {
      bytes.append(contentsOf: "MAIL FROM:<s".utf8)
      decimal(number, into: &bytes)
      bytes.append(UInt8(ascii: "@"))
      domain(persona, into: &bytes)
      bytes.append(UInt8(ascii: ">"))
      endLine(&bytes)
    }
    func recipient(_ unknown: Bool) {
      bytes.append(contentsOf: "RCPT TO:<".utf8)
      if unknown {
        bytes.append(contentsOf: "nobody".utf8)
        decimal(number, into: &bytes)
        bytes.append(UInt8(ascii: "@"))
        bytes.append(contentsOf: known.utf8.drop { $0 != UInt8(ascii: "@") }.dropFirst())
      } else {
        bytes.append(contentsOf: known.utf8)
      }
      bytes.append(UInt8(ascii: ">"))
      endLine(&bytes)
    }
    // Of a group too the share is unknown that the persona says: places of the golden ratio's multiples.
    func isUnknown(_ k: Int) -> Bool {
      let place = Double(number % 10_000 + k + 1) * 0.6180339887498949
      return place - place.rounded(.down) < persona.value.unknown
    }
    func group(_ recipients: UInt8) {
      mail()
      for k in 0..<recipients { recipient(isUnknown(Int(k))) }
      if persona.value.aim != .harvest { writeLine("DATA", into: &bytes) }
    }
    switch line {
    case .helo(let bare, let extended): helo(bare, extended)
    case .startTLS: writeLine("STARTTLS", into: &bytes)
    case .auth: writeLine("AUTH PLAIN AHVzZXIAcGFzcw==", into: &bytes)
    case .mail: mail()
    case .null: writeLine("MAIL FROM:<>", into: &bytes)
    case .rcpt(let unknown): recipient(unknown)
    case .data: writeLine("DATA", into: &bytes)
    case .group(let recipients): group(recipients)
    case .rush(let bare, let recipients):
      helo(bare, true)
      group(recipients)
    case .body(let octets):
      header(persona, number: number, into: &bytes)
      text(Int(octets), from: 0, atMost: Int(octets) + 2, into: &bytes)
      writeLine(".", into: &bytes)
    case .rset: writeLine("RSET", into: &bytes)
    case .quit: writeLine("QUIT", into: &bytes)
    case .foreign: writeLine("GET / HTTP/1.1\r\nHost: example\r\n", into: &bytes)
    case .trickle: bytes.append(UInt8(ascii: "E"))
    }
  }

  /// Appends what follows the first `start` octets of a line, at most `most`.
  ///
  /// - Returns: whether that is all the rest of it.
  public static func write(
    _ line: Line, _ persona: SharedPersona, number: Int, known: String, from start: Int,
    atMost most: Int, into bytes: inout [UInt8]
  ) -> Bool {
    let before = bytes.count
    var isAll = true
    if case .body(let octets) = line {
      // A message may be long: only as much of its text is made as is wanted.
      header(persona, number: number, into: &bytes)
      let head = bytes.count - before
      let rest = textOctets(Int(octets)) - max(start - head, 0)
      bytes.removeSubrange(before..<before + min(start, head))
      text(Int(octets), from: max(start - head, 0), atMost: most, into: &bytes)
      isAll = rest <= most
      if isAll {
        let dot = bytes.count
        writeLine(".", into: &bytes)
        if rest < 0 { bytes.removeSubrange(dot..<dot - rest) }
      }
    } else {
      write(line, persona, number: number, known: known, into: &bytes)
      if start > 0 { bytes.removeSubrange(before..<before + start) }
    }
    if bytes.count - before > most {
      bytes.removeLast(bytes.count - before - most)
      isAll = false
    }
    return isAll
  }

  private static func endLine(_ bytes: inout [UInt8]) {
    bytes.append(13)
    bytes.append(10)
  }

  private static func writeLine(_ text: String, into bytes: inout [UInt8]) {
    bytes.append(contentsOf: text.utf8)
    endLine(&bytes)
  }

  private static func decimal(_ number: Int, into bytes: inout [UInt8]) {
    var divisor = 1
    while number / divisor >= 10 { divisor *= 10 }
    while divisor > 0 {
      bytes.append(UInt8(ascii: "0") + UInt8(number / divisor % 10))
      divisor /= 10
    }
  }

  /// A name of the persona's own: its id in small letters.
  private static func domain(_ persona: SharedPersona, into bytes: inout [UInt8]) {
    for byte in persona.value.id.utf8 { bytes.append(byte &- 65 < 26 ? byte | 32 : byte) }
    bytes.append(contentsOf: ".example".utf8)
  }

  private static func header(_ persona: SharedPersona, number: Int, into bytes: inout [UInt8]) {
    bytes.append(contentsOf: "Subject: ".utf8)
    bytes.append(contentsOf: persona.value.id.utf8)
    bytes.append(UInt8(ascii: " "))
    decimal(number, into: &bytes)
    endLine(&bytes)
    endLine(&bytes)
  }

  /// Whole lines of text, each of `lineOctets` with its end.
  private static let page = Array(
    repeatElement(Array(repeatElement(UInt8(ascii: "x"), count: 72)) + [13, 10], count: 512)
      .joined())
  private static let lineOctets = 74

  /// How long a text of at least this many octets is, its line ends included.
  private static func textOctets(_ octets: Int) -> Int {
    let last = min(octets % lineOctets, lineOctets - 2)
    return octets - octets % lineOctets + (last > 0 ? last + 2 : 0)
  }

  /// Appends some of a message's text: whole lines, and a shorter one at last.
  private static func text(
    _ octets: Int, from start: Int, atMost most: Int, into bytes: inout [UInt8]
  ) {
    let whole = octets - octets % lineOctets
    let all = textOctets(octets)
    let end = all - start > most ? start + most : all
    var position = start
    while position < min(whole, end) {
      let place = position % lineOctets
      let count = min(min(whole, end) - position, page.count - place)
      bytes.append(contentsOf: page[place..<place + count])
      position += count
    }
    // The last line is the end of a whole one.
    if position < end {
      bytes.append(contentsOf: page[position + lineOctets - all..<end + lineOctets - all])
    }
  }
}
