import AttentionCore
import ConformanceKit
import DistributedCore
import Synchronization
import TensorCore
import Testing

/// Correctness bar 4: gradients against central differences in float64, for every combination of options.
@Suite struct AttentionGradientTests {
    /// What a combination may contain; grouped-query heads are the ninth.
    enum Option: Int, CaseIterable { case documents, window, causal, alibi, softCap, sinks, bias, dropout }

    static func terms(_ options: Set<Option>, biasAxes: Int) -> AttentionCase.Terms {
        // The bias's form changes from combination to combination; all sixteen occur.
        AttentionCase.Terms(
            causal: options.contains(.causal), window: options.contains(.window) ? .init(back: 2, ahead: 1) : nil,
            documentLengths: options.contains(.documents) ? [2, 3] : nil, alibi: options.contains(.alibi),
            softCap: options.contains(.softCap) ? 1.5 : nil, sinks: options.contains(.sinks),
            biasAxes: options.contains(.bias) ? (0..<4).map { biasAxes >> $0 & 1 == 1 } : nil,
            dropout: options.contains(.dropout) ? 0.3 : nil)
    }

    static func options(_ bits: Int) -> Set<Option> { Set(Option.allCases.filter { bits >> $0.rawValue & 1 == 1 }) }

    /// Truncation at this step is about 1e-11 and rounding about 1e-10.
    static let check = GradientCheck(step: 1e-5, tolerance: Tolerance(absolute: 1e-8, relative: 1e-7))

    @Test(arguments: LocalKernel.allCases, [1, 2])
    func gradientsAreCentralDifferences(_ local: LocalKernel, keyHeads: Int) throws {
        let device = CPUDevice(threads: 1)
        var count = 0
        for bits in 0..<256 {
            let options = Self.options(bits)
            let input = AttentionCase(
                "options", heads: 2, keyHeads: keyHeads, length: 5, headSize: 2, dtype: .float64,
                seed: UInt64(bits + 1),
                Self.terms(options, biasAxes: (bits * 5 + bits / 64) % 16))
            let inputs = input.inputs(on: device)
            let mask = inputs.problem.mask
            let parameters = [inputs.q, inputs.k, inputs.v] + [mask.bias, mask.sinks].compactMap { $0 }
            let report = try Self.check(at: parameters.map { $0.contiguous() }) { x in
                var problem = inputs.problem
                if mask.bias != nil { problem.mask.bias = x[3] }
                if mask.sinks != nil { problem.mask.sinks = x[x.count - 1] }
                return try attend(x[0], x[1], x[2], problem, on: local.backend)
            }
            count += report.count
            #expect(report.holds, "\(options.map { "\($0)" }.sorted()): \(report)")
        }
        #expect(count > 256 * 40)
    }

    /// A bias that nobody differentiates (a mask, positions) costs no gradient of its size.
    @Test(arguments: [false, true])
    func onlyATrackedBiasGetsAGradient(_ isTracked: Bool) throws {
        let input = AttentionCase(
            "bias", heads: 2, length: 5, headSize: 2, Self.terms([.bias], biasAxes: 0b1111))
        let inputs = input.inputs(on: CPUDevice(threads: 1))
        let bias = inputs.problem.mask.bias!
        let probe = BiasGradientProbe(inner: LocalKernel.cpu.backend)
        let gradients = try valueAndGradient(at: [inputs.q] + (isTracked ? [bias] : [])) { x in
            var problem = inputs.problem
            problem.mask.bias = isTracked ? x[1] : bias
            return try attend(x[0], inputs.k, inputs.v, problem, on: probe).sum()
        }.gradients
        #expect(probe.wasAsked.list == [isTracked])
        #expect(gradients.count == (isTracked ? 2 : 1))
    }

    /// The same through the tape on several ranks: every rank differentiates the sum over its own rows, and the parts make the whole.
    @Test(arguments: DistributedKernel.all)
    func gradientsOfRanksAreCentralDifferences(_ kernel: DistributedKernel) throws {
        for bits in [0, 0b100, 0b111, 0b101_1100, 0b1110_0011, 0b1111_1111] {
            for (ranks, layout) in [(2, SequenceLayout.zigzag), (3, .striped), (4, .contiguous)] {
                let input = AttentionCase(
                    "ring options", heads: 2, keyHeads: 1, length: 5, headSize: 2, dtype: .float64,
                    seed: UInt64(bits + 1), Self.terms(Self.options(bits), biasAxes: 0b1110))
                let got = try Self.gradients(input, ranks, layout, kernel)
                let expected = Self.centralDifferences(input)
                for (name, values) in expected {
                    let violation = Self.check.tolerance.violation(got[name] ?? [], values)
                    #expect(
                        violation == nil,
                        "\(Self.options(bits)), \(ranks) ranks, \(layout), \(name): \(violation ?? "")")
                }
            }
        }
    }

    /// Gradients of sum(out * dOut) by name, from `attend` on every rank.
    private static func gradients(
        _ input: AttentionCase, _ ranks: Int, _ layout: SequenceLayout, _ kernel: DistributedKernel
    ) throws -> [String: [Double]] {
        let parts = try InProcessRanks.run(ranks) { communicator, device in
            let own = layout.positions(length: input.length, rank: communicator.rank, size: ranks)
            let inputs = input.inputs(at: own, on: device)
            let backend = kernel.over(communicator)
            let mask = inputs.problem.mask
            let parameters = [inputs.q, inputs.k, inputs.v] + [mask.bias, mask.sinks].compactMap { $0 }
            let gradients = try valueAndGradient(at: parameters) { x in
                var problem = inputs.problem
                if mask.bias != nil { problem.mask.bias = x[3] }
                if mask.sinks != nil { problem.mask.sinks = x[x.count - 1] }
                return (try attend(x[0], x[1], x[2], problem, on: backend) * inputs.dOut).sum()
            }.gradients
            // In lists of numbers, since a rank's tensors end with its device.
            return (own, gradients.map { ($0.shape, $0.doubles) })
        }
        let device = CPUDevice(threads: 1)
        func whole(_ index: Int) -> [Double] {
            Tensor.unshard(
                parts.map { (Tensor($0.1[index].1, $0.1[index].0, on: device), $0.0) }, axis: 2
            ).doubles
        }
        var found = ["q": whole(0), "k": whole(1), "v": whole(2)]
        if input.terms.biasAxes != nil { found["bias"] = whole(3) }
        if input.terms.sinks {
            found["sinks"] = (0..<input.heads).map { head in parts.reduce(0) { $0 + $1.1.last!.1[head] } }
        }
        return found
    }

    /// The same from differences of the oracle.
    private static func centralDifferences(_ input: AttentionCase) -> [String: [Double]] {
        let inputs = input.inputs(on: CPUDevice(threads: 1))
        let weights = inputs.dOut.doubles
        func loss(_ q: Tensor, _ k: Tensor, _ v: Tensor, _ bias: Tensor?, _ sinks: Tensor?) -> Double {
            var problem = inputs.problem
            problem.mask.bias = bias
            problem.mask.sinks = sinks
            return zip(ReferenceAttention.compute(q: q, k: k, v: v, problem).out, weights).reduce(0) {
                $0 + $1.0 * $1.1
            }
        }
        func differences(_ tensor: Tensor, _ loss: (Tensor) -> Double) -> [Double] {
            let values = tensor.doubles
            return values.indices.map { index in
                func moved(_ step: Double) -> Tensor {
                    var values = values
                    values[index] += step
                    return Tensor(values, tensor.shape, on: tensor.device)
                }
                return (loss(moved(check.step)) - loss(moved(-check.step))) / (2 * check.step)
            }
        }
        let (q, k, v, mask) = (inputs.q, inputs.k, inputs.v, inputs.problem.mask)
        var found = [
            "q": differences(q) { loss($0, k, v, mask.bias, mask.sinks) },
            "k": differences(k) { loss(q, $0, v, mask.bias, mask.sinks) },
            "v": differences(v) { loss(q, k, $0, mask.bias, mask.sinks) },
        ]
        if let bias = mask.bias { found["bias"] = differences(bias) { loss(q, k, v, $0, mask.sinks) } }
        if let sinks = mask.sinks { found["sinks"] = differences(sinks) { loss(q, k, v, mask.bias, $0) } }
        return found
    }
}

/// Notes of each backward call whether it is to make a gradient of the bias.
private struct BiasGradientProbe: AttentionBackend {
    let inner: any AttentionBackend
    let wasAsked = Answers()
    var name: String { inner.name }

    /// One a call.
    final class Answers: Sendable {
        private let all = Mutex<[Bool]>([])
        var list: [Bool] { all.withLock { $0 } }
        func append(_ answer: Bool) { all.withLock { $0.append(answer) } }
    }

    func unsupportedReasons(_ problem: AttentionProblem) -> [String] { inner.unsupportedReasons(problem) }

    func forward(
        q: Tensor, k: Tensor, v: Tensor, into state: inout AttentionState, _ problem: AttentionProblem
    ) throws { try inner.forward(q: q, k: k, v: v, into: &state, problem) }

    func backward(
        dOut: Tensor, q: Tensor, k: Tensor, v: Tensor, lse: Tensor, delta: Tensor,
        into gradients: inout AttentionGradients, _ problem: AttentionProblem
    ) throws {
        wasAsked.append(gradients.bias != nil)
        try inner.backward(
            dOut: dOut, q: q, k: k, v: v, lse: lse, delta: delta, into: &gradients, problem)
    }
}
