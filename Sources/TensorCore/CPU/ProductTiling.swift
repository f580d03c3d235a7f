/// A product cut into tiles of C, each computed on one thread.
struct ProductTiling {
    /// Rows and columns of C that kernels compute at a time: tiles are whole units, but for the last ones.
    typealias Unit = (rows: Int, columns: Int)

    private let m, n, rowTiles, columnTiles: Int
    private let unit: Unit
    var tileRows: Int { Self.extent(m, rowTiles, multipleOf: unit.rows) }
    var tileColumns: Int { Self.extent(n, columnTiles, multipleOf: unit.columns) }
    var count: Int { rowTiles * columnTiles }

    private init(m: Int, n: Int, rowTiles: Int, columnTiles: Int, unit: Unit) {
        (self.m, self.n, self.unit) = (m, n, unit)
        // Rounding up to whole units may leave nothing for the last tiles.
        let (rows, columns) = (
            Self.extent(m, rowTiles, multipleOf: unit.rows), Self.extent(n, columnTiles, multipleOf: unit.columns)
        )
        (self.rowTiles, self.columnTiles) = ((m + rows - 1) / rows, (n + columns - 1) / columns)
    }

    /// No side of a tile is longer than this, up to whole units.
    private static let longestSide = 1024
    /// Multiply-adds below which a tile is not worth a thread's waking.
    private static let smallestTile = 1 << 20
    /// Multiply-adds in the time that packing one number of A or B takes: 10 to 20 (`product_engine.h`).
    private static let packing = 16

    /// For kernels whose bits do not depend on the tiles: the cut by which all threads are done soonest. Few tiles pack less, since each
    /// packs its own rows and columns; but the threads must have equal work.
    init(m: Int, n: Int, k: Int, batches: Int, threads: Int, unit: Unit) {
        let least = Self.fewest(m: m, n: n, unit: unit)
        let most = min(max(2 * threads / batches, 2 * least.count), m * n * k / Self.smallestTile)
        func cost(_ tiling: ProductTiling) -> Int {
            let (rows, columns) = (tiling.tileRows, tiling.tileColumns)
            let rounds = (batches * tiling.count + threads - 1) / threads
            return rounds * (rows * columns + Self.packing * (rows + columns))
        }
        var best = (tiling: least, cost: cost(least))
        for rows in stride(from: least.rowTiles, through: most / least.columnTiles, by: 1) {
            for columns in stride(from: least.columnTiles, through: most / rows, by: 1) {
                let tiling = ProductTiling(m: m, n: n, rowTiles: rows, columnTiles: columns, unit: unit)
                if cost(tiling) < best.cost { best = (tiling, cost(tiling)) }
            }
        }
        self = best.tiling
    }

    /// For kernels whose bits may depend on the tiles: a cut by the shape alone, good for any number of threads. 16 tiles where each is as
    /// large as 256 x 256 then, else 8: smaller ones read their operands more often. Fewer where they would be too small.
    init(m: Int, n: Int, k: Int, batches: Int) {
        let unit = (rows: 6, columns: 16)
        let least = Self.fewest(m: m, n: n, unit: unit)
        let (wanted, work) = (m * n >= 16 * 256 * 256 ? 16 : 8, m * n * k)
        var (rowTiles, columnTiles) = (least.rowTiles, least.columnTiles)
        while batches * rowTiles * columnTiles < wanted && work / (rowTiles * columnTiles) > 2 * Self.smallestTile {
            if m * columnTiles >= n * rowTiles { rowTiles *= 2 } else { columnTiles *= 2 }
        }
        self.init(m: m, n: n, rowTiles: rowTiles, columnTiles: columnTiles, unit: unit)
    }

    private static func fewest(m: Int, n: Int, unit: Unit) -> ProductTiling {
        ProductTiling(
            m: m, n: n, rowTiles: (m + longestSide - 1) / longestSide, columnTiles: (n + longestSide - 1) / longestSide,
            unit: unit)
    }

    private static func extent(_ count: Int, _ tiles: Int, multipleOf step: Int) -> Int {
        ((count + tiles - 1) / tiles + step - 1) / step * step
    }

    /// Rows and columns of C in one tile.
    subscript(tile: Int) -> (rows: Range<Int>, columns: Range<Int>) {
        let (i, j) = (tile / columnTiles * tileRows, tile % columnTiles * tileColumns)
        return (i..<min(m, i + tileRows), j..<min(n, j + tileColumns))
    }
}
