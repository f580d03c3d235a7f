import TensorCore

/// How a model's parameters lie over ranks, as one of them sees it. Without either group every rank holds every parameter whole.
public struct ParameterSharding: Sendable {
    /// Tensor parallelism (Shoeybi et al. 2019, "Megatron-LM", section 3): each rank holds a slice of every layer, and computes with it
    /// alone.
    public var tensor: (any Communicator)?
    /// Fully sharded parameters (Rajbhandari et al. 2020, "ZeRO", stage 3): each rank keeps some rows of every parameter (or of its slice),
    /// of its gradient and of its optimizer state, and parameters are whole only while they are used.
    public var rows: (any Communicator)?

    public init(tensor: (any Communicator)? = nil, rows: (any Communicator)? = nil) {
        (self.tensor, self.rows) = (tensor, rows)
    }

    /// The part of a parameter that this rank keeps.
    /// - Parameters:
    ///   - shape: of the whole parameter, at least one axis.
    ///   - tensorAxis: the axis tensor parallelism cuts; nil where each of its ranks has all.
    public func part(of shape: [Int], tensorAxis: Int?) -> ParameterPart {
        var ranges = shape.map { 0..<$0 }
        if let tensor, let axis = tensorAxis {
            ranges[axis] = .piece(tensor.rank, of: tensor.size, count: shape[axis])
        }
        if let rows {
            let piece = Range.piece(rows.rank, of: rows.size, count: ranges[0].count)
            let first = ranges[0].lowerBound
            ranges[0] = first + piece.lowerBound..<first + piece.upperBound
        }
        return ParameterPart(ranges: ranges)
    }

    /// The whole of a tensor that lies over the ranks as a parameter does; all ranks make this call.
    ///
    /// Memory: the whole, twice for a moment. Not differentiable.
    public func whole(_ part: Tensor, tensorAxis: Int?) throws -> Tensor {
        func join(_ part: Tensor, _ ranks: any Communicator, axis: Int) throws -> Tensor {
            .concatenate(try ranks.allGather(Message([part.detached])).map { $0.tensors[0] }, axis: axis)
        }
        let slice = try rows.map { try join(part, $0, axis: 0) } ?? part.detached
        guard let tensor, let axis = tensorAxis else { return slice }
        return try join(slice, tensor, axis: axis)
    }

    /// The global norm of a gradient whose leaves lie as the parameters do, each part counted once and the same on every rank.
    /// - Parameter tensorAxis: by the name of a parameter.
    public func globalNorm<M: Module>(of gradient: M, tensorAxis: (String) -> Int?) throws -> Double {
        var (slices, wholes) = (0.0, 0.0)
        for (name, leaf) in gradient.parameters {
            if tensorAxis(name) == nil { wholes += leaf.sumOfSquares() } else { slices += leaf.sumOfSquares() }
        }
        let sum = wholes + (try tensor?.allReduce(slices) ?? slices)
        return (try rows?.allReduce(sum) ?? sum).squareRoot()
    }
}

/// A part of a parameter: a range of each axis of the whole.
public struct ParameterPart: Sendable, Hashable {
    public var ranges: [Range<Int>]

    public init(ranges: [Range<Int>]) { self.ranges = ranges }

    public var shape: [Int] { ranges.map(\.count) }

    /// This part of the whole, a view.
    public func of(_ whole: Tensor) -> Tensor {
        ranges.enumerated().reduce(whole) { $0.slice(axis: $1.offset, $1.element) }
    }
}

// MARK: What a model does with its slices

extension ParameterSharding {
    /// `x` as input of layers that the tensor ranks have slices of: every rank has the same, and its gradient is the sum of theirs (f
    /// in Megatron-LM).
    public func copied(_ x: Tensor) -> Tensor {
        guard let tensor else { return x }
        return Tensor.record("tensor copy", inputs: [x], output: x.detached) { g in [try tensor.allReduce(g)] }
    }

    /// The sum of what the tensor ranks' slices give, the same on every rank; its gradient is each one's (g in Megatron-LM).
    public func reduced(_ x: Tensor) throws -> Tensor {
        guard let tensor else { return x }
        return Tensor.record("tensor reduce", inputs: [x], output: try tensor.allReduce(x.detached)) { g in [g] }
    }

    /// The whole of a result of whose last axis each tensor rank has a slice, the same on all of them. Not differentiable.
    public func joined(_ x: Tensor) throws -> Tensor {
        guard let tensor else { return x }
        return .concatenate(try tensor.allGather(Message([x.detached])).map { $0.tensors[0] }, axis: x.rank - 1)
    }
}
