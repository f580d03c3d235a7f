import CheckpointCore
import NeuralCore
import TensorCore

extension Module {
    /// Every parameter as something to save, named `prefix` and its name, in its own element type.
    ///
    /// The sources keep the tensors alive: a model that is trained on before they are read is copied first, so what is
    /// written is the model as it was.
    public func weightSources(prefix: String = CheckpointText.weights) -> [TensorSource] {
        parameters.map { name, tensor in
            let tensor = tensor.detached
            let info = TensorInfo(name: prefix + name, shape: tensor.shape, dtype: tensor.dtype)
            return TensorSource(info) { sink in try tensor.withBytes { try sink($0) } }
        }
    }

    /// Overwrites every parameter, in place, with the stored tensor named `prefix` and its name; see `loadWeights(from sources:)`.
    ///
    /// Stored tensors without the prefix (an optimizer's) are not looked at.
    public mutating func loadWeights(
        from stored: any TensorCollection, prefix: String = CheckpointText.weights
    ) throws {
        try loadWeights(from: stored.sources(), prefix: prefix)
    }

    /// Overwrites every parameter, in place, with the stored tensor named `prefix` and its name.
    ///
    /// Stored float types are converted to the parameter's (bfloat16 to float32 exactly). Names and shapes are compared before
    /// anything is read; then one tensor at a time streams, 16 MiB of it in memory. A failure while reading leaves some
    /// parameters loaded and others not.
    /// - Throws: `.config` listing the first tensors that differ, with both shapes, where this is another model; what reading
    ///   throws.
    public mutating func loadWeights(
        from sources: [TensorSource], prefix: String = CheckpointText.weights
    ) throws {
        let stored = try weightSources(named: prefix, in: sources)
        try forEachParameter { name, parameter in
            parameter.makeUnique()
            try parameter.overwrite(with: stored[prefix + name]!)
        }
    }

    /// The source of every parameter of this model, by its name with the prefix.
    /// - Throws: as `loadWeights`.
    func weightSources(named prefix: String, in sources: [TensorSource]) throws -> [String: TensorSource] {
        var stored: [String: TensorSource] = [:]
        for source in sources where source.info.name.hasPrefix(prefix) {
            if stored.updateValue(source, forKey: source.info.name) != nil {
                throw RingZooError(.corruptInput, "weights: the tensor \(source.info.name) is there twice")
            }
        }
        let parameters = parameters.map {
            TensorInfo(name: prefix + $0.name, shape: $0.tensor.shape, dtype: $0.tensor.dtype)
        }
        let differences = weightDifferences(
            wanted: parameters, stored: sources.map(\.info).filter { stored[$0.name] != nil })
        if !differences.isEmpty {
            throw RingZooError(
                .config, "the stored weights are of another model: \(differences.count) tensors differ",
                tried: shortened(differences) + ["the model's sizes must be those that the weights were saved with"])
        }
        return stored
    }
}

/// What keeps stored tensors from being the wanted ones, a sentence each: missing, of another shape, not floats, unexpected.
public func weightDifferences(wanted: [TensorInfo], stored: [TensorInfo]) -> [String] {
    let byName = Dictionary(stored.map { ($0.name, $0) }, uniquingKeysWith: { first, _ in first })
    var differences: [String] = []
    for tensor in wanted {
        guard let found = byName[tensor.name] else {
            differences.append("\(tensor.name) \(tensor.shape) is missing")
            continue
        }
        if found.shape != tensor.shape {
            differences.append("\(tensor.name) is \(found.shape), but the model's is \(tensor.shape)")
        } else if !found.dtype.isFloat {
            differences.append("\(tensor.name) is stored as \(found.dtype), which is no type for weights")
        }
    }
    let names = Set(wanted.map(\.name))
    return differences + stored.filter { !names.contains($0.name) }.map { "\($0.name) \($0.shape) is not expected" }
}

/// The first lines, and how many there are beyond them.
public func shortened(_ lines: [String], to count: Int = 8) -> [String] {
    lines.count <= count ? lines : Array(lines.prefix(count)) + ["and \(lines.count - count) more"]
}

extension Tensor {
    /// Writes a stored tensor of this shape into this contiguous tensor, converting piece by piece.
    func overwrite(with source: TensorSource) throws {
        let elements = detached.reshaped([elementCount])
        let type = source.info.dtype
        let size = type.byteCount
        var written = 0
        // The start of an element whose end is in the next piece.
        var rest: [UInt8] = []

        func write(_ bytes: UnsafeRawBufferPointer) throws {
            let pieceSize = 16 << 20
            for start in stride(from: 0, to: bytes.count, by: pieceSize) {
                let piece = UnsafeRawBufferPointer(rebasing: bytes[start..<min(bytes.count, start + pieceSize)])
                let count = piece.count / size
                guard written + count <= elementCount else { throw source.lengthFault }
                let target = elements.slice(axis: 0, written..<written + count)
                if type == dtype {
                    device.write(piece, into: target)
                } else {
                    device.copy(Tensor(bytes: piece, [count], type, on: device), into: target)
                }
                written += count
            }
        }
        try source.stream { bytes in
            var bytes = bytes
            if !rest.isEmpty {
                let end = min(bytes.count, size - rest.count)
                rest += bytes[..<end]
                bytes = UnsafeRawBufferPointer(rebasing: bytes[end...])
                if rest.count < size { return }
                try rest.withUnsafeBytes { try write($0) }
                rest = []
            }
            let whole = bytes.count / size * size
            try write(UnsafeRawBufferPointer(rebasing: bytes[..<whole]))
            rest += bytes[whole...]
        }
        if written != elementCount || !rest.isEmpty { throw source.lengthFault }
        try device.ledger.checkFailure()
    }
}

extension TensorSource {
    fileprivate var lengthFault: RingZooError {
        RingZooError(
            .corruptInput, "tensor \(info.name): its bytes are not the \(info.byteCount) of \(info.dtype)\(info.shape)")
    }
}
