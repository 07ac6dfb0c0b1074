// swift-tools-version: 6.1
// SPDX-License-Identifier: Apache-2.0
import PackageDescription

// Every module speaks the same dialect: imports are internal unless said otherwise, existentials are
// written `any`, and members need the import that brings them. Spans returned from our own types need
// the Lifetimes feature.
let dialect: [SwiftSetting] = [
  .enableUpcomingFeature("ExistentialAny"),
  .enableUpcomingFeature("InternalImportsByDefault"),
  .enableUpcomingFeature("MemberImportVisibility"),
  .enableExperimentalFeature("Lifetimes"),
]

let package = Package(
  name: "sluice",
  products: [.executable(name: "sluice", targets: ["sluice"])],
  dependencies: [
    .package(url: "https://github.com/apple/swift-argument-parser", from: "1.8.2"),
    .package(url: "https://github.com/apple/swift-log", from: "1.16.2"),
    .package(url: "https://github.com/jpsim/Yams", from: "6.2.2"),
  ],
  targets: [
    // Pure: no Glibc, no Foundation, no C. Tests/StructuresTests/ImportRuleTests.swift holds us to it.
    .target(name: "Structures", swiftSettings: dialect),
    .target(name: "SMTP", dependencies: ["Structures"], swiftSettings: dialect),
    .target(name: "Flow", dependencies: ["Structures"], swiftSettings: dialect),
    .target(name: "Suspicion", dependencies: ["Structures", "Flow"], swiftSettings: dialect),
    .target(name: "Reputation", dependencies: ["Structures"], swiftSettings: dialect),
    .target(
      name: "Policy", dependencies: ["DNSLists", "Structures", "Flow", "Suspicion"],
      swiftSettings: dialect),
    .target(
      name: "Shield",
      dependencies: [
        "Structures", "SMTP", "Flow", "Suspicion", "Reputation", "DNSLists", "Policy",
      ],
      swiftSettings: dialect),
    .target(name: "Personas", dependencies: ["Structures"], swiftSettings: dialect),
    .target(name: "Reports", dependencies: ["Personas", "Structures"], swiftSettings: dialect),
    .target(
      name: "TestServer", dependencies: ["Structures", "SMTP", "Personas"], swiftSettings: dialect),
    .target(
      name: "Simulator",
      dependencies: [
        "Structures", "SMTP", "Flow", "Suspicion", "Reputation", "DNSLists", "Policy", "Shield",
        "Personas", "TestServer",
      ],
      swiftSettings: dialect),

    // The driver: everything that touches the kernel.
    .systemLibrary(
      name: "CLiburing", path: "Sources/CLiburing", pkgConfig: "liburing",
      providers: [.apt(["liburing-dev"])]),
    .target(name: "CUring", dependencies: ["CLiburing"]),
    // What the compiler reads at build time: files of tuning/, and the commit.
    .target(name: "CShipped"),
    .target(name: "CBuild"),
    .target(
      name: "Uring", dependencies: ["Structures", "CLiburing", "CUring"], swiftSettings: dialect),
    .systemLibrary(
      name: "COpenSSL", path: "Sources/COpenSSL", pkgConfig: "openssl",
      providers: [.apt(["libssl-dev"])]),
    .target(name: "CTLS", dependencies: ["COpenSSL"]),
    .target(name: "TLS", dependencies: ["Structures", "COpenSSL", "CTLS"], swiftSettings: dialect),
    // DNS: what lists say is pure, asking them is c-ares' work.
    .target(name: "DNSLists", dependencies: ["Structures"], swiftSettings: dialect),
    .systemLibrary(
      name: "CAres", path: "Sources/CAres", pkgConfig: "libcares",
      providers: [.apt(["libc-ares-dev"])]),
    .target(
      name: "Resolver", dependencies: ["Structures", "DNSLists", "CAres"], swiftSettings: dialect),
    // The house around the engine. Which may import which: Tests/StructuresTests/ImportRuleTests.swift.
    .target(
      name: "Configuration",
      dependencies: [
        "DNSLists", "Structures", "SMTP", "Flow", "Suspicion", "Reputation", "Policy", "Shield",
        "TLS",
        .product(name: "Yams", package: "Yams"),
      ], swiftSettings: dialect),
    .target(
      name: "Driver",
      dependencies: [
        "DNSLists", "Resolver", "Structures", "SMTP", "Reputation", "Policy", "Shield", "Uring",
        "TLS",
      ],
      swiftSettings: dialect),
    .target(
      name: "Service",
      dependencies: [
        "DNSLists", "Resolver", "Structures", "SMTP", "Flow", "Suspicion", "Reputation", "Policy",
        "Shield",
        "Uring", "TLS",
        "Configuration", "Driver",
        .product(name: "Logging", package: "swift-log"),
      ], swiftSettings: dialect),
    // The laboratory: personas' files, simulated runs, the flood, the test server, the demo. Nothing that `serve` needs.
    .target(
      name: "Lab",
      dependencies: [
        "Structures", "SMTP", "Flow", "Suspicion", "Policy", "Shield", "Uring", "TLS",
        "Configuration", "Driver", "Service", "Personas", "TestServer", "Simulator", "Reports",
        "CShipped",
        .product(name: "Logging", package: "swift-log"),
      ], swiftSettings: dialect),
    .executableTarget(
      name: "sluice",
      dependencies: [
        "Configuration", "Driver", "Service", "Lab", "Structures", "SMTP", "Flow", "Suspicion",
        "Policy", "Shield", "Uring", "TLS", "Personas", "TestServer", "Simulator",
        "Reports", "CBuild",
        .product(name: "ArgumentParser", package: "swift-argument-parser"),
        .product(name: "Logging", package: "swift-log"),
      ], swiftSettings: dialect),

    // Slow and obviously right, or published: what the tables are compared with.
    .target(
      name: "TableTwins", dependencies: ["Structures", "Flow"], path: "Tests/TableTwins",
      swiftSettings: dialect),
    .executableTarget(
      name: "table-benchmark", dependencies: ["TableTwins", "Structures", "Flow", "Reputation"],
      path: "Tests/TableBenchmark", swiftSettings: dialect),
    .executableTarget(
      name: "drip-benchmark",
      dependencies: ["Driver", "Shield", "Flow", "Suspicion", "Policy", "Uring", "Structures"],
      path: "Tests/DripBenchmark", swiftSettings: dialect),
    .testTarget(
      name: "StructuresTests", dependencies: ["Structures", "TableTwins"], swiftSettings: dialect),
    .testTarget(name: "SMTPTests", dependencies: ["SMTP", "Structures"], swiftSettings: dialect),
    .testTarget(
      name: "FlowTests", dependencies: ["Flow", "Structures", "TableTwins"],
      swiftSettings: dialect),
    .testTarget(
      name: "DNSListsTests", dependencies: ["DNSLists", "Structures"], swiftSettings: dialect),
    // Servers of DNS for tests and the benchmark.
    .target(name: "ResolverFixtures", path: "Tests/ResolverFixtures", swiftSettings: dialect),
    .testTarget(
      name: "ResolverTests",
      dependencies: ["ResolverFixtures", "Resolver", "DNSLists", "CAllocations", "Structures"],
      swiftSettings: dialect),
    .executableTarget(
      name: "resolver-benchmark",
      dependencies: [
        "ResolverFixtures", "Resolver", "DNSLists", "CAllocations", "CAres", "Structures",
        "Driver", "Flow", "Policy", "Shield", "Suspicion", "Uring",
      ],
      path: "Tests/ResolverBenchmark", swiftSettings: dialect),
    .target(name: "CAllocations", path: "Tests/CAllocations"),
    .target(name: "CRefusals", path: "Tests/CRefusals"),
    .testTarget(
      name: "ShieldTests",
      dependencies: [
        "CAllocations", "DNSLists", "Shield", "Simulator", "TestServer", "SMTP", "Flow",
        "Suspicion",
        "Reputation", "Policy",
        "Structures",
      ], swiftSettings: dialect),
    .testTarget(
      name: "SimulatorTests",
      dependencies: [
        "Simulator", "TestServer", "Personas", "Shield", "SMTP", "Flow", "Suspicion", "Policy",
        "Structures",
      ],
      swiftSettings: dialect),
    .testTarget(
      name: "DialogueTests",
      dependencies: [
        "Configuration", "Simulator", "TestServer", "Shield", "SMTP", "Suspicion", "Policy",
        "Structures",
      ],
      swiftSettings: dialect),
    .testTarget(
      name: "UringTests", dependencies: ["Uring", "CUring", "CRefusals", "Structures"],
      swiftSettings: dialect),
    .testTarget(
      name: "TLSTests", dependencies: ["TLS", "COpenSSL", "CAllocations", "Structures"],
      swiftSettings: dialect),
    .target(
      name: "ConfigurationFixtures", dependencies: ["Configuration"],
      path: "Tests/ConfigurationFixtures", swiftSettings: dialect),
    .testTarget(
      name: "ConfigurationTests",
      dependencies: [
        "ConfigurationFixtures", "Configuration", "DNSLists", "Flow", "SMTP", "Suspicion", "Policy",
        "Shield", "Structures", "TLS",
      ], swiftSettings: dialect),
    .testTarget(
      name: "DriverTests",
      dependencies: [
        "ConfigurationFixtures", "ResolverFixtures", "Configuration", "DNSLists", "Driver", "Flow",
        "Policy", "Reputation", "Resolver", "Shield", "Structures", "Suspicion", "TLS", "Uring",
      ], swiftSettings: dialect),
    .testTarget(
      name: "ServiceTests",
      dependencies: [
        "ConfigurationFixtures", "ResolverFixtures", "Configuration", "DNSLists", "Driver",
        "Resolver", "Service", "Flow", "SMTP", "Suspicion", "Policy", "Reputation", "Shield",
        "Structures", "TLS", "Uring",
        .product(name: "Logging", package: "swift-log"),
      ], swiftSettings: dialect),
    .testTarget(
      name: "LabTests",
      dependencies: [
        "ConfigurationFixtures", "Configuration", "Lab", "Flow", "Personas", "Structures",
      ], swiftSettings: dialect),
    .testTarget(
      name: "ReportsTests", dependencies: ["Reports", "Personas", "Structures"],
      swiftSettings: dialect),
    .testTarget(
      name: "PersonasTests", dependencies: ["Personas", "Structures"], swiftSettings: dialect),
  ]
)
