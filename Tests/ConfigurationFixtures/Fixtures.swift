// SPDX-License-Identifier: Apache-2.0
//
// What the tests of several modules share: a machine that is always the same, folders that are there for one test, and
// the files of the project.

package import Configuration
import Foundation

/// The machine of the tests: its name and processors are not those of whoever runs them.
package let machine = Environment(machineName: "mx.example.org", processors: 2)

/// The folder of the package.
package let projectFolder = URL(fileURLWithPath: #filePath).deletingLastPathComponent()
  .deletingLastPathComponent()
  .deletingLastPathComponent().path

package func contents(_ path: String) throws -> String {
  String(decoding: try readFile("\(projectFolder)/\(path)", bytesMax: 1 << 20), as: UTF8.self)
}

/// Reads one text as if it were `sluice.yaml`.
package func read(
  _ yaml: String, _ overrides: Overrides = Overrides(), environment: Environment = machine
) -> (configuration: Configuration?, problems: [Problem]) {
  let source = SourceText(file: "sluice.yaml", bytes: Array(yaml.utf8))
  return Configuration.read([source], folder: "", overrides, environment)
}

/// A folder that is there for one test.
package final class Folder {
  package let path: String

  package init() throws {
    path = "\(NSTemporaryDirectory())/sluice-\(UUID().uuidString)"
    try FileManager.default.createDirectory(atPath: path, withIntermediateDirectories: true)
  }

  deinit { try? FileManager.default.removeItem(atPath: path) }

  /// - Returns: the path of the file.
  @discardableResult
  package func write(_ name: String, _ text: String) throws -> String {
    let file = "\(path)/\(name)"
    let folder = URL(fileURLWithPath: file).deletingLastPathComponent().path
    try FileManager.default.createDirectory(atPath: folder, withIntermediateDirectories: true)
    try Array(text.utf8).withUnsafeBytes { try Data($0).write(to: URL(fileURLWithPath: file)) }
    return file
  }
}
