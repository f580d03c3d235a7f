import ConformanceKit
import Foundation
import TensorCore
import Testing

/// Norms, rotary positions and cross-entropy, called on the device as layers and losses call them.
@Suite struct RowPrimitiveTests {
    let device = CPUDevice(threads: 2)
    static let floats: [DType] = [.float32, .float64, .bfloat16, .float16]
    /// 1: no vector; 37: a tail; 3000: half-precision rows that do not fit the kernel's stack.
    static let columns = [1, 16, 37, 3000]

    struct Rows {
        let x, w, b, g: HostArray
        let rows, columns: Int
        func row(_ i: Int, _ a: HostArray) -> [Double] { Array(a.values[i * columns..<(i + 1) * columns]) }
    }

    private func inputs(_ rows: Int, _ columns: Int, _ dtype: DType) -> (
        x: Tensor, w: Tensor, b: Tensor, g: Tensor, host: Rows
    ) {
        let x = sample([rows, columns], dtype, seed: 1, on: device)
        let w = sample([columns], dtype, seed: 2, in: 0.5...1.5, on: device)
        let b = sample([columns], dtype, seed: 3, on: device)
        let g = sample([rows, columns], dtype, seed: 4, on: device)
        let host = Rows(
            x: HostArray(x), w: HostArray(w), b: HostArray(b), g: HostArray(g), rows: rows, columns: columns)
        return (x, w, b, g, host)
    }

    private func expect(
        _ found: Tensor, _ expected: [Double], _ name: String, scale: Double = 1, dtype: DType? = nil,
        sourceLocation: SourceLocation = #_sourceLocation
    ) {
        var tolerance = Tolerance.rounding(of: dtype ?? found.dtype)
        tolerance.absolute *= scale
        let violation = tolerance.violation(found.doubles, expected)
        #expect(violation == nil, "\(name): \(violation ?? "")", sourceLocation: sourceLocation)
    }

    @Test(arguments: floats, columns) func rmsNormAndPullbackEqualReference(_ dtype: DType, _ columns: Int) {
        let epsilon = 1e-5
        for rows in [0, 1, 5, 70] {
            let (x, w, _, g, host) = inputs(rows, columns, dtype)
            var (out, dx) = ([Double](), [Double]())
            var dw = [Double](repeating: 0, count: columns)
            for i in 0..<rows {
                let (xi, gi) = (host.row(i, host.x), host.row(i, host.g))
                let r = 1 / (xi.reduce(0) { $0 + $1 * $1 } / Double(columns) + epsilon).squareRoot()
                let dot = (0..<columns).reduce(0.0) { $0 + gi[$1] * host.w.values[$1] * xi[$1] }
                for c in 0..<columns {
                    out.append(xi[c] * r * host.w.values[c])
                    dx.append(r * host.w.values[c] * gi[c] - xi[c] * r * r * r / Double(columns) * dot)
                    dw[c] += gi[c] * xi[c] * r
                }
            }
            for layout in [Layout.contiguous, .reversed] {
                let y = Tensor(uninitialised: x.shape, dtype, on: device)
                device.rmsNorm(layout.arrange(x), weight: w, epsilon: epsilon, into: y)
                expect(y, out, "out, \(rows) rows")
                let foundX = Tensor(uninitialised: x.shape, dtype, on: device)
                let foundW = Tensor.full([columns], 5, dtype.accumulator, on: device)
                device.rmsNormPullback(
                    layout.arrange(x), weight: w, layout.arrange(g), epsilon: epsilon, dx: foundX, dw: foundW)
                // x = 1 number a row: r w g and the projection cancel almost entirely.
                expect(foundX, dx, "dx, \(rows) rows", scale: 8)
                expect(foundW, dw, "dw, \(rows) rows", scale: 8)
            }
        }
    }

    /// Fused, a residual and its norm have the bits of the two operations; the gradient is added before it is rounded.
    @Test(arguments: floats, columns) func addRMSNormEqualsAddThenNorm(_ dtype: DType, _ columns: Int) {
        let epsilon = 1e-5
        for (rows, layout) in [(0, Layout.contiguous), (1, .contiguous), (70, .contiguous), (5, .reversed)] {
            let (x, w, _, g, _) = inputs(rows, columns, dtype)
            let delta = sample([rows, columns], dtype, seed: 5, on: device)
            func new() -> Tensor { Tensor(uninitialised: x.shape, dtype, on: device) }
            let (sum, out, expectedSum, expectedOut) = (new(), new(), new(), new())
            device.binary(.add, x, delta, into: expectedSum)
            device.rmsNorm(expectedSum, weight: w, epsilon: epsilon, into: expectedOut)
            device.addRMSNorm(
                layout.arrange(x), layout.arrange(delta), weight: w, epsilon: epsilon, sum: sum, into: out)
            #expect(sum.bytes == expectedSum.bytes && out.bytes == expectedOut.bytes, "\(rows) rows")

            let wide = dtype.accumulator
            let (share, total) = (Tensor(uninitialised: x.shape, wide, on: device), new())
            let (dw, expectedDw) = (
                Tensor.full([columns], 5, wide, on: device), Tensor.full([columns], 6, wide, on: device)
            )
            device.rmsNormPullback(
                x.cast(to: wide), weight: w.cast(to: wide), g.cast(to: wide), epsilon: epsilon, dx: share,
                dw: expectedDw)
            device.copy(delta, into: total)
            device.addRMSNormPullback(
                layout.arrange(x), weight: w, layout.arrange(g), epsilon: epsilon, to: total, dw: dw)
            #expect(dw.bytes == expectedDw.bytes, "\(rows) rows")
            expect(total, zip(delta.doubles, share.doubles).map { $0 + $1 }, "dx, \(rows) rows", scale: 8)
        }
    }

    /// Against the definition in float64, also where logits are beyond the range of exp, a row saw nothing, or a sink has all the weight.
    @Test(arguments: [DType.float32, .float64], columns) func finishedSoftmaxEqualsReference(
        _ dtype: DType, _ columns: Int
    ) {
        let shape = [2, 3, 7, columns]
        let values = sample(shape, dtype, seed: 1, on: device)
        let sum = Tensor(sample([42], .float64, seed: 2, in: 0.5...9, on: device).doubles, on: device)
        let references: [Double] = (0..<42).map { [0, 3, -5, 4000, -4000, -.infinity][$0 % 6] }
        let sums = zip(sum.doubles, references).map { $1 == -.infinity ? 0 : $0 }
        func rows(_ x: [Double]) -> Tensor { Tensor(x, on: device).cast(to: dtype).reshaped([2, 3, 7]) }
        let sinks: [Double] = [0.5, -1, 800]
        for sinks in [nil, sinks] {
            var (out, lse) = (values.doubles, [Double]())
            for row in 0..<42 {
                let sink = sinks.map { $0[row / 7 % 3] } ?? -.infinity
                let sum = rows(sums).doubles[row], exponent = references[row] * log(2)
                let own = sum == 0 ? -.infinity : exponent + log(sum)
                let most = max(own, sink)
                lse.append(most == -.infinity ? most : most + log(exp(own - most) + exp(sink - most)))
                for c in row * columns..<(row + 1) * columns {
                    out[c] = sum == 0 ? 0 : out[c] / (sum + exp(sink - exponent))
                }
            }
            let (found, foundLse) = (
                Tensor(uninitialised: shape, dtype, on: device), Tensor.zeros([2, 3, 7], .float64, on: device)
            )
            device.copy(values, into: found)
            device.finishSoftmax(
                reference: rows(references), sum: rows(sums),
                sinks: sinks.map { Tensor($0, on: device).cast(to: dtype) }, values: found, lse: foundLse)
            expect(found, out, "values, sinks \(sinks ?? [])")
            expect(foundLse, lse, "lse, sinks \(sinks ?? [])", scale: 8)
        }
    }

    @Test(arguments: floats, columns) func rowDotsEqualReference(_ dtype: DType, _ columns: Int) {
        for rows in [0, 1, 5, 70] {
            let (x, _, _, _, host) = inputs(rows, columns, dtype)
            let y = sample([rows, columns], dtype.accumulator, seed: 5, on: device)
            let other = HostArray(y)
            let dots = (0..<rows).map { row in
                zip(host.row(row, host.x), host.row(row, other)).reduce(0) { $0 + $1.0 * $1.1 }
            }
            for layout in [Layout.contiguous, .reversed] {
                let found = Tensor.full([rows], 5, dtype.accumulator, on: device)
                device.rowDots(layout.arrange(x), layout.arrange(y), into: found)
                expect(found, dots, "\(rows) rows", scale: 8)
            }
        }
        // Rows that lie where a permuted view has them.
        let x = sample([2, 5, 3, columns], dtype, seed: 6, on: device).permuted([0, 2, 1, 3])
        let y = sample([2, 3, 5, columns], dtype.accumulator, seed: 7, on: device)
        let (found, expected) = (
            Tensor.zeros([2, 3, 5], dtype.accumulator, on: device),
            Tensor.zeros([2, 3, 5], dtype.accumulator, on: device)
        )
        device.rowDots(x, y, into: found)
        device.rowDots(x.contiguous(), y, into: expected)
        #expect(found.bytes == expected.bytes)
    }

    @Test(arguments: floats, columns) func layerNormAndPullbackEqualReference(_ dtype: DType, _ columns: Int) {
        // A row of one element has no spread; a larger epsilon keeps the reference itself well conditioned.
        let epsilon = columns == 1 ? 1 : 1e-5
        for rows in [0, 1, 5, 70] {
            let (x, w, b, g, host) = inputs(rows, columns, dtype)
            var (out, dx) = ([Double](), [Double]())
            var (dw, db) = ([Double](repeating: 0, count: columns), [Double](repeating: 0, count: columns))
            let n = Double(columns)
            for i in 0..<rows {
                let (xi, gi) = (host.row(i, host.x), host.row(i, host.g))
                let mean = xi.reduce(0, +) / n
                let r = 1 / (xi.reduce(0) { $0 + ($1 - mean) * ($1 - mean) } / n + epsilon).squareRoot()
                let h = xi.map { ($0 - mean) * r }
                let u = zip(gi, host.w.values).map { $0 * $1 }
                let (a, p) = (u.reduce(0, +) / n, zip(u, h).reduce(0) { $0 + $1.0 * $1.1 } / n)
                for c in 0..<columns {
                    out.append(h[c] * host.w.values[c] + host.b.values[c])
                    dx.append(r * (u[c] - a - h[c] * p))
                    dw[c] += gi[c] * h[c]
                    db[c] += gi[c]
                }
            }
            for layout in [Layout.contiguous, .reversed] {
                let y = Tensor(uninitialised: x.shape, dtype, on: device)
                device.layerNorm(layout.arrange(x), weight: w, bias: b, epsilon: epsilon, into: y)
                expect(y, out, "out, \(rows) rows", scale: 2)
                let foundX = Tensor(uninitialised: x.shape, dtype, on: device)
                let foundW = Tensor.full([columns], 5, dtype.accumulator, on: device)
                let foundB = Tensor.full([columns], 5, dtype.accumulator, on: device)
                device.layerNormPullback(
                    layout.arrange(x), weight: w, layout.arrange(g), epsilon: epsilon, dx: foundX, dw: foundW,
                    db: foundB)
                expect(foundX, dx, "dx, \(rows) rows", scale: 8)
                expect(foundW, dw, "dw, \(rows) rows", scale: 8)
                expect(foundB, db, "db, \(rows) rows", scale: 8)
            }
        }
    }

    @Test(arguments: floats, [[1, 3, 2, 4], [2, 5, 3, 2], [2, 3, 1, 64], [0, 3, 2, 4], [2, 0, 2, 4]])
    func rotaryTurnsHalfAgainstHalf(_ dtype: DType, _ shape: [Int]) {
        let (b, t, d) = (shape[0], shape[1], shape[3])
        let x = sample(shape, dtype, on: device)
        for batch in Set([1, b]).sorted() where batch > 0 {
            let angles = sample([batch, t, d / 2], .float64, seed: 8, in: -4...4, on: device)
            let (cosine, sine) = (angles.cosine.cast(to: dtype.accumulator), angles.sine.cast(to: dtype.accumulator))
            let (hx, hc, hs) = (HostArray(x), HostArray(cosine), HostArray(sine))
            for sign in [1.0, -1] {
                let expected = HostArray(shape) { place in
                    let half = place[3] % (d / 2)
                    let angle = [batch == 1 ? 0 : place[0], place[1], half]
                    let (first, second) = (hx[place.dropLast() + [half]], hx[place.dropLast() + [half + d / 2]])
                    return place[3] < d / 2
                        ? first * hc[angle] - sign * second * hs[angle] : second * hc[angle] + sign * first * hs[angle]
                }
                // Straight from a projection [B, H, T, D] seen as [B, T, H, D], and angles as the first half of a table.
                let heads = x.transposed(1, 2).contiguous().transposed(1, 2)
                let wide = Tensor.concatenate([cosine, sine], axis: 2)
                for (name, input, c, s) in [
                    ("contiguous", x, cosine, sine), ("heads outside", heads, cosine, sine),
                    ("stepped", Layout.stepped.arrange(x), cosine, sine),
                    ("angles in one table", x, wide.slice(axis: 2, 0..<d / 2), wide.slice(axis: 2, d / 2..<d)),
                ] {
                    let out = Tensor(uninitialised: shape, dtype, on: device)
                    device.rotary(input, cosine: c, sine: s, sign: sign, into: out)
                    expect(out, expected.values, "\(name), batch \(batch), sign \(sign)")
                }
                let inPlace = Tensor(uninitialised: shape, dtype, on: device)
                device.copy(x, into: inPlace)
                device.rotary(inPlace, cosine: cosine, sine: sine, sign: sign, into: inPlace)
                expect(inPlace, expected.values, "in place, batch \(batch), sign \(sign)")
            }
        }
    }

    @Test(arguments: floats, [1, 16, 37, 7000]) func crossEntropyEqualsReference(_ dtype: DType, _ vocabulary: Int) {
        let rows = 6
        let scale = 0.25
        let logits = sample([rows, vocabulary], dtype, in: -8...8, on: device)
        let targets: [Int32] = [0, Int32(vocabulary - 1), -1, Int32(vocabulary / 2), -100, 0]
        let host = HostArray(logits)
        var (losses, gradient) = ([Double](), [Double]())
        for (i, target) in targets.enumerated() {
            let row = (0..<vocabulary).map { host[[i, $0]] }
            let largest = row.max()!
            let sum = row.reduce(0) { $0 + exp($1 - largest) }
            losses.append(target < 0 ? 0 : log(sum) + largest - row[Int(target)])
            for (c, x) in row.enumerated() {
                let hit = c == Int(target) ? 1.0 : 0
                gradient.append(target < 0 ? 0 : (exp(x - largest) / sum - hit) * scale)
            }
        }
        // Losses are float64 numbers made of float32 exponentials, unless the logits are float64.
        let lossTolerance = dtype == .float64 ? Tolerance.float64 : Tolerance.float32
        for layout in [Layout.contiguous, .window, .reversed] {
            let found = Tensor.full([rows], 7, .float64, on: device)
            let dx = Tensor.full(logits.shape, 7, dtype, on: device)
            let wanted = Tensor(targets, on: device)
            device.crossEntropy(layout.arrange(logits), targets: wanted, scale: scale, losses: found, gradient: dx)
            #expect(lossTolerance.violation(found.doubles, losses) == nil, "\(layout)")
            expect(dx, gradient, "gradient, \(layout)")
            let alone = Tensor.full([rows], 7, .float64, on: device)
            device.crossEntropy(
                layout.arrange(logits), targets: Layout.stepped.arrange(wanted), scale: scale, losses: alone,
                gradient: nil)
            #expect(
                alone.doubles == found.doubles, "\(layout): the loss does not depend on whether a gradient is wanted")
        }
        var inPlace = logits
        inPlace.makeUnique()
        let found = Tensor.zeros([rows], .float64, on: device)
        device.crossEntropy(
            inPlace, targets: Tensor(targets, on: device), scale: scale, losses: found, gradient: inPlace)
        #expect(lossTolerance.violation(found.doubles, losses) == nil)
        expect(inPlace, gradient, "gradient over the logits")
    }

    @Test func crossEntropyStaysFiniteForExtremeLogits() {
        let logits = Tensor([1e4, -1e4, 0, -1e4, 1e4, 0] as [Float], [2, 3], on: device)
        let losses = Tensor.zeros([2], .float64, on: device)
        let dx = Tensor.zeros([2, 3], on: device)
        device.crossEntropy(
            logits, targets: Tensor([0, 0] as [Int32], on: device), scale: 1, losses: losses, gradient: dx)
        #expect(losses.doubles == [0, 2e4])
        #expect(dx.doubles == [0, 0, 0, -1, 1, 0])
    }
}
