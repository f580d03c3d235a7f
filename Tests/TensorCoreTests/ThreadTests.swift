import Foundation
import Synchronization
import TensorCore
import Testing

/// Results have the same bits at any number of threads.
@Suite struct ThreadCountTests {
    /// An operation on inputs it makes itself, so that it can run on any device.
    struct Case: Sendable, CustomTestStringConvertible {
        let name: String
        let run: @Sendable (CPUDevice) -> [Tensor]
        var testDescription: String { name }
    }

    static let cases: [Case] =
        [[7, 5, 3], [129, 64, 257], [801, 130, 1100], [1, 2048, 3000], [2000, 64, 1]].flatMap { (e: [Int]) -> [Case] in
            [DType.float32, .float64, .bfloat16].map { dtype in
                Case(name: "matmul \(e) \(dtype)") { device in
                    let a = sample([e[0], e[1]], dtype, seed: 1, on: device)
                    let b = sample([e[1], e[2]], dtype, seed: 2, on: device)
                    return [Tensor.matmul(a, b)]
                }
            }
        } + [
            Case(name: "matmul with batches") { device in
                let a = sample([12, 65, 40], .float32, seed: 1, on: device)
                let b = sample([12, 50, 40], .float32, seed: 2, on: device)
                return [Tensor.matmul(a, b.transposed())]
            },
            Case(name: "reductions") { device in
                let x = sample([300, 7, 170], .float32, on: device)
                return [x.squared.sum()]
                    + [[0], [1], [2], [0, 1], [0, 2], [1, 2], [0, 1, 2]].flatMap { axes in
                        [x.sum(axes: axes), x.maximum(axes: axes), x.transposed().sum(axes: axes)]
                    }
            },
            Case(name: "elementwise") { device in
                let x = sample([300, 171], .float32, seed: 1, on: device)
                let y = sample([300, 171], .float32, seed: 2, on: device).transposed().contiguous().transposed()
                return [
                    x + y, (x * y).silu, x.transposed().contiguous(), x.cast(to: .bfloat16) * y.cast(to: .bfloat16),
                ]
            },
            Case(name: "softmax and norms") { device in
                let x = sample([333, 170], .float32, seed: 1, on: device)
                let g = sample([333, 170], .float32, seed: 2, on: device)
                let w = sample([170], .float32, seed: 3, on: device)
                let outs = (0..<8).map { _ in Tensor(uninitialised: x.shape, .float32, on: device) }
                let sums = (0..<4).map { _ in Tensor(uninitialised: w.shape, .float32, on: device) }
                device.softmax(x, into: outs[0])
                device.rmsNorm(x, weight: w, epsilon: 1e-5, into: outs[1])
                device.rmsNormPullback(x, weight: w, g, epsilon: 1e-5, dx: outs[2], dw: sums[0])
                device.layerNorm(x, weight: w, bias: w, epsilon: 1e-5, into: outs[3])
                device.layerNormPullback(x, weight: w, g, epsilon: 1e-5, dx: outs[4], dw: sums[1], db: sums[2])
                device.addRMSNorm(x, g, weight: w, epsilon: 1e-5, sum: outs[5], into: outs[6])
                device.copy(x, into: outs[7])
                device.addRMSNormPullback(x, weight: w, g, epsilon: 1e-5, to: outs[7], dw: sums[3])
                return outs + sums
            },
            Case(name: "ends of softmaxes, row dots") { device in
                let values = sample([2, 3, 700, 33], .float32, seed: 1, on: device)
                let (lse, dots) = (
                    Tensor.zeros([2, 3, 700], .float64, on: device), Tensor.zeros([2, 3, 700], on: device)
                )
                device.rowDots(sample(values.shape, .float32, seed: 2, on: device), values, into: dots)
                device.finishSoftmax(
                    reference: Tensor.zeros(lse.shape, on: device),
                    sum: sample(lse.shape, .float32, seed: 3, in: 1...9, on: device), sinks: nil, values: values,
                    lse: lse)
                return [values, lse, dots]
            },
            Case(name: "scatterAdd") { device in
                let rows = sample([4000, 130], .float32, on: device)
                let index = Tensor((0..<4000).map { Int32($0 * 37 % 11 - 1) }, on: device)
                return [Tensor.zeros([10, 130], on: device).scatteringAdd(rows, at: index)]
            },
            Case(name: "random") { device in
                [RandomDistribution.uniform, .normal].map { Tensor.random($0, [3, 20_000], key: 5, on: device) }
            },
            Case(name: "AdamW") { device in
                let (w, g) = (
                    sample([50_001], .float32, seed: 1, on: device), sample([50_001], .float32, seed: 2, on: device)
                )
                let (m, v) = (Tensor.zeros([50_001], on: device), Tensor.zeros([50_001], on: device))
                let rule = AdamWStep(
                    rate: 1e-2, beta1: 0.9, beta2: 0.99, epsilon: 1e-8, gradientScale: 1, step: 1)
                let small = [w, g, m, v].map { Tensor($0.values(Float.self).suffix(7).map { $0 }, on: device) }
                device.adamW(
                    rule,
                    [
                        AdamWLeaf(weight: small[0], gradient: small[1], m: small[2], v: small[3], weightDecay: 0),
                        AdamWLeaf(weight: w, gradient: g, m: m, v: v, weightDecay: 0.1),
                    ])
                return [w, m, v] + small
            },
        ]

    @Test(arguments: cases) func resultHasTheSameBitsAtAnyNumberOfThreads(_ one: Case) {
        let expected = one.run(CPUDevice(threads: 1)).map { $0.bytes }
        for threads in [2, 3, 5] {
            #expect(one.run(CPUDevice(threads: threads)).map { $0.bytes } == expected, "\(threads) threads")
        }
    }
}

/// The cores that Linux lets the calling thread run on, as a list of ranges.
private var coresOfThisThread: String? {
    let lines = (try? String(contentsOfFile: "/proc/thread-self/status", encoding: .utf8))?.split(separator: "\n")
    return lines?.first { $0.hasPrefix("Cpus_allowed_list:") }.map(String.init)
}

@Suite struct ThreadPoolTests {
    /// How often each index ran, and the largest worker number.
    final class Count: Sendable {
        private let state: Mutex<(runs: [Int], workers: Set<Int>)>
        init(_ count: Int) { state = Mutex(([Int](repeating: 0, count: count), [])) }
        func note(_ index: Int, _ worker: Int) {
            state.withLock {
                $0.runs[index] += 1
                $0.workers.insert(worker)
            }
        }
        var runs: [Int] { state.withLock { $0.runs } }
        var workers: Set<Int> { state.withLock { $0.workers } }
    }

    @Test(arguments: [1, 2, 3, 5, 16]) func everyIndexRunsOnce(_ workers: Int) {
        let pool = ThreadPool(workers: workers)
        for size in [0, 1, 2, 7, 1000] {
            let count = Count(size)
            pool.run(size) { index, worker in count.note(index, worker) }
            #expect(count.runs == [Int](repeating: 1, count: size))
            #expect(count.workers.allSatisfy { (0..<workers).contains($0) })
        }
    }

    @Test func indicesStartInIncreasingOrder() {
        for workers in [1, 3] {
            let pool = ThreadPool(workers: workers)
            let order = Mutex<[Int: [Int]]>([:])
            pool.run(500) { index, worker in order.withLock { $0[worker, default: []].append(index) } }
            let lists = order.withLock { $0 }
            #expect(lists.values.allSatisfy { $0 == $0.sorted() })
            #expect(lists.values.joined().sorted() == Array(0..<500))
        }
    }

    @Test func manySmallRunsAllFinish() {
        let pool = ThreadPool(workers: 3)
        let total = Atomic(0)
        for round in 0..<20_000 {
            pool.run(round % 5) { index, _ in total.add(index + 1, ordering: .relaxed) }
        }
        #expect(total.load(ordering: .relaxed) == 4000 * (1 + 3 + 6 + 10))
    }

    /// A scratch buffer per worker is safe only if a nested run stays on the worker that started it, for one index too.
    @Test func nestedRunStaysOnItsWorker() {
        let pool = ThreadPool(workers: 4)
        let count = Count(8 * 10)
        let strays = Atomic(0)
        pool.run(8) { outer, worker in
            pool.run(10) { inner, other in
                if other != worker { strays.add(1, ordering: .relaxed) }
                count.note(outer * 10 + inner, other)
            }
            pool.run(1) { _, other in if other != worker { strays.add(1, ordering: .relaxed) } }
        }
        #expect(count.runs == [Int](repeating: 1, count: 80))
        #expect(strays.load(ordering: .relaxed) == 0)
    }

    @Test func workerNumbersBelongToThePoolThatRuns() {
        let outer = ThreadPool(workers: 4)
        let strays = Atomic(0)
        outer.run(64) { _, _ in
            let inner = ThreadPool(workers: 2)
            inner.run(20) { _, worker in if worker >= 2 { strays.add(1, ordering: .relaxed) } }
        }
        #expect(strays.load(ordering: .relaxed) == 0)
    }

    /// A sleeping thread is kept off its caller's core while it is woken, and only then: what it starts inherits its cores.
    @Test(.enabled(if: coresOfThisThread?.contains { "-,".contains($0) } ?? false, "Linux with several cores only"))
    func aWokenThreadMayRunWhereItMightBefore() {
        let pool = ThreadPool(workers: 2)
        for _ in 0..<20 {
            usleep(3000)
            let cores = Mutex<[Int: String?]>([:])
            let deadline = ContinuousClock.now + .seconds(5)
            pool.run(2) { _, worker in
                let mine = coresOfThisThread
                cores.withLock { $0[worker] = mine }
                while cores.withLock({ $0.count < 2 }), ContinuousClock.now < deadline {}  // one index each
            }
            #expect(cores.withLock { $0 } == [0: coresOfThisThread, 1: coresOfThisThread])
        }
    }

    @Test func poolsOfSeveralRanksRunAtOnce() async {
        let sums = await withTaskGroup(of: Double.self) { group in
            for rank in 0..<4 {
                group.addTask {
                    let device = CPUDevice(name: "cpu:\(rank)", threads: 2)
                    var x = Tensor.ones([200, 200], on: device)
                    for _ in 0..<50 { x = x * 0.5 + 0.5 }
                    return Tensor.matmul(x, x).sum().item
                }
            }
            return await group.reduce(into: []) { $0.append($1) }
        }
        #expect(sums == [Double](repeating: 8e6, count: 4))
    }
}
