// SPDX-License-Identifier: Apache-2.0
package import Structures

/// Poptrie (Asai and Ohara, SIGCOMM 2015): a multiway trie of 64 children a node that finds a child by
/// counting bits in a vector, written from the paper. The published structure that ours is measured
/// against, and a second opinion in its tests. Not part of the program.
///
/// As in the paper: six bits a step, 18 bits of direct pointing, leaves of 16 bits, equal neighbouring
/// leaves kept once (leafvec). Not done: its incremental updates.
package final class Poptrie<Key: FixedWidthInteger & UnsignedInteger & Sendable>: Sendable {
  private struct Node: Sendable {
    /// Which of the 64 children are nodes.
    var vector: UInt64 = 0
    /// Which of the others begin a run of equal leaves.
    var leaves: UInt64 = 0
    var firstNode: UInt32 = 0
    var firstLeaf: UInt32 = 0
  }

  private let direct: [UInt32]
  private let nodes: [Node]
  /// 0 for nothing, else one more than the value.
  private let leaves: [UInt16]

  private static var directBits: Int { 18 }
  private static var step: Int { 6 }
  private static var isLeaf: UInt32 { 1 << 31 }

  /// - Parameters:
  ///   - prefixes: left-aligned in the key, of distinct (bits, length), values below 65,535.
  package init(_ prefixes: [(bits: Key, length: Int, value: UInt32)]) {
    let trie = BinaryTrie(prefixes)
    var building = Building()
    var direct = [UInt32](repeating: 0, count: 1 << Self.directBits)
    for index in direct.indices {
      let (node, leaf) = trie.descend(
        0, trie.values[0], bits: UInt64(index) << UInt64(64 - Self.directBits), Self.directBits)
      if let node, trie.hasChildren(node) {
        direct[index] = UInt32(building.nodes.count)
        building.nodes.append(Node())
        building.fill(Int(direct[index]), trie, node, leaf)
      } else {
        direct[index] = Self.isLeaf | UInt32(leaf)
      }
    }
    self.direct = direct
    nodes = building.nodes
    leaves = building.leaves
  }

  /// The value of the longest prefix of a left-aligned key, or nil.
  @inline(__always)
  package func lookup(_ key: Key) -> UInt32? {
    let pointer = direct[Int(truncatingIfNeeded: key &>> Key(Key.bitWidth - Self.directBits))]
    if pointer & Self.isLeaf != 0 {
      let leaf = pointer & ~Self.isLeaf
      return leaf == 0 ? nil : leaf - 1
    }
    var node = nodes[Int(pointer)]
    // In steps of six from the bits after the direct ones; padded with zeros behind the last bit.
    var rest = key &<< Key(Self.directBits)
    var child = UInt64(truncatingIfNeeded: rest &>> Key(Key.bitWidth - Self.step))
    while node.vector >> child & 1 == 1 {
      let before = (node.vector & (2 &<< child &- 1)).nonzeroBitCount
      node = nodes[Int(node.firstNode) + before - 1]
      rest = rest &<< Key(Self.step)
      child = UInt64(truncatingIfNeeded: rest &>> Key(Key.bitWidth - Self.step))
    }
    let before = (node.leaves & (2 &<< child &- 1)).nonzeroBitCount
    let leaf = leaves[Int(node.firstLeaf) + before - 1]
    return leaf == 0 ? nil : UInt32(leaf) - 1
  }

  package var footprint: Int {
    direct.count * 4 + nodes.count * MemoryLayout<Node>.stride + leaves.count * 2
  }

  private struct Building {
    var nodes: [Node] = []
    var leaves: [UInt16] = []

    mutating func fill(_ index: Int, _ trie: BinaryTrie<Key>, _ from: Int32, _ inherited: UInt16) {
      var node = Node()
      node.firstLeaf = UInt32(leaves.count)
      var inner: [(node: Int32, leaf: UInt16)] = []
      var last: UInt16?
      for child in UInt64(0)..<64 {
        let (below, leaf) = trie.descend(from, inherited, bits: child << 58, step)
        if let below, trie.hasChildren(below) {
          node.vector |= 1 << child
          inner.append((below, leaf))
        } else if leaf != last {
          node.leaves |= 1 << child
          leaves.append(leaf)
          last = leaf
        }
      }
      node.firstNode = UInt32(nodes.count)
      nodes[index] = node
      for _ in inner { nodes.append(Node()) }
      for (place, child) in inner.enumerated() {
        fill(Int(node.firstNode) + place, trie, child.node, child.leaf)
      }
    }
  }
}

/// One bit a step; only to build from.
private struct BinaryTrie<Key: FixedWidthInteger & UnsignedInteger> {
  private var children: [(Int32, Int32)] = [(0, 0)]
  /// 0 for nothing, else one more than the value.
  private(set) var values: [UInt16] = [0]

  init(_ prefixes: [(bits: Key, length: Int, value: UInt32)]) {
    for prefix in prefixes {
      var node = 0
      for bit in 0..<prefix.length {
        let isOne = prefix.bits >> Key(Key.bitWidth - 1 - bit) & 1 == 1
        var next = isOne ? children[node].1 : children[node].0
        if next == 0 {
          next = Int32(children.count)
          children.append((0, 0))
          values.append(0)
          if isOne { children[node].1 = next } else { children[node].0 = next }
        }
        node = Int(next)
      }
      values[node] = UInt16(prefix.value + 1)
    }
  }

  func hasChildren(_ node: Int32) -> Bool { children[Int(node)] != (0, 0) }

  /// From a node down the first `count` of `bits`.
  ///
  /// - Returns: the node there, if there is one, and the value of the longest prefix on the way.
  func descend(_ from: Int32, _ inherited: UInt16, bits: UInt64, _ count: Int) -> (Int32?, UInt16) {
    var node = Int(from)
    var value = inherited
    for bit in 0..<count {
      let next = bits >> UInt64(63 - bit) & 1 == 1 ? children[node].1 : children[node].0
      if next == 0 { return (nil, value) }
      node = Int(next)
      if values[node] != 0 { value = values[node] }
    }
    return (Int32(node), value)
  }
}

/// Poptries of both families behind the interface of `PrefixTable`.
package final class PoptrieTable: Sendable {
  /// Keys of 64 bits, so that a step behind the last bit of an address stays in the word.
  private let v4: Poptrie<UInt64>
  private let v6: Poptrie<UInt128>

  /// - Parameter prefixes: none twice; values below 65,535.
  package init(_ prefixes: [(Prefix, UInt32)]) {
    var four: [(bits: UInt64, length: Int, value: UInt32)] = []
    var six: [(bits: UInt128, length: Int, value: UInt32)] = []
    for (prefix, value) in prefixes {
      let address = prefix.address
      if address.isIPv4 {
        four.append((UInt64(address.v4) << 32, prefix.length, value))
      } else {
        six.append((UInt128(address.high) << 64 | UInt128(address.low), prefix.length, value))
      }
    }
    v4 = Poptrie(four)
    v6 = Poptrie(six)
  }

  @inline(__always)
  package func lookup(_ address: Address) -> UInt32? {
    address.isIPv4
      ? v4.lookup(UInt64(address.v4) << 32)
      : v6.lookup(UInt128(address.high) << 64 | UInt128(address.low))
  }

  /// Of one family, since the direct pointers of an empty one take a megabyte.
  package func footprint(isIPv4: Bool) -> Int { isIPv4 ? v4.footprint : v6.footprint }
}
