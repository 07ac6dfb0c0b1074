// SPDX-License-Identifier: Apache-2.0
import Configuration
import ConfigurationFixtures
import Flow
import Testing

/// A configuration has one mistake: where, why, and what to write instead; the last two in part.
func expectMistake(
  in yaml: String, at place: String, _ reason: String, hint: String,
  sourceLocation: SourceLocation = #_sourceLocation
) {
  let (configuration, problems) = read(yaml)
  #expect(configuration == nil, "\(yaml)", sourceLocation: sourceLocation)
  let errors = problems.filter { $0.severity == .error }
  #expect(errors.count == 1, "\(yaml): \(problems)", sourceLocation: sourceLocation)
  guard let problem = errors.first else { return }
  let found = "\(problem.position.line):\(problem.position.column)"
  #expect(found == place, "\(problem)", sourceLocation: sourceLocation)
  #expect(problem.reason.contains(reason), "\(problem)", sourceLocation: sourceLocation)
  #expect(problem.hint.contains(hint), "\(problem)", sourceLocation: sourceLocation)
  #expect(!problem.lineText.isEmpty, sourceLocation: sourceLocation)
}
