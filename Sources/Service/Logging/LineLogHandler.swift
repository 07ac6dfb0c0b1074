// SPDX-License-Identifier: Apache-2.0
import Glibc
package import Logging
import Synchronization

/// A swift-log handler that writes `sluice/component[pid]: message`, the form Postfix's log tools read; the tag not where
/// the sink's reader puts one.
///
/// Not for a client's bytes: those go through `escape` first. Kept: one event is one line, whatever is in
/// its text.
package struct LineLogHandler: LogHandler {
  package var logLevel: Logger.Level
  package var metadata: Logger.Metadata = [:]
  package var metadataProvider: Logger.MetadataProvider?

  private let tag: String
  private let sink: LogSink

  /// - Parameters:
  ///   - component: the part of Sluice that speaks, such as `smtpd`.
  ///   - name: what stands before the slash.
  package init(
    component: String, sink: LogSink, level: Logger.Level = .info, name: String = "sluice",
    pid: Int32 = getpid()
  ) {
    tag = sink.isTagged ? "" : "\(name)/\(component)[\(pid)]: "
    self.sink = sink
    logLevel = level
  }

  package func log(event: LogEvent) {
    var line = tag + LineLogHandler.word(event.level) + event.message.description
    var all = metadata
    if let provided = metadataProvider?.get() { all.merge(provided) { _, new in new } }
    if let own = event.metadata { all.merge(own) { _, new in new } }
    for (key, value) in all.sorted(by: { $0.key < $1.key }) { line += " \(key)=\(value)" }
    if let error = event.error { line += " error=\(error)" }
    sink.write(line, priority: LineLogHandler.priority(event.level))
  }

  package subscript(metadataKey key: String) -> Logger.Metadata.Value? {
    get { metadata[key] }
    set { metadata[key] = newValue }
  }

  /// Postfix's words, which its log tools count.
  private static func word(_ level: Logger.Level) -> String {
    switch level {
    case .trace, .debug, .info, .notice: ""
    case .warning: "warning: "
    case .error: "error: "
    case .critical: "fatal: "
    }
  }

  /// As syslog(3) numbers them.
  private static func priority(_ level: Logger.Level) -> Int {
    switch level {
    case .trace, .debug: 7
    case .info: 6
    case .notice: 5
    case .warning: 4
    case .error: 3
    case .critical: 2
    }
  }
}
