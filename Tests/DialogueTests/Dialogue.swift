// SPDX-License-Identifier: Apache-2.0
import Foundation

/// A dialogue file: what a client says, what it must hear and when, and what the downstream must get.
///
/// The grammar is told in Tests/Dialogues/README.md. The same files are run here in virtual time and by
/// Tests/Integration/test_dialogues.py against the daemon in real time.
struct Dialogue {
  enum Step {
    /// The client says this line.
    case say(String)
    /// The client sends these octets.
    case send([UInt8])
    /// The client hears this line next; a time in seconds since it connected, if it matters.
    case hear(String, at: Double?)
    case wait(Double)
    case end
    case reset
    /// The shield closes.
    case closed
    /// The downstream was told this line, after those before.
    case told(String)
    /// No mail reached the downstream.
    case toldNothing
    /// The downstream accepted this many messages so far.
    case stored(Int)
  }

  let name: String
  var from = "127.0.0.1"
  var access = ""
  var rates = ""
  var configuration = ""
  var offers: [String]?
  var rules: [(prefix: String, answer: String)] = []
  /// Whether it may be run byte by byte.
  var splits = true
  var steps: [(line: Int, step: Step)] = []

  struct Fault: Error, CustomStringConvertible {
    let description: String
  }

  init(file: URL) throws {
    name = file.deletingPathExtension().lastPathComponent
    let lines = try String(contentsOf: file, encoding: .utf8).components(separatedBy: "\n")
    var inBody = false
    for (number, raw) in lines.enumerated() {
      let line = raw
      if line.isEmpty || line.hasPrefix("#") { continue }
      if line == "---" {
        inBody = true
        continue
      }
      do {
        if inBody {
          steps.append((number + 1, try Self.step(line)))
        } else {
          try header(line)
        }
      } catch {
        throw Fault(description: "\(name):\(number + 1): \(error)")
      }
    }
  }

  private mutating func header(_ line: String) throws {
    guard let space = line.firstIndex(of: " ") else { throw Fault(description: "no value") }
    let key = line[..<space]
    let value = String(line[line.index(after: space)...])
    switch key {
    case "from": from = value
    case "access": access += value + "\n"
    case "rates": rates += value + "\n"
    case "config": configuration += value + "\n"
    case "offers": offers = value.components(separatedBy: ", ")
    case "split", "real":
      if key == "split" { splits = false }
    case "downstream":
      let parts = value.components(separatedBy: " => ")
      guard parts.count == 2 else { throw Fault(description: "downstream PREFIX => ANSWER") }
      rules.append((parts[0], parts[1]))
    default: throw Fault(description: "unknown header '\(key)'")
    }
  }

  private static func step(_ line: String) throws -> Step {
    if line.hasPrefix("C: ") { return .say(String(line.dropFirst(3))) }
    if line.hasPrefix("C> ") { return .send(unescape(String(line.dropFirst(3)))) }
    if line.hasPrefix("S: ") { return .hear(String(line.dropFirst(3)), at: nil) }
    if line.hasPrefix("S@"), let colon = line.range(of: ": ") {
      guard let time = Double(line[line.index(line.startIndex, offsetBy: 2)..<colon.lowerBound])
      else { throw Fault(description: "no time in '\(line)'") }
      return .hear(String(line[colon.upperBound...]), at: time)
    }
    if line.hasPrefix("wait "), let seconds = Double(line.dropFirst(5)) { return .wait(seconds) }
    if line == "C end" { return .end }
    if line == "C reset" { return .reset }
    if line == "S end" { return .closed }
    if line == "D nothing" { return .toldNothing }
    if line.hasPrefix("D: ") { return .told(String(line.dropFirst(3))) }
    if line.hasPrefix("D stored "), let count = Int(line.dropFirst(9)) { return .stored(count) }
    throw Fault(description: "no step: '\(line)'")
  }

  /// \r \n \0 \t \\ and \xNN.
  static func unescape(_ text: String) -> [UInt8] {
    var out: [UInt8] = []
    var rest = Array(text.utf8)[...]
    while let byte = rest.popFirst() {
      guard byte == UInt8(ascii: "\\"), let next = rest.popFirst() else {
        out.append(byte)
        continue
      }
      switch next {
      case UInt8(ascii: "r"): out.append(13)
      case UInt8(ascii: "n"): out.append(10)
      case UInt8(ascii: "t"): out.append(9)
      case UInt8(ascii: "0"): out.append(0)
      case UInt8(ascii: "x"):
        let digits = String(decoding: rest.prefix(2), as: UTF8.self)
        rest = rest.dropFirst(2)
        out.append(UInt8(digits, radix: 16) ?? UInt8(ascii: "?"))
      default: out.append(next)
      }
    }
    return out
  }
}
