import Foundation
import TensorCore

/// `metrics.jsonl`: one JSON object per line, flushed as it is written, so that other programs can follow a run.
final class MetricsFile: Sendable {
    private let path: String
    private let handle: FileHandle

    /// Opens the file for appending; lines of steps after `step` (written by a run that was killed after its last checkpoint) are dropped,
    /// so that each step appears once.
    init(_ path: String, goingOnFrom step: Int) throws {
        self.path = path
        do {
            var kept = ""
            if step > 0, let old = try? String(contentsOfFile: path, encoding: .utf8) {
                for line in old.split(separator: "\n") {
                    // A line cut off by a kill is dropped too.
                    guard let object = try? JSONSerialization.jsonObject(with: Data(line.utf8)) as? [String: Any],
                        let of = object["step"] as? Int, of <= step
                    else { continue }
                    kept += line + "\n"
                }
            }
            try Data(kept.utf8).write(to: URL(fileURLWithPath: path), options: .atomic)
            handle = try FileHandle(forWritingTo: URL(fileURLWithPath: path))
            try handle.seekToEnd()
        } catch {
            throw RingZooError(.inputOutput, "cannot write \(path)", underlying: error)
        }
    }

    func append(_ object: [String: Any]) throws {
        do {
            var line = try JSONSerialization.data(
                withJSONObject: object, options: [.sortedKeys, .withoutEscapingSlashes])
            line.append(0x0a)
            try handle.write(contentsOf: line)
        } catch {
            throw RingZooError(.inputOutput, "cannot write \(path)", underlying: error)
        }
    }
}
