import ConformanceKit
import TensorCore
import Testing

@Suite struct OptimizerTests {
    let device = CPUDevice(threads: 2)
    static let count = 20_011

    @Test(arguments: [DType.float32, .float64]) func adamWFollowsItsDefinition(_ dtype: DType) {
        let n = Self.count
        let weight = sample([n], dtype, seed: 1, on: device)
        let (m, v) = (Tensor.zeros([n], dtype, on: device), Tensor.zeros([n], dtype, on: device))
        var (w, mean, square) = (weight.doubles, m.doubles, v.doubles)
        for step in 1...4 {
            let rule = AdamWStep(
                rate: 1e-2, beta1: 0.9, beta2: 0.999, epsilon: 1e-8, gradientScale: 0.5, step: step)
            let gradient = sample([n], dtype, seed: UInt64(step + 10), on: device)
            device.adamW(
                rule, [AdamWLeaf(weight: weight, gradient: gradient, m: m, v: v, weightDecay: 0.1)])
            for (i, raw) in gradient.doubles.enumerated() {
                let g = raw * 0.5
                mean[i] = 0.9 * mean[i] + 0.1 * g
                square[i] = 0.999 * square[i] + 0.001 * g * g
                w[i] -= 1e-2 * 0.1 * w[i]
                let (mHat, vHat) = (mean[i] / (1 - power(0.9, step)), square[i] / (1 - power(0.999, step)))
                w[i] -= 1e-2 * mHat / (vHat.squareRoot() + 1e-8)
            }
        }
        let tolerance = Tolerance.rounding(of: dtype)
        #expect(tolerance.violation(weight.doubles, w) == nil)
        #expect(tolerance.violation(m.doubles, mean) == nil)
        // The second moments are small: only the relative part of the tolerance may carry them.
        let relative = Tolerance(absolute: 1e-12, relative: dtype == .float32 ? 1e-6 : 1e-13)
        let violation = relative.violation(v.doubles, square)
        #expect(violation == nil, "\(violation ?? "")")
    }

    /// Leaves of all sizes and both types in one sweep: each has the bits of an update of its own.
    @Test func aSweepUpdatesEveryLeafAsAlone() {
        let rule = AdamWStep(rate: 1e-2, beta1: 0.9, beta2: 0.99, epsilon: 1e-8, gradientScale: 0.5, step: 2)
        func leaves() -> [AdamWLeaf] {
            [(0, DType.float32), (1, .float32), (16384, .float64), (40_001, .float32), (5, .float64)].map { n, dtype in
                func draw(_ seed: UInt64) -> Tensor { sample([n], dtype, seed: seed, in: 0...1, on: device) }
                return AdamWLeaf(
                    weight: draw(1), gradient: draw(2), m: draw(3), v: draw(4), weightDecay: Double(n % 3) / 10)
            }
        }
        let (together, alone, before) = (leaves(), leaves(), leaves())
        device.adamW(rule, together)
        for leaf in alone { device.adamW(rule, [leaf]) }
        for (index, leaf) in together.enumerated() {
            for (a, b) in [(leaf.weight, alone[index].weight), (leaf.m, alone[index].m), (leaf.v, alone[index].v)] {
                #expect(a.bytes == b.bytes, "leaf \(index)")
            }
            #expect(leaf.weight.bytes != before[index].weight.bytes || leaf.weight.elementCount == 0, "leaf \(index)")
        }
    }

    private func power(_ base: Double, _ exponent: Int) -> Double {
        (0..<exponent).reduce(1) { value, _ in value * base }
    }

    @Test(arguments: [DType.float32, .float64], [true, false]) func sgdFollowsItsDefinition(
        _ dtype: DType, _ momentum: Bool
    ) {
        let n = Self.count
        let weight = sample([n], dtype, seed: 1, on: device)
        let buffer = momentum ? Tensor.zeros([n], dtype, on: device) : nil
        var w = weight.doubles
        var velocity = [Double](repeating: 0, count: n)
        for step in 0..<3 {
            let gradient = sample([n], dtype, seed: UInt64(step + 10), on: device)
            device.sgd(
                rate: 0.1, momentum: 0.9, decay: 0.01, gradientScale: 2, weight: weight, gradient: gradient,
                buffer: buffer)
            for (i, raw) in gradient.doubles.enumerated() {
                let g = raw * 2 + 0.01 * w[i]
                velocity[i] = momentum ? 0.9 * velocity[i] + g : g
                w[i] -= 0.1 * velocity[i]
            }
        }
        #expect(Tolerance.rounding(of: dtype).violation(weight.doubles, w) == nil)
        if let buffer { #expect(Tolerance.rounding(of: dtype).violation(buffer.doubles, velocity) == nil) }
    }

    /// Gradients come off the tape as views: repeated by a sum, or transposed by a product.
    @Test func stridedGradientsAreReadThroughTheirStrides() {
        let rule = AdamWStep(
            rate: 1e-2, beta1: 0.9, beta2: 0.99, epsilon: 1e-8, gradientScale: 1, step: 1)
        let dense = sample([3, 4], .float32, seed: 2, on: device)
        for gradient in [dense, Layout.reversed.arrange(dense), dense.slice(axis: 0, 1..<2).broadcast(to: [3, 4])] {
            func updated(_ gradient: Tensor, _ step: (Tensor, Tensor, Tensor, Tensor) -> Void) -> [UInt8] {
                let weight = sample([3, 4], .float32, seed: 1, on: device)
                let (m, v) = (Tensor.zeros([3, 4], on: device), Tensor.zeros([3, 4], on: device))
                step(weight, gradient, m, v)
                return weight.bytes + m.bytes + v.bytes
            }
            let adam: (Tensor, Tensor, Tensor, Tensor) -> Void = {
                device.adamW(rule, [AdamWLeaf(weight: $0, gradient: $1, m: $2, v: $3, weightDecay: 0)])
            }
            let sgd: (Tensor, Tensor, Tensor, Tensor) -> Void = { weight, gradient, m, _ in
                device.sgd(
                    rate: 0.1, momentum: 0.9, decay: 0, gradientScale: 1, weight: weight, gradient: gradient, buffer: m)
            }
            #expect(updated(gradient, adam) == updated(gradient.contiguous(), adam))
            #expect(updated(gradient, sgd) == updated(gradient.contiguous(), sgd))
        }
    }
}
