import CheckpointCore
import Foundation
import TensorCore
import Testing

@Suite struct ForwardTests {
    /// The logits that transformers computed in float64 for the fixtures, through import and forward.
    @Test(arguments: ["llama-mha", "llama-gqa-llama3-rope", "llama-mqa-tied"], ["cpu", "blas"])
    func logitsAreTransformers(_ name: String, _ attention: String) throws {
        let folder = try TemporaryFolder()
        let golden = try SafetensorsReader(fixture("huggingface/\(name)/golden.safetensors"))
        let ids = try #require(golden.tensors.first { $0.name == "input_ids" })
        let (rows, T) = (ids.shape[0], ids.shape[1])
        let tokens = try golden.bytes(of: "input_ids").withUnsafeBytes { Array($0.bindMemory(to: Int64.self)) }
        let logits = try golden.bytes(of: "logits").withUnsafeBytes { Array($0.bindMemory(to: Float.self)) }
        let V = logits.count / (rows * T)
        try Tool.succeed("checkpoint", "import", fixture("huggingface/\(name)"), "model.h5", in: folder)
        for row in 0..<rows {
            let text = tokens[row * T..<(row + 1) * T].map(String.init).joined(separator: ",")
            let result = try Tool.succeed(
                "forward", "--checkpoint", "model.h5", "--tokens", text, "--output", "logits.h5", "--attention",
                attention, in: folder)
            #expect(result.text == "")
            let file = try HDF5File.readForeign(folder / "logits.h5")
            #expect(
                Set(file.tensors) == [
                    TensorInfo(name: "tokens", shape: [1, T], dtype: .int32),
                    TensorInfo(name: "logits", shape: [1, T, V], dtype: .float32),
                ])
            #expect(try doubles("tokens", of: file) == tokens[row * T..<(row + 1) * T].map { Double($0) })
            let found = try doubles("logits", of: file)
            let expected = logits[row * T * V..<(row + 1) * T * V].map { Double($0) }
            let largest = expected.map(abs).max() ?? 0
            for (a, b) in zip(found, expected) where abs(a - b) > 1e-5 * max(1, largest) {
                Issue.record("\(name), row \(row): \(a), transformers \(b)")
                break
            }
        }
    }

    /// Tokens cut over ranks, more ranks than tokens included.
    @Test func ranksWriteTheSameLogits() throws {
        let folder = try TemporaryFolder()
        try writeCheckpoint(folder / "model.h5")
        func logits(_ tokens: String, _ options: [String] = []) throws -> [Double] {
            let arguments = ["forward", "--checkpoint", "model.h5", "--tokens", tokens, "--output", "o.h5"] + options
            let result = try Tool.run(arguments, in: folder)
            #expect(result.code == 0, "\(options): \(result.errors)")
            let file = try HDF5File.readForeign(folder / "o.h5")
            #expect(try doubles("tokens", of: file).count == tokens.split(separator: ",").count)
            return try doubles("logits", of: file)
        }
        for tokens in ["7", "1,200,3", (0..<21).map { "\($0 * 11)" }.joined(separator: ",")] {
            let one = try logits(tokens)
            let largest = one.map(abs).max()!
            for (ranks, layout) in [("2", "contiguous"), ("3", "striped"), ("5", "zigzag")] {
                let found = try logits(tokens, ["--ranks", ranks, "--layout", layout])
                #expect(found.count == one.count)
                let worst = zip(found, one).reduce(0) { max($0, abs($1.0 - $1.1)) }
                #expect(worst <= 1e-5 * largest, "\(ranks) ranks, \(layout), tokens \(tokens): \(worst) of \(largest)")
            }
            for spread in [["--tensor", "2"], ["--shard-parameters"], ["--tensor", "2", "--shard-parameters"]] {
                let found = try logits(tokens, ["--ranks", "2"] + spread)
                let worst = zip(found, one).reduce(0) { max($0, abs($1.0 - $1.1)) }
                #expect(found.count == one.count && worst <= 1e-5 * largest, "\(spread), tokens \(tokens)")
            }
        }
        try Tool.fail(
            78, ["which is for decoding", "ring would work"], "forward", "--checkpoint", "model.h5", "--tokens", "1,2",
            "--output", "t.h5", "--ranks", "2", "--attention", "tree", in: folder)
    }

    @Test func wrongTokensAreNamed() throws {
        let folder = try TemporaryFolder()
        try writeCheckpoint(folder / "model.h5")
        for (tokens, word) in [("1,,2", "''"), ("1,256", "'256'"), ("1,x", "'x'"), ("-1", "'-1'")] {
            try Tool.fail(
                64, [word, "0 to 255"], "forward", "--checkpoint", "model.h5", "--tokens=\(tokens)", "--output", "o.h5",
                in: folder)
        }
        try Tool.fail(
            66, ["no.h5"], "forward", "--checkpoint", "no.h5", "--tokens", "1", "--output", "o.h5", in: folder)
        try Tool.fail(
            74, ["o.h5", "No such file"], "forward", "--checkpoint", "model.h5", "--tokens", "1", "--output", "no/o.h5",
            in: folder)
        #expect(folder.names == ["model.h5"])
    }
}
