import TensorCore

/// In which types a model computes, given once: what flows between layers has the compute type, weights and their gradients the
/// master type, and norms' statistics, logits and losses are kept in float32 (float64 for float64) in any case.
///
/// It takes effect at one place, the embedding, whose output is cast to the compute type; every layer follows the type of its
/// input and casts its weights to it.
public struct Precision: Sendable, Hashable {
    /// float32 or bfloat16; float64 for gradient checks.
    public let compute: DType

    /// The type of weights, their gradients and the optimizer's state.
    public var master: DType { compute == .float64 ? .float64 : .float32 }
    /// The type of rotary tables, logits and losses.
    public var statistics: DType { compute.accumulator }

    public static let float32 = Precision(compute: .float32)
    public static let bfloat16 = Precision(compute: .bfloat16)
    public static let float64 = Precision(compute: .float64)

    private init(compute: DType) { self.compute = compute }

    /// The policy with a configuration's name for it: `float32` or `bf16`.
    /// - Throws: `RingZooError` with code `config` for any other name.
    public init(named name: String) throws {
        switch name {
        case "float32": self = .float32
        case "bf16": self = .bfloat16
        default:
            throw RingZooError(
                .config, "precision: there is no \"\(name)\"",
                tried: ["float32", "bf16 (computes in bfloat16, keeps weights in float32)"])
        }
    }
}
