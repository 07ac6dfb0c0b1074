// SPDX-License-Identifier: Apache-2.0

/// The known word that was most likely meant, for "did you mean" in error messages.
///
/// Not a spelling checker: it says nothing when no word is near, because a wild guess misleads more than
/// silence. Kept: a word is suggested only when fewer than half of its letters would have to change.
///
/// - Parameters:
///   - word: what was written; letter case does not count.
///   - known: the words that would have been right; the first wins among equally near ones.
/// - Returns: the nearest of `known`, or nil when more than a third of the letters (at least one, at most
///   three) would have to change.
public func nearest(to word: String, among known: [String]) -> String? {
  let written = Array(word.lowercased().utf8)
  // Longer than any setting we have: not a slip of the finger, and the table below grows with it.
  guard written.count <= 64 else { return nil }
  var best: (word: String, distance: Int)?
  for candidate in known {
    let letters = Array(candidate.lowercased().utf8)
    let allowed = min(3, max(1, max(letters.count, written.count) / 3))
    let distance = editDistance(written, letters)
    if distance <= allowed && distance * 2 < letters.count + 1 && distance < best?.distance ?? .max
    {
      best = (candidate, distance)
    }
  }
  return best?.word
}

/// How many letters must be put in, left out, replaced or swapped with their neighbour to get from `a`
/// to `b` (no letter touched twice).
public func editDistance(_ a: [UInt8], _ b: [UInt8]) -> Int {
  var beforeLast = [Int](repeating: 0, count: b.count + 1)
  var last = Array(0...b.count)
  for i in a.indices {
    var row = [i + 1]
    row.reserveCapacity(b.count + 1)
    for j in b.indices {
      var cost = min(last[j + 1] + 1, row[j] + 1, last[j] + (a[i] == b[j] ? 0 : 1))
      if i > 0 && j > 0 && a[i] == b[j - 1] && a[i - 1] == b[j] {
        cost = min(cost, beforeLast[j - 1] + 1)
      }
      row.append(cost)
    }
    beforeLast = last
    last = row
  }
  return last[b.count]
}
