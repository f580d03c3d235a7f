import AttentionCore
import DataCore
import Foundation
import TensorCore
import Testing
import ZooCore

/// What `attention.layout: auto` chooses, judged by the work that a run's own batches give each rank.
@Suite struct LayoutTests {
    private static let ranks = 8

    /// Over some batches, the worst share of the ranks' time that is spent computing: the mean rank's visible pairs over the busiest one's.
    private func worstBalance(_ job: Job) -> Double {
        let device = CPUDevice(threads: 1)
        var loader = job.run.dataset.makeLoader(rowsPerBatch: job.run.config.data.batch)
        let balances = (0..<6).map { _ -> Double in
            let batch = loader.next()
            func documents(_ columns: [Int]) -> Tensor {
                let ids = (0..<batch.rows).flatMap { row in
                    columns.map { batch.documents[row * batch.context + $0] }
                }
                return Tensor(ids, [batch.rows, columns.count], on: device)
            }
            let whole = Positions.contiguous(count: batch.context)
            let shards = job.run.plan.layout.shards(length: batch.context, size: Self.ranks)
            let work = shards.map { own in
                var mask = AttentionMask.causal
                mask.documents = .init(queries: documents(own.indices), keys: documents(whole.indices))
                return mask.visiblePairs(queries: own, keys: whole, batch: batch.rows)
            }
            return Double(work.reduce(0, +)) / Double(Self.ranks * work.max()!)
        }
        return balances.min()!
    }

    private static let ring = ["attention.backend=ring", "parallel.sequence=\(ranks)", "data.context=2048"]

    @Test func automaticLayoutBalancesCausalRows() throws {
        let job = try Job(Self.ring)
        #expect(job.run.plan.layout == .zigzag)
        #expect(worstBalance(job) >= 0.98)
    }

    /// Records of 20 to 600 bytes, a few in each row.
    @Test func automaticLayoutBalancesPackedRows() throws {
        let path = NSTemporaryDirectory() + "ringzoo-layout-\(UUID().uuidString).jsonl"
        defer { try? FileManager.default.removeItem(atPath: path) }
        let lines = (0..<200).map {
            #"{"prompt": "", "completion": "\#(String(repeating: "x", count: 20 + $0 * 37 % 580))"}"#
        }
        try lines.joined(separator: "\n").write(toFile: path, atomically: true, encoding: .utf8)
        let packed = Self.ring + ["data.kind=jsonl", "data.path=\(path)", "data.packing=true"]
        let job = try Job(packed)
        #expect(worstBalance(job) >= 0.9)
        // The layout for causal rows would not do.
        #expect(try worstBalance(Job(packed + ["attention.layout=zigzag"])) < 0.9)
    }
}
