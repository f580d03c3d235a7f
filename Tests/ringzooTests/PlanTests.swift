import Foundation
import Testing

/// Plans on the command line.
@Suite struct PlanTests {
    /// With run.yaml, a small run on one rank unless these lines say otherwise, and its corpus.
    private func folder(with lines: String = "") throws -> TemporaryFolder {
        let folder = try TemporaryFolder()
        try folder.write("corpus.txt", String(repeating: "The harbour lies still. ", count: 100))
        try folder.write(
            "run.yaml",
            """
            model: { name: llama, preset: debug }
            data: { path: corpus.txt, context: 64, batch: 2 }
            run: { directory: out, steps: 2, evaluateEvery: none }
            \(lines)
            """)
        return folder
    }

    @Test func aPlanForAConfigIsTheRunItself() throws {
        let folder = try folder(with: "attention: { backend: ring, local: cpu }\nparallel: { sequence: 2 }")
        // As many threads as ranks: kernels ask for memory per thread.
        let threads = ["RINGZOO_THREADS": "2"]
        let plans = try Tool.succeed("plan", "run.yaml", "--json", in: folder, environment: threads).json()["plans"]
        let plan = try #require((plans as? [[String: Any]])?.first)
        #expect(folder.names == ["corpus.txt", "run.yaml"])
        try Tool.succeed("train", "run.yaml", in: folder, environment: threads)
        let metrics = try String(contentsOfFile: folder / "out/metrics.jsonl", encoding: .utf8)
        let last = try #require(metrics.split(separator: "\n").last)
        let step = try #require(JSONSerialization.jsonObject(with: Data(last.utf8)) as? [String: Any])
        let bytes = try #require(plan["bytes"] as? [String: Int])
        #expect(bytes["activations and ring buffers"] == (step["peakBytes"] as? [Int])?.max())
        #expect(plan["device"] as? String == "this machine" && plan["stepSecondsSpread"] is [Double])
        #expect(plan["fits"] as? Bool == true && (plan["longestContext"] as? Int ?? 0) > 64)
    }

    @Test func aConfigCanBePlannedForOtherDevices() throws {
        let folder = try folder()
        let text = try Tool.succeed("plan", "run.yaml", "--device", "h100-80g", in: folder).text
        #expect(text.contains("on 1 x h100-80g") && !text.contains("while measured"))
        try Tool.fail(
            64, ["--device h100-80g and --measure"], "plan", "run.yaml", "--device", "h100-80g", "--measure", in: folder
        )
    }

    /// This machine is measured with the documents, too.
    @Test func documentsOfTheDataAreCountedAndSaid() throws {
        let folder = try folder()
        let whole = try Tool.succeed("plan", "run.yaml", "--device", "h100-80g", in: folder).text
        #expect(whole.contains("attention over whole rows, each of which is one document in the data"))
        let record = "{\"prompt\": \"The harbour\", \"completion\": \" lies.\"}\n"
        try folder.write("records.jsonl", String(repeating: record, count: 50))
        let plan = try Tool.succeed(
            "plan", "run.yaml", "--set", "data.kind=jsonl", "--set", "data.path=records.jsonl", "--set",
            "data.packing=true", in: folder
        ).text
        // 45 records of 16 tokens fill 11 rows of 64, and a quarter of one whose rest counts as a document: (45 x 16^2 + 48^2) / (12 x 64).
        #expect(plan.contains("attention within documents of 18 tokens"), "\(plan)")
        let model = try Tool.succeed("plan", "--model", "llama/debug", "--context", "1K", in: folder).text
        #expect(model.contains("one document: a config's plan counts its data's documents"))
    }

    @Test func whatDoesNotFitIsSaidWithAReason() throws {
        let result = try Tool.run(["plan", "--model", "llama/65b", "--context", "1K", "--devices", "2"])
        #expect(result.code == 1)
        #expect(result.text.contains("DOES NOT FIT"))
        #expect(result.errors.contains("weights, gradients and optimizer state alone take"))
    }

    /// Every mesh is compared; what one device cannot hold, sharded parameters spread.
    @Test func theBestMeshIsFound() throws {
        let arguments = ["plan", "--model", "llama/7b", "--context", "8K", "--devices", "4", "--batch", "2"]
        let plans = try Tool.run(arguments + ["--json"]).json()["plans"] as? [[String: Any]] ?? []
        // 1, 2 or 4 tensor ranks; of the others 1 or 2 for the rows of a batch; three ways each, but two where nobody shares parameters.
        #expect(plans.count == 14)
        let best = try #require(plans.first)
        #expect(best["fits"] as? Bool == true && best["longestContext"] as? Int ?? 0 >= 8192)
        let fitting = plans.filter { $0["fits"] as? Bool == true }.compactMap { $0["stepSeconds"] as? Double }
        #expect(fitting == fitting.sorted() && !fitting.isEmpty && fitting.count < plans.count)
        // 16 bytes a parameter fit no device alone, and a quarter of them each.
        for plan in plans where plan["tensor"] as? Int == 1 {
            #expect(plan["fits"] as? Bool == plan["shardParameters"] as? Bool)
        }
        let text = try Tool.run(arguments).text
        #expect(text.contains("data  sequence  tensor") && text.contains("parallel: { data:"))
    }

    @Test func thePapersTableIsPrinted() throws {
        let text = try Tool.succeed("plan", "--paper").text
        #expect(text.contains("TPUv4-1024") && text.contains("16,384") && text.contains("11 of 13 rows within 2.5x"))
    }

    @Test func wrongArgumentsAreNamed() throws {
        try Tool.fail(64, ["nothing to plan for"], "plan")
        try Tool.fail(64, ["no device 'a10'", "a100-80g"], "plan", "--model", "llama/7b", "--device", "a10")
        try Tool.fail(64, ["--context is '12Q'", "128K"], "plan", "--model", "llama/7b", "--context", "12Q")
        try Tool.fail(64, ["--model is '7b'", "llama/7b"], "plan", "--model", "7b")
        try Tool.fail(78, ["\"8b\"", "llama3-8b"], "plan", "--model", "llama/8b")
    }
}
