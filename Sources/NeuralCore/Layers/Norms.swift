import TensorCore

/// Root-mean-square norm over the last axis with a learned scale: [..., width] -> [..., width] (see `Tensor.rmsNorm`).
public struct RMSNorm: Module {
    /// [width], starts at 1.
    public var weight: Tensor
    public var epsilon: Double

    /// - Parameter epsilon: LLaMA 1 uses 1e-6, LLaMA 2 and 3 use 1e-5.
    public init(width: Int, epsilon: Double = 1e-5, _ dtype: DType = .float32, on device: any Device) {
        weight = .ones([width], dtype, on: device, kind: .parameters)
        self.epsilon = epsilon
    }

    public func callAsFunction(_ x: Tensor) -> Tensor { x.rmsNorm(weight: weight, epsilon: epsilon) }

    /// A residual and its norm: (x + delta, norm(x + delta)), in one pass over memory (see `Tensor.addingRMSNorm`).
    public func callAsFunction(_ x: Tensor, plus delta: Tensor) -> (sum: Tensor, norm: Tensor) {
        x.addingRMSNorm(delta, weight: weight, epsilon: epsilon)
    }

    public mutating func visit(_ visitor: inout ParameterVisitor) {
        visitor("weight", &weight)
    }
}

/// Layer norm over the last axis with a learned scale and shift: [..., width] -> [..., width] (see `Tensor.layerNorm`).
public struct LayerNorm: Module {
    /// [width], starts at 1.
    public var weight: Tensor
    /// [width], starts at 0.
    public var bias: Tensor
    public var epsilon: Double

    public init(width: Int, epsilon: Double = 1e-5, _ dtype: DType = .float32, on device: any Device) {
        weight = .ones([width], dtype, on: device, kind: .parameters)
        bias = .zeros([width], dtype, on: device, kind: .parameters)
        self.epsilon = epsilon
    }

    public func callAsFunction(_ x: Tensor) -> Tensor { x.layerNorm(weight: weight, bias: bias, epsilon: epsilon) }

    public mutating func visit(_ visitor: inout ParameterVisitor) {
        visitor("weight", &weight)
        visitor("bias", &bias)
    }
}
