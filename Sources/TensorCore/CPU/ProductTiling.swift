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
        transposed = !((columnStride == 1 || columns == 1) && (rowStride >= max(1, columns) || rows == 1))
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
        let rowMajor = (columnStride == 1 || columns == 1) && (rowStride >= max(1, columns) || rows == 1)
        let columnMajor = (rowStride == 1 || rows == 1) && (columnStride >= max(1, rows) || columns == 1)
        return rowMajor || columnMajor
    }

    var rowStride: Int { transposed ? 1 : leading }
    var columnStride: Int { transposed ? leading : 1 }

    func from(row: Int, column: Int) -> ProductMatrix {
        let offset = row * rowStride + column * columnStride
        return ProductMatrix(
            address: address + offset * dtype.byteCount, dtype: dtype, transposed: transposed, leading: leading)
    }
}

/// A product cut into tiles of C, each computed on one thread.
struct ProductTiling {
    private let m, n: Int
    private var rowTiles, columnTiles: Int
    var tileRows: Int { Self.extent(m, rowTiles, multipleOf: 6) }
    var tileColumns: Int { Self.extent(n, columnTiles, multipleOf: 16) }
    var count: Int { rowTiles * columnTiles }

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

    /// Tiles for any number of threads: 16 where each is as large as 256 x 256 then, else 8. On two threads 16 of that size took as
    /// long as 8; with smaller ones, which read their operands more often, long sums took a tenth longer, and with 120 twice as long.
    static func tilesByShape(m: Int, n: Int) -> Int { m * n >= 16 * 256 * 256 ? 16 : 8 }

    private static func extent(_ count: Int, _ tiles: Int, multipleOf step: Int) -> Int {
        ((count + tiles - 1) / tiles + step - 1) / step * step
    }

    /// Rows and columns of C in one tile.
    subscript(tile: Int) -> (rows: Range<Int>, columns: Range<Int>) {
        let (i, j) = (tile / columnTiles * tileRows, tile % columnTiles * tileColumns)
        return (i..<min(m, i + tileRows), j..<min(n, j + tileColumns))
    }
}
