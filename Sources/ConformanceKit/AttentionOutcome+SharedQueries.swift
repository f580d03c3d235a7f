import AttentionCore
import DistributedCore
import TensorCore

extension AttentionOutcome {
    /// Runs a backend for decoding on one in-process rank per shard: every rank holds all queries, and the keys of its shard. One outcome
    /// per rank, the gradients of keys and values put together from all ranks.
    ///
    /// - Parameter shards: the keys of each rank; together every token exactly once, in any order. A shard may be empty.
    public static func withSharedQueries(
        _ input: AttentionCase, shards: [Positions], threads: Int? = nil,
        _ makeBackend: @escaping @Sendable (any Communicator) -> any AttentionBackend
    ) throws -> [AttentionOutcome] {
        try InProcessRanks.run(shards.count, threads: threads, deadline: 120) { communicator, device in
            let (whole, own) = (input.inputs(on: device), input.inputs(at: shards[communicator.rank], on: device))
            let problem = whole.problem.keyed(by: own.problem.keys, documents: own.problem.mask.documents?.keys)
            let backend = makeBackend(communicator)
            let result = try backend.forward(q: whole.q, k: own.k, v: own.v, problem)
            let gradients = try backend.backward(dOut: whole.dOut, q: whole.q, k: own.k, v: own.v, result, problem)
            let parts = try communicator.allGather(Message([gradients.k, gradients.v]))
            func joined(_ index: Int) -> [Double] {
                Tensor.unshard(zip(parts, shards).map { ($0.tensors[index], $1) }, axis: 2).doubles
            }
            return AttentionOutcome(result, gradients, dK: joined(0), dV: joined(1))
        }
    }

    private init(_ result: AttentionResult, _ gradients: AttentionGradients, dK: [Double], dV: [Double]) {
        (out, lse) = (result.out.doubles, result.lse.doubles)
        (dQ, self.dK, self.dV) = (gradients.q.doubles, dK, dV)
        (dBias, dSinks) = (gradients.bias?.doubles ?? [], gradients.sinks?.doubles ?? [])
    }
}
