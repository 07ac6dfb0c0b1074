// SPDX-License-Identifier: Apache-2.0
import Foundation
import Testing

/// The arrows inside of the engine: parents decide, children answer. ARCHITECTURE.md draws them.
@Suite("The engine's rooms")
struct RoomRuleTests {
  /// Of which rooms a room may not name a type. The files beside the rooms are what all of them work with.
  static let closed: [(room: String, rooms: [String])] = [
    ("Ledger", ["Front", "Session", "Body", "Downstream", "Judge", "Engine"]),
    ("Body", ["Front", "Downstream", "Judge", "Engine"]),
    ("Session", ["Front", "Downstream", "Judge", "Engine"]),
    ("Front", ["Downstream", "Judge", "Engine"]),
    ("Downstream", ["Front", "Session", "Body", "Judge", "Engine"]),
    ("Judge", ["Downstream", "Engine"]),
  ]

  /// The engine's own files, from the ground up: each calls only those before it.
  static let floors = [
    "Leaving", "Answering", "Tarpitting", "Message", "Splice", "Losses", "Forwarding", "Signs",
    "Commands", "Replies", "Turn", "Arrival", "ListAnswers", "Clocks", "Facts", "Engine", "Orders",
  ]

  /// The same of the simulated world, whose folder has its rooms too.
  static let worldFloors = ["Steps", "Obeying", "Telling", "World"]
  static let worldRooms: [(room: String, children: [String])] = [
    ("Course", ["EventQueue"]), ("Sayings", []), ("Letters", []), ("Sockets", []),
    ("Observer", ["Checks"]),
    ("ServerSide", []), ("Crowd", ["Sayings", "Letters"]),
  ]

  /// Each file's code by its name, without comments.
  static func code(of room: String, in module: String = "Shield") throws -> [String: String] {
    var code: [String: String] = [:]
    for (name, text) in try ImportRuleTests.files(of: module + "/" + room) {
      let lines = text.split(separator: "\n", omittingEmptySubsequences: false)
        .map { $0.components(separatedBy: "//")[0] }
      code[String(name.split(separator: "/").last ?? "")] = lines.joined(separator: "\n")
    }
    return code
  }

  static func names(_ pattern: String, in text: String) throws -> Set<String> {
    let regex = try NSRegularExpression(pattern: pattern)
    let range = NSRange(text.startIndex..., in: text)
    return Set(
      regex.matches(in: text, range: range).compactMap { match in
        Range(match.range(at: 1), in: text).map { String(text[$0]) }
      })
  }

  @Test("name only those below them", arguments: closed)
  func arrows(room: String, rooms: [String]) throws {
    let code = try Self.code(of: room)
    #expect(!code.isEmpty)
    for other in rooms {
      var types = Set<String>()
      for text in try Self.code(of: other).values {
        types.formUnion(try Self.names(#"\b(?:struct|enum) ([A-Z]\w+)"#, in: text))
      }
      for (file, text) in code {
        let used = try Self.names(#"\b([A-Z]\w+)\b"#, in: text)
        let own = try Self.names(#"\b(?:struct|enum|case) ([A-Z]\w+)"#, in: text)
        let named = used.intersection(types).subtracting(own)
        #expect(named.isEmpty, "\(room)/\(file) names \(named.sorted()) of \(other)")
      }
    }
  }

  @Test("its own files stand in floors, and each calls only those below it")
  func stairs() throws {
    let code = try Self.code(of: "Engine")
    #expect(Set(code.keys) == Set(Self.floors.map { $0 + ".swift" }))
    try climb(Self.floors, code)
  }

  @Test("the world's files do, too")
  func worldStairs() throws {
    try climb(Self.worldFloors, try Self.code(of: "World", in: "Simulator"))
  }

  private func climb(_ floors: [String], _ code: [String: String]) throws {
    var homes: [String: Set<Int>] = [:]
    for (floor, file) in floors.enumerated() {
      let text = try #require(code[file + ".swift"])
      for name in try Self.names(#"\bfunc (\w+)"#, in: text) {
        homes[name, default: []].insert(floor)
      }
    }
    for (floor, file) in floors.enumerated() {
      // Without a receiver: a call of the parent's own.
      for name in try Self.names(#"(?<![\w.])(\w+)\("#, in: code[file + ".swift"] ?? "") {
        guard let home = homes[name], let lowest = home.min() else { continue }
        #expect(lowest <= floor, "\(file) calls \(name), which stands in \(floors[lowest])")
      }
    }
  }

  @Test("the world's rooms name neither the world nor each other", arguments: worldRooms)
  func worldArrows(room: String, children: [String]) throws {
    let text = try #require(try Self.code(of: "World", in: "Simulator")[room + ".swift"])
    let named = try Self.names(#"\b([A-Z]\w+)\b"#, in: text)
    let others = Set(Self.worldRooms.map(\.room) + ["World", "Engine"])
      .subtracting(children + [room])
    #expect(named.intersection(others).isEmpty)
  }

  @Test("one loop runs a session")
  func loop() throws {
    var callers = 0
    for text in try Self.code(of: "Engine").values {
      callers += text.components(separatedBy: " run(").count - 1
    }
    // Where it is, and where it is called.
    #expect(callers == 2)
  }
}
