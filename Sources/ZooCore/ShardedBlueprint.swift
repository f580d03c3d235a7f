import CheckpointCore
import DistributedCore
import NeuralCore
import TensorCore

/// A model on paper as a rank of a mesh holds it: which part of each parameter.
struct ShardedBlueprint: Sendable {
    let blueprint: any ModelBlueprint
    let sharding: ParameterSharding
    /// Each parameter whole: its shape, and the axis that tensor parallelism cuts.
    private let wholes: [String: (shape: [Int], tensorAxis: Int?)]
    /// The model without memory.
    private let outline: any LanguageModel

    init(_ blueprint: any ModelBlueprint, _ sharding: ParameterSharding) throws {
        let nowhere = RehearsalDevice(speed: .init(products: 1, attention: 1, memory: 1, launch: 0), workers: 1)
        let outline = try blueprint.make(seed: nil, on: nowhere)
        let parameters = outline.parameters.map { ($0.name, ($0.tensor.shape, outline.tensorAxis(of: $0.name))) }
        wholes = Dictionary(uniqueKeysWithValues: parameters)
        (self.blueprint, self.sharding, self.outline) = (blueprint, sharding, outline)
    }

    /// Whether every rank holds every parameter whole.
    var isWhole: Bool { sharding.tensor == nil && sharding.rows == nil }

    func tensorParallelFaults(ranks: Int) -> [String] { outline.tensorParallelFaults(ranks: ranks) }

    /// Whether so many ranks that have the same slices of every parameter would keep equally many rows of each.
    func hasEvenRows(over ranks: Int, tensorRanks: Int) -> Bool {
        wholes.values.allSatisfy { shape, tensorAxis in
            (tensorAxis == 0 ? shape[0] / tensorRanks : shape[0]) % ranks == 0
        }
    }

    func shape(of parameter: String) -> [Int] { wholes[parameter]!.shape }

    func tensorAxis(of parameter: String) -> Int? { wholes[parameter]!.tensorAxis }

    func part(of parameter: String) -> ParameterPart {
        sharding.part(of: shape(of: parameter), tensorAxis: tensorAxis(of: parameter))
    }

    /// The part of a stored tensor that belongs to a parameter: cut like it where it has its shape, else all of it, to be refused.
    func part(of parameter: String, stored shape: [Int]) -> ParameterPart {
        wholes[parameter]?.shape == shape ? part(of: parameter) : ParameterPart(ranges: shape.map { 0..<$0 })
    }

    /// This rank's part of the model, with random weights that depend on the seed alone.
    ///
    /// Memory: no parameter exists whole, but for the columns that tensor parallelism takes from rows.
    func make(seed: UInt64, on device: any Device) throws -> any LanguageModel {
        if isWhole { return try blueprint.make(seed: seed, on: device) }
        return try outline.mapping { name, outline in
            .initial(
                blueprint.initialValue(of: name, outline.shape), part(of: name), of: outline.shape, outline.dtype,
                name: name, seed: seed, on: device)
        }
    }

    /// The same with stored weights. Memory: one parameter whole at a time.
    /// - Throws: as `Module.loadWeights`.
    func make(
        loading stored: any TensorCollection, prefix: String = CheckpointText.weights, on device: any Device
    ) throws -> any LanguageModel {
        if isWhole {
            var model = try blueprint.make(seed: nil, on: device)
            try model.loadWeights(from: stored, prefix: prefix)
            return model
        }
        let sources = try outline.weightSources(named: prefix, in: stored.sources())
        return try outline.mapping { name, outline in
            try read(sources[prefix + name]!, part(of: name), outline.dtype, on: device, kind: .parameters)
        }
    }

    /// Without weights, for a device that computes nothing.
    func makeBlank(on device: any Device) throws -> any LanguageModel {
        if isWhole { return try blueprint.make(seed: nil, on: device) }
        return try outline.mapping { name, outline in
            .zeros(part(of: name).shape, outline.dtype, on: device, kind: .parameters)
        }
    }

    /// A part of a stored tensor, converted to a type.
    func read(
        _ source: TensorSource, _ part: ParameterPart, _ dtype: DType, on device: any Device, kind: MemoryKind
    ) throws -> Tensor {
        let whole = Tensor(uninitialised: source.info.shape, dtype, on: device, kind: kind)
        try whole.overwrite(with: source)
        return part.shape == whole.shape ? whole : part.of(whole).copy(kind: kind)
    }
}

extension ModelBlueprint {
    /// - Parameter setting: what asked for so many tensor ranks, for the error.
    /// - Throws: `.config` where the layers cannot be cut over them.
    public func requireTensorRanks(_ ranks: Int, askedBy setting: String) throws {
        if ranks == 1 { return }
        let faults = try ShardedBlueprint(self, ParameterSharding()).tensorParallelFaults(ranks: ranks)
        if !faults.isEmpty {
            throw RingZooError(.config, "\(setting) is \(ranks), but this model cannot be cut so", tried: faults)
        }
    }
}

extension LanguageModel {
    /// The model with other tensors for its parameters.
    fileprivate func mapping(_ value: (String, Tensor) throws -> Tensor) throws -> any LanguageModel {
        var model = self
        try model.forEachParameter { name, parameter in
            parameter = try value(name, parameter)
            try parameter.device.ledger.checkFailure()
        }
        return model
    }
}
