import AttentionCore
import ConformanceKit
import DistributedCore
import TensorCore
import Testing

/// The contract of `forward` holds on ranks too: keys may come in several calls, in any order, into one state.
@Suite struct PiecewiseTests {
    @Test(arguments: DistributedKernel.all)
    func keysInPiecesEqualTheOracle(_ kernel: DistributedKernel) throws {
        for input in AttentionConformance.cases() where input.length <= 120 && input.dtype != .bfloat16 {
            let shards = SequenceLayout.zigzag.shards(length: input.length, size: 3)
            let parts = try InProcessRanks.run(3) { communicator, device in
                let own = shards[communicator.rank]
                let inputs = input.inputs(at: own, on: device)
                let backend = kernel.over(communicator)
                var state = AttentionState(inputs.problem, batch: input.batch, on: device)
                // The last third of every rank's keys first.
                let cut = own.count * 2 / 3
                for range in [cut..<own.count, 0..<cut] {
                    let positions = Positions(runs: own.indices[range].map { .init(start: $0, count: 1) })
                    let problem = inputs.problem.keyed(
                        by: positions, documents: inputs.problem.mask.documents?.keys.slice(axis: 1, range))
                    try backend.forward(
                        q: inputs.q, k: inputs.k.slice(axis: 2, range), v: inputs.v.slice(axis: 2, range), into: &state,
                        problem)
                }
                let result = state.finish(inputs.problem.mask.sinks)
                return [result.out, result.lse].map { ($0.shape, $0.doubles) }
            }
            let device = CPUDevice(threads: 1)
            var outcome = try AttentionOutcome(input, kernel.local.backend, on: device)
            func whole(_ index: Int) -> [Double] {
                Tensor.unshard(
                    zip(parts, shards).map { (Tensor($0[index].1, $0[index].0, on: device), $1) }, axis: 2
                ).doubles
            }
            (outcome.out, outcome.lse) = (whole(0), whole(1))
            let violations = AttentionTruth(input).violations(outcome)
            #expect(violations.isEmpty, "\(kernel):\n\(violations.joined(separator: "\n"))")
        }
    }
}
