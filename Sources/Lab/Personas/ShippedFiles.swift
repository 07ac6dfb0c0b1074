// SPDX-License-Identifier: Apache-2.0
import Configuration
import CShipped

/// What is built into the program of the folder `tuning`, so that an installed binary needs nothing beside it.
package enum ShippedFiles {
  package struct File: Sendable {
    /// Below `tuning`: `personas/b01-impatient.yaml`.
    package let path: String
    package let bytes: [UInt8]

    /// Without its folder and ending: `b01-impatient`.
    var name: String {
      String(path.split(separator: "/").last?.prefix { $0 != "." } ?? "")
    }

    /// As a text that says in messages where it comes from.
    var source: SourceText { SourceText(file: "(shipped) \(path)", bytes: bytes) }
  }

  /// Those of one folder, in name order.
  package static func all(in folder: String) -> [File] {
    var found: [File] = []
    var next = 0
    while let file = cshipped_file(next)?.pointee {
      next += 1
      let path = String(cString: file.path)
      guard path.hasPrefix(folder + "/") else { continue }
      found.append(
        File(path: path, bytes: Array(UnsafeBufferPointer(start: file.bytes, count: file.count))))
    }
    return found.sorted { $0.path < $1.path }
  }
}
