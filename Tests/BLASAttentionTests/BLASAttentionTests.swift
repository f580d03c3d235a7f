import BLASAttention
import ConformanceKit
import DistributedCore
import Foundation
import TensorCore
import Testing

@Suite struct BLASAttentionTests {
    @Test func conforms() throws {
        let violations = try AttentionConformance.violations(of: BLASAttention())
        #expect(violations.isEmpty, "\(violations.joined(separator: "\n"))")
    }

    /// Every worker of every rank calls OpenBLAS at once; nothing of one call may show in another. More rounds, to look for something
    /// rare: RINGZOO_TEST_ROUNDS.
    @Test func manyCallersGetTheBitsOfOne() throws {
        let rounds = ProcessInfo.processInfo.environment["RINGZOO_TEST_ROUNDS"].flatMap { Int($0) } ?? 5
        let inputs = [
            AttentionCase("causal", heads: 4, keyHeads: 2, length: 300, headSize: 32, spread: 6, .init(causal: true)),
            AttentionCase("full", heads: 3, length: 205, headSize: 65, spread: 1),
            AttentionCase("float64", heads: 2, length: 150, headSize: 48, dtype: .float64, spread: 6),
        ]
        let alone = try inputs.map { try AttentionOutcome($0, BLASAttention(), on: CPUDevice(threads: 1)) }
        for round in 0..<rounds {
            let differing = try InProcessRanks.run(8, threads: 32) { _, device in
                try inputs.indices.filter {
                    try AttentionOutcome(inputs[$0], BLASAttention(), on: device) != alone[$0]
                }.map { inputs[$0].name }
            }
            #expect(differing.joined().isEmpty, "round \(round): \(differing)")
        }
    }
}
