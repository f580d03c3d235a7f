// Letters: B batch, T tokens, M model width, F feed-forward width.

import TensorCore

/// A layer that treats every token alone, widening it to F on the way: [B, T, M] -> [B, T, M].
public protocol FeedForward: Module {
    /// F.
    var hiddenSize: Int { get }
    func callAsFunction(_ x: Tensor) -> Tensor
}

extension FeedForward {
    /// The same result, chunk by chunk over the tokens, so that [T, F] never exists whole in either pass (see `blockwise`).
    public func callAsFunction(_ x: Tensor, chunk: ChunkSize) throws -> Tensor {
        try blockwise(self, x, chunk: chunk, bytesPerToken: hiddenSize * x.dtype.byteCount) { layer, x in layer(x) }
    }
}

/// The gated feed-forward layer of LLaMA: down(silu(gate(x)) * up(x)).
///
/// Source: Shazeer 2020, section 2; names as in Hugging Face's checkpoints.
public struct SwiGLUFeedForward: FeedForward {
    /// [F, M].
    public var gate: Linear
    /// [F, M].
    public var up: Linear
    /// [M, F].
    public var down: Linear

    public var hiddenSize: Int { up.weight.shape[0] }

    public init(
        width: Int, hiddenSize: Int, bias: Bool = false, _ dtype: DType = .float32, on device: any Device
    ) {
        gate = Linear(inputs: width, outputs: hiddenSize, bias: bias, dtype, on: device)
        up = Linear(inputs: width, outputs: hiddenSize, bias: bias, dtype, on: device)
        down = Linear(inputs: hiddenSize, outputs: width, bias: bias, dtype, on: device)
    }

    public func callAsFunction(_ x: Tensor) -> Tensor { down(.swiGLU(gate(x), up(x))) }

    public mutating func visit(_ visitor: inout ParameterVisitor) {
        visitor("gate_proj", &gate)
        visitor("up_proj", &up)
        visitor("down_proj", &down)
    }
}

/// The feed-forward layer of GPT-2 and BERT: down(gelu(up(x))).
public struct GELUFeedForward: FeedForward {
    /// How the normal distribution function in GELU is computed.
    public enum Form: String, Sendable, Hashable, CaseIterable, Codable {
        /// With the error function (BERT).
        case exact
        /// With the tanh approximation (GPT-2).
        case tanh
    }

    /// [F, M].
    public var up: Linear
    /// [M, F].
    public var down: Linear
    public var form: Form

    public var hiddenSize: Int { up.weight.shape[0] }

    public init(
        width: Int, hiddenSize: Int, form: Form = .exact, bias: Bool = true, _ dtype: DType = .float32,
        on device: any Device
    ) {
        up = Linear(inputs: width, outputs: hiddenSize, bias: bias, dtype, on: device)
        down = Linear(inputs: hiddenSize, outputs: width, bias: bias, dtype, on: device)
        self.form = form
    }

    public func callAsFunction(_ x: Tensor) -> Tensor {
        let hidden = up(x)
        switch form {
        case .exact: return down(hidden.gelu)
        case .tanh: return down(hidden.geluTanh)
        }
    }

    public mutating func visit(_ visitor: inout ParameterVisitor) {
        visitor("up_proj", &up)
        visitor("down_proj", &down)
    }
}
