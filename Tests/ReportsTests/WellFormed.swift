// SPDX-License-Identifier: Apache-2.0

/// A strict reader of the HTML that we write: each element closed in its order, each value quoted and given
/// once, no bare `<`, `>` or `&`, no character that must not be. Stricter than a browser, on purpose.
struct WellFormed {
  /// The first thing that is wrong, in words; nil if nothing is.
  static func problem(_ page: String) -> String? {
    var reader = WellFormed(scalars: Array(page.unicodeScalars))
    return reader.read()
  }

  private let scalars: [Unicode.Scalar]
  private var at = 0
  private var open: [String] = []
  private var ids: Set<String> = []

  private init(scalars: [Unicode.Scalar]) { self.scalars = scalars }

  private func here(_ what: String) -> String {
    let from = max(0, at - 60)
    let text = String(String.UnicodeScalarView(scalars[from..<min(at + 20, scalars.count)]))
    return "\(what), near …\(text)…"
  }

  private func starts(_ text: String) -> Bool {
    var place = at
    for wanted in text.unicodeScalars {
      if place >= scalars.count || scalars[place] != wanted { return false }
      place += 1
    }
    return true
  }

  private mutating func name() -> String {
    var name = ""
    while at < scalars.count,
      scalars[at].properties.isAlphabetic || "-0123456789".unicodeScalars.contains(scalars[at])
    {
      name.unicodeScalars.append(scalars[at])
      at += 1
    }
    return name
  }

  private mutating func read() -> String? {
    guard starts("<!DOCTYPE html>\n") else { return "no doctype" }
    at += 16
    while at < scalars.count {
      if let wrong = scalars[at] == "<" ? tag() : text() { return wrong }
    }
    return open.isEmpty ? nil : "not closed: \(open.joined(separator: " "))"
  }

  private mutating func text() -> String? {
    let scalar = scalars[at]
    if scalar == ">" { return here("a bare >") }
    if scalar.value < 0x20 && scalar != "\n" || (0x7F..<0xA0).contains(scalar.value) {
      return here("a control character")
    }
    if open.isEmpty && scalar != "\n" { return here("text outside of the page") }
    if scalar == "&" {
      let known = ["&amp;", "&lt;", "&gt;", "&quot;", "&#39;"]
      if !known.contains(where: starts) { return here("a bare &") }
    }
    at += 1
    return nil
  }

  private mutating func tag() -> String? {
    at += 1
    if starts("/") {
      at += 1
      let name = name()
      guard open.last == name else { return here("</\(name)> closes \(open.last ?? "nothing")") }
      guard starts(">") else { return here("</\(name) without >") }
      at += 1
      open.removeLast()
      return nil
    }
    let name = name()
    if name.isEmpty { return here("a bare <") }
    var given: Set<String> = []
    while at < scalars.count {
      if starts(">") {
        at += 1
        open.append(name)
        return nil
      }
      if starts("/>") {
        at += 2
        return nil
      }
      while starts(" ") { at += 1 }
      if starts(">") || starts("/>") { continue }
      let attribute = self.name()
      if attribute.isEmpty { return here("not an attribute") }
      if !given.insert(attribute).inserted { return here("\(attribute) twice") }
      guard starts("=\"") else { return here("\(attribute) has no quoted value") }
      at += 2
      var value = ""
      while at < scalars.count, !starts("\"") {
        if starts("<") { return here("< in a value") }
        value.unicodeScalars.append(scalars[at])
        at += 1
      }
      at += 1
      if attribute == "id" && !ids.insert(value).inserted { return here("the id \(value) twice") }
      if attribute.hasPrefix("on") || attribute == "src" || attribute == "href" {
        return here("\(attribute) has no place in a report")
      }
    }
    return here("the page ends in a tag")
  }
}
