// SPDX-License-Identifier: Apache-2.0

import Structures

/// What is wrong with a message body.
package enum BodyFault: UInt8, Sendable, BitwiseCopyable {
  case bareCR, bareLF, nul, lineTooLong
}

/// What a run of body bytes was.
package enum DataStep: Equatable, Sendable {
  /// All of it is body.
  case body
  /// The message ends after this many bytes of the run; the rest are commands.
  case end(Int)
  /// The index in this run; -1 for a CR that was the last byte of the run before.
  case fault(BodyFault, at: Int)
}

/// What `normalize` did with its input.
package enum NormalizeStep: Equatable, Sendable {
  /// All of it was taken.
  case body
  /// The message ends after this many bytes of the input.
  case end(consumed: Int)
  /// No room for more output; call again with the input behind this many bytes.
  case full(consumed: Int)
  /// As in `DataStep`.
  case fault(BodyFault, at: Int)
}

/// Finds the end of a message after DATA: CR LF . CR LF and nothing else (RFC 5321, 4.1.1.4).
///
/// An automaton over the dot-stuffed stream, which passes through unchanged; dots are not removed, and
/// nothing is buffered. Invariant: the events, and where in the stream they are, do not depend on how
/// the stream was split, and no bare LF, bare CR or NUL is ever taken for part of an end of data
/// (RFC 5321, 2.3.8; the smuggling attacks of 2023). Faults and the end are final.
package struct EndOfDataScanner: Sendable, BitwiseCopyable {
  /// What the octets before this one mean for the next.
  private enum State: UInt8, BitwiseCopyable {
    /// Just after CR LF, and at the very beginning. Goes to: dot, text.
    case lineStart
    /// Just after an LF that `normalize` made into CR LF. Goes to: text; never towards the end.
    case lineStartBare
    /// CR LF and a dot. Goes to: dotCR, text; in `normalize` with LF to lineStartBare.
    case dot
    /// CR LF, dot, CR. Goes to: done, or a fault.
    case dotCR
    /// Inside a line. Goes to: textCR; in `normalize` with LF to lineStartBare.
    case text
    /// CR inside a line. Goes to: lineStart, or a fault.
    case textCR
    /// The end or a fault was reported.
    case done
  }

  private var state = State.lineStart
  private let nulIsFault: Bool
  private let lineOctetsMax: UInt32
  /// Octets of the current line so far, without its CR.
  private var column: UInt32 = 0
  /// Octets taken so far, the end of data included; after a fault, those before it.
  package private(set) var octets: UInt64 = 0

  /// - Parameters:
  ///   - lineOctetsMax: the most octets of a line, CR LF not counted (998 in RFC 5321, 4.5.3.1.6);
  ///     0 for no limit.
  ///   - nulIsFault: whether a NUL ends it all; RFC 5321, 2.3.8's "MUST NOT" is about CR and LF only,
  ///     but no honest client sends NUL and receivers have cut lines at it.
  package init(lineOctetsMax: Int = 0, nulIsFault: Bool = true) {
    self.lineOctetsMax = UInt32(clamping: lineOctetsMax)
    self.nulIsFault = nulIsFault
  }

  /// Whether the last octet taken is a CR of which it is not known yet whether an LF follows.
  ///
  /// Such a CR is the one octet of a scanned run that should not be passed on yet, if no bare CR is
  /// ever to leave (reliability.md, class 2).
  package var endsInCR: Bool { state == .textCR || state == .dotCR }

  /// Whether the end of data was found or a fault reported.
  package var isDone: Bool { state == .done }

  /// Whether these octets, which come next, make white space the first of the message as its reader will see it,
  /// without the dot of the stuffing (RFC 5321, 4.5.2): it would go on with whatever header was put before it.
  package func beginsWithSpace(_ bytes: Span<UInt8>) -> Bool {
    var place = 0
    if octets == 0 && bytes.count > 0 && bytes[0] == UInt8(ascii: ".") { place = 1 }
    guard octets == 0 || octets == 1 && state == .dot, place < bytes.count else { return false }
    return bytes[place] == UInt8(ascii: " ") || bytes[place] == UInt8(ascii: "\t")
  }

  // MARK: - Transparent

  /// Looks at the next bytes of the stream.
  package mutating func scan(_ bytes: Span<UInt8>) -> DataStep {
    invariant(state != .done, "body bytes after the end of the body")
    let count = bytes.count
    var i = 0
    while i < count {
      switch state {
      case .lineStart:
        if bytes[i] == UInt8(ascii: ".") {
          state = .dot
          column = 1
          i &+= 1
          continue
        }
        state = .text
      case .dot:
        if bytes[i] == carriageReturn {
          state = .dotCR
          i &+= 1
          continue
        }
        state = .text
      case .dotCR:
        guard bytes[i] == lineFeed else { return fault(.bareCR, at: i &- 1) }
        octets &+= UInt64(i &+ 1)
        state = .done
        return .end(i &+ 1)
      case .textCR:
        guard bytes[i] == lineFeed else { return fault(.bareCR, at: i &- 1) }
        state = .lineStart
        column = 0
        i &+= 1
        continue
      case .text, .lineStartBare, .done:
        break
      }
      // Inside a line.
      var special = runEnd(bytes, from: i)
      if let excess = advance(special &- i) { return fault(.lineTooLong, at: special &- excess) }
      // Line after line without leaving this state: only a dot first in a line needs the automaton.
      while special &+ 2 < count && bytes[special] == carriageReturn
        && bytes[special &+ 1] == lineFeed && bytes[special &+ 2] != UInt8(ascii: ".")
      {
        i = special &+ 2
        column = 0
        special = runEnd(bytes, from: i)
        if let excess = advance(special &- i) { return fault(.lineTooLong, at: special &- excess) }
      }
      i = special
      guard i < count else { break }
      if bytes[i] == lineFeed { return fault(.bareLF, at: i) }
      if bytes[i] == 0 { return fault(.nul, at: i) }
      i &+= 1
      if i < count && bytes[i] == lineFeed {
        i &+= 1
        state = .lineStart
        column = 0
      } else {
        state = .textCR
      }
    }
    octets &+= UInt64(count)
    return .body
  }

  /// The next CR, LF or (if that is a fault) NUL, or the end of the run.
  @inline(__always)
  private func runEnd(_ bytes: Span<UInt8>, from start: Int) -> Int {
    let i = bytes.firstLineControl(from: start)
    if i == bytes.count || bytes[i] == carriageReturn { return i }
    return runEndBeyond(bytes, from: i)
  }

  /// As `runEnd`, for when the search stopped at something rarer than a CR.
  @inline(never)
  private func runEndBeyond(_ bytes: Span<UInt8>, from start: Int) -> Int {
    var i = start
    while i < bytes.count {
      let byte = bytes[i]
      if byte == carriageReturn || byte == lineFeed || (byte == 0 && nulIsFault) { break }
      i = bytes.firstLineControl(from: i &+ 1)
    }
    return i
  }

  /// Counts octets of the line; returns by how many it is too long, if it is.
  @inline(__always)
  private mutating func advance(_ run: Int) -> Int? {
    if lineOctetsMax == 0 { return nil }
    // No overflow: column ≤ lineOctetsMax < 2³², run ≤ the size of a buffer.
    let length = Int(column) &+ run
    if length > Int(lineOctetsMax) { return length &- Int(lineOctetsMax) }
    column = UInt32(truncatingIfNeeded: length)
    return nil
  }

  @inline(never)
  private mutating func fault(_ kind: BodyFault, at index: Int) -> DataStep {
    // A fault at -1 takes back the CR that the run before counted.
    octets = index < 0 ? octets &- 1 : octets &+ UInt64(index)
    state = .done
    return .fault(kind, at: index)
  }

  // MARK: - Normalising

  /// Copies the next bytes of the stream to `out` with every bare LF made into CR LF.
  ///
  /// A bare CR stays a fault. What was only made a line by us can neither be nor begin an end of data:
  /// a dot first in a line begun by a bare LF is stuffed again, and so is a lone dot that a bare LF
  /// ends (reliability.md, class 3). A CR waits inside for its LF, so `out` never gets a bare one.
  /// Use either this or `scan` for one message, not both. `octets` counts input.
  ///
  /// - Parameter out: needs room for 3 octets to get any further.
  package mutating func normalize(
    _ input: Span<UInt8>, into out: inout OutputSpan<UInt8>
  ) -> NormalizeStep {
    invariant(state != .done, "body bytes after the end of the body")
    let count = input.count
    var i = 0
    while i < count {
      // The most that one step puts out: a dot and a line end.
      if out.freeCapacity < 3 { return full(i) }
      let byte = input[i]
      switch state {
      case .lineStart, .lineStartBare:
        if byte == UInt8(ascii: ".") {
          if state == .lineStartBare { out.append(byte) }
          out.append(byte)
          // A re-stuffed line is text from its first dot on, whatever follows.
          state = state == .lineStart ? .dot : .text
          column = 1
          i &+= 1
        } else {
          state = .text
        }
        continue
      case .dot:
        if byte == carriageReturn {
          state = .dotCR
          i &+= 1
          continue
        }
        if byte == lineFeed { out.append(UInt8(ascii: ".")) }
        state = .text
      case .dotCR, .textCR:
        guard byte == lineFeed else { return faulted(.bareCR, at: i &- 1) }
        _ = out.appendLineEnd()
        i &+= 1
        column = 0
        if state == .dotCR {
          octets &+= UInt64(i)
          state = .done
          return .end(consumed: i)
        }
        state = .lineStart
        continue
      case .text, .done:
        break
      }
      let special = min(runEnd(input, from: i), i &+ out.freeCapacity &- 2)
      if let excess = advance(special &- i) {
        // What is good goes out first, or the output would depend on the split.
        out.appendRun(input, in: i..<special &- excess)
        return faulted(.lineTooLong, at: special &- excess)
      }
      out.appendRun(input, in: i..<special)
      i = special
      guard i < count else { break }
      switch input[i] {
      case carriageReturn: state = .textCR
      case lineFeed:
        _ = out.appendLineEnd()
        state = .lineStartBare
        column = 0
      case 0 where nulIsFault: return faulted(.nul, at: i)
      default: return full(i)
      }
      i &+= 1
    }
    octets &+= UInt64(count)
    return .body
  }

  private mutating func full(_ consumed: Int) -> NormalizeStep {
    octets &+= UInt64(consumed)
    return .full(consumed: consumed)
  }

  private mutating func faulted(_ kind: BodyFault, at index: Int) -> NormalizeStep {
    _ = fault(kind, at: index)
    return .fault(kind, at: index)
  }
}
