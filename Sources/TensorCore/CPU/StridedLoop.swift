/// Walks operands of one shape: axes that are adjacent in every operand are joined, the last one is the inner loop handed to a
/// kernel, and the rest is cut over the pool in pieces that depend on the shape alone.
struct StridedLoop {
    /// Extents after joining, outermost first; never empty.
    private(set) var shape: [Int]
    /// Per operand and axis, in elements.
    private(set) var strides: [[Int]]
    /// The same in bytes, operand after operand.
    private let steps: [Int]
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
        steps = zip(operands, strides).flatMap { operand, strides in strides.map { $0 * operand.dtype.byteCount } }
        bases = operands.map { $0.address }
    }

    var innerStrides: [Int64] { strides.map { Int64($0.last!) } }

    /// Calls `body(count, pointers)` for every piece of an inner row.
    func run(on pool: ThreadPool, _ body: (Int64, UnsafePointer<UnsafeMutableRawPointer>) -> Void) {
        let inner = shape.last!
        let rows = shape.dropLast().reduce(1, *)
        if inner == 0 || rows == 0 { return }
        // Either several rows per piece, or several pieces per row.
        let rowsPerPiece = max(1, Self.grain / inner)
        let piecesPerRow = rowsPerPiece > 1 ? 1 : (inner + Self.grain - 1) / Self.grain
        let rowGroups = (rows + rowsPerPiece - 1) / rowsPerPiece
        pool.run(rowGroups * piecesPerRow) { piece, _ in
            let first = piece / piecesPerRow * rowsPerPiece
            let start = (piece % piecesPerRow) * Self.grain
            let count = piecesPerRow == 1 ? inner : min(Self.grain, inner - start)
            withUnsafeTemporaryAllocation(of: UnsafeMutableRawPointer.self, capacity: bases.count) { pointers in
                withUnsafeTemporaryAllocation(of: Int.self, capacity: shape.count - 1) { digits in
                    place(pointers, at: start, ofRow: first, digits)
                    for row in first..<min(rows, first + rowsPerPiece) {
                        if row > first { advance(pointers, digits) }
                        body(Int64(count), UnsafePointer(pointers.baseAddress!))
                    }
                }
            }
        }
    }

    // Rows are counted like a number, with the outer axes as digits: a division for each row and axis would cost more than a short row.

    private typealias Pointers = UnsafeMutableBufferPointer<UnsafeMutableRawPointer>
    private typealias Digits = UnsafeMutableBufferPointer<Int>

    private func place(_ pointers: Pointers, at start: Int, ofRow row: Int, _ digits: Digits) {
        for i in bases.indices { pointers[i] = bases[i] }
        move(pointers, along: digits.count, by: start)
        var remaining = row
        for axis in digits.indices.reversed() {
            digits[axis] = remaining % shape[axis]
            remaining /= shape[axis]
            move(pointers, along: axis, by: digits[axis])
        }
    }

    /// To the next row, which there must be.
    private func advance(_ pointers: Pointers, _ digits: Digits) {
        var axis = digits.count - 1
        while digits[axis] == shape[axis] - 1 {
            move(pointers, along: axis, by: -digits[axis])
            digits[axis] = 0
            axis -= 1
        }
        digits[axis] += 1
        move(pointers, along: axis, by: 1)
    }

    private func move(_ pointers: Pointers, along axis: Int, by count: Int) {
        for i in pointers.indices { pointers[i] += count * steps[i * shape.count + axis] }
    }
}
