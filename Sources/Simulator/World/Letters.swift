// SPDX-License-Identifier: Apache-2.0
import Personas
import Structures

/// What is on its way from the shield to its clients: each piece has a number until it is read.
///
/// Pieces of three sizes in one block of memory, which doubles when it is full: up to 62 bytes, which most replies
/// are, up to 510, and up to what an outbox holds. The first two bytes of a piece are its length.
struct Letters: ~Copyable {
  private static let sizes = [64, 512, 8_704]
  private var arena = Arena(count: 16_384)
  private var used = 0
  /// Where the pieces of each size are that are free.
  private var free: [[UInt32]] = [[], [], []]

  /// Takes a copy of a region's bytes, at most 8,702; returns its number.
  mutating func put(_ shield: borrowing Arena, _ region: Region) -> UInt32 {
    let size = Self.size(region.count)
    let offset = free[size].popLast().map(Int.init) ?? place(Self.sizes[size])
    arena[offset] = UInt8(truncatingIfNeeded: region.count)
    arena[offset + 1] = UInt8(truncatingIfNeeded: region.count >> 8)
    arena.write(shield.span(region), at: offset + 2)
    return UInt32(offset)
  }

  private static func size(_ count: Int) -> Int { count <= 62 ? 0 : count <= 510 ? 1 : 2 }

  private mutating func place(_ size: Int) -> Int {
    while used + size > arena.count {
      var larger = Arena(count: 2 * arena.count)
      larger.write(arena.span(Region(offset: 0, count: used)), at: 0)
      arena = larger
    }
    used += size
    return used - size
  }

  private func count(_ number: UInt32) -> Int {
    Int(arena[Int(number)]) | Int(arena[Int(number) + 1]) << 8
  }

  /// Lets a client hear one.
  func read(
    _ number: UInt32, by actor: inout Actor, _ persona: SharedPersona, now: Int64
  ) -> Actor.Step {
    let region = Region(offset: Int(number) + 2, count: count(number))
    return actor.heard(arena.span(region), persona, now: now)
  }

  /// It has been read, or nobody is there who could.
  mutating func give(_ number: UInt32) { free[Self.size(count(number))].append(number) }

  /// Bytes of memory it has.
  var footprint: Int { arena.count + free.reduce(0) { $0 + 4 * $1.count } }
}
