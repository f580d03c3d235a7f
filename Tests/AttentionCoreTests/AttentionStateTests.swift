import AttentionCore
import ConformanceKit
import TensorCore
import Testing

/// The laws of the carried softmax: states over disjoint keys form a commutative monoid, and their order does not show.
@Suite struct AttentionStateTests {
    private static let rows = 6
    private static let size = 3
    private static let device = CPUDevice(threads: 1)

    private static func problem(_ dtype: DType) -> AttentionProblem {
        AttentionProblem(
            heads: 2, keyHeads: 2, headSize: size, dtype: dtype, queries: .contiguous(count: rows / 2),
            keys: .contiguous(count: 0), mask: .full)
    }

    /// The state of every row over these logits and values, straight from the definition. `logits[row]` may be empty.
    private static func state(_ logits: [[Double]], _ values: [[Double]], _ dtype: DType = .float32) -> AttentionState {
        var (reference, sum, accumulator) = ([Double](), [Double](), [Double]())
        for row in 0..<rows {
            let power = logits[row].max().map { ($0 / 0.693147180559945309417).rounded() } ?? -.infinity
            let terms = logits[row].map { scaledExponential($0, power) }
            reference.append(power)
            sum.append(terms.reduce(0, +))
            for d in 0..<size {
                accumulator.append(zip(terms, values[row]).reduce(0) { $0 + $1.0 * ($1.1 + Double(d)) })
            }
        }
        var state = AttentionState(problem(dtype), batch: 1, on: device)
        state.reference = Tensor(reference, [1, 2, rows / 2], on: device).cast(to: dtype)
        state.sum = Tensor(sum, [1, 2, rows / 2], on: device).cast(to: dtype)
        state.accumulator = Tensor(accumulator, [1, 2, rows / 2, size], on: device).cast(to: dtype)
        return state
    }

    /// exp(logit) 2^-power.
    private static func scaledExponential(_ logit: Double, _ power: Double) -> Double {
        let shifted = logit - power * 0.693147180559945309417
        return Tensor([shifted], on: device).exponential.item
    }

    /// Rows with 0 to 3 keys each; `offset` moves the logits, and rows 1 and 4 see nothing.
    private static func sample(_ seed: UInt64, offset: Double = 0, empty: Set<Int> = []) -> (
        logits: [[Double]], values: [[Double]]
    ) {
        var draw = Draw(seed: seed)
        let logits = (0..<rows).map { row in
            empty.contains(row) ? [] : (0..<draw(1...3)).map { _ in offset + Double(draw(-40...40)) / 10 }
        }
        return (logits, logits.map { $0.map { _ in Double(draw(-30...30)) / 10 } })
    }

    private static func merged(_ a: AttentionState, _ b: AttentionState) -> AttentionState {
        var state = a
        state.merge(b)
        return state
    }

    private static func joined(_ parts: [(logits: [[Double]], values: [[Double]])]) -> (
        logits: [[Double]], values: [[Double]]
    ) {
        (
            (0..<rows).map { row in parts.flatMap { $0.logits[row] } },
            (0..<rows).map { row in parts.flatMap { $0.values[row] } }
        )
    }

    private static func expectClose(
        _ a: AttentionState, _ b: AttentionState, _ tolerance: Double, sourceLocation: SourceLocation = #_sourceLocation
    ) {
        let (x, y) = (a.finish(), b.finish())
        for (u, v) in zip(x.out.doubles + x.lse.doubles, y.out.doubles + y.lse.doubles) {
            #expect(
                u == v || abs(u - v) <= tolerance * max(1, abs(v)), "\(u) and \(v)", sourceLocation: sourceLocation)
        }
    }

    /// A few roundings of the type; exponents are whole, so moving a side costs none.
    private static func tolerance(_ dtype: DType) -> Double { dtype == .float64 ? 1e-14 : 1e-6 }

    @Test(arguments: [DType.float32, .float64])
    func mergeIsTheStateOfTheUnion(_ dtype: DType) {
        for seed in 0..<40 as Range<UInt64> {
            let parts = [
                Self.sample(3 * seed, empty: [1]), Self.sample(3 * seed + 1, offset: 3, empty: [1, 2]),
                Self.sample(3 * seed + 2, offset: -5, empty: [1, 3]),
            ]
            let states = parts.map { Self.state($0.logits, $0.values, dtype) }
            let all = Self.joined(parts)
            let whole = Self.state(all.logits, all.values, dtype)
            let left = Self.merged(Self.merged(states[0], states[1]), states[2])
            Self.expectClose(left, whole, Self.tolerance(dtype))
            // Associative and commutative.
            Self.expectClose(left, Self.merged(states[0], Self.merged(states[1], states[2])), Self.tolerance(dtype))
            Self.expectClose(left, Self.merged(states[2], Self.merged(states[1], states[0])), Self.tolerance(dtype))
        }
    }

    @Test(arguments: [DType.float32, .float64])
    func theEmptyStateIsNeutralToTheBit(_ dtype: DType) {
        let empty = AttentionState(Self.problem(dtype), batch: 1, on: Self.device)
        for seed in 0..<20 as Range<UInt64> {
            let sample = Self.sample(seed, offset: Double(seed) * 40 - 300, empty: [1, 4])
            let state = Self.state(sample.logits, sample.values, dtype)
            for merged in [Self.merged(state, empty), Self.merged(empty, state)] {
                #expect(merged.reference.doubles == state.reference.doubles)
                #expect(merged.sum.doubles == state.sum.doubles)
                #expect(merged.accumulator.doubles == state.accumulator.doubles)
            }
        }
        let nothing = Self.merged(empty, empty).finish()
        #expect(nothing.out.doubles.allSatisfy { $0 == 0 })
        #expect(nothing.lse.doubles.allSatisfy { $0 == -.infinity })
    }

    /// Beyond a gap of 88 exp has no float32 value: the smaller side vanishes, and nothing becomes NaN or infinite.
    @Test(arguments: [DType.float32, .float64], [89.0, 500, 1e4, 1e6])
    func gapsBeyondTheRangeOfExpAreHarmless(_ dtype: DType, _ gap: Double) {
        for seed in 0..<10 as Range<UInt64> {
            let (low, high) = (Self.sample(2 * seed, offset: -gap / 2), Self.sample(2 * seed + 1, offset: gap / 2))
            let (below, above) = (
                Self.state(low.logits, low.values, dtype), Self.state(high.logits, high.values, dtype)
            )
            let all = Self.joined([low, high])
            let whole = Self.state(all.logits, all.values, dtype)
            for merged in [Self.merged(below, above), Self.merged(above, below)] {
                let isFinite = merged.accumulator.doubles.allSatisfy { $0.isFinite }
                #expect(isFinite)
                let isPositive = merged.sum.doubles.allSatisfy { sum in sum.isFinite && sum > 0 }
                #expect(isPositive)
                Self.expectClose(merged, whole, Self.tolerance(dtype))
            }
        }
    }

    /// lse and out from the logits themselves, in float64.
    @Test func finishNormalises() {
        let sample = Self.sample(5, empty: [4])
        let result = Self.state(sample.logits, sample.values, .float64).finish()
        #expect(result.lse.dtype == .float64)
        for row in 0..<Self.rows {
            let (logits, values) = (sample.logits[row], sample.values[row])
            let weights = logits.map { Self.scaledExponential($0, 0) }
            let sum = weights.reduce(0, +)
            let lse = logits.isEmpty ? -Double.infinity : Tensor([sum], on: Self.device).logarithm.item
            let got = result.lse.doubles[row]
            #expect(got == lse || abs(got - lse) < 1e-13)
            for d in 0..<Self.size {
                let out = logits.isEmpty ? 0 : zip(weights, values).reduce(0) { $0 + $1.0 * ($1.1 + Double(d)) } / sum
                #expect(abs(result.out.doubles[row * Self.size + d] - out) < 1e-13)
            }
        }
    }

    /// A sink is a key without a value: it joins the sum once, and at any size of the logits.
    @Test(arguments: [-1e4, -100, 0, 2.5, 100, 1e4])
    func aSinkIsAKeyWithoutValue(_ sink: Double) {
        let sample = Self.sample(6, empty: [4])
        let sinks = Tensor([sink, sink], on: Self.device)
        let with = Self.state(sample.logits, sample.values, .float64).finish(sinks)
        for row in 0..<Self.rows {
            let logits = sample.logits[row] + [sink]
            let largest = logits.max()!
            let weights = logits.map { Self.scaledExponential($0 - largest, 0) }
            let sum = weights.reduce(0, +)
            let lse = largest + Tensor([sum], on: Self.device).logarithm.item
            #expect(abs(with.lse.doubles[row] - lse) <= 1e-13 * max(1, abs(lse)))
            for d in 0..<Self.size {
                let out = zip(weights, sample.values[row]).reduce(0) { $0 + $1.0 * ($1.1 + Double(d)) } / sum
                #expect(abs(with.out.doubles[row * Self.size + d] - out) < 1e-13)
            }
        }
    }
}
