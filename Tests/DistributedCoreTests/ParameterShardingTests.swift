import DistributedCore
import TensorCore
import Testing

@Suite struct ParameterShardingTests {
    @Test func aMeshKnowsItsGroups() throws {
        let shape = ProcessMesh.Shape(data: 2, sequence: 3, tensor: 2)
        let found = try InProcessRanks.run(12, threads: 1) { world, _ in
            let mesh = try ProcessMesh(shape, over: world)
            func members(_ group: any Communicator) throws -> [Int] {
                try group.allGather(Message([], integers: [world.rank])).map { $0.integers[0] }
            }
            return [
                [mesh.dataIndex], try members(mesh.sequence), try members(mesh.replicas), try members(mesh.tensor!),
            ]
        }
        #expect(found[0] == [[0], [0, 2, 4], [0, 2, 4, 6, 8, 10], [0, 1]])
        #expect(found[9] == [[1], [7, 9, 11], [1, 3, 5, 7, 9, 11], [8, 9]])
    }

    /// Every element is kept by exactly one rank of a cut group, and the parts join to the whole again.
    @Test(arguments: [1, 2, 4], [1, 3])
    func partsJoinToTheWhole(_ tensor: Int, _ rows: Int) throws {
        let shape = ProcessMesh.Shape(data: rows, tensor: tensor)
        _ = try InProcessRanks.run(shape.ranks, threads: 1) { world, device in
            let sharding = try ProcessMesh(shape, shardParameters: true, over: world).sharding
            for (extents, axis) in [([5, 3], 0), ([5, 3], 1), ([5, 3], nil), ([2], nil), ([7], 0), ([1, 2], 0)]
                as [([Int], Int?)]
            {
                let whole = Tensor.random(.normal, extents, key: 1, on: device)
                let part = sharding.part(of: extents, tensorAxis: axis).of(whole).contiguous()
                let elements = try world.allReduce(Double(part.elementCount))
                let copies = axis == nil ? tensor : 1
                #expect(Int(elements) == copies * whole.elementCount)
                let joined = try sharding.whole(part, tensorAxis: axis)
                #expect(joined.shape == extents && joined.doubles == whole.doubles, "\(extents), axis \(axis ?? -1)")
            }
        }
    }

    private struct Pair: Module {
        var matrix, vector: Tensor

        mutating func visit(_ visitor: inout ParameterVisitor) {
            visitor("matrix", &matrix)
            visitor("vector", &vector)
        }
    }

    /// Every rank uses all rows, and gets its own rows of the sum of the gradients.
    @Test(arguments: [1, 2, 3, 5])
    func gatheringSumsGradients(_ ranks: Int) throws {
        _ = try InProcessRanks.run(ranks, threads: 1) { world, device in
            let sharding = ParameterSharding(rows: world)
            let matrix = Tensor.random(.normal, [4, 3], .float64, key: 1, on: device)
            let vector = Tensor.random(.normal, [3], .float64, key: 2, on: device)
            func part(_ whole: Tensor) -> Tensor {
                sharding.part(of: whole.shape, tensorAxis: nil).of(whole).contiguous()
            }
            let factor = Double(world.rank + 1)
            let (_, gradient) = try valueAndGradient(at: Pair(matrix: part(matrix), vector: part(vector))) { pair in
                let whole = try sharding.gathered(pair)
                #expect(whole.matrix.doubles == matrix.doubles && whole.vector.doubles == vector.doubles)
                return (whole.matrix.squared.sum() + whole.vector.squared.sum()) * factor
            }
            let sum = 2 * Double(ranks * (ranks + 1) / 2)
            #expect(gradient.matrix.doubles == part(matrix * sum).doubles)
            #expect(gradient.vector.doubles == part(vector * sum).doubles)
            let norm = try sharding.globalNorm(of: gradient) { _ in nil }
            let expected = ((matrix * sum).sumOfSquares() + (vector * sum).sumOfSquares()).squareRoot()
            #expect(abs(norm / expected - 1) < 1e-12)
        }
    }

    /// The next block is asked for before this one is computed, in both directions, and each is gathered once per pass.
    @Test func blocksAreGatheredAheadInBothDirections() throws {
        _ = try InProcessRanks.run(2, threads: 1) { world, device in
            let blocks = (0..<4).map { index in
                Pair(
                    matrix: .full([1, 2], Double(index), on: device), vector: .full([1], Double(world.rank), on: device)
                )
            }
            let gathering = BlockGathering(blocks, over: world)
            var sent: [Int] = []
            func use(_ index: Int) throws {
                let whole = try gathering.whole(index, blocks[index])
                #expect(whole.matrix.doubles == [Double](repeating: Double(index), count: 4))
                #expect(whole.vector.doubles == [0, 1])
                sent.append(world.traffic.messages)
            }
            for index in 0..<4 { try use(index) }
            #expect(sent == [2, 3, 4, 4])
            // On a tape, as in a backward pass: the order turns round.
            let (_, _) = try valueAndGradient(at: blocks[3]) { block in
                let whole = try gathering.whole(3, block)
                #expect(whole.matrix.doubles == [3, 3, 3, 3])
                #expect(world.traffic.messages == 6)
                return block.vector.sum()
            }
            let whole = try gathering.whole(2, blocks[2])
            #expect(whole.matrix.doubles == [2, 2, 2, 2])
            try world.barrier()
        }
    }
}
