// SPDX-License-Identifier: Apache-2.0

import Structures

// The trace header (RFC 5321, 4.4) that stands on top of a message for a downstream which can be told about
// the client in no other way. Kept: every line ends in CRLF and has less than 998 octets, and no octet of the
// client's name can end a line, a comment or the header.

/// Appends one `Received:` header.
///
/// - Parameters:
///   - details: of the client, with the session's id.
///   - helo: the name it gave itself.
///   - host: our own.
///   - date: now, in seconds since 1970 (UTC).
/// - Returns: false, with nothing appended, if it does not fit.
package func writeTraceHeader(
  _ details: ClientDetails, helo: Span<UInt8>, host: Span<UInt8>, date: Int64,
  into out: inout OutputSpan<UInt8>
) -> Bool {
  let start = out.count
  let address = details.ends.address
  let written =
    out.appendLiteral("Received: from ") && appendName(helo, &out)
    && out.appendLiteral(address.isIPv4 ? " (unknown [" : " (unknown [IPv6:")
    && out.appendAddress(address) && out.appendLiteral("])\r\n\tby ")
    && out.appendToken(host, in: 0..<host.count) && out.appendLiteral(" (Sluice) with ")
    && out.appendLiteral(details.protocolWord) && out.appendLiteral(" id ")
    && out.appendHexadecimal(details.session) && out.appendLiteral(";\r\n\t")
    && out.appendDate(date) && out.appendLineEnd()
  if !written { out.removeLast(out.count - start) }
  return written
}

/// What is in names and address literals, and a question mark for everything else: a parenthesis or a
/// semicolon would begin another part of the header.
private func appendName(_ name: Span<UInt8>, _ out: inout OutputSpan<UInt8>) -> Bool {
  if name.count == 0 { return out.appendLiteral("unknown") }
  guard name.count <= out.freeCapacity else { return false }
  for k in 0..<name.count {
    let byte = name[k]
    switch byte {
    case _ where isAlphanumeric(byte): out.append(byte)
    case 0x2D, 0x2E, 0x3A, 0x5B, 0x5D, 0x5F: out.append(byte)  // - . : [ ] _
    default: out.append(UInt8(ascii: "?"))
    }
  }
  return true
}

extension OutputSpan where Element == UInt8 {
  /// Appends a date as RFC 5322, 3.3 has it, in UTC, if it fits.
  ///
  /// - Parameter seconds: since 1970; before 1970 is taken as 1970, after 9999 as the end of 9999.
  package mutating func appendDate(_ seconds: Int64) -> Bool {
    let seconds = Swift.min(Swift.max(seconds, 0), 253_402_300_799)
    let (days, second) = (seconds / 86_400, seconds % 86_400)
    // Days to a date by eras of 400 years that begin in March: the leap day is a year's last.
    let shifted = days + 719_468
    let (era, day) = (shifted / 146_097, shifted % 146_097)
    let year = (day - day / 1_460 + day / 36_524 - day / 146_096) / 365
    let dayOfYear = day - (365 * year + year / 4 - year / 100)
    let month = (5 * dayOfYear + 2) / 153
    let dayOfMonth = dayOfYear - (153 * month + 2) / 5 + 1
    let calendarMonth = month < 10 ? month + 3 : month - 9
    let calendarYear = year + era * 400 + (calendarMonth <= 2 ? 1 : 0)
    let weekdays: StaticString = "ThuFriSatSunMonTueWed"
    let months: StaticString = "JanFebMarAprMayJunJulAugSepOctNovDec"
    guard freeCapacity >= 31 else { return false }
    appendLetters(weekdays, Int(days % 7))
    append(UInt8(ascii: ","))
    append(0x20)
    appendTwo(dayOfMonth)
    append(0x20)
    appendLetters(months, Int(calendarMonth) - 1)
    append(0x20)
    appendTwo(calendarYear / 100)
    appendTwo(calendarYear % 100)
    append(0x20)
    appendTwo(second / 3_600)
    append(UInt8(ascii: ":"))
    appendTwo(second / 60 % 60)
    append(UInt8(ascii: ":"))
    appendTwo(second % 60)
    return appendLiteral(" +0000")
  }

  private mutating func appendLetters(_ words: StaticString, _ index: Int) {
    for k in 0..<3 { append(words.octet(3 * index + k)) }
  }

  private mutating func appendTwo(_ value: Int64) {
    append(UInt8(truncatingIfNeeded: 48 + value / 10))
    append(UInt8(truncatingIfNeeded: 48 + value % 10))
  }
}
