// SPDX-License-Identifier: Apache-2.0
@main
enum ResolverBenchmark { static func main() {} }
