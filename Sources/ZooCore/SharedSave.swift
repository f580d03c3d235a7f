import CheckpointCore
import DistributedCore
import Foundation
import TensorCore

/// A checkpoint that rank 0 writes of tensors that lie over all ranks; every rank makes it and calls `run`.
///
/// Rank 0 writes on a thread of its own while the ranks keep talking: a large file takes longer to write than a silent peer is given.
/// A tensor that lies over ranks is put together when its turn comes, so that one is whole at a time.
struct SharedSave: Sendable {
    /// What this rank has of a tensor that lies over the ranks as a parameter does.
    struct Part: Sendable {
        /// In the file.
        var name: String
        var parameter: String
        var tensor: Tensor
    }

    private let parts: [Part]
    private let model: ShardedBlueprint
    private let ranks: any Communicator
    private let patience: Double

    /// - Parameter patience: seconds rank 0 waits for its writer before it says a word to the others; less than their deadline.
    init(_ parts: [Part], of model: ShardedBlueprint, over ranks: any Communicator, patience: Double) {
        (self.parts, self.model, self.ranks, self.patience) = (parts, model, ranks, patience)
    }

    /// What stands between the thread that writes and the one that talks.
    private enum Desk: Sendable {
        case empty
        /// The writer wants this part whole.
        case asked(Int)
        case answered(Tensor)
        /// The ranks cannot give what was asked for.
        case failed(any Error)
        case written(Result<Void, any Error>)
    }

    /// What rank 0 tells the others, where it is not the number of a part that is wanted whole.
    private enum Word {
        static let patience = -1
        static let done = -2
    }

    /// - Parameter write: writes all tensors, in their order; called on rank 0 alone.
    /// - Throws: what `write` throws on rank 0, what ranks throw.
    func run(_ write: @escaping @Sendable ([TensorSource]) throws -> Void) throws {
        if ranks.size == 1 { return try write(parts.map { source($0) { $0 } }) }
        let desk = Monitor(Desk.empty)
        if ranks.rank == 0 {
            // The thread ends some time after the work. It must hold nothing then: weights would be copied by the next step, and a folder
            // would stay locked.
            let work = Monitor<(@Sendable () throws -> Void)?>({ try write(sources(desk)) })
            Thread.detachNewThread {
                let result = Result { try work.update { $0.take() }!() }
                desk.update { $0 = .written(result) }
            }
        }
        do {
            while true {
                let word = try ranks.rank == 0 ? nextWord(desk) : Word.patience
                let said = try ranks.allGather(Message([], integers: [word]))[0].integers[0]
                if said == Word.done { return }
                if said == Word.patience { continue }
                let part = parts[said]
                let whole = try model.sharding.whole(part.tensor, tensorAxis: model.tensorAxis(of: part.parameter))
                if ranks.rank == 0 { desk.update { $0 = .answered(whole) } }
            }
        } catch {
            desk.update { if case .asked = $0 { $0 = .failed(error) } }
            throw error
        }
    }

    /// On rank 0: what the writer wants, when it wants something.
    private func nextWord(_ desk: Monitor<Desk>) throws -> Int {
        let word = desk.wait(until: MonotonicClock.seconds + patience) { desk -> Result<Int, any Error>? in
            switch desk {
            case .asked(let index): .success(index)
            case .written(let result): result.map { Word.done }
            case .empty, .answered, .failed: nil
            }
        }
        return try word?.get() ?? Word.patience
    }

    /// The whole tensors as the writer sees them.
    private func sources(_ desk: Monitor<Desk>) -> [TensorSource] {
        parts.indices.map { index in
            source(parts[index]) { tensor in
                if model.isWhole { return tensor }
                desk.update { $0 = .asked(index) }
                return try desk.wait(until: .infinity) { desk -> Tensor? in
                    switch desk {
                    case .answered(let whole):
                        desk = .empty
                        return whole
                    case .failed(let error): throw error
                    case .empty, .asked, .written: return nil
                    }
                }!
            }
        }
    }

    private func source(_ part: Part, _ whole: @escaping @Sendable (Tensor) throws -> Tensor) -> TensorSource {
        let info = TensorInfo(name: part.name, shape: model.shape(of: part.parameter), dtype: part.tensor.dtype)
        return TensorSource(info) { sink in try whole(part.tensor).withBytes { try sink($0) } }
    }
}
