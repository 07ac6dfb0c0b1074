// SPDX-License-Identifier: Apache-2.0

// How a fuzz target reads its input, and how it complains. Not a target itself: it is compiled into each.
// The stream comes first, so that a corpus file is readable as text, and the choices are taken from the
// end, so that libFuzzer can change one without moving the other.

struct FuzzInput {
  private(set) var stream: [UInt8]
  private(set) var cuts: [Int] = []

  init(_ start: UnsafePointer<UInt8>?, _ count: Int) {
    stream = Array(UnsafeBufferPointer(start: start, count: count))
  }

  /// A choice from the end of the input; 0 when there is nothing left.
  mutating func number(_ range: Range<Int>) -> Int {
    range.lowerBound + Int(stream.popLast() ?? 0) % range.count
  }

  /// Up to seven cuts anywhere in what remains of the input, which is the stream from here on.
  mutating func takeCuts() {
    let choices = (0..<number(0..<8)).map { _ in number(0..<256) * 256 + number(0..<256) }
    cuts = choices.map { $0 % (stream.count + 1) }
  }
}

/// Stops with a sentence, which libFuzzer takes for a finding.
func demand(_ condition: Bool, _ sentence: @autoclosure () -> String) {
  if !condition { fatalError(sentence()) }
}
