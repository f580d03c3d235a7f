import CheckpointCore
import NeuralCore
import TensorCore

extension Module {
    public mutating func loadWeights(from tensors: some TensorCollection, prefix: String) throws {
        try forEachParameter { name, parameter in
            let bytes = try tensors.bytes(of: prefix + name)
            parameter.makeUnique()
            bytes.withUnsafeBytes { parameter.device.write($0, into: parameter) }
        }
    }
    public func weightSources(prefix: String) -> [TensorSource] {
        parameters.map { name, tensor in
            TensorSource(TensorInfo(name: prefix + name, shape: tensor.shape, dtype: tensor.dtype)) { sink in
                try tensor.withBytes { try sink($0) }
            }
        }
    }
}
