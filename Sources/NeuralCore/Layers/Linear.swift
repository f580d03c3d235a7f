import TensorCore

/// A learned linear map over the last axis: [..., inputs] -> [..., outputs].
///
/// The weight is [outputs, inputs], as in Hugging Face's checkpoints; it starts at zero (see `Module.initialise`). It stays in
/// its own type: with half-precision inputs it is the float32 master, cast for each product (see `Tensor.linear`).
public struct Linear: Module {
    /// [outputs, inputs].
    public var weight: Tensor
    /// [outputs].
    public var bias: Tensor?

    public init(inputs: Int, outputs: Int, bias: Bool = false, _ dtype: DType = .float32, on device: any Device) {
        weight = .zeros([outputs, inputs], dtype, on: device, kind: .parameters)
        self.bias = bias ? .zeros([outputs], dtype, on: device, kind: .parameters) : nil
    }

    public func callAsFunction(_ x: Tensor) -> Tensor { x.linear(weight: weight, bias: bias) }

    public mutating func visit(_ visitor: inout ParameterVisitor) {
        visitor("weight", &weight)
        visitor("bias", &bias)
    }
}
