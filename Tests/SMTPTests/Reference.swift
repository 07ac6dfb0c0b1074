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
  var column = 0
  for (i, byte) in bytes.enumerated() {
    if i > 0 && bytes[i - 1] == 13 {
      if byte != 10 { return .fault(.bareCR, at: i - 1) }
      let tail = Array(bytes[max(0, i - 4)...i])
      if tail == [13, 10, 46, 13, 10] || (i == 2 && tail == [46, 13, 10]) { return .end(i + 1) }
      column = 0
    } else if byte == 10 {
      return .fault(.bareLF, at: i)
    } else if byte == 0 {
      return .fault(.nul, at: i)
    } else if byte != 13 {
      column += 1
      if lineMax > 0 && column > lineMax { return .fault(.lineTooLong, at: i) }
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
    if afterCR && byte != 10 { return (.fault(.bareCR, at: i - 1), out + begun(line)) }
    if byte == 13 { continue }
    if byte == 0 { return (.fault(.nul, at: i), out + begun(line)) }
    if byte != 10 {
      if lineMax > 0 && line.count == lineMax {
        return (.fault(.lineTooLong, at: i), out + begun(line))
      }
      line.append(byte)
      continue
    }
    let isDot = line == [46]
    if afterCR && isDot && !previousWasBare { return (.end(i + 1), out + [46, 13, 10]) }
    out += line.first == 46 && (previousWasBare || (isDot && !afterCR)) ? [46] : []
    out += line + [13, 10]
    line = []
    previousWasBare = !afterCR
  }
  return (.open, out + begun(line))

  func begun(_ line: [UInt8]) -> [UInt8] {
    (previousWasBare && line.first == 46 ? [46] : []) + line
  }
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
    case .end(let count): return (.end(base + count), Int(scanner.octets))
    case .fault(let kind, let at): return (.fault(kind, at: base + at), Int(scanner.octets))
    }
  }
  return (.open, Int(scanner.octets))
}

/// Feeds the normaliser piece by piece, with `room` octets of output at a time (3 or more).
func normalized(_ bytes: [UInt8], cutAt cuts: [Int], room: Int, lineMax: Int) -> (
  event: BodyEvent, out: [UInt8], octets: Int
) {
  var scanner = EndOfDataScanner(lineOctetsMax: lineMax)
  var out: [UInt8] = []
  var base = 0
  for piece in pieces(bytes, cutAt: cuts) {
    var done = 0
    while true {
      let rest = Array(piece[done...])
      var step = NormalizeStep.body
      out += [UInt8](capacity: room) { step = scanner.normalize(rest.span, into: &$0) }
      switch step {
      case .full(let consumed):
        done += consumed
        continue
      case .body: break
      case .end(let consumed):
        return (.end(base + done + consumed), out, Int(scanner.octets))
      case .fault(let kind, let at):
        return (.fault(kind, at: base + done + at), out, Int(scanner.octets))
      }
      break
    }
    base += piece.count
  }
  return (.open, out, Int(scanner.octets))
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

/// Feeds the reply reader piece by piece.
func read(_ bytes: [UInt8], cutAt cuts: [Int], room: Int = 60_000) -> ReadReply {
  var reader = ReplyReader()
  var text = [UInt8](repeating: 0, count: room)
  var step = ReplyStep.needMore
  var consumed = 0
  for piece in pieces(bytes, cutAt: cuts) where step == .needMore {
    var used = 0
    var span = text.mutableSpan
    step = reader.read(piece.span, consumed: &used, into: &span)
    consumed += used
  }
  return ReadReply(
    step: step, code: reader.code, enhanced: reader.enhanced, lines: reader.lines,
    consumed: consumed, text: Array(text[..<reader.length]))
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
