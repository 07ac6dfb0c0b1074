// SPDX-License-Identifier: Apache-2.0
import Personas
import Structures

/// What clients have said and the shield has not read: a queue of lines for each, octets only when they are read.
struct Sayings: ~Copyable {
  /// A client's queue.
  struct Queue: BitwiseCopyable {
    /// Lines that have arrived at the shield, of those that were said.
    var arrived: Int32 = 0
    /// The last line that is not read yet, and behind which the first of them is; or -1.
    fileprivate(set) var last: Int32 = -1

    /// The record that holds a queue is free, and this its link: see `Linked`.
    var link: Int32 {
      get { last }
      set { last = newValue }
    }
  }

  /// A line of a queue. (Not private: Swift 6.3.1 crashes over it in a debug build.)
  struct Said: Linked {
    var line: Line
    /// Octets of it that are read already.
    var read: Int32 = 0
    /// How many such lines, one after the other: the octets of one who trickles.
    var times: Int32 = 1
    /// The next one.
    var link: Int32 = -1
  }

  private var lines = Pool(Said(line: .quit))
  private let known = "user@inner.example"

  /// Keeps a line until it is read.
  mutating func say(_ line: Line, to queue: inout Queue) {
    let last = Int(queue.last)
    if last >= 0 && line == .trickle && lines[last].line == .trickle {
      lines[last].times += 1
      return
    }
    let place = lines.take(Said(line: line))
    if last >= 0 {
      lines[place].link = lines[last].link
      lines[last].link = Int32(place)
    } else {
      lines[place].link = Int32(place)
    }
    queue.last = Int32(place)
  }

  /// Takes what has arrived, at most so many octets.
  mutating func read(
    _ queue: inout Queue, _ persona: SharedPersona, number: Int, atMost most: Int,
    into words: inout [UInt8]
  ) {
    while queue.arrived > 0 && words.count < most {
      let last = Int(queue.last)
      let first = Int(lines[last].link)
      let before = words.count
      let isWhole = Words.write(
        lines[first].line, persona, number: number, known: known, from: Int(lines[first].read),
        atMost: most - before, into: &words)
      if !isWhole {
        lines[first].read += Int32(words.count - before)
        return
      }
      queue.arrived -= 1
      lines[first].read = 0
      lines[first].times -= 1
      if lines[first].times > 0 { continue }
      drop(first, of: &queue)
    }
  }

  /// Nobody will read the rest.
  mutating func clear(_ queue: inout Queue) {
    while queue.last >= 0 { drop(Int(lines[Int(queue.last)].link), of: &queue) }
  }

  /// The first of a queue is read.
  @inline(__always)
  private mutating func drop(_ first: Int, of queue: inout Queue) {
    let last = Int(queue.last)
    if first == last {
      queue.last = -1
    } else {
      lines[last].link = lines[first].link
    }
    lines.give(first)
  }

  /// Bytes of memory it has.
  var footprint: Int { lines.footprint }
}
