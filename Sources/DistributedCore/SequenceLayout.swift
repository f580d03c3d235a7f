import AttentionCore
import TensorCore

/// Which tokens of a sequence a rank holds. Data, not code: backends see positions only, and any length fits any number of ranks.
public enum SequenceLayout: String, Sendable, Hashable, CaseIterable, Codable {
    /// Rank r holds the r-th of N consecutive pieces. Under a causal mask the first rank has 1/N of the last one's work.
    case contiguous
    /// The sequence is cut into 2N pieces, and rank r holds pieces r and 2N - 1 - r: equal work under a causal mask.
    case zigzag
    /// Rank r holds tokens r, r + N, r + 2N, ... (Brandon et al. 2023, "Striped Attention").
    case striped

    /// Global positions that `rank` of `size` holds of a sequence of `length` tokens; may be empty when `length` is small.
    ///
    /// - Parameter shares: the ranks' parts of the sequence in relation to each other, one whole number of at least 0 each; nil for equal
    ///   parts. Under a causal mask zigzag gives work in the same relation, and striped nearly; contiguous only tokens.
    public func positions(length: Int, rank: Int, size: Int, shares: [Int]? = nil) -> Positions {
        let shares = shares ?? [Int](repeating: 1, count: size)
        let total = shares.reduce(0, +)
        if !(0..<size).contains(rank) || shares.count != size || shares.contains(where: { $0 < 0 }) || total < 1 {
            fatalError("SequenceLayout: rank \(rank) of \(size) with shares \(shares)")
        }
        let before = shares[..<rank].reduce(0, +)
        let own = before..<before + shares[rank]
        /// Of a sequence cut into so many equal parts, those in `range`.
        func piece(_ range: Range<Int>, of parts: Int) -> Positions.Run {
            let (start, end) = (length * range.lowerBound / parts, length * range.upperBound / parts)
            return Positions.Run(start: start, count: end - start)
        }
        switch self {
        case .contiguous: return Positions(runs: [piece(own, of: total)])
        case .zigzag:
            let mirrored = 2 * total - own.upperBound..<2 * total - own.lowerBound
            let pieces = [piece(own, of: 2 * total), piece(mirrored, of: 2 * total)]
            // Neighbouring pieces (one rank, or the middle) are one run.
            if pieces[0].start + pieces[0].count == pieces[1].start {
                return Positions(runs: [.init(start: pieces[0].start, count: pieces[0].count + pieces[1].count)])
            }
            return Positions(runs: pieces)
        case .striped:
            // Dealt in rounds of `period` tokens, of which each rank takes its share.
            let divisor = shares.reduce(0, greatestCommonDivisor)
            let period = total / divisor
            return Positions(
                runs: (own.lowerBound / divisor..<own.upperBound / divisor).map { first in
                    .init(start: first, count: max(0, (length - first + period - 1) / period), stride: period)
                })
        }
    }

    /// What every rank holds.
    public func shards(length: Int, size: Int, shares: [Int]? = nil) -> [Positions] {
        (0..<size).map { positions(length: length, rank: $0, size: size, shares: shares) }
    }
}

private func greatestCommonDivisor(_ a: Int, _ b: Int) -> Int { b == 0 ? a : greatestCommonDivisor(b, a % b) }

extension Tensor {
    /// The rows of `axis` at these positions: what a rank holds of a whole sequence.
    public func shard(axis: Int, at positions: Positions) -> Tensor {
        let parts = positions.runs.map { run -> Tensor in
            run.stride == 1 || run.count == 1
                ? slice(axis: axis, run.start..<run.start + run.count)
                : strided(axis: axis, run)
        }
        if parts.isEmpty { return slice(axis: axis, 0..<0) }
        return .concatenate(parts, axis: axis)
    }

    private func strided(axis: Int, _ run: Positions.Run) -> Tensor {
        let axis = axis < 0 ? axis + rank : axis
        // Gather along the axis: bring it to the front, take rows, bring it back.
        var order = Array(0..<rank)
        order.remove(at: axis)
        order.insert(axis, at: 0)
        let indices = Tensor((0..<run.count).map { Int64(run.start + $0 * run.stride) }, on: device)
        let rows = permuted(order).gather(indices)
        var inverse = order
        for (i, axis) in order.enumerated() { inverse[axis] = i }
        return rows.permuted(inverse)
    }

    /// The whole sequence from all ranks' shards, the inverse of `shard`. Not differentiable.
    public static func unshard(_ shards: [(tensor: Tensor, positions: Positions)], axis: Int) -> Tensor {
        let joined = concatenate(shards.map { $0.tensor.detached }, axis: axis)
        let order = shards.flatMap { $0.positions.indices }
        var rowOf = [Int64](repeating: -1, count: order.count)
        for (row, position) in order.enumerated() { rowOf[position] = Int64(row) }
        let axis = axis < 0 ? axis + joined.rank : axis
        var permutation = Array(0..<joined.rank)
        permutation.swapAt(0, axis)
        return joined.permuted(permutation).gather(Tensor(rowOf, on: joined.device)).permuted(permutation)
    }
}
