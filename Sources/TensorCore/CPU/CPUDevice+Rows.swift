import CTensorKernels

extension CPUDevice {
    /// Cuts `rows` rows of `columns` elements into groups that depend on the two numbers alone.
    private func forEachRow(_ rows: Int, _ columns: Int, _ body: (Int) -> Void) {
        let group = max(1, 16384 / max(1, columns))
        pool.run((rows + group - 1) / group) { piece, _ in
            for row in piece * group..<min(rows, (piece + 1) * group) { body(row) }
        }
    }

    public func reduce(_ operation: Reduction, _ x: Tensor, axes: [Int], into out: Tensor) {
        let span = recorder?.open("reduce \(operation)", moving: [x, out])
        defer { span?.close() }
        let kept = (0..<x.rank).filter { !axes.contains($0) }
        let columns = kept.reduce(1) { $0 * x.shape[$1] }
        let count = axes.reduce(1) { $0 * x.shape[$1] }
        if columns == 0 { return }
        if count == 0 {
            if operation == .maximum || operation == .minimum {
                shapeFault("\(operation)", "no elements to compare", x)
            }
            return fill(out, with: 0)
        }
        if x.dtype == .bfloat16 || x.dtype == .float16 {
            let wide = Tensor(uninitialised: out.shape, .float32, on: self)
            reduce(operation, x.cast(to: .float32), axes: axes, into: wide)
            return copy(wide, into: out)
        }
        let code = x.dtype.kernelCode
        let bytes = x.dtype.byteCount
        // Leading axes reduced, trailing axes contiguous: add rows together, column by column.
        if (axes.max() ?? -1) < (kept.min() ?? x.rank), columns > 1, x.isContiguous {
            let block = 256
            pool.run((columns + block - 1) / block) { piece, _ in
                let start = piece * block
                if rz_reduce_columns(
                    operation.rawValue, code, Int64(count), Int64(min(block, columns - start)),
                    x.address + start * bytes, Int64(columns), out.address + start * bytes) == 0
                {
                    shapeFault("\(operation)", "not defined for this element type", x)
                }
            }
            return
        }
        // Otherwise bring the reduced axes to the end; each result is then one row.
        let rows = x.permuted(kept + axes).contiguous()
        if columns == 1, count > Self.sumPiece, operation == .sum || operation == .sumOfSquares, x.dtype.isFloat {
            return sum(operation, rows, into: out)
        }
        forEachRow(columns, count) { row in
            if rz_reduce_row(
                operation.rawValue, code, Int64(count), rows.address + row * count * bytes, 1, out.address + row * bytes
            )
                == 0
            {
                shapeFault("\(operation)", "not defined for this element type", x)
            }
        }
    }

    /// Elements of one row that one thread adds up.
    private static let sumPiece = 65536

    /// All elements of a long row to one: pieces of equal length are summed side by side, then in order, and rounded once.
    private func sum(_ operation: Reduction, _ x: Tensor, into out: Tensor) {
        let (count, code) = (x.elementCount, x.dtype.kernelCode)
        let pieces = (count + Self.sumPiece - 1) / Self.sumPiece
        let total = withUnsafeTemporaryAllocation(of: Double.self, capacity: pieces) { sums in
            pool.run(pieces) { piece, _ in
                let start = piece * Self.sumPiece
                sums[piece] = rz_partial_sum(
                    operation.rawValue, code, Int64(min(Self.sumPiece, count - start)),
                    x.address + start * x.dtype.byteCount)
            }
            return sums.reduce(0, +)
        }
        rz_fill(code, 1, out.address, 1, total)
    }

    public func argmax(_ x: Tensor, into out: Tensor) {
        let span = recorder?.open("argmax", moving: [x, out])
        defer { span?.close() }
        let wide = (x.dtype == .bfloat16 || x.dtype == .float16 ? x.cast(to: .float32) : x).contiguous()
        let columns = x.shape.last!
        let target = out.address.assumingMemoryBound(to: Int64.self)
        forEachRow(out.elementCount, columns) { row in
            target[row] = rz_argmax_row(
                wide.dtype.kernelCode, Int64(columns), wide.address + row * columns * wide.dtype.byteCount, 1)
        }
    }

    /// Index values of an int32 or int64 tensor.
    private func indexValues(_ indices: Tensor, below limit: Int, _ operation: String) -> [Int] {
        let values =
            indices.dtype == .int32
            ? indices.values(Int32.self).map { Int($0) } : indices.values(Int64.self).map { Int($0) }
        if let bad = values.first(where: { $0 >= limit }) {
            fatalError("\(operation): index \(bad) is not below \(limit), the number of rows")
        }
        return values
    }

    public func gather(_ table: Tensor, _ indices: Tensor, into out: Tensor) {
        let span = recorder?.open("gather", moving: [indices, out, out])
        defer { span?.close() }
        let table = table.contiguous()
        let rowBytes = table.shape.dropFirst().reduce(1, *) * table.dtype.byteCount
        let rows = indexValues(indices, below: table.shape[0], "gather")
        forEachRow(rows.count, rowBytes / 4) { i in
            let target = out.address + i * rowBytes
            if rows[i] < 0 {
                target.initializeMemory(as: UInt8.self, repeating: 0, count: rowBytes)
            } else {
                target.copyMemory(from: table.address + rows[i] * rowBytes, byteCount: rowBytes)
            }
        }
    }

    public func scatterAdd(_ rows: Tensor, _ indices: Tensor, into out: Tensor) {
        let span = recorder?.open("scatterAdd", moving: [indices, rows, rows, rows])
        defer { span?.close() }
        let rows = rows.contiguous()
        let columns = out.shape.dropFirst().reduce(1, *)
        let bytes = out.dtype.byteCount
        let targets = indexValues(indices, below: out.shape[0], "scatterAdd")
        // Threads split the columns, so that every row is added to in the order of the indices.
        let block = max(64, (columns + 15) / 16)
        pool.run((columns + block - 1) / block) { piece, _ in
            let start = piece * block
            let count = Int64(min(block, columns - start))
            for (i, target) in targets.enumerated() where target >= 0 {
                let destination = out.address + (target * columns + start) * bytes
                _ = rz_binary(
                    BinaryOperation.add.rawValue, out.dtype.kernelCode, count, destination, 1,
                    rows.address + (i * columns + start) * bytes, 1, destination, 1)
            }
        }
    }

    public func softmax(_ x: Tensor, into out: Tensor) {
        let span = recorder?.open("softmax", moving: [x, out])
        defer { span?.close() }
        let x = x.contiguous()
        let (rows, columns, pitch) = extents(x)
        forEachRow(rows, columns) { row in
            rz_softmax_row(x.dtype.kernelCode, Int64(columns), x.address + row * pitch, out.address + row * pitch)
        }
    }

    public func softmaxPullback(_ p: Tensor, _ g: Tensor, into dx: Tensor) {
        let span = recorder?.open("softmaxPullback", moving: [p, g, dx])
        defer { span?.close() }
        let p = p.contiguous()
        let g = g.contiguous()
        let (rows, columns, pitch) = extents(p)
        forEachRow(rows, columns) { row in
            rz_softmax_pullback_row(
                p.dtype.kernelCode, Int64(columns), p.address + row * pitch, g.address + row * pitch,
                dx.address + row * pitch)
        }
    }

    public func finishSoftmax(reference: Tensor, sum: Tensor, sinks: Tensor?, values: Tensor, lse: Tensor) {
        let span = recorder?.open("finishSoftmax", moving: [reference, sum, values, values, lse])
        defer { span?.close() }
        // Rows are short: what a row does not change is read before.
        let (reference, sum, sinks) = (reference.contiguous(), sum.contiguous(), sinks?.doubles)
        let (rows, columns, pitch) = extents(values)
        let (heads, tokens) = (values.shape[1], values.shape[2])
        let (code, bytes, count) = (values.dtype.kernelCode, values.dtype.byteCount, Int64(columns))
        let (references, sums, places) = (reference.address, sum.address, values.address)
        let lse = lse.address.assumingMemoryBound(to: Double.self)
        withExtendedLifetime((reference, sum)) {
            forEachRow(rows, columns) { row in
                lse[row] = rz_finish_softmax_row(
                    code, count, references + row * bytes, sums + row * bytes,
                    sinks.map { $0[row / tokens % heads] } ?? -.infinity, places + row * pitch)
            }
        }
    }

    public func rowDots(_ a: Tensor, _ b: Tensor, into out: Tensor) {
        let span = recorder?.open("rowDots", moving: [a, b, out])
        defer { span?.close() }
        let (a, b) = (a.strides.last == 1 ? a : a.contiguous(), b.contiguous())
        let (rows, columns, pitch) = extents(b)
        let (shape, strides, outer) = (a.shape, a.strides, a.rank - 1)
        let (code, bytes, count) = (a.dtype.kernelCode, a.dtype.byteCount, Int64(columns))
        let (outCode, outBytes) = (out.dtype.kernelCode, out.dtype.byteCount)
        let (ours, theirs, sums) = (a.address, b.address, out.address)
        withExtendedLifetime((a, b)) {
            forEachRow(rows, columns) { row in
                var (place, rest) = (0, row)
                for axis in stride(from: outer - 1, through: 0, by: -1) {
                    place += rest % shape[axis] * strides[axis]
                    rest /= shape[axis]
                }
                let sum = rz_dot_row(code, count, ours + place * bytes, theirs + row * pitch)
                rz_fill(outCode, 1, sums + row * outBytes, 1, sum)
            }
        }
    }

    public func rmsNorm(_ x: Tensor, weight: Tensor, epsilon: Double, into out: Tensor) {
        let span = recorder?.open("rmsNorm", moving: [x, weight, out])
        defer { span?.close() }
        let x = x.contiguous()
        let weight = weight.contiguous()
        let (rows, columns, pitch) = extents(x)
        forEachRow(rows, columns) { row in
            rz_rms_norm_row(
                x.dtype.kernelCode, Int64(columns), x.address + row * pitch, weight.address, epsilon,
                out.address + row * pitch)
        }
    }

    public func addRMSNorm(
        _ x: Tensor, _ delta: Tensor, weight: Tensor, epsilon: Double, sum: Tensor, into out: Tensor
    ) {
        let span = recorder?.open("addRMSNorm", moving: [x, delta, weight, sum, out])
        defer { span?.close() }
        let x = x.contiguous()
        let delta = delta.contiguous()
        let weight = weight.contiguous()
        let (rows, columns, pitch) = extents(x)
        let (code, count) = (x.dtype.kernelCode, Int64(columns))
        // A row of the sum is still in the nearest cache when its norm is taken.
        forEachRow(rows, columns) { row in
            let at = row * pitch
            _ = rz_binary(
                BinaryOperation.add.rawValue, code, count, x.address + at, 1, delta.address + at, 1, sum.address + at,
                1)
            rz_rms_norm_row(code, count, sum.address + at, weight.address, epsilon, out.address + at)
        }
    }

    public func rmsNormPullback(_ x: Tensor, weight: Tensor, _ g: Tensor, epsilon: Double, dx: Tensor, dw: Tensor) {
        let span = recorder?.open("rmsNormPullback", moving: [x, weight, g, dx, dw])
        defer { span?.close() }
        rmsNormPullback(x, weight: weight, g, epsilon: epsilon, dx: dx, dw: dw, accumulate: false)
    }

    public func addRMSNormPullback(
        _ x: Tensor, weight: Tensor, _ g: Tensor, epsilon: Double, to dx: Tensor, dw: Tensor
    ) {
        let span = recorder?.open("addRMSNormPullback", moving: [x, weight, g, dx, dx, dw])
        defer { span?.close() }
        rmsNormPullback(x, weight: weight, g, epsilon: epsilon, dx: dx, dw: dw, accumulate: true)
    }

    private func rmsNormPullback(
        _ x: Tensor, weight: Tensor, _ g: Tensor, epsilon: Double, dx: Tensor, dw: Tensor, accumulate: Bool
    ) {
        let x = x.contiguous()
        let weight = weight.contiguous()
        let g = g.contiguous()
        let (rows, columns, pitch) = extents(x)
        sumOverRows(rows, columns, into: [dw]) { row, sums in
            rz_rms_norm_pullback_row(
                x.dtype.kernelCode, Int64(columns), x.address + row * pitch, weight.address, g.address + row * pitch,
                epsilon, accumulate ? 1 : 0, dx.address + row * pitch, sums[0])
        }
    }

    public func layerNorm(_ x: Tensor, weight: Tensor, bias: Tensor, epsilon: Double, into out: Tensor) {
        let span = recorder?.open("layerNorm", moving: [x, weight, bias, out])
        defer { span?.close() }
        let x = x.contiguous()
        let weight = weight.contiguous()
        let bias = bias.contiguous()
        let (rows, columns, pitch) = extents(x)
        forEachRow(rows, columns) { row in
            rz_layer_norm_row(
                x.dtype.kernelCode, Int64(columns), x.address + row * pitch, weight.address, bias.address, epsilon,
                out.address + row * pitch)
        }
    }

    public func layerNormPullback(
        _ x: Tensor, weight: Tensor, _ g: Tensor, epsilon: Double, dx: Tensor, dw: Tensor, db: Tensor
    ) {
        let span = recorder?.open("layerNormPullback", moving: [x, weight, g, dx, dw, db])
        defer { span?.close() }
        let x = x.contiguous()
        let weight = weight.contiguous()
        let g = g.contiguous()
        let (rows, columns, pitch) = extents(x)
        sumOverRows(rows, columns, into: [dw, db]) { row, sums in
            rz_layer_norm_pullback_row(
                x.dtype.kernelCode, Int64(columns), x.address + row * pitch, weight.address, g.address + row * pitch,
                epsilon, dx.address + row * pitch, sums[0], sums[1])
        }
    }

    /// Runs `body(row, sums)` over all rows, where `sums` are rows of zeros that belong to a fixed group of rows, then adds the
    /// groups into `outs` in order: the bits do not depend on the threads, the extra memory not on the number of rows.
    private func sumOverRows(
        _ rows: Int, _ columns: Int, into outs: [Tensor], _ body: (Int, [UnsafeMutableRawPointer]) -> Void
    ) {
        let groups = max(1, min(16, rows / 16))
        let partial = outs.map { Tensor.zeros([groups, columns], $0.dtype, on: self) }
        pool.run(groups) { group, _ in
            let sums = partial.map { $0.address + group * columns * $0.dtype.byteCount }
            for row in rows * group / groups..<rows * (group + 1) / groups { body(row, sums) }
        }
        for (out, partial) in zip(outs, partial) { reduce(.sum, partial, axes: [0], into: out) }
    }

    private func extents(_ x: Tensor) -> (rows: Int, columns: Int, pitch: Int) {
        let columns = x.shape.last!
        return (columns == 0 ? 0 : x.elementCount / columns, columns, columns * x.dtype.byteCount)
    }

    public func rotary(_ x: Tensor, cosine: Tensor, sine: Tensor, sign: Double, into out: Tensor) {
        let span = recorder?.open("rotary", moving: [x, cosine, sine, out])
        defer { span?.close() }
        let (tokens, heads, size) = (x.shape[1], x.shape[2], x.shape[3])
        let x = x.strides[3] == 1 || size == 1 ? x : x.contiguous()
        let cosine = cosine.contiguous()
        let sine = sine.contiguous()
        let batchPitch = cosine.shape[0] == 1 ? 0 : tokens * size / 2
        let bytes = x.dtype.byteCount
        let angleBytes = cosine.dtype.byteCount
        forEachRow(x.shape[0] * tokens, heads * size) { row in
            let (b, t) = (row / tokens, row % tokens)
            let angle = (b * batchPitch + t * size / 2) * angleBytes
            let source = b * x.strides[0] + t * x.strides[1]
            rz_rotary_rows(
                x.dtype.kernelCode, Int64(heads), Int64(size / 2), x.address + source * bytes, Int64(x.strides[2]),
                cosine.address + angle, sine.address + angle, sign, out.address + row * heads * size * bytes)
        }
    }

    public func crossEntropy(_ logits: Tensor, targets: Tensor, scale: Double, losses: Tensor, gradient: Tensor?) {
        let span = recorder?.open("crossEntropy", moving: [logits, targets, losses] + (gradient.map { [$0] } ?? []))
        defer { span?.close() }
        let logits = logits.contiguous()
        let targets = targets.contiguous()
        let (rows, columns, pitch) = extents(logits)
        let target = targets.address.assumingMemoryBound(to: Int32.self)
        let loss = losses.address.assumingMemoryBound(to: Double.self)
        forEachRow(rows, columns) { row in
            if target[row] < 0 {
                loss[row] = 0
                if let gradient {
                    (gradient.address + row * pitch).initializeMemory(as: UInt8.self, repeating: 0, count: pitch)
                }
                return
            }
            if Int(target[row]) >= columns {
                fatalError("crossEntropy: target \(target[row]) is not below the vocabulary's \(columns)")
            }
            loss[row] = rz_cross_entropy_row(
                logits.dtype.kernelCode, Int64(columns), logits.address + row * pitch, Int64(target[row]), scale,
                gradient.map { $0.address + row * pitch })
        }
    }
}
