import AttentionCore
import TensorCore

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

    /// One array of numbers, as the oracle, the naive computation and the implementation have it.
    private struct Quantity {
        var name: String
        var truth: [Double]
        var naive: [Double]?
        var got: [Double]
        /// Values that are exactly 0 because no key is visible, or the key visible to nobody.
        var mustBeZero: (Int) -> Bool = { _ in false }
    }

    private func quantities(_ outcome: AttentionOutcome) -> [Quantity] {
        let size = input.headSize
        let (sees, seen) = (reference.rowSees, reference.keySeen)
        return [
            Quantity(name: "out", truth: reference.out, naive: naive?.out, got: outcome.out) { !sees[$0 / size] },
            Quantity(name: "lse", truth: reference.lse, naive: naive?.lse, got: outcome.lse),
            Quantity(name: "dQ", truth: reference.dQ, naive: naive?.dQ, got: outcome.dQ) { !sees[$0 / size] },
            Quantity(name: "dK", truth: reference.dK, naive: naive?.dK, got: outcome.dK) { !seen[$0 / size] },
            Quantity(name: "dV", truth: reference.dV, naive: naive?.dV, got: outcome.dV) { !seen[$0 / size] },
            Quantity(name: "dBias", truth: reference.dBias, naive: naive?.dBias, got: outcome.dBias),
            Quantity(name: "dSinks", truth: reference.dSinks, naive: naive?.dSinks, got: outcome.dSinks),
        ]
    }

    /// Every violation of the bounds, as sentences; empty when the implementation conforms.
    ///
    /// With m = max(1, largest |reference|) and s = max(1, standard deviation of the logits, computed or drawn for: a mask that leaves
    /// a row one key leaves few logits to compute it from):
    /// - float32: |error| <= 2e-6 s m + 1e-5 s |reference|, and RMS error at most twice the naive float32 computation's (plus four float32
    ///   roundings of m, since on a tiny case the naive one may be exact);
    /// - float64: |error| <= 1e-12 s m;
    /// - bfloat16: RMS error at most twice the naive bfloat16 computation's;
    /// - adversarial cases: RMS and largest error at most twice the naive computation's (plus the same roundings).
    ///
    /// Always: no NaN, infinities only where the oracle has them, and exactly 0 where no key is visible.
    ///
    /// - Parameter includingRMS: false leaves the RMS errors out. Where most rows see one key, the naive computation's gradients are
    ///   exact by accident (its dP - delta is x - x), and RMS errors compare only over many such problems: see `ErrorSum`.
    public func violations(_ outcome: AttentionOutcome, includingRMS: Bool = true) -> [String] {
        quantities(outcome).flatMap { violations($0, includingRMS) }
    }

    private func violations(_ quantity: Quantity, _ includingRMS: Bool) -> [String] {
        let (name, truth, naive, got) = (quantity.name, quantity.truth, quantity.naive, quantity.got)
        if truth.count != got.count { return ["\(input): \(name) has \(got.count) values instead of \(truth.count)"] }
        let s = max(1, reference.logitDeviation, input.numbers == .normal ? input.spread : 1)
        let m = max(1, truth.lazy.filter(\.isFinite).map(abs).max() ?? 0)
        var found: [String] = []
        var worst = (excess: 0.0, index: 0)
        var (squares, largest) = (0.0, 0.0)
        var (naiveSquares, naiveLargest, naiveIsFinite) = (0.0, 0.0, true)
        for i in truth.indices {
            if !truth[i].isFinite || !got[i].isFinite {
                if truth[i] != got[i] { worst = (.infinity, i) }
                continue
            }
            if got[i] != 0 && quantity.mustBeZero(i) {
                found.append("\(input): \(name)[\(i)] is \(got[i]) where nothing is visible and 0 is exact")
            }
            let error = abs(got[i] - truth[i])
            squares += error * error
            largest = max(largest, error)
            if let naive {
                let error = abs(naive[i] - truth[i])
                naiveIsFinite = naiveIsFinite && error.isFinite
                naiveSquares += error * error
                naiveLargest = max(naiveLargest, error)
            }
            let bound: Double
            switch input.dtype {
            case .float64: bound = 1e-12 * s * m
            case .float32 where !input.isAdversarial: bound = 2e-6 * s * m + 1e-5 * s * abs(truth[i])
            default: bound = .infinity
            }
            if error / bound > worst.excess { worst = (error / bound, i) }
        }
        if worst.excess > 1 {
            found.append(
                "\(input): \(name)[\(worst.index)] is \(got[worst.index]), the oracle says \(truth[worst.index]), \(worst.excess) times the bound"
            )
        }
        if includingRMS && naive != nil && naiveIsFinite {
            let count = Double(max(1, truth.count))
            let (rms, naiveRMS) = ((squares / count).squareRoot(), (naiveSquares / count).squareRoot())
            if rms > 2 * naiveRMS + 0x1p-22 * m {
                found.append("\(input): \(name) has RMS error \(rms), the naive computation \(naiveRMS)")
            }
            if input.isAdversarial && largest > 2 * naiveLargest + 0x1p-22 * m {
                found.append(
                    "\(input): \(name) has an error of \(largest), the naive computation at most \(naiveLargest)")
            }
        }
        return found
    }

    /// Squared errors of the implementation and of the naive computation, summed over many problems of one kind.
    public struct ErrorSum: Sendable {
        private var squares: [String: (got: Double, naive: Double, count: Int)] = [:]

        public init() {}

        /// Adds a problem, all quantities divided by their largest value, so that each problem weighs the same.
        public mutating func add(_ truth: AttentionTruth, _ outcome: AttentionOutcome) {
            for quantity in truth.quantities(outcome) {
                guard let naive = quantity.naive else { continue }
                let m = max(1, quantity.truth.lazy.filter(\.isFinite).map(abs).max() ?? 0)
                var sum = squares[quantity.name] ?? (0, 0, 0)
                for i in quantity.truth.indices where quantity.truth[i].isFinite && naive[i].isFinite {
                    let (got, naive) = ((quantity.got[i] - quantity.truth[i]) / m, (naive[i] - quantity.truth[i]) / m)
                    sum = (sum.got + got * got, sum.naive + naive * naive, sum.count + 1)
                }
                squares[quantity.name] = sum
            }
        }

        /// RMS error over the naive computation's, by quantity.
        public var ratios: [String: Double] {
            squares.filter { $0.value.count > 0 }.mapValues { ($0.got / $0.naive).squareRoot() }
        }
    }

    /// Root mean square error of each quantity over all finite values, for laws about how errors grow.
    public func rootMeanSquareErrors(_ outcome: AttentionOutcome) -> [String: Double] {
        var errors: [String: Double] = [:]
        for quantity in quantities(outcome) where !quantity.truth.isEmpty {
            let squares = zip(quantity.truth, quantity.got).reduce(0.0) { sum, pair in
                pair.0.isFinite ? sum + (pair.0 - pair.1) * (pair.0 - pair.1) : sum
            }
            errors[quantity.name] = (squares / Double(quantity.truth.count)).squareRoot()
        }
        return errors
    }
}
