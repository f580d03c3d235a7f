import DistributedCore
import Foundation
import TensorCore
import Testing
import TrainingCore

/// Training on a mesh of ranks is the same training.
@Suite struct MeshTests {
    /// Ten steps at rate 1e-3 in float32, whose sums are taken in other orders.
    static let tenSteps = 1e-5

    /// Heads, rows and rank counts that all meshes of eight ranks can share.
    static let model = ["model.heads=8", "model.keyHeads=8", "data.batch=8", "memory.rematerialise=block"]

    struct Mesh: CustomTestStringConvertible, Sendable {
        var data, sequence, tensor: Int
        var sharded: Bool

        var testDescription: String { "\(data) x \(sequence) x \(tensor)\(sharded ? ", sharded" : "")" }

        var settings: [String] {
            MeshTests.model + [
                "parallel.data=\(data)", "parallel.sequence=\(sequence)", "parallel.tensor=\(tensor)",
                "parallel.shardParameters=\(sharded)", "attention.backend=\(sequence > 1 ? "ring" : "cpu")",
            ]
        }

        /// All that have so many ranks.
        static func all(_ ranks: Int) -> [Mesh] {
            let divisors = (1...ranks).filter { ranks % $0 == 0 }
            return divisors.flatMap { data in
                divisors.filter { ranks / data % $0 == 0 }.flatMap { sequence in
                    [false, true].map {
                        Mesh(data: data, sequence: sequence, tensor: ranks / data / sequence, sharded: $0)
                    }
                }
            }
        }
    }

    static let whole = Result { try Job(model).losses(10) }

    @Test(arguments: Mesh.all(4) + Mesh.all(8))
    func everyMeshTrainsLikeOneProcess(_ mesh: Mesh) throws {
        let whole = try Self.whole.get()
        #expect(whole.last! < 0.9 * whole[0], "there is something to compare")
        let losses = try Job(mesh.settings).onRanks { trainer, _ in try trainer.losses(10) }
        for other in losses { #expect(other == losses[0], "all ranks report the same") }
        #expect(relativeDifference(losses[0], whole) < Self.tenSteps)
    }

    /// Odd numbers of rows, of a vocabulary and of hidden values: nothing is a multiple of the ranks.
    @Test(arguments: [(3, 1, 1), (1, 3, 1), (1, 1, 3), (1, 5, 1)])
    func nothingNeedsToDivideEvenly(_ data: Int, _ sequence: Int, _ tensor: Int) throws {
        let odd = [
            "model.heads=3", "model.keyHeads=3", "model.headSize=16", "model.width=47", "model.feedForward=61",
            "model.vocabulary=257", "data.batch=5", "data.context=37",
        ]
        let whole = try Job(odd).losses(5)
        let losses = try Job(
            odd + [
                "parallel.data=\(data)", "parallel.sequence=\(sequence)", "parallel.tensor=\(tensor)",
                "parallel.shardParameters=true", "attention.backend=\(sequence > 1 ? "ring" : "cpu")",
            ]
        ).losses(5)
        #expect(relativeDifference(losses, whole) < Self.tenSteps)
    }

    /// Gathering and scattering move bits; sums are taken in the order of ranks either way. (Clipping would look at a norm, whose sum is
    /// taken in another order.) With bf16 what travels is rounded as each layer would round it, and gradients not at all. The two gradients
    /// of an embedding that is the head too are summed over the ranks one by one, where replicas first add their own two: equal but for
    /// roundings.
    @Test(arguments: ["float32", "bf16"], [false, true])
    func shardedParametersChangeNoBit(_ precision: String, _ tied: Bool) throws {
        let ring = [
            "parallel.sequence=3", "attention.backend=ring", "optimizer.clip=none", "memory.rematerialise=block",
            "precision=\(precision)", "model.tied=\(tied)",
        ]
        let replicated = try Job(ring).losses(6)
        let sharded = try Job(ring + ["parallel.shardParameters=true"]).losses(6)
        if tied {
            #expect(relativeDifference(sharded, replicated) < (precision == "bf16" ? 1e-4 : 1e-6))
        } else {
            #expect(sharded == replicated)
        }
    }

    /// What a rank sends for the parameters in a step: embedding, last norm and head once and blocks twice, in the compute type; and the
    /// others' rows of every gradient, in float32.
    @Test(arguments: [("float32", 4), ("bf16", 2)], [2, 3])
    func bytesOfParametersAreTheFormula(_ precision: (name: String, bytes: Int), _ ranks: Int) throws {
        // Without clipping a step still finds out the norm and the loss: a number each to every other rank.
        let scalars = 2 * 8
        let job = try Job([
            "parallel.data=\(ranks)", "parallel.shardParameters=true", "data.batch=\(ranks)", "attention.backend=cpu",
            "precision=\(precision.name)",
        ])
        let sent = try job.onRanks { trainer, _ in
            let before = trainer.mesh.world.traffic.bytes
            _ = try trainer.run(1)
            return trainer.mesh.world.traffic.bytes - before
        }
        let outline = try job.run.blueprint.make(seed: nil, on: CPUDevice(threads: 1))
        for rank in 0..<ranks {
            var expected = scalars * (ranks - 1)
            for (name, tensor) in outline.parameters {
                let rows = Range.piece(rank, of: ranks, count: tensor.shape[0]).count
                let row = tensor.elementCount / tensor.shape[0]
                let gathers = name.hasPrefix("layers") ? 2 : 1
                expected += gathers * precision.bytes * rows * row * (ranks - 1) + 4 * (tensor.shape[0] - rows) * row
            }
            #expect(sent[rank] == expected, "rank \(rank)")
        }
    }

    @Test func tiedHeadsAndAccumulationShardToo() throws {
        let settings = ["model.tied=true", "data.batch=4", "data.accumulate=2"]
        let whole = try Job(settings).losses(5)
        for mesh in [
            Mesh(data: 2, sequence: 2, tensor: 1, sharded: true), Mesh(data: 1, sequence: 2, tensor: 2, sharded: true),
        ] {
            let sharded = try Job(
                settings + mesh.settings.filter { $0.hasPrefix("parallel") || $0.hasPrefix("attention") }
            )
            .losses(5)
            #expect(relativeDifference(sharded, whole) < Self.tenSteps, "\(mesh)")
        }
    }

    /// A rank keeps its share of weights, gradients and optimizer state, and at most two blocks and the head whole at a time.
    @Test(arguments: [2, 4])
    func aRankHoldsItsShareOfTheState(_ ranks: Int) throws {
        let settings = ["model.layers=8", "memory.rematerialise=block"]
        func peaks(_ settings: [String]) throws -> [(state: [Int], working: Int)] {
            try Job(settings).onRanks { trainer, device in
                _ = try trainer.run(1)
                device.ledger.resetPeak()
                _ = try trainer.run(1)
                let state = [MemoryKind.parameters, .gradients, .optimizer].map { device.ledger.peak($0) }
                return (state, device.ledger.peak())
            }
        }
        let ring = settings + ["parallel.sequence=\(ranks)", "attention.backend=ring"]
        let blueprint = try Job(settings).run.blueprint
        let bytes = 4 * blueprint.parameterCount
        for rank in try peaks(ring + ["parallel.shardParameters=true"]) {
            // Rows are shared to within one row of each of the parameters.
            let slack = 8 * 12 * 256 * 4
            #expect(rank.state[0] <= bytes / ranks + slack, "weights")
            // And a whole one while it is summed and cut.
            let largest = 256 * 64 * 4
            #expect(rank.state[1] <= bytes / ranks + slack + largest, "gradients")
            #expect(rank.state[2] <= 2 * (bytes / ranks + slack), "optimizer")
        }
        let replicated = try peaks(ring)[0]
        let sharded = try peaks(ring + ["parallel.shardParameters=true"])[0]
        // One block and its gradient, another that arrives, and what is joined, more than without.
        let block = bytes / 8
        #expect(sharded.working <= replicated.working + 5 * block, "\(sharded.working) and \(replicated.working) bytes")
        #expect(sharded.state.reduce(0, +) < replicated.state.reduce(0, +) / ranks + 4 * bytes / 10)
    }

    @Test func evaluationOnAMeshEqualsOneRank() throws {
        let settings = ["data.validation=0.01"]
        let batches = Array(try Job(settings).run.dataset.evaluationBatches(rowsPerBatch: 4))
        let whole = try Job(settings).onRanks { trainer, _ in try trainer.evaluate(batches).loss }[0]
        let mesh = Mesh(data: 2, sequence: 1, tensor: 2, sharded: true)
        let parallel = mesh.settings.filter { $0.hasPrefix("parallel") }
        let found = try Job(settings + parallel).onRanks { trainer, _ in try trainer.evaluate(batches) }
        for rank in found { #expect(abs(rank.loss / whole - 1) < 1e-6 && rank.targets == found[0].targets) }
    }
}
