import AttentionCore
import TensorCore

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
            AttentionCase("all heads", heads: 32, keyHeads: 8, length: 64 * t, headSize: 64, .init(causal: true)),
            AttentionCase(
                "short, not a multiple", batch: 2, heads: 8, keyHeads: 4, length: 31 * t, headSize: 16,
                .init(causal: true)),
            AttentionCase("batch of heads", batch: 2 * t, heads: 8, length: 256, headSize: 32, spread: 3),
            AttentionCase(
                "wide heads, bias, sinks", batch: 2, heads: 2, length: 128 * t, headSize: 256,
                .init(causal: true, sinks: true, biasAxes: [false, true, true, true])),
            AttentionCase(
                "packed windows", batch: 2, heads: 8, length: 32 * t, headSize: 128,
                .init(
                    causal: true, window: Window(back: 5),
                    documentLengths: scaled([9, 1, 7, 12, 3], t))),
            AttentionCase("no mask, uneven", heads: 6, keyHeads: 2, length: 60 * t + 1, headSize: 128, spread: 6),
            AttentionCase(
                "packed, small heads", heads: 4, keyHeads: 2, length: 265 * t, headSize: 8,
                .init(causal: true, documentLengths: scaled([8, 70, 187], t))),
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
            AttentionCase(
                "bfloat16, all heads", heads: 8, length: 64 * t, headSize: 128, dtype: .bfloat16, .init(causal: true)),
            AttentionCase(
                "bfloat16, wide spread", batch: 2, heads: 2, length: 131 * t, headSize: 32, dtype: .bfloat16,
                spread: 12),
            AttentionCase(
                "bfloat16, all terms", heads: 4, keyHeads: 2, length: 113, headSize: 48, dtype: .bfloat16, spread: 3,
                .init(
                    causal: true, window: Window(back: 60), documentLengths: [1, 30, 2, 80], alibi: true, softCap: 30,
                    sinks: true, biasAxes: [false, true, true, true], dropout: 0.1)),
        ]
    }

    /// Problems at the edge of the arithmetic: huge logits, weights on one key, blocks whose lse lie further apart than float32's
    /// exp reaches, rows that see nothing, first keys that nobody sees.
    public static func adversarialCases() -> [AttentionCase] {
        // A quarter of the queries belongs to a document without keys; the first quarter of the keys to one without queries.
        let blindLength = 96
        let ids = (0..<blindLength).map { Int32($0 < blindLength / 4 ? 7 : $0 % 3) }
        let queryIDs = (0..<blindLength).map { Int32($0 % 4 == 1 ? 9 : $0 % 3) }
        return [
            AttentionCase(
                "logits of 1e4", heads: 4, keyHeads: 2, length: 130, headSize: 32, numbers: .extreme,
                isAdversarial: true),
            AttentionCase(
                "logits of 1e4, causal, sinks", heads: 2, length: 97, headSize: 16, numbers: .extreme,
                isAdversarial: true, .init(causal: true, sinks: true)),
            AttentionCase(
                "logits of 1e4, soft cap", heads: 2, length: 70, headSize: 16, numbers: .extreme, isAdversarial: true,
                .init(causal: true, softCap: 50)),
            AttentionCase(
                "one-hot rows", heads: 4, keyHeads: 1, length: 128, headSize: 64, spread: 3_000, isAdversarial: true),
            AttentionCase(
                "steps of 200", heads: 2, length: 160, headSize: 32, numbers: .steps, isAdversarial: true),
            AttentionCase(
                "steps of 200, causal", batch: 2, heads: 2, length: 129, headSize: 24, numbers: .steps,
                isAdversarial: true, .init(causal: true)),
            AttentionCase(
                "steps of 200, float64", heads: 2, length: 64, headSize: 8, dtype: .float64, numbers: .steps,
                .init(causal: true)),
            AttentionCase(
                "steps of 200, bfloat16", heads: 2, length: 96, headSize: 32, dtype: .bfloat16, numbers: .steps,
                isAdversarial: true, .init(causal: true)),
            AttentionCase(
                "rows without keys, keys without rows", batch: 2, heads: 4, keyHeads: 2, length: blindLength,
                headSize: 16, spread: 6, isAdversarial: true,
                .init(documentIDs: ids, queryDocumentIDs: queryIDs)),
            AttentionCase(
                "no row sees a key", heads: 2, length: 40, headSize: 8, isAdversarial: true,
                .init(
                    causal: true, documentIDs: [Int32](repeating: 0, count: 40),
                    queryDocumentIDs: [Int32](repeating: 1, count: 40))),
            AttentionCase(
                "nine in ten pairs hidden", batch: 2, heads: 2, length: 50, headSize: 20, isAdversarial: true,
                .init(causal: true, biasAxes: [true, true, true, true], hiddenShare: 0.9)),
            AttentionCase(
                "hidden rows under sinks", heads: 2, length: 33, headSize: 20, isAdversarial: true,
                .init(sinks: true, biasAxes: [false, true, true, false], hiddenShare: 0.5)),
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
