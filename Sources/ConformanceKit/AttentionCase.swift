import AttentionCore
import DistributedCore
import TensorCore

/// One attention problem over a whole sequence, with its numbers, from which any rank can cut its part.
///
/// Queries and keys are normal; logits scale q k have standard deviation about `spread`. (Inputs in [0, 1) would make the softmax
/// nearly uniform and hide errors.)
public struct AttentionCase: Sendable, CustomStringConvertible {
    /// The terms of the mask, in the form of the whole sequence.
    public struct Terms: Sendable {
        public var causal = false
        public var window: AttentionMask.Window?
        /// Lengths of packed documents; they must fill the sequence.
        public var documentLengths: [Int]?
        public var alibi = false
        public var softCap: Double?
        public var sinks = false
        /// Which axes of [B, H, Tq, Tk] the bias has, the others being 1.
        public var biasAxes: [Bool]?
        public var dropout: Double?

        public init(
            causal: Bool = false, window: AttentionMask.Window? = nil, documentLengths: [Int]? = nil,
            alibi: Bool = false,
            softCap: Double? = nil, sinks: Bool = false, biasAxes: [Bool]? = nil, dropout: Double? = nil
        ) {
            self.causal = causal
            self.window = window
            self.documentLengths = documentLengths
            self.alibi = alibi
            self.softCap = softCap
            self.sinks = sinks
            self.biasAxes = biasAxes
            self.dropout = dropout
        }
    }

    public var name: String
    public var batch, heads, keyHeads, length, headSize: Int
    public var dtype: DType
    public var spread: Double
    public var seed: UInt64
    public var terms: Terms

    public init(
        _ name: String, batch: Int = 1, heads: Int, keyHeads: Int? = nil, length: Int, headSize: Int,
        dtype: DType = .float32, spread: Double = 1, seed: UInt64 = 1, _ terms: Terms = Terms()
    ) {
        self.name = name
        self.batch = batch
        self.heads = heads
        self.keyHeads = keyHeads ?? heads
        self.length = length
        self.headSize = headSize
        self.dtype = dtype
        self.spread = spread
        self.seed = seed
        self.terms = terms
    }

    public var description: String {
        "\(name) [B \(batch), H \(heads):\(keyHeads), T \(length), D \(headSize), \(dtype), spread \(spread), seed \(seed)]"
    }

    /// q, k, v, dOut of the tokens at `positions` (all of them when nil), on a device. [B, H, T, D], seen through [B, T, H, D] memory
    /// as a projection leaves it.
    public struct Inputs: Sendable {
        public var q, k, v, dOut: Tensor
        public var problem: AttentionProblem
    }

    public func inputs(at positions: Positions? = nil, on device: any Device) -> Inputs {
        let own = positions ?? .contiguous(count: length)
        let wide: DType = dtype == .float64 ? .float64 : .float32
        func tensor(_ stream: UInt64, _ heads: Int, _ scale: Double) -> Tensor {
            let whole = Tensor.random(
                .normal, [batch, length, heads, headSize], wide, key: seed &* 1_000 &+ stream, on: device)
            return (whole * scale).shard(axis: 1, at: own).cast(to: dtype).permuted([0, 2, 1, 3])
        }
        var mask = AttentionMask(causal: terms.causal, window: terms.window, softCap: terms.softCap)
        if let lengths = terms.documentLengths {
            precondition(lengths.reduce(0, +) == length, "documents must fill the sequence")
            let ids = Tensor(
                lengths.enumerated().flatMap { [Int32](repeating: Int32($0.offset), count: $0.element) }, [1, length],
                on: device
            ).shard(axis: 1, at: own)
            mask.documents = .init(queries: ids, keys: ids)
        }
        if terms.alibi { mask.alibiSlopes = (0..<heads).map { 0.5 / Double(1 << ($0 % 8)) } }
        if terms.sinks {
            mask.sinks = Tensor.random(.normal, [heads], wide, key: seed &* 1_000 &+ 7, on: device)
        }
        if let axes = terms.biasAxes {
            let shape = zip(axes, [batch, heads, length, length]).map { $0 ? $1 : 1 }
            let whole = Tensor.random(.normal, shape, wide, key: seed &* 1_000 &+ 8, on: device)
            mask.bias = axes[2] ? whole.shard(axis: 2, at: own) : whole
        }
        if let dropout = terms.dropout { mask.dropout = .init(probability: dropout, seed: seed) }
        let problem = AttentionProblem(
            heads: heads, keyHeads: keyHeads, headSize: headSize, dtype: dtype, queries: own, keys: own, mask: mask)
        return Inputs(
            q: tensor(1, heads, spread), k: tensor(2, keyHeads, 1), v: tensor(3, keyHeads, 1),
            dOut: tensor(4, heads, 1),
            problem: problem)
    }
}
