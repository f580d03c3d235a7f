import CheckpointCore
import DataCore
import Foundation
import NeuralCore
import TensorCore
import ZooCore
import ZooStandard

/// A small model with random weights as a checkpoint, as a training run leaves one.
func writeCheckpoint(
    _ path: String, vocabulary: Int = 256, seed: UInt64 = 1, tokenizer: (any Tokenizer)? = ByteTokenizer()
) throws {
    let family = try ZooStandard.zoo().models.entry("llama")
    let fields = ConfigTree.mapping([("vocabulary", .integer(vocabulary))])
    let blueprint = try family.blueprint(preset: "debug", fields: fields)
    var model = try blueprint.make(seed: seed, on: CPUDevice(threads: 1))
    // Initial weights are so small that every token is as likely as the next.
    model.initialise(seed: seed) { _, shape in shape.count >= 2 ? 0.2 : nil }
    var metadata = [CheckpointText.model: StoredModel.modelText(family, blueprint)]
    if let tokenizer {
        let form = try JSONEncoder().encode(tokenizer.form)
        metadata[CheckpointText.tokenizer] = String(decoding: form, as: UTF8.self)
    }
    try CheckpointWriter.save(path, tensors: model.weightSources(), metadata: metadata)
}

/// The bytes of every tensor by its name, shape and type.
func contents(_ tensors: any TensorCollection) throws -> [TensorInfo: [UInt8]] {
    var contents: [TensorInfo: [UInt8]] = [:]
    for info in tensors.tensors { contents[info] = try tensors.bytes(of: info.name).withUnsafeBytes { Array($0) } }
    return contents
}

/// A tensor of a plain HDF5 file, as float64.
func doubles(_ name: String, of file: ForeignHDF5File) throws -> [Double] {
    guard let info = file.tensors.first(where: { $0.name == name }) else {
        throw RingZooError(.missingInput, "no \(name)")
    }
    return try file.bytes(of: name).withUnsafeBytes {
        Tensor(bytes: $0, info.shape, info.dtype, on: CPUDevice(threads: 1)).doubles
    }
}
