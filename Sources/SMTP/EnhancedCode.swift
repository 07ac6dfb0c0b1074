// SPDX-License-Identifier: Apache-2.0

/// An enhanced status code (RFC 3463, 2).
package struct EnhancedCode: Equatable, Sendable, BitwiseCopyable {
  package let `class`: UInt8
  package let subject: UInt16
  package let detail: UInt16

  package init(_ class: UInt8, _ subject: UInt16, _ detail: UInt16) {
    self.class = `class`
    self.subject = subject
    self.detail = detail
  }
}
