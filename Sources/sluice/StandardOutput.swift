// SPDX-License-Identifier: Apache-2.0
import ArgumentParser
import Configuration
import Glibc

/// What a command was asked for, on standard output.
enum StandardOutput {
  /// Writes a text as it is.
  ///
  /// - Throws: 74 (EX_IOERR) where it cannot be written whole. A reader that has seen enough (`| head -1`) is no error.
  static func write(_ text: String) throws {
    let number = StandardStreams.write(text, to: STDOUT_FILENO)
    guard number != 0, number != EPIPE else { return }
    StandardError.write("cannot write to standard output: \(String(cString: strerror(number)))")
    throw ExitCode(74)
  }
}
