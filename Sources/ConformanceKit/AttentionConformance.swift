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
        _ input: AttentionCase, ranks: Int, layout: SequenceLayout,
        _ makeBackend: @escaping @Sendable (any Communicator) -> any AttentionBackend
    ) throws {
        struct Part: Sendable {
            var values: [[Double]]
            var positions: [Int]
            var dBias: [Double]
            var dSinks: [Double]
        }
        let parts = try InProcessRanks.run(ranks, deadline: 120) { communicator, device in
            let positions = layout.positions(length: input.length, rank: communicator.rank, size: communicator.size)
            let inputs = input.inputs(at: positions, on: device)
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

/// The oracle's answer to a case, and the bounds an implementation has to meet. Compute it once, compare many.
public struct AttentionTruth: Sendable {
    public let input: AttentionCase
    /// float64.
    public let reference: ReferenceAttention.Result
    /// The same inputs computed naively in the case's own precision (float32, or bfloat16): what RMS errors are compared with.
    public let naive: ReferenceAttention.Result?

    public init(_ input: AttentionCase) {
        self.input = input
        let device = CPUDevice(threads: 1)
        let inputs = input.inputs(on: device)
        func compute(_ arithmetic: ReferenceAttention.Arithmetic) -> ReferenceAttention.Result {
            ReferenceAttention.compute(
                q: inputs.q, k: inputs.k, v: inputs.v, dOut: inputs.dOut, inputs.problem, in: arithmetic)
        }
        reference = compute(.float64)
        switch input.dtype {
        case .float32: naive = compute(.float32)
        case .bfloat16: naive = compute(.bfloat16)
        default: naive = nil
        }
    }

    /// The quantities compared: name, oracle, naive result, and the implementation's.
    private func quantities(_ outcome: AttentionOutcome) -> [(String, [Double], [Double]?, [Double])] {
        [
            ("out", reference.out, naive?.out, outcome.out), ("lse", reference.lse, naive?.lse, outcome.lse),
            ("dQ", reference.dQ, naive?.dQ, outcome.dQ), ("dK", reference.dK, naive?.dK, outcome.dK),
            ("dV", reference.dV, naive?.dV, outcome.dV),
            ("dBias", reference.dBias, naive?.dBias, outcome.dBias),
            ("dSinks", reference.dSinks, naive?.dSinks, outcome.dSinks),
        ]
    }

    /// Every violation of the bounds, as sentences; empty when the implementation conforms.
    ///
    /// With m = max(1, largest |reference|) and s = max(1, standard deviation of the logits): float32 |error| <= 2e-6 s m + 1e-5 s |reference|
    /// and RMS error at most twice the naive float32 computation's (plus four float32 roundings of m, since on a tiny case the naive one may be exact); float64 1e-12 s m; bfloat16
    /// RMS at most twice the naive bfloat16 computation's. No NaN anywhere, and infinities only where the oracle has them.
    public func violations(_ outcome: AttentionOutcome) -> [String] {
        var found: [String] = []
        let s = max(1, reference.logitDeviation)
        for (name, truth, naive, got) in quantities(outcome) {
            if truth.count != got.count {
                found.append("\(input): \(name) has \(got.count) values instead of \(truth.count)")
                continue
            }
            let m = max(1, truth.lazy.filter(\.isFinite).map(abs).max() ?? 0)
            var worst = (excess: 0.0, index: 0)
            var (squares, naiveSquares) = (0.0, 0.0)
            for i in truth.indices {
                if !truth[i].isFinite || !got[i].isFinite {
                    if truth[i] != got[i] { worst = (.infinity, i) }
                    continue
                }
                let error = abs(got[i] - truth[i])
                squares += error * error
                if let naive, naive[i].isFinite { naiveSquares += (naive[i] - truth[i]) * (naive[i] - truth[i]) }
                let bound: Double
                switch input.dtype {
                case .float64: bound = 1e-12 * s * m
                case .float32: bound = 2e-6 * s * m + 1e-5 * s * abs(truth[i])
                default: bound = .infinity
                }
                if error / bound > worst.excess { worst = (error / bound, i) }
            }
            if worst.excess > 1 {
                found.append(
                    "\(input): \(name)[\(worst.index)] is \(got[worst.index]), the oracle says \(truth[worst.index]), \(worst.excess) times the bound"
                )
            }
            if naive != nil {
                let count = Double(max(1, truth.count))
                let (rms, naiveRMS) = ((squares / count).squareRoot(), (naiveSquares / count).squareRoot())
                if rms > 2 * naiveRMS + 0x1p-22 * m {
                    found.append("\(input): \(name) has RMS error \(rms), the naive computation \(naiveRMS)")
                }
            }
        }
        return found
    }

    /// Root mean square error of each quantity over all finite values, for laws about how errors grow.
    public func rootMeanSquareErrors(_ outcome: AttentionOutcome) -> [String: Double] {
        var errors: [String: Double] = [:]
        for (name, truth, _, got) in quantities(outcome) where !truth.isEmpty {
            let squares = zip(truth, got).reduce(0.0) { sum, pair in
                pair.0.isFinite ? sum + (pair.0 - pair.1) * (pair.0 - pair.1) : sum
            }
            errors[name] = (squares / Double(truth.count)).squareRoot()
        }
        return errors
    }
}

/// The problems every backend has to solve, alone and in a ring.
public enum AttentionConformance {
    /// The published test shapes of other systems with lengths scaled by 1/16 (`full`: lengths up to 4,096), every term of the mask,
    /// grouped-query heads, odd sizes, several spreads and types.
    public static func cases(full: Bool = false) -> [AttentionCase] {
        let t = full ? 4 : 1
        typealias Window = AttentionMask.Window
        return [
            AttentionCase("causal", heads: 5, length: 239 * t, headSize: 128, .init(causal: true)),
            AttentionCase("full", heads: 4, keyHeads: 1, length: 256 * t, headSize: 64, spread: 6),
            AttentionCase(
                "grouped causal, wide spread", batch: 2, heads: 4, keyHeads: 2, length: 160 * t, headSize: 80,
                spread: 60,
                .init(causal: true)),
            AttentionCase(
                "packed causal", heads: 5, keyHeads: 5, length: 265 * t, headSize: 32,
                .init(causal: true, documentLengths: scaled([8, 70, 187], t))),
            AttentionCase(
                "window", heads: 2, length: 301 * t, headSize: 64, .init(causal: true, window: Window(back: 40))),
            AttentionCase(
                "window both ways", heads: 2, length: 150 * t, headSize: 16, spread: 6,
                .init(window: Window(back: 20, ahead: 5))),
            AttentionCase(
                "alibi, soft cap, sinks", heads: 4, keyHeads: 2, length: 131 * t, headSize: 48, spread: 6,
                .init(causal: true, alibi: true, softCap: 20, sinks: true)),
            AttentionCase(
                "bias per head", batch: 2, heads: 3, length: 97, headSize: 24,
                .init(biasAxes: [false, true, true, true])),
            AttentionCase(
                "bias per key, dropout", heads: 2, length: 120, headSize: 33,
                .init(causal: true, biasAxes: [true, false, false, true], dropout: 0.2)),
            AttentionCase(
                "everything at once", batch: 2, heads: 4, keyHeads: 2, length: 113, headSize: 40, spread: 2,
                .init(
                    causal: true, window: Window(back: 50), documentLengths: [1, 30, 2, 80], alibi: true, softCap: 30,
                    sinks: true, biasAxes: [false, true, true, true], dropout: 0.1)),
            AttentionCase("shorter than the ring", heads: 2, length: 5, headSize: 8, .init(causal: true)),
            AttentionCase("one token", heads: 2, length: 1, headSize: 4),
            AttentionCase(
                "float64", heads: 4, keyHeads: 2, length: 99, headSize: 40, dtype: .float64, spread: 6,
                .init(causal: true)),
            AttentionCase(
                "float64, all terms", heads: 2, length: 61, headSize: 17, dtype: .float64,
                .init(
                    causal: true, window: Window(back: 33), documentLengths: [20, 41], alibi: true, softCap: 10,
                    sinks: true, biasAxes: [true, true, true, true], dropout: 0.3)),
            AttentionCase(
                "bfloat16", heads: 4, keyHeads: 2, length: 200 * t, headSize: 64, dtype: .bfloat16, spread: 3,
                .init(causal: true)),
        ]
    }

    private static func scaled(_ lengths: [Int], _ factor: Int) -> [Int] { lengths.map { $0 * factor } }

    /// Checks one backend on one device against the oracle: every case, two runs bit-equal, keys folded in arbitrary pieces.
    /// - Returns: violations as sentences; empty when the backend conforms. Problems it refuses are not counted.
    public static func violations(
        of backend: any AttentionBackend, cases: [AttentionCase]? = nil, on device: any Device = CPUDevice()
    ) throws -> [String] {
        var found: [String] = []
        for input in cases ?? AttentionConformance.cases() {
            let inputs = input.inputs(on: device)
            if !backend.unsupportedReasons(inputs.problem).isEmpty { continue }
            let truth = AttentionTruth(input)
            let outcome = try AttentionOutcome(input, backend, on: device)
            found += truth.violations(outcome)
            if try AttentionOutcome(input, backend, on: device) != outcome { found.append("\(input): two runs differ") }
            found += try piecewiseViolations(backend, input, truth, on: device)
        }
        return found
    }

    /// Folds the keys in three uneven pieces, last piece first.
    private static func piecewiseViolations(
        _ backend: any AttentionBackend, _ input: AttentionCase, _ truth: AttentionTruth, on device: any Device
    ) throws -> [String] {
        let inputs = input.inputs(on: device)
        let cuts = [0, input.length / 5, input.length / 2, input.length]
        var state = AttentionState(inputs.problem, batch: input.batch, on: device)
        for piece in (0..<3).reversed() {
            let range = cuts[piece]..<cuts[piece + 1]
            let documents = inputs.problem.mask.documents?.keys.slice(axis: 1, range)
            let problem = inputs.problem.keyed(
                by: .contiguous(from: range.lowerBound, count: range.count), documents: documents)
            try backend.forward(
                q: inputs.q, k: inputs.k.slice(axis: 2, range), v: inputs.v.slice(axis: 2, range), into: &state, problem
            )
        }
        let result = state.finish(inputs.problem.mask.sinks)
        var outcome = try AttentionOutcome(input, backend, on: device)
        outcome.out = result.out.doubles
        outcome.lse = result.lse.doubles
        return truth.violations(outcome).map { "keys in three pieces: " + $0 }
    }
}
