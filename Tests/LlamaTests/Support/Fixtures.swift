import AttentionCore
import CPUAttention
import CheckpointCore
import Foundation
import NeuralCore
import TensorCore

@testable import Llama

/// Who computes attention in a test.
enum Attention: String, CaseIterable, Sendable {
    case plain, cpu

    var backend: any AttentionBackend {
        switch self {
        case .plain: PlainAttention()
        case .cpu: CPUAttention()
        }
    }
}

func fixtures(_ name: String) -> String {
    URL(fileURLWithPath: #filePath).deletingLastPathComponent().deletingLastPathComponent()
        .deletingLastPathComponent().appendingPathComponent("Fixtures/\(name)").path
}

/// The tiny models that transformers computed golden numbers with.
let goldenModels = ["llama-mha", "llama-mha-bf16", "llama-gqa-llama3-rope", "llama-mqa-tied"]

func huggingFaceFolder(_ name: String) -> String { fixtures("huggingface/\(name)") }

/// A golden model with its weights, through the import.
func loadGolden(_ name: String, _ dtype: DType = .float32, on device: any Device) throws -> Llama {
    let (blueprint, sources) = try HuggingFaceLlama().read(huggingFaceFolder(name))
    var model = try Llama((blueprint as! LlamaBlueprint).configuration, dtype, on: device)
    try model.loadWeights(from: sources)
    return model
}

/// What transformers computed in float64 and rounded to float32 once.
struct Golden {
    let file: SafetensorsReader
    let tokens: Tensor

    init(_ name: String, on device: any Device) throws {
        file = try SafetensorsReader(huggingFaceFolder(name) + "/golden.safetensors")
        let ids = file.tensors.first { $0.name == "input_ids" }!
        tokens = try file.bytes(of: "input_ids").withUnsafeBytes {
            Tensor(bytes: $0, ids.shape, .int64, on: device).cast(to: .int32)
        }
    }

    func values(_ name: String) throws -> [Double] {
        try file.bytes(of: name).withUnsafeBytes { $0.bindMemory(to: Float.self).map { Double($0) } }
    }

    /// The next token of each, none after the last.
    var targets: Tensor {
        let (rows, count) = (tokens.shape[0], tokens.shape[1])
        let ids = tokens.values(Int32.self)
        let next = ids.indices.map { $0 % count == count - 1 ? -1 : ids[$0 + 1] }
        return Tensor(next, [rows, count], on: tokens.device)
    }
}

/// All tokens of a row on one device, or the part of them from `start`.
func wholeContext(
    _ count: Int, from start: Int = 0, _ attention: any AttentionBackend, _ precision: Precision = .float32,
    on device: any Device
) -> SequenceContext {
    SequenceContext(
        positions: .contiguous(from: start, count: count), attention: attention, precision: precision, on: device)
}

func largestDifference(_ a: [Double], _ b: [Double]) -> Double {
    if a.count != b.count { return .infinity }
    return zip(a, b).reduce(0) { $1.0 == $1.1 ? $0 : max($0, abs($1.0 - $1.1).isNaN ? .infinity : abs($1.0 - $1.1)) }
}

func largest(_ a: [Double]) -> Double { a.reduce(0) { max($0, abs($1)) } }

/// The largest difference of a parameter's gradient, relative to the parameter's largest gradient; the worst of all, with its name.
func worstGradient(_ a: [String: [Double]], _ b: [String: [Double]]) -> (name: String, difference: Double) {
    var worst = (name: "", difference: a.keys == b.keys ? 0.0 : .infinity)
    for (name, values) in a {
        let difference = largestDifference(values, b[name] ?? []) / max(largest(values), .leastNormalMagnitude)
        if difference > worst.difference { worst = (name, difference) }
    }
    return worst
}

/// The norm of the difference of a parameter's gradients, relative to the norm of the gradient; the worst of all, with its name.
///
/// Sums in another order differ by a rounding in every element: the norm shows its size, the largest of thousands does not.
func worstGradientNorm(_ a: [String: [Double]], _ b: [String: [Double]]) -> (name: String, difference: Double) {
    func norm(_ x: [Double]) -> Double { x.reduce(0) { $0 + $1 * $1 }.squareRoot() }
    var worst = (name: "", difference: a.keys == b.keys ? 0.0 : .infinity)
    for (name, values) in a {
        let difference = norm(zip(values, b[name]!).map { $0 - $1 }) / norm(values)
        if !(difference <= worst.difference) { worst = (name, difference) }
    }
    return worst
}

extension Module {
    var parameterValues: [String: [Double]] {
        Dictionary(uniqueKeysWithValues: parameters.map { ($0.name, $0.tensor.doubles) })
    }
}

/// A folder that goes away with the test.
final class TemporaryFolder: Sendable {
    let path: String

    init() throws {
        path = NSTemporaryDirectory() + "ringzoo-llama-\(UUID().uuidString)"
        try FileManager.default.createDirectory(atPath: path, withIntermediateDirectories: true)
    }

    deinit { try? FileManager.default.removeItem(atPath: path) }
}

/// Tensors that were handed out to be written, to be read again by name.
struct WrittenTensors: TensorCollection {
    private let folder: TemporaryFolder
    private let file: SafetensorsReader

    init(_ sources: [TensorSource]) throws {
        folder = try TemporaryFolder()
        try SafetensorsWriter.write(folder.path + "/tensors.safetensors", tensors: sources)
        file = try SafetensorsReader(folder.path + "/tensors.safetensors")
    }

    var tensors: [TensorInfo] { file.tensors }

    func bytes(of name: String) throws -> TensorBytes { try file.bytes(of: name) }
}
