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

    /// Tiles for any number of threads: 16 where each is as large as 256 x 256 then, else 8: smaller ones read their operands more often.
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
