import BlockwiseAttention
import TensorCore

/// Where the time of some training steps went, operation by operation.
public struct StepProfile: Sendable {
    /// The span around a whole step; its own time is what passes between operations.
    public static let stepName = "step"

    /// What all calls of one operation took, per step.
    public struct Row: Sendable, Codable, Hashable {
        public var name: String
        public var calls: Double
        /// Without operations inside.
        public var seconds: Double
        /// Of the time of the step.
        public var share: Double
        /// 10^9 operations a second; 0 where nothing was counted.
        public var gigaflops: Double
        /// 10^9 bytes a second, operands and result counted once: from the caches, so it may be above the rate of memory.
        public var gigabytes: Double
    }

    /// Spans of each rank, in the order of their ends.
    public let ranks: [[OperationRecorder.Span]]
    /// Of this machine with the threads of all ranks.
    public let ceilings: MachineCeilings

    public init(ranks: [[OperationRecorder.Span]], ceilings: MachineCeilings) {
        self.ranks = ranks
        self.ceilings = ceilings
    }

    /// Steps of all ranks together.
    private var rankSteps: [OperationRecorder.Span] { ranks.joined().filter { $0.name == Self.stepName } }

    /// How many steps were recorded.
    public var steps: Int { rankSteps.count / max(1, ranks.count) }

    /// Seconds of a step, the mean over ranks and steps.
    public var stepSeconds: Double {
        rankSteps.reduce(0) { $0 + $1.end - $1.start } / Double(max(1, rankSteps.count))
    }

    /// One row per operation, means over ranks and steps, the longest first. Shares add up to 1.
    public var rows: [Row] {
        let count = Double(max(1, rankSteps.count))
        let total = stepSeconds
        return Dictionary(grouping: ranks.joined(), by: \.name).map { name, spans in
            let own = spans.reduce(0) { $0 + $1.ownSeconds }
            func rate(_ amount: (OperationRecorder.Span) -> Double) -> Double {
                // Rates are of the machine: ranks run side by side.
                own > 0 ? spans.reduce(0) { $0 + amount($1) } / own / 1e9 * Double(ranks.count) : 0
            }
            return Row(
                name: name == Self.stepName ? "(between operations)" : name,
                calls: Double(spans.count) / count, seconds: own / count, share: total > 0 ? own / count / total : 0,
                gigaflops: rate { $0.flops }, gigabytes: rate { $0.bytes })
        }.sorted { ($0.seconds, $1.name) > ($1.seconds, $0.name) }
    }
}
