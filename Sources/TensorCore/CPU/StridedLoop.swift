/// Walks operands of one shape: axes that are adjacent in every operand are joined, the last one is the inner loop handed to a
/// kernel, and the rest is cut over the pool in pieces that depend on the shape alone.
struct StridedLoop {
    /// Extents after joining, outermost first; never empty.
    private(set) var shape: [Int]
    /// Per operand and axis, in elements.
    private(set) var strides: [[Int]]
    private let elementBytes: [Int]
    private let bases: [UnsafeMutableRawPointer]

    /// Elements that one piece of an inner row or one group of rows should have.
    private static let grain = 16384

    init(_ operands: [Tensor]) {
        let full = operands[0].shape
        var shape: [Int] = []
        var strides = [[Int]](repeating: [], count: operands.count)
        for axis in 0..<full.count where full[axis] != 1 {
            let extent = full[axis]
            let joins =
                !shape.isEmpty
                && operands.indices.allSatisfy { strides[$0].last! == operands[$0].strides[axis] * extent }
            if joins {
                shape[shape.count - 1] *= extent
                for i in operands.indices { strides[i][strides[i].count - 1] = operands[i].strides[axis] }
            } else {
                shape.append(extent)
                for i in operands.indices { strides[i].append(operands[i].strides[axis]) }
            }
        }
        if shape.isEmpty {
            shape = [1]
            strides = strides.map { _ in [1] }
        }
        self.shape = shape
        self.strides = strides
        elementBytes = operands.map { $0.dtype.byteCount }
        bases = operands.map { $0.address }
    }

    var innerStrides: [Int64] { strides.map { Int64($0.last!) } }

    /// Calls `body(count, pointers)` for every piece of an inner row.
    func run(on pool: ThreadPool, _ body: (Int64, UnsafePointer<UnsafeMutableRawPointer>) -> Void) {
        let inner = shape.last!
        let rows = shape.dropLast().reduce(1, *)
        if inner == 0 || rows == 0 { return }
        let operandCount = bases.count
        // Either several rows per piece, or several pieces per row.
        let rowsPerPiece = max(1, Self.grain / inner)
        let piecesPerRow = rowsPerPiece > 1 ? 1 : (inner + Self.grain - 1) / Self.grain
        let rowGroups = (rows + rowsPerPiece - 1) / rowsPerPiece
        pool.run(rowGroups * piecesPerRow) { piece, _ in
            let group = piece / piecesPerRow
            let start = (piece % piecesPerRow) * Self.grain
            let count = piecesPerRow == 1 ? inner : min(Self.grain, inner - start)
            withUnsafeTemporaryAllocation(of: UnsafeMutableRawPointer.self, capacity: operandCount) { pointers in
                for row in group * rowsPerPiece..<min(rows, (group + 1) * rowsPerPiece) {
                    for i in 0..<operandCount {
                        var remaining = row
                        var offset = start * strides[i][shape.count - 1]
                        var axis = shape.count - 2
                        while axis >= 0 {
                            offset += (remaining % shape[axis]) * strides[i][axis]
                            remaining /= shape[axis]
                            axis -= 1
                        }
                        pointers[i] = bases[i] + offset * elementBytes[i]
                    }
                    body(Int64(count), UnsafePointer(pointers.baseAddress!))
                }
            }
        }
    }
}
