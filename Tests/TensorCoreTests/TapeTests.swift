import TensorCore
import Testing

/// Two weights and an offset, nested as models are.
struct Layer: Module {
    var weight: Tensor
    var bias: Tensor?
    mutating func visit(_ visitor: inout ParameterVisitor) {
        visitor("weight", &weight)
        visitor("bias", &bias)
    }
    func callAsFunction(_ x: Tensor) -> Tensor {
        let y = Tensor.matmul(x, weight)
        return bias.map { y + $0 } ?? y
    }
}

struct Network: Module {
    var layers: [Layer]
    var head: Layer?
    var scale: Tensor
    mutating func visit(_ visitor: inout ParameterVisitor) {
        visitor("layers", &layers)
        visitor("head", &head)
        visitor("scale", &scale)
    }

    init(width: Int, on device: any Device) {
        layers = (0..<2).map { i in
            Layer(
                weight: Tensor.random(.normal, [width, width], key: UInt64(i), on: device, kind: .parameters),
                bias: i == 0 ? nil : Tensor.zeros([width], on: device, kind: .parameters))
        }
        head = Layer(weight: Tensor.random(.normal, [width, 3], key: 9, on: device, kind: .parameters), bias: nil)
        scale = Tensor.ones([1], on: device, kind: .parameters)
    }

    func callAsFunction(_ x: Tensor) -> Tensor {
        var x = x
        for layer in layers { x = layer(x).silu }
        return head!(x) * scale
    }
}

@Suite struct ModuleTests {
    let device = CPUDevice(threads: 1)

    @Test func parametersAreNamedByTheirPath() {
        let network = Network(width: 4, on: device)
        #expect(
            network.parameters.map { $0.name } == [
                "layers.0.weight", "layers.1.weight", "layers.1.bias", "head.weight", "scale",
            ])
        #expect(network.parameterCount == 16 + 16 + 4 + 12 + 1)
        var headless = network
        headless.head = nil
        #expect(headless.parameters.count == 4)
        #expect(network.parameters.count == 5, "a copy is a value")
    }

    @Test func parametersCanBeReplacedAndWritten() {
        var network = Network(width: 4, on: device)
        let before = network
        network.forEachParameter { name, parameter in
            if name.hasSuffix("weight") {
                parameter = Tensor.zeros(parameter.shape, on: device)
            } else {
                parameter.makeUnique()
                device.fill(parameter, with: 3)
            }
        }
        #expect(network.layers[1].bias?.doubles == [3, 3, 3, 3])
        #expect(network.head?.weight.doubles == [Double](repeating: 0, count: 12))
        #expect(before.layers[1].bias?.doubles == [0, 0, 0, 0])
        #expect(before.scale.item == 1)
    }

    @Test func firstErrorStopsTheWalkAndIsThrown() {
        var network = Network(width: 4, on: device)
        var seen: [String] = []
        #expect(throws: RingZooError.self) {
            try network.forEachParameter { name, _ in
                seen.append(name)
                if name == "layers.1.weight" { throw RingZooError(.failed, "stop") }
            }
        }
        #expect(seen == ["layers.0.weight", "layers.1.weight"])
    }
}

@Suite struct TapeTests {
    let device = CPUDevice(threads: 1)

    @Test func gradientHasTheModelsOwnTypeNamesAndShapes() throws {
        let network = Network(width: 4, on: device)
        let x = sample([2, 4], .float32, on: device)
        let (value, gradient) = try valueAndGradient(at: network) { $0(x).squared.sum() }
        #expect(value.shape == [] && !value.isTracked)
        #expect(gradient.parameters.map { $0.name } == network.parameters.map { $0.name })
        #expect(gradient.parameters.map { $0.tensor.shape } == network.parameters.map { $0.tensor.shape })
        #expect(gradient.parameters.allSatisfy { !$0.tensor.isTracked && $0.tensor.storage.kind == .gradients })
        #expect(network.parameters.allSatisfy { !$0.tensor.isTracked })
        let list = try valueAndGradient(at: network.parameters.map { $0.tensor }) { leaves in
            var copy = network
            var next = 0
            copy.forEachParameter { _, parameter in
                parameter = leaves[next]
                next += 1
            }
            return copy(x).squared.sum()
        }
        #expect(list.value.item == value.item)
        #expect(list.gradients.map { $0.bytes } == gradient.parameters.map { $0.tensor.bytes })
    }

    @Test func tensorWithoutInfluenceHasAGradientOfZeros() throws {
        let a = Tensor([1, 2] as [Float], on: device)
        let b = Tensor([1, 2, 3] as [Float], on: device)
        let (value, gradients) = try valueAndGradient(at: [a, b]) { ($0[0] * $0[1].detached.sum()).sum() }
        #expect(value.item == 18)
        #expect(gradients[0].doubles == [6, 6])
        #expect(gradients[1].doubles == [0, 0, 0])
        let constant = try valueAndGradient(at: [a]) { _ in Tensor.scalar(5, on: device) }
        #expect(constant.value.item == 5 && constant.gradients[0].doubles == [0, 0])
        let identity = try valueAndGradient(at: [Tensor.scalar(2, on: device)]) { $0[0] }
        #expect(identity.gradients[0].item == 1)
    }

    @Test func errorFromTheBodyOrAPullbackIsThrown() {
        let x = Tensor.scalar(1, on: device)
        #expect(throws: RingZooError.self) {
            try valueAndGradient(at: [x]) { _ in throw RingZooError(.interrupted, "body") }
        }
        let error = #expect(throws: RingZooError.self) {
            try valueAndGradient(at: [x]) {
                Tensor.record("ring", inputs: $0, output: $0[0].detached) { _ in
                    throw RingZooError(.interrupted, "hop 3")
                }
            }
        }
        #expect(error?.code == .interrupted && error?.message == "hop 3")
    }

    @Test func operationWithoutDerivativeIsNamed() {
        let x = Tensor([1, 2] as [Float], on: device)
        let first = #expect(throws: RingZooError.self) {
            try valueAndGradient(at: [x]) { x in
                _ = x[0].argmax()
                return x[0].sum()
            }
        }
        #expect(first?.message.contains("argmax") == true)
        let second = #expect(throws: RingZooError.self) {
            try valueAndGradient(at: [x]) { x in x[0].sum() * x[0].sumOfSquares() }
        }
        #expect(second?.message.contains("sumOfSquares") == true)
        #expect(throws: Never.self) {
            try valueAndGradient(at: [x]) { x in x[0].sum() * x[0].detached.sumOfSquares() }
        }
    }

    @Test(arguments: [true, false]) func tensorsOfTwoTapesDoNotMeet(_ outerFirst: Bool) {
        let x = Tensor.scalar(3, on: device)
        let reached = Reached()
        let error = #expect(throws: RingZooError.self) {
            try valueAndGradient(at: [x]) { outer in
                let inner = try valueAndGradient(at: [x]) { inner in
                    outerFirst ? outer[0] * inner[0] : inner[0] * outer[0]
                }
                reached.inner = true
                return outer[0] * inner.gradients[0]
            }
        }
        #expect(error?.message.contains("multiply") == true)
        #expect(!reached.inner, "the inner call must throw: its gradient would be wrong")
    }

    final class Reached { var inner = false }

    @Test func nestedCallsWithDetachedTensorsWork() throws {
        let x = Tensor.scalar(3, .float64, on: device)
        let (value, gradients) = try valueAndGradient(at: [x]) { outer in
            let fixed = outer[0].detached
            let slope = try valueAndGradient(at: [fixed]) { $0[0] * $0[0] * fixed }.gradients[0]
            return outer[0] * slope
        }
        #expect(value.item == 54 && gradients[0].item == 18)
    }

    /// Deep enough to overflow any stack if freeing recursed.
    @Test func millionOperationsNeitherOverflowNorLeak() throws {
        let device = CPUDevice(threads: 1)
        let x = Tensor.scalar(1, .float64, on: device)
        let start = device.ledger.live()
        let gradient = try valueAndGradient(at: [x]) { x in
            var y = x[0]
            for _ in 0..<1_000_000 { y = -y }
            return y
        }.gradients[0].item
        #expect(gradient == 1)
        #expect(device.ledger.live() == start)
        // Abandoned half way, it is freed as well.
        #expect(throws: RingZooError.self) {
            try valueAndGradient(at: [x]) { x in
                var y = x[0]
                for _ in 0..<50_000 { y = -y }
                throw RingZooError(.failed, "\(y.shape)")
            }
        }
        #expect(device.ledger.live() == start)
    }

    @Test func backwardFreesWhatItHasUsed() throws {
        let x = Tensor.ones([100_000], on: device)
        device.ledger.resetPeak()
        let before = device.ledger.live()
        _ = try valueAndGradient(at: [x]) { x in
            var y = x[0]
            for _ in 0..<20 { y = y.silu }
            return y.sum()
        }
        // Forward keeps one value a step; the way back must not add one gradient a step to that.
        #expect(device.ledger.peak() - before < 25 * x.byteCount)
        #expect(device.ledger.live() == before)
    }
}

@Suite struct RematerialiseTests {
    struct Stack: Module {
        var layers: [Layer]
        mutating func visit(_ visitor: inout ParameterVisitor) { visitor("layers", &layers) }
    }

    private func step(_ rematerialised: Bool, nested: Bool = false) throws -> (
        bytes: [[UInt8]], peak: Int, value: Double
    ) {
        let device = CPUDevice(threads: 2)
        let network = Stack(
            layers: (0..<6).map {
                Layer(
                    weight: Tensor.random(.normal, [64, 64], key: UInt64($0), on: device, kind: .parameters) * 0.1,
                    bias: Tensor.zeros([64], on: device, kind: .parameters))
            })
        let x = sample([256, 64], .float32, on: device)
        let block: @Sendable (Layer, Tensor) throws -> Tensor = { layer, x in
            let y = layer(x)
            return x + (y.silu * y.sigmoid).hyperbolicTangent.softmax()
        }
        device.ledger.resetPeak()
        let start = device.ledger.live()
        let (value, gradients) = try valueAndGradient(at: network.parameters.map { $0.tensor } + [x]) { leaves in
            var copy = network
            var next = 0
            copy.forEachParameter { _, parameter in
                parameter = leaves[next]
                next += 1
            }
            var y = leaves[next]
            for layer in copy.layers {
                if nested {
                    y = try rematerialise(layer, y) { layer, x in try rematerialise(layer, x, block) }
                } else {
                    y = rematerialised ? try rematerialise(layer, y, block) : try block(layer, y)
                }
            }
            return y.squared.mean()
        }
        let peak = device.ledger.peak() - start
        return (gradients.map { $0.bytes }, peak, value.item)
    }

    @Test func gradientHasTheSameBitsAndThePeakIsLower() throws {
        let plain = try step(false)
        let again = try step(true)
        #expect(again.value == plain.value)
        #expect(again.bytes == plain.bytes)
        #expect(again.bytes.contains { $0.contains { $0 != 0 } })
        #expect(again.peak * 2 < plain.peak, "\(again.peak) bytes against \(plain.peak)")
        #expect(try step(true, nested: true).bytes == plain.bytes)
    }

    @Test func onlyTrackedInputsGetGradients() throws {
        let device = CPUDevice(threads: 1)
        let layer = Layer(weight: sample([3, 3], seed: 1, on: device), bias: nil)
        let x = sample([2, 3], seed: 2, on: device)
        let through = try valueAndGradient(at: [x]) { x in
            try rematerialise(layer, x[0]) { layer, x in layer(x).silu }.sum()
        }
        let plain = try valueAndGradient(at: [x]) { layer($0[0]).silu.sum() }
        #expect(through.gradients[0].bytes == plain.gradients[0].bytes)
        #expect(try rematerialise(layer, x) { layer, x in layer(x) }.isTracked == false)
    }

    /// A tracked tensor that comes in through the closure would silently get no gradient.
    @Test func capturedTrackedTensorIsRefused() {
        let device = CPUDevice(threads: 1)
        let layer = Layer(weight: sample([3, 3], seed: 1, on: device), bias: nil)
        let x = sample([2, 3], seed: 2, on: device)
        let error = #expect(throws: RingZooError.self) {
            try valueAndGradient(at: [x, x]) { x in
                let second = x[1]
                return try rematerialise(layer, x[0]) { layer, x in layer(x) * second }.sum()
            }
        }
        #expect(error?.message.contains("rematerialise") == true)
    }
}
