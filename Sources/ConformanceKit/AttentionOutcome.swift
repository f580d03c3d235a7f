import AttentionCore
import DistributedCore
import TensorCore

/// What a backend computed for a whole sequence, on any number of ranks, gathered on the host.
public struct AttentionOutcome: Sendable, Equatable {
    public var out: [Double]
    public var lse: [Double]
    public var dQ: [Double]
    public var dK: [Double]
    public var dV: [Double]
    public var dBias: [Double] = []
    public var dSinks: [Double] = []

    /// Runs `backend` on one device.
    public init(_ input: AttentionCase, _ backend: any AttentionBackend, on device: any Device) throws {
        let inputs = input.inputs(on: device)
        let result = try backend.forward(q: inputs.q, k: inputs.k, v: inputs.v, inputs.problem)
        let gradients = try backend.backward(
            dOut: inputs.dOut, q: inputs.q, k: inputs.k, v: inputs.v, result, inputs.problem)
        out = result.out.doubles
        lse = result.lse.doubles
        dQ = gradients.q.doubles
        dK = gradients.k.doubles
        dV = gradients.v.doubles
        dBias = gradients.bias?.doubles ?? []
        dSinks = gradients.sinks?.doubles ?? []
    }

    /// Runs on `ranks` in-process ranks over shards of `layout`, and puts the sequence together again.
    public init(
        _ input: AttentionCase, ranks: Int, layout: SequenceLayout, threads: Int? = nil,
        _ makeBackend: @escaping @Sendable (any Communicator) -> any AttentionBackend
    ) throws {
        let shards = (0..<ranks).map { layout.positions(length: input.length, rank: $0, size: ranks) }
        try self.init(input, shards: shards, threads: threads, makeBackend)
    }

    /// Runs on one in-process rank per shard and puts the sequence together again.
    ///
    /// - Parameters:
    ///   - shards: what each rank holds; together every token exactly once, in any order. A shard may be empty.
    ///   - threads: worker threads of all ranks together; nil for the machine's.
    public init(
        _ input: AttentionCase, shards: [Positions], threads: Int? = nil,
        _ makeBackend: @escaping @Sendable (any Communicator) -> any AttentionBackend
    ) throws {
        struct Part: Sendable {
            var values: [[Double]]
            var positions: [Int]
            var dBias: [Double]
            var dSinks: [Double]
        }
        let parts = try InProcessRanks.run(shards.count, threads: threads, deadline: 120) { communicator, device in
            let positions = shards[communicator.rank]
            var inputs = input.inputs(at: positions, on: device)
            inputs.problem.shards = input.shards(shards)
            let backend = makeBackend(communicator)
            let result = try backend.forward(q: inputs.q, k: inputs.k, v: inputs.v, inputs.problem)
            let gradients = try backend.backward(
                dOut: inputs.dOut, q: inputs.q, k: inputs.k, v: inputs.v, result, inputs.problem)
            return Part(
                values: [result.out, result.lse, gradients.q, gradients.k, gradients.v].map(\.doubles),
                positions: positions.indices, dBias: gradients.bias?.doubles ?? [],
                dSinks: gradients.sinks?.doubles ?? [])
        }
        func whole(_ which: Int, _ heads: Int, _ size: Int) -> [Double] {
            var values = [Double](repeating: .nan, count: input.batch * heads * input.length * size)
            for part in parts {
                let rows = part.positions.count
                for head in 0..<input.batch * heads {
                    for (row, position) in part.positions.enumerated() {
                        for d in 0..<size {
                            values[(head * input.length + position) * size + d] =
                                part.values[which][(head * rows + row) * size + d]
                        }
                    }
                }
            }
            return values
        }
        out = whole(0, input.heads, input.headSize)
        lse = whole(1, input.heads, 1)
        dQ = whole(2, input.heads, input.headSize)
        dK = whole(3, input.keyHeads, input.headSize)
        dV = whole(4, input.keyHeads, input.headSize)
        // Sinks and a bias without a row axis are shared: their gradient is the sum over ranks. With a row axis, rows are the ranks' own.
        func summed(_ shares: [[Double]]) -> [Double] {
            (shares.first ?? []).indices.map { i in shares.reduce(0) { $0 + $1[i] } }
        }
        dSinks = summed(parts.map(\.dSinks))
        if let axes = input.terms.biasAxes {
            if axes[2] {
                let outer = (axes[0] ? input.batch : 1) * (axes[1] ? input.heads : 1)
                let columns = axes[3] ? input.length : 1
                dBias = [Double](repeating: .nan, count: outer * input.length * columns)
                for part in parts {
                    for o in 0..<outer {
                        for (row, position) in part.positions.enumerated() {
                            for c in 0..<columns {
                                dBias[(o * input.length + position) * columns + c] =
                                    part.dBias[(o * part.positions.count + row) * columns + c]
                            }
                        }
                    }
                }
            } else {
                dBias = summed(parts.map(\.dBias))
            }
        }
    }
}
