import AttentionCore

// Positions as the integers of a message: for each, the number of its runs, then start, count and stride of every run.
extension Positions {
    public static func integers(_ positions: [Positions]) -> [Int] {
        positions.flatMap { [$0.runs.count] + $0.runs.flatMap { [$0.start, $0.count, $0.stride] } }
    }

    /// The inverse of `integers`.
    public static func list(_ integers: [Int]) -> [Positions] {
        var list: [Positions] = []
        var rest = integers[...]
        while let runs = rest.popFirst() {
            list.append(
                Positions(
                    runs: stride(from: rest.startIndex, to: rest.startIndex + 3 * runs, by: 3).map {
                        Run(start: rest[$0], count: rest[$0 + 1], stride: rest[$0 + 2])
                    }))
            rest = rest.dropFirst(3 * runs)
        }
        return list
    }
}
