import DataCore
import Foundation
import TensorCore
import Testing
import TrainingCore

/// The same training, whoever computes it and however it is cut.
@Suite struct EquivalenceTests {
    /// Rounding differs in every product's last bits; 50 steps of a stable run let that grow to a few 1e-6.
    static let fiftySteps = 1e-4

    static let models: [[String]] = [
        ["data.context=64"],
        ["model.width=128", "model.layers=4", "model.feedForward=384"],
    ]

    @Test(arguments: models)
    func backendsAndLayoutsGiveTheSameLosses(_ model: [String]) throws {
        let reference = try Job(model).losses(50)
        // Otherwise there would be nothing to compare.
        #expect(reference.last! < 0.75 * reference[0])
        let others = [
            ["attention.backend=blas"],
            ["attention.backend=ring", "attention.local=cpu", "attention.layout=zigzag", "parallel.sequence=4"],
            ["attention.backend=ring", "attention.local=cpu", "attention.layout=contiguous", "parallel.sequence=4"],
            ["attention.backend=ring", "attention.local=blas", "attention.layout=striped", "parallel.sequence=4"],
        ]
        for other in others {
            let losses = try Job(model + other).losses(50)
            let difference = relativeDifference(losses, reference)
            #expect(difference < Self.fiftySteps, "\(other)")
        }
    }

    /// 35 tokens are no multiple of 3, 6 or 8; 3 tokens leave a rank of 4 without any.
    @Test(arguments: [
        (35, 3, "zigzag"), (35, 4, "striped"), (35, 4, "contiguous"), (3, 4, "zigzag"), (3, 4, "striped"),
    ])
    func anyLengthTrainsOnAnyNumberOfRanks(_ context: Int, _ ranks: Int, _ layout: String) throws {
        let whole = try Job("data.context=\(context)").losses(10)
        let ring = try Job(
            "data.context=\(context)", "attention.backend=ring", "attention.layout=\(layout)",
            "parallel.sequence=\(ranks)"
        ).losses(10)
        #expect(relativeDifference(ring, whole) < 1e-5)
        #expect(ring.last! < ring[0])
    }

    /// Every strategy, and ranks of unequal shares: on an even number of ranks and one that divides neither heads nor tokens.
    @Test(arguments: [
        ["attention.strategy=gather", "parallel.sequence=3"], ["attention.strategy=ulysses", "parallel.sequence=3"],
        ["attention.strategy=ulysses", "parallel.sequence=4"], ["attention.strategy=mesh", "parallel.sequence=4"],
        ["attention.strategy=mesh", "parallel.sequence=6", "attention.headRanks=3"],
        ["attention.strategy=ring", "parallel.sequence=3", "parallel.shares=[3, 1, 2]"],
        ["attention.strategy=ring", "parallel.sequence=3", "parallel.shares=[3, 1, 2]", "attention.layout=contiguous"],
        ["attention.strategy=ulysses", "parallel.sequence=2", "parallel.shares=[1, 4]", "attention.layout=striped"],
    ])
    func strategiesAndSharesGiveTheSameLosses(_ settings: [String]) throws {
        let whole = try Job("data.context=35").losses(10)
        let shared = try Job(["data.context=35"] + settings).losses(10)
        #expect(relativeDifference(shared, whole) < 1e-5)
        #expect(shared.last! < shared[0])
    }

    @Test func ranksHoldBitEqualWeights() throws {
        for layout in ["zigzag", "striped"] {
            let job = try Job("attention.backend=ring", "attention.layout=\(layout)", "parallel.sequence=3")
            let contents = try job.onRanks { trainer, _ in
                _ = try trainer.run(10)
                return trainer.contents
            }
            #expect(contents[0].count == 3 * 21)
            for other in contents { #expect(differences(other, contents[0]) == []) }
        }
    }

    /// Cut in two, a batch gives the same gradient up to the order of its sum.
    @Test func accumulationEqualsOneLargeBatch() throws {
        func results(_ settings: String...) throws -> [StepReport] {
            try Job(settings).onRanks { trainer, _ in
                return try trainer.run(5)
            }[0]
        }
        let whole = try results("data.batch=4")
        let halves = try results("data.batch=2", "data.accumulate=2")
        #expect(relativeDifference(halves.map(\.loss), whole.map(\.loss)) < 1e-6)
        #expect(relativeDifference(halves.map(\.gradientNorm), whole.map(\.gradientNorm)) < 1e-5)
        #expect(halves.map(\.targets) == whole.map(\.targets))
        #expect(halves.map(\.tokens) == whole.map(\.tokens))
    }

    @Test(arguments: [1, 3])
    func evaluationEqualsAPlainSum(_ ranks: Int) throws {
        let job = try Job(
            "attention.backend=\(ranks == 1 ? "cpu" : "ring")", "parallel.sequence=\(ranks)", "data.validation=0.01")
        // Three rows a batch, and the last row of the text is padded: both ends are in.
        let batches = Array(job.run.dataset.evaluationBatches(rowsPerBatch: 3))
        #expect(batches.last!.targetCount < 3 * 32)
        let trained = try job.onRanks { trainer, _ in
            _ = try trainer.run(3)
            let (loss, targets) = try trainer.evaluate(batches)
            return (loss: loss, targets: targets, contents: trainer.contents, state: try trainer.stateText())
        }
        #expect(trained.allSatisfy { $0.loss == trained[0].loss && $0.targets == trained[0].targets })

        let plain = try Job().onRanks { trainer, device in
            try trainer.goOn(from: trained[0].state, contents: trained[0].contents, on: device)
            var likelihoods: [Double] = []
            for batch in batches {
                for row in 0..<batch.rows {
                    likelihoods += try trainer.logLikelihoods(
                        batch, row: row,
                        try job.run.attention.local?.make(local: nil, over: nil)
                            ?? job.run.attention.make(over: trainer.mesh.world))
                }
            }
            return likelihoods
        }[0]
        #expect(trained[0].targets == plain.count)
        #expect(abs(trained[0].loss + plain.reduce(0, +) / Double(plain.count)) < 1e-5)
    }

    @Test func rematerialisingBlocksChangesNoLossAndSavesMemory() throws {
        func measured(_ settings: String...) throws -> (losses: [Double], peak: Int) {
            try Job(settings + ["data.context=64"]).onRanks { trainer, device in
                (try trainer.losses(10), device.ledger.peak())
            }[0]
        }
        let plain = try measured()
        let again = try measured("memory.rematerialise=block")
        #expect(relativeDifference(again.losses, plain.losses) < 1e-6)
        #expect(again.peak < plain.peak * 3 / 4)
    }

    @Test(.enabled(if: shakespeare != nil, "needs RINGZOO_DATA with text/tinyshakespeare.txt"))
    func realTextTrainsTheSameOnARing() throws {
        let text = "data.path=\(shakespeare!)"
        let whole = try Job(text, "data.context=64").losses(30)
        let ring = try Job(text, "data.context=64", "attention.backend=ring", "parallel.sequence=4").losses(30)
        #expect(whole.last! < 0.75 * whole[0])
        #expect(relativeDifference(ring, whole) < Self.fiftySteps)
    }

    /// bfloat16 products with float32 master weights follow float32 closely while a model is this far from done.
    @Test func bfloat16Trains() throws {
        let plain = try Job().losses(30)
        let half = try Job("precision=bf16").losses(30)
        #expect(half.last! < 0.8 * half[0])
        #expect(relativeDifference(half, plain) < 0.03)
        #expect(half != plain)
        let ring = try Job("precision=bf16", "attention.backend=ring", "parallel.sequence=2").losses(30)
        #expect(relativeDifference(ring, half) < 0.03)
    }
}

private let shakespeare = ProcessInfo.processInfo.environment["RINGZOO_DATA"].map { $0 + "/text/tinyshakespeare.txt" }
    .flatMap { FileManager.default.fileExists(atPath: $0) ? $0 : nil }
