import DistributedCore
import Synchronization
import TensorCore
import Testing

/// No silent hang: a rank that fails or falls silent ends all ranks, soon, with an error that says who waited for whom.
@Suite struct LostRankTests {
    private struct Broken: Error, Equatable { var rank: Int }

    /// What the ranks that did not fail first saw.
    private final class Witness: Sendable {
        private let errors = Mutex<[Int: RingZooError]>([:])

        func watch<R>(_ rank: Int, _ body: () throws -> R) throws -> R {
            do { return try body() } catch let error as RingZooError {
                errors.withLock { $0[rank] = error }
                throw error
            }
        }

        var seen: [Int: RingZooError] { errors.withLock { $0 } }
    }

    /// Calls every operation that can wait; each is a way to be left hanging.
    enum Operation: String, CaseIterable, Sendable {
        case rotate, allGather, allReduce, reduceScatter, allToAll, broadcast, barrier, split

        func callAsFunction(_ communicator: any Communicator) throws {
            let tensor = Tensor.zeros([communicator.size, 25], on: communicator.device)
            switch self {
            case .rotate: _ = try communicator.startRotate(Message([tensor])).wait()
            case .allGather: _ = try communicator.allGather(Message([tensor]))
            case .allReduce: _ = try communicator.allReduce(tensor)
            case .reduceScatter: _ = try communicator.reduceScatter(tensor)
            case .allToAll: _ = try communicator.allToAll((0..<communicator.size).map { _ in Message([tensor]) })
            case .broadcast: _ = try communicator.broadcast(Message([tensor]), from: 0)
            case .barrier: try communicator.barrier()
            case .split: _ = try communicator.split(color: 0)
            }
        }
    }

    @Test(arguments: Operation.allCases)
    func aRankThatThrowsEndsAllWithItsError(_ operation: Operation) throws {
        let witness = Witness()
        let clock = ContinuousClock()
        let start = clock.now
        #expect(throws: Broken(rank: 2)) {
            try InProcessRanks.run(4, deadline: 60) { communicator, _ in
                try witness.watch(communicator.rank) {
                    try operation(communicator)
                    if communicator.rank == 2 { throw Broken(rank: 2) }
                    // One of these waits for rank 2, whichever way the messages go round.
                    for _ in 0..<4 { try operation(communicator) }
                }
            }
        }
        #expect(clock.now - start < .seconds(20), "nobody waits for the deadline when the failure is known")
        #expect(witness.seen.count == 3, "\(witness.seen)")
        for (rank, error) in witness.seen {
            #expect(error.code == .failed, "the code of the rank at fault")
            #expect(error.message.contains("rank \(rank) lost rank"), "\(error)")
            #expect(error.message.contains("rank 2 failed"), "\(error)")
        }
    }

    @Test func aRankThatThrowsEndsThoseWhoWaitInSubgroups() throws {
        let witness = Witness()
        let clock = ContinuousClock()
        let start = clock.now
        #expect(throws: Broken(rank: 3)) {
            try InProcessRanks.run(5, deadline: 60) { communicator, _ in
                try witness.watch(communicator.rank) {
                    let half = try communicator.split(color: communicator.rank < 2 ? 0 : 1)
                    if communicator.rank == 3 { throw Broken(rank: 3) }
                    // Ranks 0 and 1 never talk to rank 3; they end all the same, not only when they are done.
                    while clock.now - start < .seconds(20) { try half.barrier() }
                }
            }
        }
        #expect(clock.now - start < .seconds(20))
        #expect(witness.seen.keys.sorted() == [0, 1, 2, 4])
    }

    @Test(arguments: Operation.allCases)
    func aSilentRankIsAnErrorThatNamesIt(_ operation: Operation) throws {
        let deadline = 0.2
        let witness = Witness()
        let clock = ContinuousClock()
        let start = clock.now
        let error = #expect(throws: RingZooError.self) {
            try InProcessRanks.run(3, deadline: deadline) { communicator, _ in
                // Rank 1 has nothing to say and does not fail either.
                if communicator.rank == 1 { return }
                try witness.watch(communicator.rank) { try operation(communicator) }
            }
        }
        let took = clock.now - start
        #expect(took >= .seconds(deadline) && took < .seconds(20), "\(took)")
        // To one peer, or to both.
        let bytes = operation == .allGather ? 2 * 3 * 25 * 4 : 3 * 25 * 4
        let message = try #require(error).message
        // The one who waited for rank 1 itself hears nothing; one who waited for that one may fail first.
        #expect(error?.code == .interrupted)
        #expect(message.contains("\(deadline) s"), "\(message)")
        #expect(message.contains("in \(operation.rawValue) (operation 1"), "\(message)")
        let naming = witness.seen.values.filter { $0.message.contains("lost rank 1 in") }
        #expect(!naming.isEmpty, "\(witness.seen)")
        if operation == .rotate || operation == .allGather {
            #expect(message.contains("\(bytes) bytes"), "\(message)")
        }
    }

    /// The deadline bounds one wait, not the work: ranks that compute for longer than the deadline, in turn and in pieces, are alive.
    @Test func slowPeersAreNotLost() throws {
        let deadline = 1.0
        let clock = ContinuousClock()
        let start = clock.now
        let sums = try InProcessRanks.run(3, deadline: deadline) { communicator, device in
            var sum = 0.0
            for round in 0..<12 {
                if round % 3 == communicator.rank {
                    // Busy for an eighth of the deadline.
                    let until = clock.now + .seconds(deadline / 8)
                    while clock.now < until {}
                }
                let message = try communicator.startRotate(Message([Tensor([Double(round)], on: device)])).wait()
                sum += message.tensors[0].item
            }
            return sum
        }
        #expect(clock.now - start > .seconds(deadline), "the run has to last longer than the deadline to say anything")
        #expect(sums == [66, 66, 66])
    }

    @Test func ranksThatDisagreeAboutShapesAreTold() throws {
        let error = #expect(throws: RingZooError.self) {
            try InProcessRanks.run(2) { communicator, device in
                _ = try communicator.allReduce(Tensor.zeros([communicator.rank + 1], on: device))
            }
        }
        let message = try #require(error).message
        #expect(
            message.contains("disagree in allReduce") && message.contains("[1]") && message.contains("[2]"),
            "\(message)")
    }
}
