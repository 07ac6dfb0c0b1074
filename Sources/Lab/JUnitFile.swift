// SPDX-License-Identifier: Apache-2.0
import Foundation

/// Outcomes of checks as JUnit XML, which every continuous integration reads.
package struct JUnitFile {
  package enum Outcome {
    case passed
    case failed(String)
    case skipped(String)
  }

  private var cases = ""
  private let suite: String

  package init(suite: String) { self.suite = suite }

  package mutating func add(_ name: String, _ outcome: Outcome) {
    let inside =
      switch outcome {
      case .passed: ""
      case .failed(let why): "<failure message=\"\(Self.escaped(why))\"/>"
      case .skipped(let why): "<skipped message=\"\(Self.escaped(why))\"/>"
      }
    let (suite, name) = (Self.escaped(suite), Self.escaped(name))
    cases += "<testcase classname=\"\(suite)\" name=\"\(name)\">\(inside)</testcase>\n"
  }

  package func write(to path: String) throws {
    let text = """
      <?xml version="1.0" encoding="UTF-8"?>
      <testsuites><testsuite name="\(Self.escaped(suite))">
      \(cases)</testsuite></testsuites>

      """
    try text.write(toFile: path, atomically: true, encoding: .utf8)
  }

  private static func escaped(_ text: String) -> String {
    text.replacing("&", with: "&amp;").replacing("<", with: "&lt;").replacing(">", with: "&gt;")
      .replacing("\"", with: "&quot;").replacing("\n", with: "&#10;")
  }
}
