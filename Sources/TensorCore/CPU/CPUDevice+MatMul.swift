import COpenBLAS
import CTensorKernels

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
        var rowStride: Int64 { Int64(transposed ? 1 : leading) }
        var columnStride: Int64 { Int64(transposed ? leading : 1) }
        /// Elements from the first to (row, column).
        func offset(_ row: Int, _ column: Int) -> Int { transposed ? column * leading + row : row * leading + column }
    }

    /// A product cut into tiles of C, each computed on one thread.
    private struct Tiling {
        let m, n: Int
        var rowTiles, columnTiles: Int
        var tileRows: Int { Self.extent(m, rowTiles, multipleOf: 6) }
        var tileColumns: Int { Self.extent(n, columnTiles, multipleOf: 16) }

        /// As few tiles as keep the threads evenly busy, since each packs its operands anew: `wanted`, unless they would be too
        /// small to be worth it.
        init(m: Int, n: Int, k: Int, batches: Int, wanted: Int) {
            (self.m, self.n) = (m, n)
            (rowTiles, columnTiles) = ((m + 1023) / 1024, (n + 1023) / 1024)
            while batches * rowTiles * columnTiles < wanted && m * n * k / (rowTiles * columnTiles) > 1 << 21 {
                if m * columnTiles >= n * rowTiles { rowTiles *= 2 } else { columnTiles *= 2 }
            }
            // Rounding up to whole register tiles may leave nothing for the last ones.
            (rowTiles, columnTiles) = ((m + tileRows - 1) / tileRows, (n + tileColumns - 1) / tileColumns)
        }

        private static func extent(_ count: Int, _ tiles: Int, multipleOf step: Int) -> Int {
            ((count + tiles - 1) / tiles + step - 1) / step * step
        }
    }

    /// The product tile by tile, each on one thread: float32 by our own kernels where there are some for this processor, the rest by
    /// OpenBLAS.
    private func product(_ a: Tensor, _ b: Tensor, into out: Tensor, accumulate: Bool) {
        let (m, k, n) = (a.shape[a.rank - 2], a.shape[a.rank - 1], b.shape[b.rank - 1])
        if k == 0 {
            if !accumulate { fill(out, with: 0) }
            return
        }
        let batchShape = Array(out.shape.dropLast(2))
        let batches = batchShape.reduce(1, *)
        func batchOffset(_ x: Tensor, _ batch: Int) -> Int {
            var (remaining, offset) = (batch, 0)
            for axis in stride(from: batchShape.count - 1, through: 0, by: -1) {
                offset += (remaining % batchShape[axis]) * x.strides[axis]
                remaining /= batchShape[axis]
            }
            return offset
        }
        let ownKernels = out.dtype == .float32 && rz_has_products() != 0
        // Bits must not depend on the threads. Ours do not depend on the tiles; those of OpenBLAS may, so that its tiles depend
        // on the shape alone.
        let tiling = Tiling(
            m: m, n: n, k: k, batches: batches, wanted: ownKernels ? (pool.workers == 1 ? 1 : 2 * pool.workers) : 8)
        let (tileRows, tileColumns) = (tiling.tileRows, tiling.tileColumns)
        let scratchBytes = ownKernels ? Int(rz_product_scratch(Int64(tileRows), Int64(tileColumns), Int64(k))) : 0
        let scratchPitch = (scratchBytes + 63) / 64 * 64
        // At most 1.3 MiB a worker whatever the shape. Like OpenBLAS's own buffers, it is not in the ledger.
        let scratch = allocator.allocate(pool.workers * scratchPitch)
        defer { allocator.release(scratch, pool.workers * scratchPitch) }
        let (ma, mb, mc) = (Matrix(a), Matrix(b), Matrix(out))
        let bytes = out.dtype.byteCount
        pool.run(batches * tiling.rowTiles * tiling.columnTiles) { tile, worker in
            let batch = tile / (tiling.rowTiles * tiling.columnTiles)
            let i = tile / tiling.columnTiles % tiling.rowTiles * tileRows
            let j = tile % tiling.columnTiles * tileColumns
            let (rows, columns) = (min(tileRows, m - i), min(tileColumns, n - j))
            let pa = a.address + (batchOffset(a, batch) + ma.offset(i, 0)) * bytes
            let pb = b.address + (batchOffset(b, batch) + mb.offset(0, j)) * bytes
            let pc = out.address + (batchOffset(out, batch) + mc.offset(i, j)) * bytes
            if ownKernels {
                rz_product(
                    Int64(rows), Int64(columns), Int64(k), pa.assumingMemoryBound(to: Float.self), ma.rowStride,
                    ma.columnStride, pb.assumingMemoryBound(to: Float.self), mb.rowStride, mb.columnStride,
                    pc.assumingMemoryBound(to: Float.self), mc.rowStride, accumulate ? 1 : 0,
                    scratch + worker * scratchPitch)
            } else {
                openBLASProduct(rows, columns, k, pa, ma, pb, mb, pc, mc, out.dtype, accumulate)
            }
        }
    }

    private func openBLASProduct(
        _ rows: Int, _ columns: Int, _ k: Int, _ pa: UnsafeMutableRawPointer, _ ma: Matrix,
        _ pb: UnsafeMutableRawPointer, _ mb: Matrix, _ pc: UnsafeMutableRawPointer, _ mc: Matrix, _ dtype: DType,
        _ accumulate: Bool
    ) {
        let (rows, columns, k) = (Int32(rows), Int32(columns), Int32(k))
        let (ta, tb) = (ma.transposed ? CblasTrans : CblasNoTrans, mb.transposed ? CblasTrans : CblasNoTrans)
        if dtype == .float64 {
            cblas_dgemm(
                CblasRowMajor, ta, tb, rows, columns, k, 1, pa.assumingMemoryBound(to: Double.self),
                Int32(ma.leading), pb.assumingMemoryBound(to: Double.self), Int32(mb.leading), accumulate ? 1 : 0,
                pc.assumingMemoryBound(to: Double.self), Int32(mc.leading))
        } else {
            cblas_sgemm(
                CblasRowMajor, ta, tb, rows, columns, k, 1, pa.assumingMemoryBound(to: Float.self),
                Int32(ma.leading), pb.assumingMemoryBound(to: Float.self), Int32(mb.leading), accumulate ? 1 : 0,
                pc.assumingMemoryBound(to: Float.self), Int32(mc.leading))
        }
    }
}
