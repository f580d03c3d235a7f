import AttentionCore

/// The heads of one rank: whole groups of query heads that share a key/value head.
struct HeadShare {
    let keyHeads: Range<Int>
    let heads: Range<Int>

    /// Rank r of N takes key/value heads Hkv r / N ..< Hkv (r + 1) / N: as even as whole heads go, none where N > Hkv leaves none.
    static func all(_ problem: AttentionProblem, ranks: Int) -> [HeadShare] {
        let group = problem.heads / problem.keyHeads
        return (0..<ranks).map { rank in
            let own = problem.keyHeads * rank / ranks..<problem.keyHeads * (rank + 1) / ranks
            return HeadShare(keyHeads: own, heads: own.lowerBound * group..<own.upperBound * group)
        }
    }
}
