import NeuralCore
import TensorCore
import Testing

func makeDevice() -> CPUDevice { CPUDevice(threads: 1) }

/// Normal float64 numbers that differ by key.
func normal(_ shape: [Int], _ key: UInt64, on device: any Device) -> Tensor {
    .random(.normal, shape, .float64, key: key, on: device)
}

/// A module whose parameters are all random, also those that start at 0 or 1.
func randomised<M: Module>(_ module: M, seed: UInt64 = 5, standardDeviation: Double = 0.5) -> M {
    var module = module
    module.initialise(seed: seed) { _, _ in standardDeviation }
    return module
}

func largestDifference(_ a: Tensor, _ b: Tensor) -> Double {
    zip(a.doubles, b.doubles).reduce(0) { max($0, abs($1.0 - $1.1)) }
}

func largest(_ a: Tensor) -> Double { a.doubles.reduce(0) { max($0, abs($1)) } }

/// The most bytes of one kind that `body` had live at once beyond what was live before.
func peakBytes(_ kind: MemoryKind = .working, on device: any Device, _ body: () throws -> Void) rethrows -> Int {
    let before = device.ledger.live(kind)
    device.ledger.resetPeak()
    try body()
    return device.ledger.peak(kind) - before
}

/// Storage addresses of every tensor that reflection finds in a value, with the path to it.
func reflectedTensors(_ value: Any, _ path: String = "") -> [(path: String, address: UnsafeMutableRawPointer)] {
    if let tensor = value as? Tensor { return [(path, tensor.storage.address)] }
    if value is any Device { return [] }
    return Mirror(reflecting: value).children.enumerated().flatMap { index, child in
        reflectedTensors(child.value, path + "." + (child.label ?? "\(index)"))
    }
}

/// Expects that `visit` hands out every tensor field that reflection finds, each once and under a name of its own.
func expectVisitIsComplete<M: Module>(_ module: M, sourceLocation: SourceLocation = #_sourceLocation) {
    let visited = module.parameters
    let addresses = visited.map { $0.tensor.storage.address }
    #expect(Set(visited.map { $0.name }).count == visited.count, sourceLocation: sourceLocation)
    #expect(Set(addresses).count == visited.count, sourceLocation: sourceLocation)
    for (path, address) in reflectedTensors(module) where !addresses.contains(address) {
        Issue.record("\(M.self).visit forgets \(path)", sourceLocation: sourceLocation)
    }
    #expect(reflectedTensors(module).count == visited.count, sourceLocation: sourceLocation)
}
