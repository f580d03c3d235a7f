import Foundation
import TensorCore

extension StepProfile {
    /// The spans in the Trace Event Format ("JSON Object Format", complete events), which Perfetto and Chrome open: a process for the
    /// run, a thread for each rank, times in microseconds from the first span.
    public func trace() throws -> Data {
        let origin = ranks.joined().map(\.start).min() ?? 0
        var events: [TraceEvent] = [
            TraceEvent(name: "process_name", phase: "M", rank: 0, label: "ringzoo train")
        ]
        for (rank, spans) in ranks.enumerated() {
            events.append(TraceEvent(name: "thread_name", phase: "M", rank: rank, label: "rank \(rank)"))
            events += spans.sorted { ($0.start, $1.end) < ($1.start, $0.end) }.map {
                TraceEvent($0, rank, from: origin)
            }
        }
        let encoder = JSONEncoder()
        encoder.outputFormatting = [.sortedKeys, .withoutEscapingSlashes]
        return try encoder.encode(Trace(traceEvents: events, displayTimeUnit: "ms"))
    }

    private struct Trace: Encodable {
        var traceEvents: [TraceEvent]
        var displayTimeUnit: String
    }
}

/// One entry of a trace, with the format's own keys.
private struct TraceEvent: Encodable {
    struct Arguments: Encodable {
        var name: String?
        var gigaflops, gigabytes: Double?
    }

    let name, cat, ph: String
    let pid, tid: Int
    /// Microseconds; metadata has neither.
    var ts, dur: Double?
    let args: Arguments

    init(name: String, phase: String, rank: Int, label: String) {
        (self.name, cat, ph, pid, tid) = (name, "__metadata", phase, 0, rank)
        args = Arguments(name: label)
    }

    init(_ span: OperationRecorder.Span, _ rank: Int, from origin: Double) {
        let seconds = span.end - span.start
        func rate(_ amount: Double) -> Double? { amount > 0 && seconds > 0 ? amount / seconds / 1e9 : nil }
        (name, cat, ph, pid, tid) = (span.name, "operation", "X", 0, rank)
        (ts, dur) = ((span.start - origin) * 1e6, seconds * 1e6)
        args = Arguments(gigaflops: rate(span.flops), gigabytes: rate(span.bytes))
    }
}
