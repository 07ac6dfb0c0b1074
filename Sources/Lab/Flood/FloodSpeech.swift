// SPDX-License-Identifier: Apache-2.0

import Personas

/// What a client says in one go: its octets, and for a large message lines that are not made one by one.
struct FloodSpeech {
  /// In front.
  var octets: [UInt8] = []
  /// Octets of a large message's text that follow them, whole lines.
  var bodyLeft = 0
  /// Behind that text.
  var tail: [UInt8] = []

  /// Messages above this are sent piece by piece from one text that all clients share.
  private static let bodyWhole = 8_192

  /// Makes it what a line becomes.
  ///
  /// - Parameters:
  ///   - number: the client's; it is in its HELO name and in the addresses it gives.
  ///   - inPieces: whether a large message may use the shared text.
  mutating func set(
    _ line: Line, _ persona: SharedPersona, number: Int, known: String, inPieces: Bool
  ) {
    octets.removeAll(keepingCapacity: true)
    tail.removeAll(keepingCapacity: true)
    bodyLeft = 0
    guard inPieces, case .body(let size) = line, Int(size) > Self.bodyWhole else {
      return Words.write(line, persona, number: number, known: known, into: &octets)
    }
    // The head and the dot of an empty message, whole lines between them.
    Words.write(.body(octets: 0), persona, number: number, known: known, into: &octets)
    tail += octets.suffix(3)
    octets.removeLast(3)
    bodyLeft = Int(size) / FloodMemory.lineBytes * FloodMemory.lineBytes
  }
}
