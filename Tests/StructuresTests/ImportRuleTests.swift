// SPDX-License-Identifier: Apache-2.0
import Foundation
import Testing

@Suite("The pure modules")
struct ImportRuleTests {
  static let sources = URL(fileURLWithPath: #filePath).deletingLastPathComponent()
    .deletingLastPathComponent().deletingLastPathComponent().appendingPathComponent("Sources")
  static let pure = [
    "Structures", "SMTP", "Flow", "Suspicion", "Reputation", "Policy", "Shield", "Personas",
    "Reports", "TestServer", "Simulator", "DNSLists",
  ]

  /// What each module around the engine may import of this package; of anything else it may import what it likes. The
  /// parts that a client or a simulation is made of are Lab's alone: the modules that serve mail link none of them.
  static let house: [(module: String, mayImport: Set<String>)] = [
    ("Resolver", ["Structures", "DNSLists", "CAres"]),
    (
      "Configuration",
      [
        "Structures", "SMTP", "Flow", "Suspicion", "Reputation", "DNSLists", "Policy", "Shield",
        "TLS",
      ]
    ),
    (
      "Driver",
      [
        "Structures", "SMTP", "Flow", "Suspicion", "Reputation", "DNSLists", "Policy", "Shield",
        "Resolver", "Uring", "TLS",
      ]
    ),
    (
      "Service",
      [
        "Structures", "SMTP", "Flow", "Suspicion", "Reputation", "DNSLists", "Policy", "Shield",
        "Resolver", "Uring", "TLS",
        "Configuration", "Driver",
      ]
    ),
    (
      "Lab",
      [
        "Structures", "SMTP", "Flow", "Suspicion", "Policy", "Shield", "Uring", "TLS",
        "Configuration",
        "Driver", "Service", "Personas", "TestServer", "Simulator", "Reports", "CShipped",
      ]
    ),
  ]

  /// Files that may touch memory through pointers, each with the proof beside it.
  static let unsafeFiles: Set<String> = ["Structures/Slab.swift", "SMTP/Bytes.swift"]

  static func files(of module: String) throws -> [(name: String, text: String)] {
    let folder = sources.appendingPathComponent(module)
    let names = try FileManager.default.subpathsOfDirectory(atPath: folder.path)
    return try names.filter { $0.hasSuffix(".swift") }.map { name in
      let path = folder.appendingPathComponent(name)
      return ("\(module)/\(name)", try String(contentsOf: path, encoding: .utf8))
    }
  }

  /// The modules that a file imports.
  static func imports(of text: String) -> [String] {
    text.split(separator: "\n").compactMap { line in
      let words = line.split(separator: " ")
      guard let place = words.firstIndex(of: "import"), place <= 1, place + 1 < words.count else {
        return nil
      }
      return String(words[place + 1])
    }
  }

  /// The folders below `Sources`, each of which is a module.
  static func modules() throws -> Set<String> {
    Set(try FileManager.default.contentsOfDirectory(atPath: sources.path))
  }

  @Test("a module around the engine imports only those below it", arguments: house)
  func layers(module: String, mayImport: Set<String>) throws {
    let modules = try Self.modules()
    #expect(mayImport.isSubset(of: modules), "the list names a module that is not there")
    let files = try Self.files(of: module)
    #expect(!files.isEmpty)
    for (name, text) in files {
      for imported in Self.imports(of: text) where modules.contains(imported) {
        #expect(mayImport.contains(imported), "\(name) imports \(imported)")
      }
    }
  }

  @Test("import nothing but each other", arguments: pure)
  func imports(module: String) throws {
    let files = try Self.files(of: module)
    #expect(!files.isEmpty)
    for (name, text) in files {
      for imported in Self.imports(of: text) {
        // The one thing of the library that keeps a struct in place; see there.
        let isAllowed = Self.pure.contains(imported) || name == "Structures/StaysPut.swift"
        #expect(isAllowed, "\(name) imports \(imported)")
      }
    }
  }

  @Test("touch memory through pointers only where the list says so", arguments: pure)
  func pointers(module: String) throws {
    for (name, text) in try Self.files(of: module) where !Self.unsafeFiles.contains(name) {
      for line in text.split(separator: "\n") where !line.contains("//") {
        let touches =
          line.contains("UnsafeMutable") || line.contains("UnsafePointer")
          || line.contains("unsafeBitCast")
          || line.contains("withUnsafe") || line.contains("Unmanaged")
        #expect(!touches, "\(name): \(line)")
      }
    }
  }

  @Test("every source file says its licence in its first line")
  func licences() throws {
    let names = try FileManager.default.subpathsOfDirectory(atPath: Self.sources.path)
    for name in names
    where [".swift", ".c", ".cpp", ".h"].contains(where: name.hasSuffix) {
      let text = try String(
        contentsOf: Self.sources.appendingPathComponent(name), encoding: .utf8)
      #expect(text.hasPrefix("// SPDX-License-Identifier: Apache-2.0"), "\(name)")
    }
  }
}
