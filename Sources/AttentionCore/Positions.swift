/// Global token positions of the rows or columns of a block, as runs; layouts (contiguous, zigzag, striped) are such data.
public struct Positions: Sendable, Hashable, Codable {
    /// start, start + stride, ..., `count` of them.
    public struct Run: Sendable, Hashable, Codable {
        public var start: Int
        public var count: Int
        public var stride: Int

        public init(start: Int, count: Int, stride: Int = 1) {
            self.start = start
            self.count = count
            self.stride = stride
        }
    }

    public var runs: [Run]

    /// Empty runs are dropped.
    public init(runs: [Run]) {
        if let bad = runs.first(where: { $0.start < 0 || $0.count < 0 || ($0.stride <= 0 && $0.count > 1) }) {
            fatalError("Positions: a run needs start >= 0, count >= 0 and stride > 0, got \(bad)")
        }
        self.runs = runs.filter { $0.count > 0 }
    }

    /// start, start + 1, ...
    public static func contiguous(from start: Int = 0, count: Int) -> Positions {
        Positions(runs: [Run(start: start, count: count)])
    }

    public var count: Int { runs.reduce(0) { $0 + $1.count } }

    /// Every position, in the order of the rows.
    public var indices: [Int] {
        runs.flatMap { run in (0..<run.count).map { run.start + $0 * run.stride } }
    }

    /// The positions of some of the rows.
    public func rows(_ range: Range<Int>) -> Positions {
        var kept: [Run] = []
        var row = 0
        for run in runs {
            let (first, end) = (max(range.lowerBound - row, 0), min(range.upperBound - row, run.count))
            if first < end {
                kept.append(Run(start: run.start + first * run.stride, count: end - first, stride: run.stride))
            }
            row += run.count
        }
        return Positions(runs: kept)
    }

    /// The same rows `distance` tokens further on.
    public func shifted(by distance: Int) -> Positions {
        Positions(runs: runs.map { Run(start: $0.start + distance, count: $0.count, stride: $0.stride) })
    }

    /// Adds rows at the end. A run that goes on where the last one ends becomes part of it, so that a sequence which grows
    /// token by token stays few runs.
    public mutating func append(_ others: Positions) {
        for next in others.runs {
            guard var last = runs.last else {
                runs.append(next)
                continue
            }
            if last.count == 1 && next.start > last.start { last.stride = next.start - last.start }
            let goesOn = next.start == last.start + last.count * last.stride
            if goesOn && (next.count == 1 || next.stride == last.stride) {
                last.count += next.count
                runs[runs.count - 1] = last
            } else {
                runs.append(next)
            }
        }
    }

    public var smallest: Int? { runs.map(\.start).min() }
    public var largest: Int? { runs.map { $0.start + ($0.count - 1) * $0.stride }.max() }
}
