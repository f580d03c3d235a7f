import COpenBLAS
import CTensorKernels

/// One tile of C by OpenBLAS, on the calling thread.
///
/// Half precision, which OpenBLAS has no products for, is widened `depthBlock` of the sum at a time into scratch memory, where the
/// sums are kept too until they are rounded once.
struct OpenBLASProduct {
    private static let depthBlock = 512

    let rows, columns, depth: Int
    let a, b, c: ProductMatrix
    let accumulate: Bool

    /// Bytes of scratch memory for a tile of this size.
    static func scratchBytes(rows: Int, columns: Int, depth: Int, factors: DType, result: DType) -> Int {
        guard factors == .bfloat16 || factors == .float16 else { return 0 }
        let factorFloats = (rows + columns) * min(depth, depthBlock)
        return (factorFloats + (result == .float32 ? 0 : rows * columns)) * DType.float32.byteCount
    }

    func run(scratch: UnsafeMutableRawPointer) {
        switch a.dtype {
        case .float64: gemmDouble()
        case .float32: Self.gemm(rows, columns, depth, a, b, c, accumulate)
        default: widened(scratch)
        }
    }

    private func widened(_ scratch: UnsafeMutableRawPointer) {
        let block = min(depth, Self.depthBlock)
        func wide(_ x: ProductMatrix, rows: Int, columns: Int, at floats: Int) -> ProductMatrix {
            let place = scratch + floats * DType.float32.byteCount
            return ProductMatrix(
                address: place, dtype: .float32, transposed: x.transposed, leading: x.transposed ? rows : columns)
        }
        let left = wide(a, rows: rows, columns: block, at: 0)
        let right = wide(b, rows: block, columns: columns, at: rows * block)
        let sums = c.dtype == .float32 ? c : wide(c, rows: rows, columns: columns, at: (rows + columns) * block)
        if accumulate && c.dtype != .float32 { Self.convert(c, into: sums, rows: rows, columns: columns) }
        for start in stride(from: 0, to: depth, by: block) {
            let count = min(block, depth - start)
            Self.convert(a.from(row: 0, column: start), into: left, rows: rows, columns: count)
            Self.convert(b.from(row: start, column: 0), into: right, rows: count, columns: columns)
            Self.gemm(rows, columns, count, left, right, sums, accumulate || start > 0)
        }
        if c.dtype != .float32 { Self.convert(sums, into: c, rows: rows, columns: columns) }
    }

    /// Both lie the same way.
    private static func convert(_ x: ProductMatrix, into out: ProductMatrix, rows: Int, columns: Int) {
        let (lines, length) = x.transposed ? (columns, rows) : (rows, columns)
        for line in 0..<lines {
            rz_convert(
                x.dtype.kernelCode, Int64(length), x.address + line * x.leading * x.dtype.byteCount, 1,
                out.dtype.kernelCode, out.address + line * out.leading * out.dtype.byteCount, 1)
        }
    }

    private static func gemm(
        _ rows: Int, _ columns: Int, _ depth: Int, _ a: ProductMatrix, _ b: ProductMatrix, _ c: ProductMatrix,
        _ accumulate: Bool
    ) {
        cblas_sgemm(
            CblasRowMajor, a.transposed ? CblasTrans : CblasNoTrans, b.transposed ? CblasTrans : CblasNoTrans,
            Int32(rows), Int32(columns), Int32(depth), 1, a.address.assumingMemoryBound(to: Float.self),
            Int32(a.leading), b.address.assumingMemoryBound(to: Float.self), Int32(b.leading), accumulate ? 1 : 0,
            c.address.assumingMemoryBound(to: Float.self), Int32(c.leading))
    }

    private func gemmDouble() {
        cblas_dgemm(
            CblasRowMajor, a.transposed ? CblasTrans : CblasNoTrans, b.transposed ? CblasTrans : CblasNoTrans,
            Int32(rows), Int32(columns), Int32(depth), 1, a.address.assumingMemoryBound(to: Double.self),
            Int32(a.leading), b.address.assumingMemoryBound(to: Double.self), Int32(b.leading), accumulate ? 1 : 0,
            c.address.assumingMemoryBound(to: Double.self), Int32(c.leading))
    }
}
