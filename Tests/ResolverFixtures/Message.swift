// SPDX-License-Identifier: Apache-2.0
//
// Messages of DNS as tests write them.

/// A resource record.
package struct Record {
  package let owner: [UInt8]
  package let type: UInt16
  package let seconds: UInt32
  package let data: [UInt8]

  package init(
    owner: [UInt8] = [0xC0, 12], type: UInt16, seconds: UInt32 = 300, data: [UInt8]
  ) {
    self.owner = owner
    self.type = type
    self.seconds = seconds
    self.data = data
  }

  package static func a(_ octets: UInt8..., seconds: UInt32 = 300) -> Record {
    Record(type: 1, seconds: seconds, data: octets)
  }

  package static func pointer(_ name: String, seconds: UInt32 = 300) -> Record {
    Record(type: 12, seconds: seconds, data: Message.name(name))
  }

  package static func text(_ strings: [[UInt8]]) -> Record {
    Record(type: 16, data: strings.flatMap { [UInt8($0.count)] + $0 })
  }

  package static func alias(_ owner: String?, _ name: String, seconds: UInt32 = 300) -> Record {
    Record(
      owner: owner.map { Message.name($0) } ?? [0xC0, 12], type: 5, seconds: seconds,
      data: Message.name(name))
  }

  package static func soa(seconds: UInt32, minimum: UInt32) -> Record {
    let numbers: [UInt32] = [1, 3_600, 600, 86_400, minimum]
    return Record(
      owner: Message.name("bl.example"), type: 6, seconds: seconds,
      data: Message.name("ns.example") + Message.name("root.example")
        + numbers.flatMap { Message.long($0) })
  }

  package func owned(by name: String) -> Record {
    Record(owner: Message.name(name), type: type, seconds: seconds, data: data)
  }
}

package enum Message {
  package static func short(_ value: Int) -> [UInt8] { [UInt8(value >> 8), UInt8(value & 255)] }

  package static func long(_ value: UInt32) -> [UInt8] {
    short(Int(value >> 16)) + short(Int(value & 0xFFFF))
  }

  package static func name(_ text: String) -> [UInt8] {
    text.split(separator: ".").flatMap { [UInt8($0.utf8.count)] + Array($0.utf8) } + [0]
  }

  package static func query(_ name: String, type: UInt16, identifier: Int = 7) -> [UInt8] {
    short(identifier) + [1, 0, 0, 1, 0, 0, 0, 0, 0, 0] + self.name(name) + short(Int(type))
      + [0, 1]
  }

  package static func reply(
    to query: [UInt8], code: UInt8 = 0, isTruncated: Bool = false, _ answers: [Record] = [],
    authority: [Record] = []
  ) -> [UInt8] {
    let header =
      query[0..<2] + [0x81 | (isTruncated ? 2 : 0), 0x80 | code, 0, 1]
      + short(answers.count) + short(authority.count) + [0, 0]
    var message = Array(header) + query[12...]
    for record in answers + authority {
      message += record.owner + short(Int(record.type)) + [0, 1] + long(record.seconds)
      message += short(record.data.count) + record.data
    }
    return message
  }

  /// The name that a query asks for, in text.
  package static func asked(_ query: [UInt8]) -> String {
    var labels: [String] = []
    var place = 12
    while place < query.count, query[place] != 0 {
      let end = min(place + 1 + Int(query[place]), query.count)
      labels.append(String(decoding: query[(place + 1)..<end], as: UTF8.self))
      place = end
    }
    return labels.joined(separator: ".")
  }
}
