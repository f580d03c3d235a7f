import TensorCore

/// Everything that changes a logit or a probability on the way from q k^T to the output. The terms compose; visibility terms
/// (causal, window, documents) are and-ed.
///
/// With i, j global positions, a logit is
///
///     s_ij = cap(scale q_i k_j) - slope_h |i - j| + bias_ij          cap(x) = softCap tanh(x / softCap)
///
/// if key j is visible to query i, and -inf otherwise. The probability is exp(s_ij - lse_i), with
/// lse_i = ln(sum_j exp(s_ij) + exp(sink_h)); dropout then zeroes it or divides it by 1 - p.
public struct AttentionMask: Sendable {
    /// Key j is visible to query i when i - back <= j <= i + ahead.
    public struct Window: Sendable, Hashable {
        public var back: Int
        public var ahead: Int

        public init(back: Int, ahead: Int = 0) {
            if back < 0 || ahead < 0 {
                fatalError("Window: back and ahead must not be negative, got \(back), \(ahead)")
            }
            self.back = back
            self.ahead = ahead
        }
    }

    /// Packed segments: a key is visible to queries of the same document. The keys' side travels with the key block.
    public struct Documents: Sendable {
        /// int32 [1|B, Tq].
        public var queries: Tensor
        /// int32 [1|B, Tk].
        public var keys: Tensor

        public init(queries: Tensor, keys: Tensor) {
            self.queries = queries
            self.keys = keys
        }
    }

    /// Drops the probability of (batch row b, head h, query position i, key position j) if `drops` says so: a pure function of
    /// global coordinates, so every layout, block size and backend drops the same ones.
    public struct Dropout: Sendable, Hashable {
        /// In [0, 1).
        public var probability: Double
        public var seed: UInt64

        public init(probability: Double, seed: UInt64) {
            if !(probability >= 0 && probability < 1) {
                fatalError("Dropout: the probability must be in [0, 1), got \(probability)")
            }
            self.probability = probability
            self.seed = seed
        }
    }

    /// Key j is visible to query i when j <= i.
    public var causal: Bool
    public var window: Window?
    public var documents: Documents?
    /// One slope per query head (Press, Smith, Lewis 2022).
    public var alibiSlopes: [Double]?
    /// Gemma 2's logit cap, > 0.
    public var softCap: Double?
    /// One learned logit per query head that takes part in the sum but has no value, [H] of the accumulator type.
    public var sinks: Tensor?
    /// Added to the logits, [1|B, 1|H, 1|Tq, 1|C] of the accumulator type. Rows are this rank's query rows; the column of a key is its
    /// global position, so C is 1 or larger than every key position, and stays the same when keys travel.
    public var bias: Tensor?
    public var dropout: Dropout?

    public init(
        causal: Bool = false, window: Window? = nil, documents: Documents? = nil, alibiSlopes: [Double]? = nil,
        softCap: Double? = nil, sinks: Tensor? = nil, bias: Tensor? = nil, dropout: Dropout? = nil
    ) {
        self.causal = causal
        self.window = window
        self.documents = documents
        self.alibiSlopes = alibiSlopes
        self.softCap = softCap
        self.sinks = sinks
        self.bias = bias
        self.dropout = dropout
    }

    /// Every key is visible.
    public static var full: AttentionMask { AttentionMask() }
    /// Keys up to the query's own position are visible.
    public static var causal: AttentionMask { AttentionMask(causal: true) }

    /// Whether the positions alone allow query i to see key j.
    public func allows(query i: Int, key j: Int) -> Bool {
        if causal && j > i { return false }
        if let window, j < i - window.back || j > i + window.ahead { return false }
        return true
    }

    /// True when no key in `keys` can be visible to any query in `queries`, judged by the extremes of their positions: such a pair of
    /// blocks is skipped. False promises nothing.
    public func rulesOut(queries: Positions, keys: Positions) -> Bool {
        guard let firstQuery = queries.smallest, let lastQuery = queries.largest, let firstKey = keys.smallest,
            let lastKey = keys.largest
        else { return true }
        if causal && firstKey > lastQuery { return true }
        if let window, lastKey < firstQuery - window.back || firstKey > lastQuery + window.ahead { return true }
        return false
    }
}

/// One attention computation, but for the numbers: what is asked, for these query rows and these key columns.
public struct AttentionProblem: Sendable {
    /// Query heads H; a multiple of `keyHeads`.
    public var heads: Int
    /// Key/value heads Hkv; query head h reads key head h / (H / Hkv).
    public var keyHeads: Int
    /// D.
    public var headSize: Int
    /// The number of query head 0 in the whole problem, where these are some heads of a larger one; dropout is keyed by it.
    public var firstHead = 0
    public var scale: Double
    /// Element type of q, k, v.
    public var dtype: DType
    /// Global positions of the query rows.
    public var queries: Positions
    /// Global positions of the key columns.
    public var keys: Positions
    public var mask: AttentionMask
    /// What each rank holds that shares the sequence, in the order of ranks, queries and keys alike; nil where that is not known. All
    /// ranks must be told the same: by it they agree, without asking, on which keys need not be sent to whom.
    public var shards: [SequenceShard]?

    /// - Parameter scale: nil for 1 / sqrt(D).
    public init(
        heads: Int, keyHeads: Int, headSize: Int, scale: Double? = nil, dtype: DType, queries: Positions,
        keys: Positions,
        mask: AttentionMask
    ) {
        self.heads = heads
        self.keyHeads = keyHeads
        self.headSize = headSize
        self.scale = scale ?? 1 / Double(headSize).squareRoot()
        self.dtype = dtype
        self.queries = queries
        self.keys = keys
        self.mask = mask
    }

    /// Of state, results and gradients: float64 for float64, float32 otherwise.
    public var accumulator: DType { dtype.accumulator }

    /// The same problem for other keys.
    public func keyed(by keys: Positions, documents: Tensor?) -> AttentionProblem {
        var copy = self
        copy.keys = keys
        if let documents, let own = mask.documents {
            copy.mask.documents = AttentionMask.Documents(queries: own.queries, keys: documents)
        }
        return copy
    }

    /// The same problem for the query heads of these key/value heads alone; what the mask has per head is cut with them.
    public func cut(toKeyHeads range: Range<Int>) -> AttentionProblem {
        let group = heads / keyHeads
        let own = range.lowerBound * group..<range.upperBound * group
        var copy = self
        (copy.heads, copy.keyHeads, copy.firstHead) = (own.count, range.count, firstHead + own.lowerBound)
        copy.mask.alibiSlopes = mask.alibiSlopes.map { Array($0[own]) }
        copy.mask.sinks = mask.sinks?.slice(axis: 0, own)
        copy.mask.bias = mask.bias.map { $0.shape[1] == 1 ? $0 : $0.slice(axis: 1, own) }
        return copy
    }

    /// Checks shapes and types; traps with the shapes, since they are the programmer's.
    public func check(q: Tensor, k: Tensor, v: Tensor) {
        func wanted(_ tensor: Tensor, _ name: String, _ heads: Int, _ count: Int) {
            if tensor.rank != 4 || tensor.shape[1] != heads || tensor.shape[2] != count || tensor.shape[3] != headSize
                || tensor.dtype != dtype
            {
                shapeFault("attention", "\(name) must be \(dtype)[B, \(heads), \(count), \(headSize)]", tensor)
            }
        }
        if keyHeads == 0 || heads % keyHeads != 0 {
            fatalError("attention: \(heads) query heads are not a multiple of \(keyHeads) key/value heads")
        }
        wanted(q, "q", heads, queries.count)
        wanted(k, "k", keyHeads, keys.count)
        wanted(v, "v", keyHeads, keys.count)
        if q.shape[0] != k.shape[0] || k.shape[0] != v.shape[0] {
            shapeFault("attention", "batch extents differ", q, k, v)
        }
        let batch = q.shape[0]
        if let documents = mask.documents {
            for (ids, count) in [(documents.queries, queries.count), (documents.keys, keys.count)] {
                if ids.dtype != .int32 || ids.rank != 2 || (ids.shape[0] != 1 && ids.shape[0] != batch)
                    || ids.shape[1] != count
                {
                    shapeFault("attention", "documents must be int32[1|\(batch), \(count)]", ids)
                }
            }
        }
        if let slopes = mask.alibiSlopes, slopes.count != heads {
            fatalError("attention: \(slopes.count) ALiBi slopes for \(heads) heads")
        }
        if let sinks = mask.sinks, sinks.shape != [heads] || sinks.dtype != accumulator {
            shapeFault("attention", "sinks must be \(accumulator)[\(heads)]", sinks)
        }
        if let bias = mask.bias {
            let fits =
                bias.rank == 4 && bias.dtype == accumulator && [1, batch].contains(bias.shape[0])
                && [1, heads].contains(bias.shape[1]) && [1, queries.count].contains(bias.shape[2])
                && (bias.shape[3] == 1 || bias.shape[3] > (keys.largest ?? -1))
            if !fits {
                shapeFault(
                    "attention",
                    "bias must be \(accumulator)[1|\(batch), 1|\(heads), 1|\(queries.count), 1 or more than key position \(keys.largest ?? -1)]",
                    bias)
            }
        }
    }
}
