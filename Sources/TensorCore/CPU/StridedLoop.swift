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
        let axes = shape.count
        let outer = axes - 1
        // Per operand and axis, in bytes.
        let steps = zip(strides, elementBytes).flatMap { strides, bytes in strides.map { $0 * bytes } }
        // Either several rows per piece, or several pieces per row.
        let rowsPerPiece = max(1, Self.grain / inner)
        let piecesPerRow = rowsPerPiece > 1 ? 1 : (inner + Self.grain - 1) / Self.grain
        let rowGroups = (rows + rowsPerPiece - 1) / rowsPerPiece
        pool.run(rowGroups * piecesPerRow) { piece, _ in
            let group = piece / piecesPerRow
            let start = (piece % piecesPerRow) * Self.grain
            let count = piecesPerRow == 1 ? inner : min(Self.grain, inner - start)
            let first = group * rowsPerPiece
            let end = min(rows, first + rowsPerPiece)
            withUnsafeTemporaryAllocation(of: UnsafeMutableRawPointer.self, capacity: operandCount) { pointers in
                // Rows are counted like the digits of a number: most steps move the last digit alone.
                withUnsafeTemporaryAllocation(of: Int.self, capacity: outer) { digits in
                    var remaining = first
                    for i in 0..<operandCount { pointers[i] = bases[i] + start * steps[i * axes + outer] }
                    for axis in stride(from: outer - 1, through: 0, by: -1) {
                        digits[axis] = remaining % shape[axis]
                        remaining /= shape[axis]
                        for i in 0..<operandCount { pointers[i] += digits[axis] * steps[i * axes + axis] }
                    }
                    for row in first..<end {
                        body(Int64(count), UnsafePointer(pointers.baseAddress!))
                        if row == end - 1 { break }
                        var axis = outer - 1
                        while digits[axis] == shape[axis] - 1 {
                            for i in 0..<operandCount { pointers[i] -= digits[axis] * steps[i * axes + axis] }
                            digits[axis] = 0
                            axis -= 1
                        }
                        digits[axis] += 1
                        for i in 0..<operandCount { pointers[i] += steps[i * axes + axis] }
                    }
                }
            }
        }
    }
}
