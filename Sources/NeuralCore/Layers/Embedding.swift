import TensorCore

/// A learned row per token: int32 or int64 tokens [B, T] -> [B, T, width].
public struct Embedding: Module {
    /// [vocabulary, width]; starts at zero (see `Module.initialise`). A tied head uses this tensor itself.
    public var weight: Tensor

    public init(vocabulary: Int, width: Int, _ dtype: DType = .float32, on device: any Device) {
        weight = .zeros([vocabulary, width], dtype, on: device, kind: .parameters)
    }

    /// Looks the tokens up and casts their rows to the compute type, which all later layers follow; negative tokens give zeros.
    public func callAsFunction(_ tokens: Tensor, _ precision: Precision = .float32) -> Tensor {
        weight.gather(tokens).cast(to: precision.compute)
    }

    public mutating func visit(_ visitor: inout ParameterVisitor) {
        visitor("weight", &weight)
    }
}
