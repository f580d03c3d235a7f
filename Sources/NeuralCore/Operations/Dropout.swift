// Letters: B batch, T tokens.

import TensorCore

/// Who the tokens of a [B, T, ...] tensor are, whatever rank holds them: one name per token, from the row of the global batch
/// and the global token position.
public struct TokenIdentity: Sendable, Hashable {
    /// [B T], row-major.
    public let names: [UInt64]

    /// Every row of the batch holds the same positions.
    public init(batchRows: [Int], positions: [Int]) {
        self.init(batchRows: batchRows, positions: [[Int]](repeating: positions, count: batchRows.count))
    }

    /// Row `i` of the batch holds `positions[i]`. Positions count from the start of the row, also where a document begins
    /// inside it, and lie below 2^40.
    public init(batchRows: [Int], positions: [[Int]]) {
        if batchRows.count != positions.count {
            fatalError("TokenIdentity: \(batchRows.count) batch rows but positions of \(positions.count)")
        }
        names = zip(batchRows, positions).flatMap { row, positions in
            positions.map { UInt64(row) << 40 | UInt64($0) }
        }
    }
}

extension Tensor {
    /// Sets each element to zero with a probability and scales the others by 1 / (1 - probability): [B, T, ...] -> the same.
    ///
    /// The mask is a pure function of the key, the token's global identity and the place within the token, so it is the same at
    /// any ring size, layout or batch split. It is drawn again in the backward pass instead of being kept. Derive the key
    /// from seed, step and site: `RandomKey(seed: s).derived(step).derived("layers.0.residual")`.
    /// Source: Srivastava et al. 2014. A probability outside [0, 1), or names that do not fit, trap.
    public func dropout(_ probability: Double, key: RandomKey, tokens: TokenIdentity) -> Tensor {
        if !(probability >= 0 && probability < 1) {
            shapeFault("dropout", "a probability in [0, 1) wanted, not \(probability)", self)
        }
        if rank < 2 || tokens.names.count != shape[0] * shape[1] {
            shapeFault("dropout", "[B, T, ...] with a name per token wanted, not \(tokens.names.count) names", self)
        }
        if probability == 0 || elementCount == 0 { return self }

        // dx = mask g / (1 - p): the same linear map as the forward one.
        let drop = { @Sendable (x: Tensor) in
            let uniform = Tensor.random(.uniform, x.shape, key: key.value, rows: tokens.names, on: x.device)
            let keep = Tensor.scalar(probability, .float32, on: x.device) <= uniform
            return Tensor.select(keep, x * (1 / (1 - probability)), .zeros([], x.dtype, on: x.device))
        }
        return Tensor.record("dropout", inputs: [self], output: drop(detached)) { g in [drop(g)] }
    }
}
