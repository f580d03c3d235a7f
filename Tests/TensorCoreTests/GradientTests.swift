import ConformanceKit
import Foundation
import TensorCore
import Testing

/// One line of the table: a function of some inputs, and the public operations whose derivatives it holds to account.
struct GradientRow: Sendable, CustomTestStringConvertible {
    let operations: [String]
    let name: String
    let inputs: [Input]
    var step = 1e-6
    let body: @Sendable ([Tensor]) throws -> Tensor

    struct Input: Sendable {
        var shape: [Int]
        var range: ClosedRange<Double>
    }

    var testDescription: String { "\(operations.joined(separator: ", ")): \(name)" }

    init(
        _ operation: String, _ name: String, _ shapes: [[Int]], in range: ClosedRange<Double> = -2...2,
        step: Double = 1e-6, _ body: @escaping @Sendable ([Tensor]) throws -> Tensor
    ) {
        operations = operation.split(separator: " ").map { String($0) }
        self.name = name
        inputs = shapes.map { Input(shape: $0, range: range) }
        self.step = step
        self.body = body
    }
}

@Suite struct GradientTests {
    let device = CPUDevice(threads: 2)

    /// Tighter than `gradcheck`: with values of about one, the differences themselves are good to 1e-9.
    static let tight = Tolerance(absolute: 1e-7, relative: 1e-6)

    static let pairs: [[[Int]]] = [
        [[2, 3], [2, 3]], [[2, 3], [3]], [[3], [2, 3]], [[2, 1], [1, 3]], [[], [2, 3]], [[2, 3], []], [[1], [2, 2]],
        [[0, 3], [3]], [[1], [1]], [[2, 1, 3], [4, 1]],
    ]
    static let axesOfThree: [[Int]] = [[0], [1], [2], [0, 1], [0, 2], [1, 2], [0, 1, 2], [-1], []]

    /// Chooses from two tensors in no regular order.
    private static func alternating(_ a: Tensor, _ b: Tensor) -> Tensor {
        let shape = (a + b).shape
        let count = shape.reduce(1, *)
        let bits = (0..<count).map { i -> Int32 in i * 5 % 3 == 1 ? 1 : 0 }
        return Tensor.select(Tensor(bits, shape, on: a.device).cast(to: .bool), a, b)
    }

    private static func ofPair(_ shapes: [[Int]]) -> [GradientRow] {
        [
            GradientRow("+", "\(shapes)", shapes) { $0[0] + $0[1] },
            GradientRow("-", "\(shapes)", shapes) { $0[0] - $0[1] },
            GradientRow("*", "\(shapes)", shapes) { $0[0] * $0[1] },
            GradientRow("/", "\(shapes)", shapes, in: 0.5...2) { $0[0] / $0[1] },
            GradientRow("power", "\(shapes)", shapes, in: 0.5...2) { Tensor.power($0[0], $0[1]) },
            GradientRow("maximum", "of two, \(shapes)", shapes) { Tensor.maximum($0[0], $0[1]) },
            GradientRow("minimum", "of two, \(shapes)", shapes) { Tensor.minimum($0[0], $0[1]) },
            GradientRow("select", "\(shapes)", shapes) { alternating($0[0], $0[1]) },
        ]
    }

    static let elementwise: [GradientRow] =
        pairs.flatMap(ofPair) + [
            GradientRow("select", "broadcast condition", [[2, 3], [2, 3]]) { x in
                let condition = Tensor([1, 0, 1] as [Int32], on: x[0].device).cast(to: .bool)
                return Tensor.select(condition, x[0], x[1])
            },
            GradientRow("+ - * /", "numbers on the right", [[5]]) { ((($0[0] + 1.5) * 3) - 0.25) / 7 },
            GradientRow("+ - * /", "numbers on the left", [[5]], in: 0.5...2) { 2 / (1.5 + 3 * (0.25 - $0[0] - 4)) },
            GradientRow("* +", "the same tensor twice", [[5]]) { $0[0] * $0[0] + $0[0] },
            GradientRow("power", "whole exponents of negative bases", [[5]]) {
                Tensor.power($0[0], Tensor([2, 3, 1, 4, 2.0], on: $0[0].device))
            },
            GradientRow("power", "exponent 0 of base 0", [[1]], in: 0...0) {
                Tensor.power($0[0], Tensor([0.0], on: $0[0].device))
            },
            GradientRow("cast", "through float32", [[2, 3]], step: 0.25) {
                ($0[0] * 2).cast(to: .float32).cast(to: .float64)
            },
        ]

    static let unary: [GradientRow] = [[2, 3], [1], [], [0]].flatMap(ofOne)

    private static func ofOne(_ shape: [Int]) -> [GradientRow] {
        [
            GradientRow("-", "\(shape)", [shape]) { -$0[0] },
            GradientRow("absolute", "\(shape)", [shape]) { $0[0].absolute },
            GradientRow("squared", "\(shape)", [shape]) { $0[0].squared },
            GradientRow("squareRoot", "\(shape)", [shape], in: 0.5...2) { $0[0].squareRoot },
            GradientRow("reciprocalSquareRoot", "\(shape)", [shape], in: 0.5...2) { $0[0].reciprocalSquareRoot },
            GradientRow("reciprocal", "\(shape)", [shape], in: 0.5...2) { $0[0].reciprocal },
            GradientRow("exponential", "\(shape)", [shape]) { $0[0].exponential },
            GradientRow("logarithm", "\(shape)", [shape], in: 0.5...2) { $0[0].logarithm },
            GradientRow("sine", "\(shape)", [shape]) { $0[0].sine },
            GradientRow("cosine", "\(shape)", [shape]) { $0[0].cosine },
            GradientRow("hyperbolicTangent", "\(shape)", [shape]) { $0[0].hyperbolicTangent },
            GradientRow("errorFunction", "\(shape)", [shape]) { $0[0].errorFunction },
            GradientRow("sigmoid", "\(shape)", [shape]) { $0[0].sigmoid },
            GradientRow("relu", "\(shape)", [shape]) { $0[0].relu },
            GradientRow("silu", "\(shape)", [shape]) { $0[0].silu },
            GradientRow("gelu", "\(shape)", [shape]) { $0[0].gelu },
            GradientRow("geluTanh", "\(shape)", [shape]) { $0[0].geluTanh },
        ]
    }

    private static func over(_ axes: [Int], keep: Bool) -> [GradientRow] {
        let name = "axes \(axes), keep \(keep)"
        return [
            GradientRow("sum", name, [[2, 3, 2]]) { $0[0].sum(axes: axes, keepAxes: keep) },
            GradientRow("mean", name, [[2, 3, 2]]) { $0[0].mean(axes: axes, keepAxes: keep) },
            GradientRow("maximum", name, [[2, 3, 2]]) { $0[0].maximum(axes: axes, keepAxes: keep) },
            GradientRow("minimum", name, [[2, 3, 2]]) { $0[0].minimum(axes: axes, keepAxes: keep) },
        ]
    }

    static let reductions: [GradientRow] =
        axesOfThree.flatMap { over($0, keep: false) + over($0, keep: true) } + [
            GradientRow("sum mean maximum minimum", "all axes", [[2, 3]]) {
                $0[0].sum() * $0[0].mean() + $0[0].maximum() * $0[0].minimum()
            },
            GradientRow("sum mean maximum minimum", "a scalar", [[]]) {
                $0[0].sum() * $0[0].mean() + $0[0].maximum() * $0[0].minimum()
            },
            GradientRow("sum", "no elements", [[0, 3]]) { $0[0].sum(axes: [0]) },
            GradientRow("sum", "of a transposed view", [[2, 3]]) { $0[0].transposed().sum(axes: [0]) },
            GradientRow("softmax", "rows", [[3, 5]]) { $0[0].softmax() },
            GradientRow("softmax", "one element a row", [[3, 1]]) { $0[0].softmax() },
            GradientRow("softmax", "no elements", [[3, 0]]) { $0[0].softmax() },
            GradientRow("softmax", "longer than the kernel's lanes", [[2, 37]]) { $0[0].softmax() },
            GradientRow("softmax", "of a transposed view, gradient broadcast", [[4, 3]]) {
                ($0[0].transposed().softmax().squared).sum(axes: [1])
            },
        ]

    static let productShapes: [[[Int]]] = [
        [[2, 3], [3, 4]], [[1, 3], [3, 1]], [[3, 1], [1, 3]], [[0, 3], [3, 2]], [[2, 0], [0, 3]],
        [[2, 3], [3, 0]], [[2, 2, 3], [3, 2]], [[2, 2, 3], [2, 3, 2]], [[2, 3], [2, 3, 2]],
        [[2, 1, 2, 3], [3, 3, 2]], [[1, 2, 3], [2, 3, 2]], [[2, 2, 0], [0, 3]], [[0, 2, 3], [3, 2]],
    ]

    static let products: [GradientRow] =
        productShapes.map { shapes in GradientRow("matmul", "\(shapes)", shapes) { Tensor.matmul($0[0], $0[1]) } } + [
            GradientRow("matmul", "left transposed", [[3, 2], [3, 4]]) { Tensor.matmul($0[0].transposed(), $0[1]) },
            GradientRow("matmul", "right transposed", [[2, 3], [4, 3]]) { Tensor.matmul($0[0], $0[1].transposed()) },
            GradientRow("matmul", "both transposed", [[3, 2], [4, 3]]) {
                Tensor.matmul($0[0].transposed(), $0[1].transposed())
            },
            GradientRow("matmul", "batch axis inside, as heads are", [[2, 3, 2, 2], [2, 3, 2, 2]]) {
                Tensor.matmul($0[0].transposed(1, 2), $0[1].permuted([0, 2, 3, 1]))
            },
            GradientRow("matmul", "strided both ways", [[2, 3, 2], [3, 2, 2]]) {
                Tensor.matmul(
                    $0[0].slice(axis: 2, 1..<2).reshaped([2, 3]), $0[1].slice(axis: 2, 0..<1).reshaped([3, 2]))
            },
            GradientRow("matmul", "a tensor with itself", [[3, 3]]) { Tensor.matmul($0[0], $0[0].transposed()) },
            GradientRow("matmul", "a repeated row", [[1, 3], [3, 2]]) {
                Tensor.matmul($0[0].broadcast(to: [4, 3]), $0[1])
            },
        ]

    static let indexing: [GradientRow] = [
        GradientRow("gather", "repeats and a negative index", [[4, 3]]) {
            $0[0].gather(Tensor([2, 0, 2, -1, 3, 2] as [Int32], on: $0[0].device))
        },
        GradientRow("gather", "indices of two axes, int64", [[4, 2, 2]]) {
            $0[0].gather(Tensor([1, 1, 0, 3] as [Int64], [2, 2], on: $0[0].device))
        },
        GradientRow("gather", "numbers by transposed indices", [[4]]) {
            $0[0].gather(Tensor([1, 1, 0, 3, 2, 1] as [Int32], [2, 3], on: $0[0].device).transposed())
        },
        GradientRow("gather", "no indices", [[4, 2]]) { $0[0].gather(Tensor([] as [Int32], on: $0[0].device)) },
        GradientRow("gather", "from a transposed table", [[3, 4]]) {
            $0[0].transposed().gather(Tensor([2, 0, 2] as [Int32], on: $0[0].device))
        },
        GradientRow("scatteringAdd", "repeats and a negative index", [[4, 3], [5, 3]]) {
            $0[0].scatteringAdd($0[1], at: Tensor([2, 0, 2, -1, 3] as [Int32], on: $0[0].device))
        },
        GradientRow("scatteringAdd", "a transposed source", [[4, 3], [3, 5]]) {
            $0[0].scatteringAdd($0[1].transposed(), at: Tensor([2, 0, 2, -1, 3] as [Int64], on: $0[0].device))
        },
    ]

    static let views: [GradientRow] = [
        GradientRow("slice", "middle", [[4, 3]]) { $0[0].slice(axis: 0, 1..<3) },
        GradientRow("slice", "last axis, negative", [[4, 3]]) { $0[0].slice(axis: -1, 2..<3) },
        GradientRow("slice", "empty", [[4, 3]]) { $0[0].slice(axis: 0, 2..<2) },
        GradientRow("slice", "everything", [[4, 3]]) { $0[0].slice(axis: 0, 0..<4) },
        GradientRow("slice", "overlapping twice", [[5]]) { $0[0].slice(axis: 0, 0..<3) * $0[0].slice(axis: 0, 2..<5) },
        GradientRow("prefix", "rows", [[4, 3]]) { $0[0].prefix(2) },
        GradientRow("split", "with an empty piece", [[2, 6]]) { x in
            let parts = x[0].split(axis: 1, [2, 0, 3, 1])
            return Tensor.concatenate([parts[2], parts[1], parts[3] * 2, parts[0].squared], axis: 1)
        },
        GradientRow("concatenate", "axis 0 with an empty one", [[2, 3], [0, 3], [1, 3]]) {
            Tensor.concatenate($0, axis: 0)
        },
        GradientRow("concatenate", "last axis", [[2, 1, 2], [2, 1, 3]]) { Tensor.concatenate($0, axis: -1) },
        GradientRow("concatenate", "one tensor", [[2, 3]]) { Tensor.concatenate($0, axis: 1) },
        GradientRow("concatenate", "the same one twice", [[2, 3]]) { Tensor.concatenate([$0[0], $0[0]], axis: 1) },
        GradientRow("reshaped", "free extent", [[2, 6]]) { $0[0].reshaped([3, -1]) },
        GradientRow("reshaped transposed", "of a transposed view, a copy", [[2, 6]]) {
            $0[0].transposed().reshaped([3, 4])
        },
        GradientRow("reshaped permuted", "of a permuted view, no copy", [[2, 3, 4]]) {
            $0[0].permuted([2, 0, 1]).reshaped([2, 2, 6])
        },
        GradientRow("reshaped", "to a scalar and back", [[1, 1]]) { $0[0].reshaped([]).reshaped([1]) },
        GradientRow("flattened", "of a transposed view", [[2, 3]]) { $0[0].transposed().flattened() },
        GradientRow("permuted", "a cycle", [[2, 3, 4]]) { $0[0].permuted([1, 2, 0]) },
        GradientRow("transposed", "outer axes", [[2, 3, 4]]) { $0[0].transposed(0, -1) },
        GradientRow("broadcast", "both kinds", [[2, 1]]) { $0[0].broadcast(to: [3, 2, 4]) },
        GradientRow("broadcast", "of a scalar", [[]]) { $0[0].broadcast(to: [2, 3]) },
        GradientRow("broadcast", "to nothing", [[1, 3]]) { $0[0].broadcast(to: [0, 3]) },
        GradientRow("broadcast reshaped", "then flattened", [[2, 1]]) { $0[0].broadcast(to: [2, 3]).reshaped([6]) },
        GradientRow("contiguous", "of a transposed view", [[2, 3]]) { $0[0].transposed().contiguous() },
        GradientRow("expanded", "first, middle and last", [[2, 3]]) {
            $0[0].expanded(axis: 0).expanded(axis: 2).expanded(axis: -1)
        },
    ]

    static let composed: [GradientRow] = [
        GradientRow("matmul silu softmax", "a small network", [[3, 4], [4, 5], [5]]) { x in
            (Tensor.matmul(x[0], x[1]).silu + x[2]).softmax()
        },
        GradientRow("*", "one value used by many", [[3]]) { x in
            let y = x[0].exponential
            return y * y + y / (1 + y) - y.sum() * y
                + Tensor.concatenate([y.slice(axis: 0, 1..<3), y.prefix(1)], axis: 0)
        },
        GradientRow("rematerialise", "a module and an input", [[3, 3], [2, 3]]) { x in
            try rematerialise(Scaled(weight: x[0]), x[1]) { module, x in
                (Tensor.matmul(x, module.weight).silu * x).softmax()
            }
        },
    ]

    static let table = elementwise + unary + reductions + products + indexing + views + composed

    struct Scaled: Module {
        var weight: Tensor
        mutating func visit(_ visitor: inout ParameterVisitor) { visitor("weight", &weight) }
    }

    @Test(arguments: table) func derivativeEqualsCentralDifference(_ row: GradientRow) throws {
        let inputs = row.inputs.enumerated().map { i, input in
            sample(input.shape, seed: UInt64(i + 3), in: input.range, on: device)
        }
        let check = GradientCheck(step: row.step, tolerance: Self.tight)
        let report = try check(at: inputs, row.body)
        #expect(report.holds, "\(report)")
        #expect(report.count == inputs.reduce(0) { $0 + $1.elementCount })
    }

    /// Reads the names of the public operations from the sources, so that a new one without a row fails here by name.
    @Test func everyPublicOperationHasARow() throws {
        let folder = URL(fileURLWithPath: #filePath).deletingLastPathComponent().deletingLastPathComponent()
            .deletingLastPathComponent().appending(path: "Sources/TensorCore/Operations")
        let withoutDerivative: Set = ["argmax", "sumOfSquares", ".==", ".!=", "<", "<="]
        let covered = Set(Self.table.flatMap { $0.operations })
        var found: Set<String> = []
        for file in try FileManager.default.contentsOfDirectory(at: folder, includingPropertiesForKeys: nil) {
            let text = try String(contentsOf: file, encoding: .utf8)
            for match in text.matches(of: /public (?:static )?(?:prefix )?(?:func|var) ([^ (:<]+|<=?)/) {
                found.insert(String(match.1))
            }
        }
        #expect(found.count > 40)
        #expect(found.subtracting(covered).subtracting(withoutDerivative).sorted() == [])
        #expect(withoutDerivative.subtracting(found).sorted() == [])
    }

    // MARK: The check itself

    @Test func wrongDerivativeIsFoundByTensorAndIndex() throws {
        let x = sample([2, 3], seed: 1, on: device)
        let y = sample([2, 3], seed: 2, on: device)
        let report = try GradientCheck()(at: [x, y]) { inputs in
            let (a, b) = (inputs[0].detached, inputs[1].detached)
            return Tensor.record("wrong", inputs: inputs, output: a * b) { g in
                let slip = Tensor([0, 0, 0, 0, 1, 0.0], [2, 3], on: g.device)
                return [g * b, g * a + slip]
            }
        }
        #expect(!report.holds)
        #expect(report.outside == 1)
        #expect(report.worst?.tensor == 1)
        #expect(report.worst?.index == [1, 1])
        let element = try #require(report.worst)
        #expect(abs(element.found - element.expected - 1) < 1e-6)
    }

    @Test func gradientOfNaNIsAFailure() throws {
        let report = try GradientCheck()(at: [sample([2], on: device)]) { inputs in
            let x = inputs[0].detached
            return Tensor.record("wrong", inputs: inputs, output: x * 2) { [$0 * Double.nan] }
        }
        #expect(report.outside == 2)
    }

    @Test func gradientOfAnotherShapeIsAFault() throws {
        let report = try GradientCheck()(at: [sample([2, 1], on: device)]) { inputs in
            let x = inputs[0].detached
            return Tensor.record("wrong", inputs: inputs, output: x * 2) { [($0 * 2).flattened()] }
        }
        #expect(report.faults.count == 1)
    }

    @Test func float32InputsAreRefused() {
        #expect(throws: RingZooError.self) { try GradientCheck()(at: [sample([2], .float32, on: device)]) { $0[0] } }
    }
}
