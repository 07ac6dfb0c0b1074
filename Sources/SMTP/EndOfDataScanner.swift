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
  /// What stands before this index may be passed on as it came; what follows must go through `rewrite`, because a
  /// bare LF ends a line in it, or ended the one before. Only with `LineEnds.normalize`.
  case rewrite(from: Int)
  /// The index in this run; -1 for a CR that was the last byte of the run before.
  case fault(BodyFault, at: Int)
}

/// What `rewrite` did with its input.
package enum RewriteStep: Equatable, Sendable {
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
///
/// A bare LF is a fault, or, with `LineEnds.normalize`, a line end that leaves as CR LF. What leaves then ends where
/// the client's stream does and nowhere else, and says what the client meant. Of the dots in it:
///
/// | line | leaves | because |
/// |---|---|---|
/// | begun by CR LF, `.` ended by a bare LF | `..` | it would be an end that the client did not say in full |
/// | begun by a bare LF, one dot, whatever follows | with a dot more | a client that stuffs (RFC 5321, 4.5.2) sends two or more: this dot is text, or half an end |
/// | begun by a bare LF, two dots or more | as it came | the client has stuffed it; one more would change the text, and break its signature |
/// | any other | as it came | |
///
/// A line of nothing but a dot so leaves only where CR LF . CR LF came.
package struct EndOfDataScanner: Sendable, BitwiseCopyable {
  /// What the octets before this one mean for the next.
  private enum State: UInt8, BitwiseCopyable {
    /// Just after CR LF, and at the very beginning. Goes to: dot, text.
    case lineStart
    /// Just after a bare LF. Goes to: dotBare, text; never towards the end.
    case lineStartBare
    /// A bare LF and a dot. Goes to: text.
    case dotBare
    /// CR LF and a dot. Goes to: dotCR, text; with a bare LF to lineStartBare.
    case dot
    /// CR LF, dot, CR. Goes to: done, or a fault.
    case dotCR
    /// Inside a line. Goes to: textCR; with a bare LF to lineStartBare.
    case text
    /// CR inside a line. Goes to: lineStart, or a fault.
    case textCR
    /// The end or a fault was reported.
    case done
  }

  private var state = State.lineStart
  private let nulIsFault: Bool
  private let lineEnds: LineEnds
  private let lineOctetsMax: UInt32
  /// Octets of the current line so far, without its CR and without the dot of the stuffing (RFC 5321, 4.5.3.1.6).
  private var column: UInt32 = 0
  /// How many of `octets` are no part of the message: dots of the stuffing and the end of data, less what becomes of
  /// bare LFs.
  private var surplus: Int64 = 0
  /// Octets taken so far, the end of data included; after a fault, those before it.
  package private(set) var octets: UInt64 = 0

  /// The size of the message so far (RFC 1870, 5): its octets with the CR LF of each line, but without the dots that
  /// stuff it and without the dot that ends it.
  package var size: UInt64 { UInt64(clamping: Int64(clamping: octets) &- surplus) }

  /// - Parameters:
  ///   - lineOctetsMax: the most octets of a line, CR LF not counted (998 in RFC 5321, 4.5.3.1.6);
  ///     0 for no limit.
  ///   - lineEnds: whether a bare LF is a fault.
  ///   - nulIsFault: whether a NUL ends it all; RFC 5321, 2.3.8's "MUST NOT" is about CR and LF only,
  ///     but no honest client sends NUL and receivers have cut lines at it.
  package init(lineOctetsMax: Int = 0, lineEnds: LineEnds = .strict, nulIsFault: Bool = true) {
    self.lineOctetsMax = UInt32(clamping: lineOctetsMax)
    self.lineEnds = lineEnds
    self.nulIsFault = nulIsFault
  }

  /// Whether the last octet taken is a CR of which it is not known yet whether an LF follows.
  ///
  /// Such a CR is the one octet of a scanned run that should not be passed on yet, if no bare CR is
  /// ever to leave (CVE-2023-51765, docs/reliability.md).
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

  // MARK: - As it came

  /// Looks at the next bytes of the stream.
  ///
  /// - Parameter isDiscarded: whether nothing of it is passed on, so that nothing needs to be rewritten.
  package mutating func scan(_ bytes: Span<UInt8>, isDiscarded: Bool = false) -> DataStep {
    invariant(state != .done, "body bytes after the end of the body")
    let count = bytes.count
    var i = 0
    while i < count {
      switch state {
      case .lineStart:
        if bytes[i] == UInt8(ascii: ".") {
          beginDot(.dot)
          i &+= 1
          continue
        }
        state = .text
      case .lineStartBare:
        if bytes[i] == UInt8(ascii: ".") {
          beginDot(.dotBare)
          i &+= 1
          continue
        }
        state = .text
      case .dot:
        if bytes[i] == carriageReturn {
          state = .dotCR
          surplus &+= 1
          i &+= 1
          continue
        }
        if bytes[i] == lineFeed && lineEnds == .normalize && !isDiscarded {
          return rewriting(from: i)
        }
        state = .text
      case .dotBare:
        if bytes[i] == UInt8(ascii: ".") {
          state = .text
        } else if isDiscarded {
          endDot()
        } else {
          return rewriting(from: i)
        }
      case .dotCR:
        guard bytes[i] == lineFeed else { return fault(.bareCR, at: i &- 1) }
        octets &+= UInt64(i &+ 1)
        surplus &+= 1
        state = .done
        return .end(i &+ 1)
      case .textCR:
        guard bytes[i] == lineFeed else { return fault(.bareCR, at: i &- 1) }
        state = .lineStart
        column = 0
        i &+= 1
        continue
      case .text, .done:
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
      if bytes[i] == lineFeed {
        if lineEnds == .strict { return fault(.bareLF, at: i) }
        if !isDiscarded { return rewriting(from: i) }
        endBareLine()
        i &+= 1
        continue
      }
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

  /// A line begins with a dot, which belongs to the stuffing or to the end unless it turns out that it does not.
  @inline(__always)
  private mutating func beginDot(_ kind: State) {
    state = kind
    column = 0
    surplus &+= 1
  }

  /// The dot that the line began with is text: the stuffing was left out.
  private mutating func endDot() {
    state = .text
    column = 1
    surplus &-= 1
  }

  private mutating func endBareLine() {
    state = .lineStartBare
    column = 0
    // The CR that it did not have.
    surplus &-= 1
  }

  private mutating func rewriting(from index: Int) -> DataStep {
    octets &+= UInt64(index)
    return .rewrite(from: index)
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

  // MARK: - Rewriting

  /// Copies the next bytes of the stream to `out`, each bare LF as CR LF and with the dots that it makes necessary.
  ///
  /// For what `scan` says `rewrite` of, up to the end of that run. A CR waits inside for its LF, so `out` never gets a
  /// bare one: at the end of the run it is the one of `endsInCR`. `octets` counts input.
  ///
  /// - Parameter out: needs room for 3 octets to get any further.
  package mutating func rewrite(
    _ input: Span<UInt8>, into out: inout OutputSpan<UInt8>
  ) -> RewriteStep {
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
          beginDot(state == .lineStart ? .dot : .dotBare)
          out.append(byte)
          i &+= 1
        } else {
          state = .text
        }
        continue
      case .dotBare:
        if byte == UInt8(ascii: ".") {
          state = .text
        } else {
          endDot()
          out.append(UInt8(ascii: "."))
        }
        continue
      case .dot:
        if byte == carriageReturn {
          state = .dotCR
          surplus &+= 1
          i &+= 1
          continue
        }
        state = .text
        if byte == lineFeed {
          endDot()
          out.append(UInt8(ascii: "."))
        }
      case .dotCR, .textCR:
        guard byte == lineFeed else { return faulted(.bareCR, at: i &- 1) }
        _ = out.appendLineEnd()
        i &+= 1
        column = 0
        if state == .dotCR {
          octets &+= UInt64(i)
          surplus &+= 1
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
        endBareLine()
      case 0 where nulIsFault: return faulted(.nul, at: i)
      default: return full(i)
      }
      i &+= 1
    }
    octets &+= UInt64(count)
    return .body
  }

  private mutating func full(_ consumed: Int) -> RewriteStep {
    octets &+= UInt64(consumed)
    return .full(consumed: consumed)
  }

  private mutating func faulted(_ kind: BodyFault, at index: Int) -> RewriteStep {
    _ = fault(kind, at: index)
    return .fault(kind, at: index)
  }
}
