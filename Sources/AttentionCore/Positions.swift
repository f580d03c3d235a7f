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

    public var smallest: Int? { runs.map(\.start).min() }
    public var largest: Int? { runs.map { $0.start + ($0.count - 1) * $0.stride }.max() }
}
