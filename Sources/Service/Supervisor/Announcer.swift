// SPDX-License-Identifier: Apache-2.0
//
// Where the words of a service go: the log, and standard error for what whoever starts it must see. Not the journal's
// lines, which are the log thread's.

import Configuration
package import Logging

package struct Announcer: Sendable {
  package let logger: Logger
  private let console: @Sendable (String) -> Void
  /// Whether errors are said on standard error as well: the log is somewhere else.
  private let echoesErrors: Bool

  /// - Parameter console: writes a line to standard error.
  package init(
    _ logger: Logger, echoesErrors: Bool, console: @escaping @Sendable (String) -> Void
  ) {
    self.logger = logger
    self.echoesErrors = echoesErrors
    self.console = console
  }

  /// Something that whoever starts the service looks for, on standard error alone.
  func say(_ text: String) { console(text) }

  /// Says what is wrong in the log and, once, on standard error, where whoever starts it looks first.
  func fail(_ text: String) {
    logger.error("\(text)")
    if echoesErrors { console("error: \(text)") }
  }

  /// Problems in the log, each at its own severity, which the log names. What speaks against certificates is nothing
  /// to stop for, whatever `check` makes of it.
  func tell(_ problems: [Problem]) {
    for problem in problems {
      let level: Logger.Level = problem.severity == .error ? .error : .warning
      for line in problem.text(namingSeverity: false).split(separator: "\n") {
        logger.log(level: level, "\(line)")
      }
    }
  }

  /// What came of asking the downstream.
  func tell(_ preflight: Preflight) {
    for sentence in preflight.sentences {
      switch sentence.level {
      case .good: logger.info("\(sentence.text)")
      case .warning: logger.warning("\(sentence.text)")
      case .error: fail(sentence.text)
      }
    }
  }
}
