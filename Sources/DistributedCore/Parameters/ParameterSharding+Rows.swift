// Letters: M width, V rows of the whole parameter.

import TensorCore

// Two uses of a parameter whose rows lie over ranks that leave the rows where they are: what travels are rows that were asked for, or
// what was computed with each rank's rows, and not the parameter. Neither is differentiable. All ranks make these calls, each with as
// many indices or inputs as it has; without sharded rows they are a lookup and a product.
extension ParameterSharding {
    /// Rows of a parameter [V, M] by int32 indices [I...] into all its rows: [I..., M]. Negative indices give zeros.
    ///
    /// Traffic of a rank: its indices to each other rank, and the rows it has of those that the others ask for, M elements each.
    /// - Parameters:
    ///   - parameter: the rows that are here.
    ///   - rowCount: V.
    ///   - type: what rows travel in, and have in the result.
    public func lookUp(_ indices: Tensor, in parameter: Tensor, rowCount: Int, sentAs type: DType) throws -> Tensor {
        let (table, device) = (parameter.detached, parameter.device)
        guard let rows else { return table.gather(indices).cast(to: type) }
        let wanted = try rows.allGather(Message([indices.detached.contiguous().flattened()])).map {
            $0.tensors[0].values(Int32.self)
        }
        let pieces = (0..<rows.size).map { Range.piece($0, of: rows.size, count: rowCount) }
        let answers = wanted.map { wanted in
            let held = wanted.filter { pieces[rows.rank].contains(Int($0)) }
            let local = held.map { $0 - Int32(pieces[rows.rank].lowerBound) }
            return Message([table.gather(Tensor(local, on: device)).cast(to: type)])
        }
        let arrived = try rows.allToAll(answers).map { $0.tensors[0] }
        // Every rank has answered in the order in which it was asked.
        var next = arrived.indices.map { rank in arrived[..<rank].reduce(0) { $0 + $1.shape[0] } }
        let places = wanted[rows.rank].map { index -> Int32 in
            guard let holder = pieces.firstIndex(where: { $0.contains(Int(index)) }) else { return -1 }
            defer { next[holder] += 1 }
            return Int32(next[holder])
        }
        return Tensor.concatenate(arrived, axis: 0).gather(Tensor(places, indices.shape, on: device))
    }

    /// `x` [..., M] times the transpose of a parameter [V, M], of which `parameter` are the rows that are here: [..., V]; nil where this
    /// rank has no `x`.
    ///
    /// Traffic of a rank: `x` to each other rank, and its share of V elements for each row of what the others have. Memory: the same
    /// share for all ranks' inputs.
    public func product(_ x: Tensor?, by parameter: Tensor) throws -> Tensor? {
        func part(_ x: Tensor) -> Tensor { .matmul(x.cast(to: parameter.dtype), parameter.transposed()) }
        guard let rows else { return x.map(part) }
        let inputs = try rows.allGather(Message(x.map { [$0.detached] } ?? []))
        let parts = try rows.allToAll(inputs.map { Message($0.tensors.map(part)) })
        return x.map { x in .concatenate(parts.map { $0.tensors[0] }, axis: x.rank - 1) }
    }
}
