import CTensorKernels

extension CPUDevice {
    public func matmul(_ a: Tensor, _ b: Tensor, into out: Tensor, accumulate: Bool) {
        let span = recorder?.open(
            "matmul", flops: 2 * Double(out.elementCount * a.shape[a.rank - 1]), moving: [a, b, out])
        defer { span?.close() }
        guard a.dtype.isFloat, a.dtype == b.dtype else {
            shapeFault("matmul", "defined for floating-point factors of one type", a, b)
        }
        guard out.dtype == a.dtype || (out.dtype == .float32 && a.dtype != .float64) else {
            shapeFault("matmul", "the result has the type of the factors, or float32 for half precision", a, b, out)
        }
        if out.elementCount == 0 { return }
        if a.shape[a.rank - 1] == 0 {
            if !accumulate { fill(out, with: 0) }
            return
        }
        product(blasReady(a), blasReady(b), into: out, accumulate: accumulate)
    }

    /// BLAS reads a matrix whose rows or columns are contiguous; anything else is copied.
    private func blasReady(_ x: Tensor) -> Tensor { ProductMatrix.isOrderly(x) ? x : x.contiguous() }

    /// The product tile by tile, each on one thread.
    private func product(_ a: Tensor, _ b: Tensor, into out: Tensor, accumulate: Bool) {
        let (m, k, n) = (a.shape[a.rank - 2], a.shape[a.rank - 1], b.shape[b.rank - 1])
        let batchShape = Array(out.shape.dropLast(2))
        let batches = batchShape.reduce(1, *)
        func matrix(_ x: Tensor, _ batch: Int) -> ProductMatrix {
            var (remaining, offset) = (batch, 0)
            for axis in stride(from: batchShape.count - 1, through: 0, by: -1) {
                offset += (remaining % batchShape[axis]) * x.strides[axis]
                remaining /= batchShape[axis]
            }
            return ProductMatrix(x, offset: offset)
        }
        let kernels = products[a.dtype]
        // Bits must not depend on the threads. Those of our kernels do not depend on the tiles; those of libraries may.
        let tiling =
            if let ours = kernels.ours {
                ProductTiling(m: m, n: n, k: k, batches: batches, threads: pool.workers, unit: ours.tile)
            } else {
                ProductTiling(m: m, n: n, k: k, batches: batches)
            }
        let (tileRows, tileColumns) = (tiling.tileRows, tiling.tileColumns)
        let scratchBytes =
            switch kernels {
            case .avx2, .avx512:
                Int(
                    rz_product_scratch(
                        kernels.ours!, Int64(tileRows), Int64(tileColumns), Int64(k), out.dtype.kernelCode))
            case .openblas:
                OpenBLASProduct.scratchBytes(
                    rows: tileRows, columns: tileColumns, depth: k, factors: a.dtype, result: out.dtype)
            case .onednn: 0
            }
        let scratchPitch = (scratchBytes + 63) / 64 * 64
        // At most 1.3 MiB a worker whatever the shape, 8 MiB where sums of half precision are kept. Like OpenBLAS's own buffers,
        // it is not in the ledger.
        let scratch = allocator.allocate(pool.workers * scratchPitch)
        defer { allocator.release(scratch, pool.workers * scratchPitch) }
        pool.run(batches * tiling.count) { index, worker in
            let (batch, (rows, columns)) = (index / tiling.count, tiling[index % tiling.count])
            let left = matrix(a, batch).from(row: rows.lowerBound, column: 0)
            let right = matrix(b, batch).from(row: 0, column: columns.lowerBound)
            let result = matrix(out, batch).from(row: rows.lowerBound, column: columns.lowerBound)
            let place = scratch + worker * scratchPitch
            switch kernels {
            case .avx2, .avx512:
                rz_product(
                    kernels.ours!, left.dtype.kernelCode, left.rows(rows.count), right.columns(columns.count), Int64(k),
                    result.dtype.kernelCode, result.address, Int64(result.rowStride), accumulate ? 1 : 0, place)
            case .openblas:
                OpenBLASProduct(
                    rows: rows.count, columns: columns.count, depth: k, a: left, b: right, c: result,
                    accumulate: accumulate
                ).run(scratch: place)
            case .onednn:
                OneDNNProduct(
                    rows: rows.count, columns: columns.count, depth: k, a: left, b: right, c: result,
                    accumulate: accumulate
                ).run()
            }
        }
    }
}

extension rz_product_set {
    /// What these kernels compute of C at a time.
    fileprivate var tile: ProductTiling.Unit { (Int(rz_product_tile_rows(self)), Int(rz_product_tile_columns(self))) }
}

extension ProductMatrix {
    /// As our kernels take the left factor of a product.
    fileprivate func rows(_ count: Int) -> rz_factor {
        rz_factor(
            address: address, lines: Int64(count), line_stride: Int64(rowStride), depth_stride: Int64(columnStride))
    }

    /// As our kernels take the right factor.
    fileprivate func columns(_ count: Int) -> rz_factor {
        rz_factor(
            address: address, lines: Int64(count), line_stride: Int64(columnStride), depth_stride: Int64(rowStride))
    }
}
