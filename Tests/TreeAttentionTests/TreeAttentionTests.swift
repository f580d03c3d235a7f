import AttentionCore
import CPUAttention
import ConformanceKit
import DistributedCore
import TensorCore
import Testing
import TreeAttention

/// Tree attention against the oracle, on any number of ranks: queries on all of them, keys cut over them.
@Suite struct TreeAttentionTests {
    static func shards(_ length: Int, _ ranks: Int, _ layout: SequenceLayout) -> [Positions] {
        (0..<ranks).map { layout.positions(length: length, rank: $0, size: ranks) }
    }

    /// Every rank conforms, and has the bits of rank 0.
    func check(_ input: AttentionCase, _ truth: AttentionTruth, _ local: LocalKernel, _ shards: [Positions]) throws {
        let outcomes = try AttentionOutcome.withSharedQueries(input, shards: shards, local.tree)
        let violations = truth.violations(outcomes[0])
        #expect(violations.isEmpty, "\(local), \(shards.count) ranks:\n\(violations.joined(separator: "\n"))")
        let others = outcomes.indices.filter { outcomes[$0] != outcomes[0] }
        #expect(others.isEmpty, "\(input): ranks \(others) of \(shards.count) have other bits than rank 0")
    }

    @Test(arguments: AttentionConformance.cases(full: TestScale.full))
    func treeEqualsOracle(_ input: AttentionCase) throws {
        let truth = AttentionTruth(input)
        for ranks in TestScale.sizes {
            // Keys stay where they are, so layouts differ in nothing but which rank sees what.
            for layout in TestScale.full ? SequenceLayout.allCases : [.striped] {
                try check(input, truth, .cpu, Self.shards(input.length, ranks, layout))
            }
        }
        try check(input, truth, .blas, Self.shards(input.length, 3, .zigzag))
    }

    @Test(arguments: AttentionConformance.adversarialCases())
    func treeSurvivesAdversarialLogits(_ input: AttentionCase) throws {
        let truth = AttentionTruth(input)
        for ranks in TestScale.sizes {
            try check(input, truth, .cpu, Self.shards(input.length, ranks, .contiguous))
        }
        try check(input, truth, .blas, Self.shards(input.length, 4, .striped))
    }

    /// Ranks without a key take part in the exchange and change nothing.
    @Test(arguments: LocalKernel.allCases)
    func emptyShardsAnywhere(_ local: LocalKernel) throws {
        let nothing = Positions.contiguous(count: 0)
        let halves = [Positions.contiguous(count: 20), .contiguous(from: 20, count: 13)]
        for terms in [AttentionCase.Terms(), .init(causal: true, documentLengths: [10, 23], sinks: true)] {
            let input = AttentionCase("empty shards", batch: 2, heads: 2, length: 33, headSize: 12, spread: 6, terms)
            let truth = AttentionTruth(input)
            try check(input, truth, local, [nothing, halves[0], halves[1]])
            try check(input, truth, local, [halves[1], nothing, halves[0]])
            try check(input, truth, local, [nothing, nothing, .contiguous(count: 33), nothing])
        }
    }

    /// What a state and gradients hold before the call counts once, whatever the number of ranks.
    @Test(arguments: TestScale.sizes)
    func whatWasThereBeforeCountsOnce(_ ranks: Int) throws {
        let input = AttentionCase(
            "in two calls", heads: 4, keyHeads: 2, length: 60, headSize: 16, spread: 3,
            .init(causal: true, sinks: true, biasAxes: [false, true, true, true]))
        let cut = 23
        let errors = try InProcessRanks.run(ranks, threads: 2) { communicator, device -> [Double] in
            let (all, local) = (input.inputs(on: device), CPUAttention())
            let tree = TreeAttention(local, over: communicator)
            let own = SequenceLayout.striped.positions(
                length: input.length - cut, rank: communicator.rank, size: communicator.size)
            let rest = Positions(
                runs: own.runs.map { .init(start: cut + $0.start, count: $0.count, stride: $0.stride) })
            let first = (all.k.slice(axis: 2, 0..<cut), all.v.slice(axis: 2, 0..<cut))
            let mine = (all.k.shard(axis: 2, at: rest), all.v.shard(axis: 2, at: rest))
            let (early, late) = (
                all.problem.keyed(by: .contiguous(count: cut), documents: nil),
                all.problem.keyed(by: rest, documents: nil)
            )
            var state = AttentionState(early, batch: 1, on: device)
            try local.forward(q: all.q, k: first.0, v: first.1, into: &state, early)
            try tree.forward(q: all.q, k: mine.0, v: mine.1, into: &state, late)
            let result = state.finish(all.problem.mask.sinks)
            let whole = try local.forward(q: all.q, k: all.k, v: all.v, all.problem)
            let expected = try local.backward(dOut: all.dOut, q: all.q, k: all.k, v: all.v, whole, all.problem)

            let delta = (all.dOut * whole.out).sum(axes: [3])
            var gradients = AttentionGradients(early, batch: 1, on: device)
            try local.backward(
                dOut: all.dOut, q: all.q, k: first.0, v: first.1, lse: whole.lse, delta: delta, into: &gradients, early)
            var sums = AttentionGradients(late, batch: 1, on: device)
            (sums.q, sums.bias) = (gradients.q, gradients.bias)
            try tree.backward(
                dOut: all.dOut, q: all.q, k: mine.0, v: mine.1, lse: whole.lse, delta: delta, into: &sums, late)
            let pairs = [
                (result.out, whole.out), (result.lse, whole.lse), (sums.q, expected.q), (sums.bias!, expected.bias!),
            ]
            return pairs.map { got, wanted in
                zip(got.doubles, wanted.doubles).reduce(0) { max($0, abs($1.0 - $1.1)) }
            }
        }
        // Values of about one, summed in another order in float32.
        for (rank, differences) in errors.enumerated() {
            #expect(differences.allSatisfy { $0 < 5e-6 }, "rank \(rank) of \(ranks): \(differences)")
        }
    }

    /// Decoding: one new token, or a few, against a long cache.
    @Test(arguments: [1, 2, 7, 31, 8_192] + (TestScale.full ? [64_000] : []), [1, 5])
    func fewQueriesAgainstALongCache(_ length: Int, _ rows: Int) throws {
        let (heads, keyHeads, headSize) = (4, 2, 32)
        let queries = Positions.contiguous(from: max(0, length - rows), count: min(rows, length))
        @Sendable func problem(_ keys: Positions) -> AttentionProblem {
            AttentionProblem(
                heads: heads, keyHeads: keyHeads, headSize: headSize, dtype: .float32, queries: queries, keys: keys,
                mask: .causal)
        }
        @Sendable func draw(_ heads: Int, _ count: Int, _ key: UInt64, _ device: any Device) -> Tensor {
            Tensor.random(.normal, [1, heads, count, headSize], key: key, on: device)
        }
        let device = CPUDevice(threads: 1)
        let truth = ReferenceAttention.compute(
            q: draw(heads, queries.count, 1, device) * 3, k: draw(keyHeads, length, 2, device),
            v: draw(keyHeads, length, 3, device), problem(.contiguous(count: length)))
        for ranks in [1, 2, 3, 8] {
            let shards = Self.shards(length, ranks, .zigzag)
            let outs = try InProcessRanks.run(ranks, threads: 2) { communicator, device -> [[Double]] in
                let own = shards[communicator.rank]
                let result = try TreeAttention(CPUAttention(), over: communicator).forward(
                    q: draw(heads, queries.count, 1, device) * 3,
                    k: draw(keyHeads, length, 2, device).shard(axis: 2, at: own),
                    v: draw(keyHeads, length, 3, device).shard(axis: 2, at: own), problem(own))
                return [result.out.doubles, result.lse.doubles]
            }
            for (name, index, wanted) in [("out", 0, truth.out), ("lse", 1, truth.lse)] {
                let violation = Tolerance(absolute: 2e-6, relative: 1e-5).violation(outs[0][index], wanted)
                #expect(violation == nil, "\(name), \(ranks) ranks: \(violation ?? "")")
            }
            let others = outs.indices.filter { outs[$0] != outs[0] }
            #expect(others.isEmpty, "ranks \(others) of \(ranks) have other bits than rank 0")
        }
    }

    /// One exchange forward, whatever the number of keys; backward one sum of dQ.
    @Test(arguments: TestScale.sizes)
    func trafficEqualsTheFormula(_ ranks: Int) throws {
        let (batch, heads, headSize) = (2, 4, 16)
        for (rows, keys) in [(1, 8), (1, 256), (3, 40)] {
            let sent = try InProcessRanks.run(ranks, threads: 2) { communicator, device -> [Traffic] in
                let own = SequenceLayout.contiguous.positions(length: keys, rank: communicator.rank, size: ranks)
                let problem = AttentionProblem(
                    heads: heads, keyHeads: 1, headSize: headSize, dtype: .float32,
                    queries: .contiguous(from: keys, count: rows), keys: own, mask: .causal)
                func ones(_ heads: Int, _ count: Int) -> Tensor { .ones([batch, heads, count, headSize], on: device) }
                let (q, k, v) = (ones(heads, rows), ones(1, own.count), ones(1, own.count))
                let tree = TreeAttention(CPUAttention(), over: communicator)
                let start = communicator.traffic
                let result = try tree.forward(q: q, k: k, v: v, problem)
                let forward = communicator.traffic
                _ = try tree.backward(dOut: q, q: q, k: k, v: v, result, problem)
                return [forward - start, communicator.traffic - forward]
            }
            let (state, dQ) = (batch * heads * rows * (headSize + 2) * 4, batch * heads * rows * headSize * 4)
            for traffic in sent {
                #expect(traffic[0] == Traffic(messages: ranks - 1, bytes: (ranks - 1) * state))
                #expect(traffic[1] == Traffic(messages: ranks - 1, bytes: (ranks - 1) * dQ))
            }
        }
    }

    /// Queries that are cut over the ranks, as in training, are refused and not computed wrongly.
    @Test func otherQueriesOnAnotherRankAreRefused() throws {
        let error = #expect(throws: RingZooError.self) {
            try InProcessRanks.run(3, threads: 2) { communicator, device in
                let own = SequenceLayout.zigzag.positions(length: 18, rank: communicator.rank, size: 3)
                let problem = AttentionProblem(
                    heads: 1, keyHeads: 1, headSize: 8, dtype: .float32, queries: own, keys: own, mask: .causal)
                let x = Tensor.ones([1, 1, own.count, 8], on: device)
                _ = try TreeAttention(CPUAttention(), over: communicator).forward(q: x, k: x, v: x, problem)
            }
        }
        #expect(error?.code == .config && error?.message.contains("other queries on rank") == true)
    }
}
