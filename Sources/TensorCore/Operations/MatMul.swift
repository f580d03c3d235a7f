extension Tensor {
    /// Matrix product over the last two axes, [..., M, K] x [..., K, N] -> [..., M, N]; leading axes broadcast.
    ///
    /// Transposed operands are read in place. A 2-D right operand (a weight) takes all leading axes of the left as rows, so its
    /// gradient is one product. Half precision is computed in float32 and rounded once.
    public static func matmul(_ a: Tensor, _ b: Tensor) -> Tensor {
        if a.rank < 2 || b.rank < 2 { shapeFault("matmul", "at least two axes wanted", a, b) }
        if a.dtype != b.dtype { shapeFault("matmul", "element types differ; cast one of them", a, b) }
        if a.shape[a.rank - 1] != b.shape[b.rank - 2] { shapeFault("matmul", "inner extents differ", a, b) }
        if a.device !== b.device { shapeFault("matmul", "tensors are on two devices", a, b) }
        if b.rank == 2 && a.rank > 2 {
            let rows = a.reshaped([a.shape.dropLast().reduce(1, *), a.shape[a.rank - 1]])
            return matmul(rows, b).reshaped(Array(a.shape.dropLast()) + [b.shape[1]])
        }
        let (x, y) = (a.detached, b.detached)
        let (needsA, needsB) = (a.isTracked, b.isTracked)
        // dA = g B^T, dB = A^T g
        return record("matmul", inputs: [a, b], output: product(x, y)) { g in
            [
                needsA ? product(g, y.transposed()).summed(to: x.shape) : nil,
                needsB ? product(x.transposed(), g).summed(to: y.shape) : nil,
            ]
        }
    }

    private static func product(_ a: Tensor, _ b: Tensor) -> Tensor {
        let (m, n) = (a.shape[a.rank - 2], b.shape[b.rank - 1])
        let rank = max(a.rank, b.rank)
        func batch(_ x: Tensor) -> [Int] {
            [Int](repeating: 1, count: rank - x.rank) + x.shape.dropLast(2)
        }
        let batches = zip(batch(a), batch(b)).map { x, y in
            if x != y && x != 1 && y != 1 { shapeFault("matmul", "leading extents do not broadcast", a, b) }
            return x == 1 ? y : x
        }
        let out = Tensor(uninitialised: batches + [m, n], a.dtype, on: a.device)
        a.device.matmul(
            a.broadcast(to: batches + a.shape.suffix(2)), b.broadcast(to: batches + b.shape.suffix(2)), into: out,
            accumulate: false)
        return out
    }
}
