import CTensorKernels
import TensorCore
import Testing

@Suite struct RandomTests {
    let device = CPUDevice(threads: 2)

    /// The generator's published known-answer vectors (Random123, kat_vectors, philox4x32 with 10 rounds), as far as they show
    /// through two of the four words.
    @Test func generatorIsPhilox() {
        #expect(rz_random_bits(0, 0, 0) == 0xe169_c58d_6627_e8d5)
        #expect(rz_random_bits(.max, .max, .max) == 0x41c8_3b0e_408f_276d)
        // counter 243f6a88 85a308d3 13198a2e 03707344, key a4093822 299f31d0
        #expect(
            rz_random_bits(0x299f_31d0_a409_3822, 0x0370_7344_1319_8a2e, 0x85a3_08d3_243f_6a88) == 0x94fd_cceb_d16c_fe09
        )
        let first = Tensor.random(.uniform, [4], key: 0, rows: [0], on: device).values(Float.self)
        #expect(first == [0x6627e8, 0xe169c5, 0xbc57ac, 0x9b00db].map { Float($0) * 0x1p-24 })
    }

    @Test(arguments: [true, false]) func numbersDependOnKeyRowAndColumnAlone(_ normal: Bool) {
        let distribution: RandomDistribution = normal ? .normal : .uniform
        let rows: [UInt64] = [3, 0, 1 << 40, 7, 8]
        let columns = 20_003
        let whole = Tensor.random(distribution, [5, columns], key: 42, rows: rows, on: device)
        for threads in [1, 3, 5] {
            let other = CPUDevice(threads: threads)
            #expect(Tensor.random(distribution, [5, columns], key: 42, rows: rows, on: other).bytes == whole.bytes)
        }
        let parts = [[0, 1], [2], [3, 4]].map { part in
            Tensor.random(distribution, [part.count, columns], key: 42, rows: part.map { rows[$0] }, on: device)
        }
        #expect(Tensor.concatenate(parts, axis: 0).bytes == whole.bytes, "ranks that hold some of the rows")
        // A row is drawn in pieces; they must be the one sequence, without repeats or gaps.
        let direct = [Float](unsafeUninitializedCapacity: columns) { buffer, count in
            let draw = normal ? rz_random_normal : rz_random_uniform
            draw(42, rows[2], 0, Int64(columns), buffer.baseAddress)
            count = columns
        }
        #expect(whole.slice(axis: 0, 2..<3).values(Float.self) == direct)
        let narrow = Tensor.random(distribution, [5, 7], key: 42, rows: rows, on: device)
        #expect(narrow.bytes == whole.slice(axis: 1, 0..<7).bytes, "a column does not depend on how many there are")
        #expect(Tensor.random(distribution, [5, columns], key: 43, rows: rows, on: device).bytes != whole.bytes)
    }

    @Test func momentsAreThoseOfTheDistribution() {
        let n = 1 << 20
        let uniform = Tensor.random(.uniform, [n], key: 7, on: device).doubles
        #expect(uniform.allSatisfy { $0 >= 0 && $0 < 1 })
        let normal = Tensor.random(.normal, [n], key: 7, on: device).doubles
        #expect(normal.allSatisfy { $0.isFinite })
        // Five standard errors of each estimate.
        for (values, mean, variance, kurtosis) in [(uniform, 0.5, 1.0 / 12, 1.8), (normal, 0, 1, 3)] {
            let m = values.reduce(0, +) / Double(n)
            let v = values.reduce(0) { $0 + ($1 - m) * ($1 - m) } / Double(n)
            #expect(abs(m - mean) < 5 * (variance / Double(n)).squareRoot())
            #expect(abs(v - variance) < 5 * variance * ((kurtosis - 1) / Double(n)).squareRoot())
            // Neighbours, and the same columns of neighbouring rows and keys, do not move together.
            let next = zip(values, values.dropFirst()).reduce(0) { $0 + ($1.0 - mean) * ($1.1 - mean) } / Double(n)
            #expect(abs(next) < 5 * variance / Double(n).squareRoot())
        }
        let tail = normal.filter { abs($0) > 1.959_963_98 }.count
        #expect(abs(Double(tail) / Double(n) - 0.05) < 5 * (0.05 * 0.95 / Double(n)).squareRoot())
    }

    @Test func rowsAndKeysAreIndependent() {
        let n = 1 << 17
        let rows = Tensor.random(.normal, [2, n], key: 1, rows: [0, 1], on: device).doubles
        let key = Tensor.random(.normal, [1, n], key: 2, rows: [0], on: device).doubles
        for other in [Array(rows[n...]), key] {
            let correlation = zip(rows[..<n], other).reduce(0) { $0 + $1.0 * $1.1 } / Double(n)
            #expect(abs(correlation) < 5 / Double(n).squareRoot())
        }
    }

    @Test func emptyAndHalfPrecisionTensorsAreDrawnToo() {
        #expect(Tensor.random(.uniform, [0, 4], key: 1, on: device).doubles == [])
        #expect(Tensor.random(.uniform, [0, 4], key: 1, rows: [], on: device).doubles == [])
        let wide = Tensor.random(.normal, [3, 5], key: 1, on: device)
        #expect(Tensor.random(.normal, [3, 5], .bfloat16, key: 1, on: device).bytes == wide.cast(to: .bfloat16).bytes)
    }
}
