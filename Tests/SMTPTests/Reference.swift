// SPDX-License-Identifier: Apache-2.0

// Slow, obviously right twins of the scanners, and drivers that feed the real ones in pieces. Shared by
// the tests and the fuzz targets (scripts/fuzz compiles this file too), so it imports nothing but SMTP.
// Invariant: a twin looks at the whole stream at once and so cannot get a split wrong.

import SMTP

/// What became of a message body, with positions counted from its first byte.
enum BodyEvent: Equatable {
  case open
  case end(Int)
  case fault(BodyFault, at: Int)
}

/// Where strict end of data is, by looking back from every LF.
func referenceEnd(of bytes: [UInt8], lineMax: Int) -> BodyEvent {
  var line: [UInt8] = []
  for (i, byte) in bytes.enumerated() {
    if i > 0 && bytes[i - 1] == 13 {
      if byte != 10 { return .fault(.bareCR, at: i - 1) }
      if line == [46] { return .end(i + 1) }
      line = []
    } else if byte == 10 {
      return .fault(.bareLF, at: i)
    } else if byte == 0 {
      return .fault(.nul, at: i)
    } else if byte != 13 {
      line.append(byte)
      // The dot of the stuffing does not count (RFC 5321, 4.5.3.1.6).
      let text = line.count - (line.first == 46 ? 1 : 0)
      if lineMax > 0 && text > lineMax { return .fault(.lineTooLong, at: i) }
    }
  }
  return .open
}

/// What normalising puts out, line by line.
func referenceNormalized(_ bytes: [UInt8], lineMax: Int) -> (event: BodyEvent, out: [UInt8]) {
  var out: [UInt8] = []
  var line: [UInt8] = []
  var previousWasBare = false
  for (i, byte) in bytes.enumerated() {
    let afterCR = i > 0 && bytes[i - 1] == 13
    if afterCR && byte != 10 { return (.fault(.bareCR, at: i - 1), out + begun(line, true)) }
    if byte == 13 { continue }
    if byte == 0 { return (.fault(.nul, at: i), out + begun(line, true)) }
    if byte != 10 {
      let text = line + [byte]
      if lineMax > 0 && text.count - (isStuffed(text) ? 1 : 0) > lineMax {
        return (.fault(.lineTooLong, at: i), out + begun(line, true))
      }
      line = text
      continue
    }
    let isDot = line == [46]
    if afterCR && isDot && !previousWasBare { return (.end(i + 1), out + [46, 13, 10]) }
    out += isDot && !afterCR && !previousWasBare ? [46] : []
    out += begun(line, true) + [13, 10]
    line = []
    previousWasBare = !afterCR
  }
  return (.open, out + begun(line, bytes.last == 13))

  /// Whether the first dot of a line is the client's stuffing. After a bare LF that takes two dots.
  func isStuffed(_ line: [UInt8]) -> Bool {
    line.first == 46 && (!previousWasBare || line.count > 1 && line[1] == 46)
  }

  /// What of an unfinished line is out, and whether it is known what follows its first octet.
  func begun(_ line: [UInt8], _ isFollowed: Bool) -> [UInt8] {
    let isText =
      previousWasBare && line.first == 46 && !isStuffed(line) && (line.count > 1 || isFollowed)
    return (isText ? [46] : []) + line
  }
}

/// The message that a receiver makes of a stream of whole lines: without the stuffing and the end.
func unstuffed(_ stream: [UInt8]) -> [UInt8] {
  var out: [UInt8] = []
  var line: [UInt8] = []
  for byte in stream {
    line.append(byte)
    guard byte == 10 else { continue }
    if line == [46, 13, 10] { return out }
    out += line.first == 46 ? line.dropFirst() : line[...]
    line = []
  }
  return out + line
}

/// The pieces of a stream cut at the given places.
func pieces(_ bytes: [UInt8], cutAt cuts: [Int]) -> [[UInt8]] {
  let edges = [0] + cuts.filter { $0 > 0 && $0 < bytes.count }.sorted() + [bytes.count]
  return zip(edges, edges.dropFirst()).map { Array(bytes[$0..<$1]) }
}

/// Feeds the scanner piece by piece.
func scanned(_ bytes: [UInt8], cutAt cuts: [Int], lineMax: Int) -> (event: BodyEvent, octets: Int) {
  var scanner = EndOfDataScanner(lineOctetsMax: lineMax)
  var base = 0
  for piece in pieces(bytes, cutAt: cuts) {
    switch scanner.scan(piece.span) {
    case .body: base += piece.count
    case .rewrite(let from): fatalError("octets from \(from) on are to be rewritten")
    case .end(let count): return (.end(base + count), Int(scanner.octets))
    case .fault(let kind, let at): return (.fault(kind, at: base + at), Int(scanner.octets))
    }
  }
  return (.open, Int(scanner.octets))
}

/// Rewrites a stream piece by piece, with `room` octets of output at a time (3 or more).
func rewritten(_ bytes: [UInt8], cutAt cuts: [Int], room: Int, lineMax: Int) -> (
  event: BodyEvent, out: [UInt8], octets: Int
) {
  var scanner = EndOfDataScanner(lineOctetsMax: lineMax, lineEnds: .normalize)
  var out: [UInt8] = []
  var base = 0
  for piece in pieces(bytes, cutAt: cuts) {
    if let event = rewrite(piece, from: 0, base, &scanner, room: room, into: &out) {
      return (event, out, Int(scanner.octets))
    }
    base += piece.count
  }
  return (.open, out, Int(scanner.octets))
}

/// Normalises as the engine does: what needs no rewriting goes on as it came, but for a CR at its end.
func normalized(_ bytes: [UInt8], cutAt cuts: [Int], room: Int, lineMax: Int) -> (
  event: BodyEvent, out: [UInt8], size: Int
) {
  var scanner = EndOfDataScanner(lineOctetsMax: lineMax, lineEnds: .normalize)
  var out: [UInt8] = []
  var base = 0
  var held: [UInt8] = []
  for piece in pieces(bytes, cutAt: cuts) where !piece.isEmpty {
    switch scanner.scan(piece.span) {
    case .body:
      out += held + (scanner.endsInCR ? piece.dropLast() : piece[...])
    case .rewrite(let from):
      out += held + piece[..<from]
      if let event = rewrite(piece, from: from, base, &scanner, room: room, into: &out) {
        return (event, out, Int(scanner.size))
      }
    case .end(let count):
      return (.end(base + count), out + held + piece[..<count], Int(scanner.size))
    case .fault(let kind, let at): return (.fault(kind, at: base + at), out, Int(scanner.size))
    }
    held = scanner.endsInCR ? [13] : []
    base += piece.count
  }
  return (.open, out, Int(scanner.size))
}

private func rewrite(
  _ piece: [UInt8], from start: Int, _ base: Int, _ scanner: inout EndOfDataScanner, room: Int,
  into out: inout [UInt8]
) -> BodyEvent? {
  var done = start
  while true {
    let rest = Array(piece[done...])
    var step = RewriteStep.body
    out += [UInt8](capacity: room) { step = scanner.rewrite(rest.span, into: &$0) }
    switch step {
    case .full(let consumed): done += consumed
    case .body: return nil
    case .end(let consumed): return .end(base + done + consumed)
    case .fault(let kind, let at): return .fault(kind, at: base + done + at)
    }
  }
}

/// All that a reader made of a reply.
struct ReadReply: Equatable {
  var step: ReplyStep
  var code: UInt16
  var enhanced: EnhancedCode?
  var lines: Int
  var consumed: Int
  var text: [UInt8]
}

/// Feeds the reply reader piece by piece, and takes pieces of a challenge as they become full.
func read(
  _ bytes: [UInt8], cutAt cuts: [Int], room: Int = 60_000, for use: ReplyUse = .client
) -> ReadReply {
  var reader = ReplyReader()
  var text = [UInt8](repeating: 0, count: room)
  var taken: [UInt8] = []
  var step = ReplyStep.needMore
  var consumed = 0
  for piece in pieces(bytes, cutAt: cuts) where step == .needMore {
    var done = 0
    repeat {
      if step == .full {
        taken += text[..<reader.length]
        reader.taken()
      }
      var used = 0
      var span = text.mutableSpan
      let rest = Array(piece[done...])
      step = reader.read(rest.span, consumed: &used, into: &span, for: use)
      done += used
    } while step == .full
    consumed += done
  }
  return ReadReply(
    step: step, code: reader.code, enhanced: reader.enhanced, lines: reader.lines,
    consumed: consumed, text: taken + text[..<reader.length])
}

/// A line, or what stopped the scanner, counted from the first byte of the stream.
enum LineEvent: Equatable {
  case line(at: Int, length: Int)
  case tooLong(at: Int)
  case bareLF(at: Int)
  case bareCR(at: Int)
  case nul(at: Int)
}

/// Feeds the line scanner as a session does: bytes arrive behind those not yet consumed.
func lines(_ bytes: [UInt8], cutAt cuts: [Int], limit: Int, ends: LineEnds) -> [LineEvent] {
  var scanner = LineScanner(lineEnds: ends)
  var events: [LineEvent] = []
  var start = 0
  var arrived = 0
  for piece in pieces(bytes, cutAt: cuts) {
    arrived += piece.count
    waiting: while true {
      let buffer = Array(bytes[start..<arrived])
      switch scanner.next(in: buffer.span, limit: limit) {
      case .line(let length, let consumed):
        events.append(.line(at: start, length: length))
        start += consumed
      case .needMore: break waiting
      case .tooLong: return events + [.tooLong(at: start)]
      case .bareLF(let at): return events + [.bareLF(at: start + at)]
      case .bareCR(let at): return events + [.bareCR(at: start + at)]
      case .nul(let at): return events + [.nul(at: start + at)]
      }
    }
  }
  return events
}

/// The lines of the whole stream, octet by octet.
func referenceLines(_ bytes: [UInt8], limit: Int, ends: LineEnds) -> [LineEvent] {
  var events: [LineEvent] = []
  var start = 0
  var i = 0
  while i < bytes.count {
    let byte = bytes[i]
    if i - start > limit { return events + [.tooLong(at: start)] }
    switch byte {
    case 13:
      if i + 1 == bytes.count { return events }
      if bytes[i + 1] != 10 { return events + [.bareCR(at: i)] }
      events.append(.line(at: start, length: i - start))
      i += 1
      start = i + 1
    case 10:
      if ends == .strict { return events + [.bareLF(at: i)] }
      events.append(.line(at: start, length: i - start))
      start = i + 1
    case 0: return events + [.nul(at: i)]
    default: break
    }
    i += 1
  }
  return bytes.count - start > limit ? events + [.tooLong(at: start)] : events
}
