/// One matrix of a product in memory, or the part of one from some element on: its rows or its columns lie side by side.
struct ProductMatrix {
    let address: UnsafeMutableRawPointer
    let dtype: DType
    let transposed: Bool
    let leading: Int

    /// The last two axes of `x`, from element `offset` of it on; `isOrderly` holds.
    init(_ x: Tensor, offset: Int) {
        let (rows, columns) = (x.shape[x.rank - 2], x.shape[x.rank - 1])
        let (rowStride, columnStride) = (x.strides[x.rank - 2], x.strides[x.rank - 1])
        dtype = x.dtype
        address = x.address + offset * dtype.byteCount
        transposed = !Self.isRowMajor(rows, columns, rowStride, columnStride)
        leading =
            transposed ? (columns == 1 ? max(1, rows) : columnStride) : (rows == 1 ? max(1, columns) : rowStride)
    }

    init(address: UnsafeMutableRawPointer, dtype: DType, transposed: Bool, leading: Int) {
        (self.address, self.dtype, self.transposed, self.leading) = (address, dtype, transposed, leading)
    }

    /// Whether rows or columns of the last two axes are contiguous, which is all that BLAS reads.
    static func isOrderly(_ x: Tensor) -> Bool {
        let (rows, columns) = (x.shape[x.rank - 2], x.shape[x.rank - 1])
        let (rowStride, columnStride) = (x.strides[x.rank - 2], x.strides[x.rank - 1])
        return isRowMajor(rows, columns, rowStride, columnStride) || isRowMajor(columns, rows, columnStride, rowStride)
    }

    private static func isRowMajor(_ rows: Int, _ columns: Int, _ rowStride: Int, _ columnStride: Int) -> Bool {
        (columnStride == 1 || columns == 1) && (rowStride >= max(1, columns) || rows == 1)
    }

    var rowStride: Int { transposed ? 1 : leading }
    var columnStride: Int { transposed ? leading : 1 }

    func from(row: Int, column: Int) -> ProductMatrix {
        let offset = row * rowStride + column * columnStride
        return ProductMatrix(
            address: address + offset * dtype.byteCount, dtype: dtype, transposed: transposed, leading: leading)
    }
}
