import COpenBLAS

extension CPUDevice {
    public func matmul(_ a: Tensor, _ b: Tensor, into out: Tensor, accumulate: Bool) {
        let span = recorder?.open(
            "matmul", flops: 2 * Double(out.elementCount * a.shape[a.rank - 1]), moving: [a, b, out])
        defer { span?.close() }
        if out.elementCount == 0 { return }
        switch out.dtype {
        case .float32, .float64:
            product(blasReady(a), blasReady(b), into: out, accumulate: accumulate)
        case .bfloat16, .float16:
            let wide = Tensor(uninitialised: out.shape, .float32, on: self)
            if accumulate { copy(out, into: wide) }
            product(
                blasReady(a.cast(to: .float32)), blasReady(b.cast(to: .float32)), into: wide, accumulate: accumulate)
            copy(wide, into: out)
        case .int32, .int64, .bool:
            shapeFault("matmul", "defined for floating-point tensors", a, b)
        }
    }

    /// BLAS reads a matrix whose rows or columns are contiguous; anything else is copied.
    private func blasReady(_ x: Tensor) -> Tensor {
        let (rows, columns) = (x.shape[x.rank - 2], x.shape[x.rank - 1])
        let (rowStride, columnStride) = (x.strides[x.rank - 2], x.strides[x.rank - 1])
        let rowMajor = (columnStride == 1 || columns == 1) && (rowStride >= max(1, columns) || rows == 1)
        let columnMajor = (rowStride == 1 || rows == 1) && (columnStride >= max(1, rows) || columns == 1)
        return rowMajor || columnMajor ? x : x.contiguous()
    }

    private struct Matrix {
        let transposed: Bool
        let leading: Int
        init(_ x: Tensor) {
            let (rows, columns) = (x.shape[x.rank - 2], x.shape[x.rank - 1])
            let (rowStride, columnStride) = (x.strides[x.rank - 2], x.strides[x.rank - 1])
            transposed = !((columnStride == 1 || columns == 1) && (rowStride >= max(1, columns) || rows == 1))
            leading =
                transposed ? (columns == 1 ? max(1, rows) : columnStride) : (rows == 1 ? max(1, columns) : rowStride)
        }
        /// Elements from the first to (row, column).
        func offset(_ row: Int, _ column: Int) -> Int { transposed ? column * leading + row : row * leading + column }
    }

    /// Cuts the product into tiles that depend on its shape alone; each is one single-threaded BLAS call.
    private func product(_ a: Tensor, _ b: Tensor, into out: Tensor, accumulate: Bool) {
        let (m, k, n) = (a.shape[a.rank - 2], a.shape[a.rank - 1], b.shape[b.rank - 1])
        if k == 0 {
            if !accumulate { fill(out, with: 0) }
            return
        }
        let batchShape = Array(out.shape.dropLast(2))
        let batches = batchShape.reduce(1, *)
        var (tileM, tileN) = (min(m, 768), min(n, 1024))
        func tiles() -> Int { batches * ((m + tileM - 1) / tileM) * ((n + tileN - 1) / tileN) }
        // Enough tiles for a few threads, as long as each is worth a call.
        while tiles() < 8 && tileM * tileN * k > 1 << 21 && max(tileM, tileN) > 64 {
            if tileM >= tileN { tileM = (tileM + 1) / 2 } else { tileN = (tileN + 1) / 2 }
        }
        tileM = (tileM + 15) / 16 * 16
        tileN = (tileN + 15) / 16 * 16
        let (rowTiles, columnTiles) = ((m + tileM - 1) / tileM, (n + tileN - 1) / tileN)
        let (ma, mb, mc) = (Matrix(a), Matrix(b), Matrix(out))
        let bytes = out.dtype.byteCount
        let beta: Double = accumulate ? 1 : 0
        let double = out.dtype == .float64

        func batchOffset(_ x: Tensor, _ batch: Int) -> Int {
            var (remaining, offset) = (batch, 0)
            for axis in stride(from: batchShape.count - 1, through: 0, by: -1) {
                offset += (remaining % batchShape[axis]) * x.strides[axis]
                remaining /= batchShape[axis]
            }
            return offset
        }
        pool.run(batches * rowTiles * columnTiles) { tile, _ in
            let batch = tile / (rowTiles * columnTiles)
            let (i, j) = (tile / columnTiles % rowTiles * tileM, tile % columnTiles * tileN)
            let (rows, columns) = (Int32(min(tileM, m - i)), Int32(min(tileN, n - j)))
            let pa = a.address + (batchOffset(a, batch) + ma.offset(i, 0)) * bytes
            let pb = b.address + (batchOffset(b, batch) + mb.offset(0, j)) * bytes
            let pc = out.address + (batchOffset(out, batch) + mc.offset(i, j)) * bytes
            let (ta, tb) = (ma.transposed ? CblasTrans : CblasNoTrans, mb.transposed ? CblasTrans : CblasNoTrans)
            if double {
                cblas_dgemm(
                    CblasRowMajor, ta, tb, rows, columns, Int32(k), 1, pa.assumingMemoryBound(to: Double.self),
                    Int32(ma.leading), pb.assumingMemoryBound(to: Double.self), Int32(mb.leading), beta,
                    pc.assumingMemoryBound(to: Double.self), Int32(mc.leading))
            } else {
                cblas_sgemm(
                    CblasRowMajor, ta, tb, rows, columns, Int32(k), 1, pa.assumingMemoryBound(to: Float.self),
                    Int32(ma.leading), pb.assumingMemoryBound(to: Float.self), Int32(mb.leading), Float(beta),
                    pc.assumingMemoryBound(to: Float.self), Int32(mc.leading))
            }
        }
    }
}
