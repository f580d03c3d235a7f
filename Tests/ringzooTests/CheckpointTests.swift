import CheckpointCore
import Foundation
import TensorCore
import Testing

@Suite struct CheckpointTests {
    static let models = ["llama-mha", "llama-mha-bf16", "llama-gqa-llama3-rope", "llama-mqa-tied"]

    @Test(arguments: models)
    func importThenExportGivesTheSameBytes(_ name: String) throws {
        let folder = try TemporaryFolder()
        let source = fixture("huggingface/\(name)")
        try Tool.succeed("checkpoint", "import", source, "model.h5", in: folder)
        try Tool.succeed("checkpoint", "verify", "model.h5", in: folder)
        let before = try contents(SafetensorsReader(source))
        #expect(before.count > 10)
        for (out, size) in [("whole", "5GB"), ("shards", "20KB")] {
            try Tool.succeed(
                "checkpoint", "export", "model.h5", out, "--max-shard-size", size, "--exchange", "huggingface",
                in: folder)
            #expect(try contents(SafetensorsReader(folder / out)) == before)
            // Config and weights go round as well: to the same checkpoint, byte by byte.
            try Tool.succeed("checkpoint", "import", out, "\(out).h5", "--exchange", "huggingface", in: folder)
            let (first, second) = (
                URL(fileURLWithPath: folder / "model.h5"), URL(fileURLWithPath: folder / "\(out).h5")
            )
            #expect(try Data(contentsOf: first) == Data(contentsOf: second))
        }
        // Nothing hidden was left behind.
        #expect(folder.names == ["model.h5", "shards", "shards.h5", "whole", "whole.h5"])
        #expect(FileManager.default.fileExists(atPath: folder / "shards/model.safetensors.index.json"))
    }

    @Test func importKeepsWhatIsThere() throws {
        let folder = try TemporaryFolder()
        let source = fixture("huggingface/llama-mha")
        try folder.write("model.h5", "precious")
        try Tool.fail(64, ["model.h5 exists", "--force"], "checkpoint", "import", source, "model.h5", in: folder)
        #expect(try String(contentsOfFile: folder / "model.h5", encoding: .utf8) == "precious")
        // A failure leaves the old file, even with --force.
        try Tool.fail(
            66, ["nowhere"], "checkpoint", "import", "nowhere", "model.h5", "--force", in: folder)
        try Tool.fail(
            78, ["256 ids"], "checkpoint", "import", source, "model.h5", "--force", "--tokenizer", "bytes", in: folder)
        try Tool.fail(
            64, ["no form is named 'nix'", "huggingface"], "checkpoint", "import", source, "model.h5", "--force",
            "--exchange", "nix", in: folder)
        #expect(try String(contentsOfFile: folder / "model.h5", encoding: .utf8) == "precious")
        try Tool.succeed("checkpoint", "import", source, "model.h5", "--force", in: folder)
        try Tool.succeed("checkpoint", "verify", "model.h5", in: folder)
        #expect(folder.names == ["model.h5"])
    }

    @Test func tokenizerGoesIntoTheCheckpoint() throws {
        let folder = try TemporaryFolder()
        try writeCheckpoint(folder / "bare.h5", tokenizer: nil)
        try Tool.succeed("checkpoint", "export", "bare.h5", "hf", in: folder)
        try Tool.succeed("checkpoint", "import", "hf", "model.h5", "--tokenizer", "bytes", in: folder)
        let text = try Tool.succeed(
            "generate", "--checkpoint", "model.h5", "--prompt", "x", "--max-tokens", "5", "--json", in: folder)
        #expect((try text.json()["tokens"] as? [Int])?.count == 5)
    }

    @Test func exportRefusesAFolderWithSomethingInIt() throws {
        let folder = try TemporaryFolder()
        try writeCheckpoint(folder / "model.h5")
        try FileManager.default.createDirectory(atPath: folder / "full", withIntermediateDirectories: true)
        try folder.write("full/notes.txt", "precious")
        try Tool.fail(64, ["full is not empty", "notes.txt"], "checkpoint", "export", "model.h5", "full", in: folder)
        try Tool.fail(
            64, ["'5 apples' is no number of bytes"], "checkpoint", "export", "model.h5", "out", "--max-shard-size",
            "5 apples", in: folder)
        try Tool.fail(
            64, ["no form named 'nix'"], "checkpoint", "export", "model.h5", "out", "--exchange", "nix", in: folder)
        try Tool.fail(74, ["notes.txt/out"], "checkpoint", "export", "model.h5", "full/notes.txt/out", in: folder)
        // A folder that is there, but empty, is fine.
        try FileManager.default.createDirectory(atPath: folder / "empty", withIntermediateDirectories: true)
        try Tool.succeed("checkpoint", "export", "model.h5", "empty/", in: folder)
        #expect(try SafetensorsReader(folder / "empty").tensors.count > 10)
        #expect(folder.names == ["empty", "full", "model.h5"])
    }

    /// Weights that are not those of the model the file says it holds: found while the folder is being written.
    @Test func failedExportLeavesNothing() throws {
        let folder = try TemporaryFolder()
        try writeCheckpoint(folder / "model.h5")
        let reader = try CheckpointReader(folder / "model.h5")
        try CheckpointWriter.save(
            folder / "short.h5", tensors: Array(reader.sources().dropLast()), metadata: reader.metadata)
        try Tool.fail(78, ["not those of this model"], "checkpoint", "export", "short.h5", "out", in: folder)
        #expect(folder.names == ["model.h5", "short.h5"])
    }

    @Test func inspectListsEveryTensor() throws {
        let folder = try TemporaryFolder()
        try writeCheckpoint(folder / "model.h5")
        let reader = try CheckpointReader(folder / "model.h5")
        let object = try Tool.succeed("checkpoint", "inspect", "model.h5", "--json", in: folder).json()
        let listed = try #require(object["tensors"] as? [[String: Any]])
        #expect(listed.compactMap { $0["name"] as? String } == reader.tensors.map(\.name))
        #expect(listed.compactMap { $0["shape"] as? [Int] } == reader.tensors.map(\.shape))
        #expect(listed.compactMap { $0["dtype"] as? String } == reader.tensors.map(\.dtype.rawValue))
        #expect(listed.compactMap { $0["bytes"] as? Int } == reader.tensors.map(\.byteCount))
        #expect(object["tensorBytes"] as? Int == reader.tensors.reduce(0) { $0 + $1.byteCount })
        #expect(object["metadata"] as? [String: String] == reader.metadata)
        #expect(object["form"] as? String == "checkpoint")

        let table = try Tool.succeed("checkpoint", "inspect", "model.h5", in: folder).text
        for tensor in reader.tensors { #expect(table.contains(tensor.name) && table.contains("\(tensor.shape)")) }
        #expect(table.contains("name: llama"))
    }

    @Test func inspectReadsOtherFormsToo() throws {
        let folder = try TemporaryFolder()
        for (path, form, count) in [
            (fixture("huggingface/llama-gqa-llama3-rope"), "safetensors", 21),
            (fixture("huggingface/llama-mha/golden.safetensors"), "safetensors", nil),
        ] {
            let object = try Tool.succeed("checkpoint", "inspect", path, "--json", in: folder).json()
            #expect(object["form"] as? String == form)
            if let count { #expect((object["tensors"] as? [Any])?.count == count) }
        }
        try HDF5File.write(
            folder / "plain.h5",
            tensors: [
                TensorSource(TensorInfo(name: "a/b", shape: [2], dtype: .int32), bytes: [1, 0, 0, 0, 2, 0, 0, 0])
            ])
        let plain = try Tool.succeed("checkpoint", "inspect", "plain.h5", "--json", in: folder).json()
        #expect(plain["form"] as? String == "hdf5" && plain["elements"] as? Int == 2)
        try folder.write("text.h5", "neither")
        try Tool.fail(65, ["text.h5"], "checkpoint", "inspect", "text.h5", in: folder)
        try Tool.fail(66, ["nowhere.h5"], "checkpoint", "inspect", "nowhere.h5", in: folder)
    }

    /// Bits all over the file: header, manifest, structure, texts, tensors.
    @Test func everyFlippedBitIsFound() throws {
        let folder = try TemporaryFolder()
        try writeCheckpoint(folder / "model.h5")
        let size = try Data(contentsOf: URL(fileURLWithPath: folder / "model.h5")).count
        for offset in [0, 9, 70, 4100, 8200, size / 3, size / 2, size - 1] {
            try FileManager.default.copyItem(atPath: folder / "model.h5", toPath: folder / "damaged.h5")
            try flipBit(folder / "damaged.h5", at: offset)
            try Tool.fail(65, ["damaged.h5"], "checkpoint", "verify", "damaged.h5", in: folder)
            try Tool.fail(65, ["damaged.h5"], "generate", "--checkpoint", "damaged.h5", "--prompt", "x", in: folder)
            try FileManager.default.removeItem(atPath: folder / "damaged.h5")
        }
        let report = try Tool.succeed("checkpoint", "verify", "model.h5", in: folder).text
        #expect(report.contains("model.h5 is whole") && report.contains("CRC-32C"))
    }

    @Test func theDamagedTensorIsNamed() throws {
        let folder = try TemporaryFolder()
        try writeCheckpoint(folder / "model.h5")
        let name = "model.layers.1.attention.k_proj.weight"
        let wanted = try CheckpointReader(folder / "model.h5").bytes(of: name).withUnsafeBytes { Data($0) }
        let bytes = try Data(contentsOf: URL(fileURLWithPath: folder / "model.h5"))
        let place = try #require(bytes.range(of: wanted))
        try flipBit(folder / "model.h5", at: place.lowerBound + 100)
        try Tool.fail(65, ["model.h5", name], "checkpoint", "verify", "model.h5", in: folder)
        // What is damaged is no source either, and nothing appears.
        try Tool.fail(65, [name], "checkpoint", "export", "model.h5", "out", in: folder)
        try Tool.fail(
            65, [name], "forward", "--checkpoint", "model.h5", "--tokens", "1", "--output", "out.h5", in: folder)
        #expect(folder.names == ["model.h5"])
    }

    @Test func verifyRefusesWhatHasNoSums() throws {
        try Tool.fail(
            64, ["no sums"], "checkpoint", "verify", fixture("huggingface/llama-mha/model.safetensors"))
        try Tool.fail(66, ["nowhere.h5"], "checkpoint", "verify", "nowhere.h5")
    }
}
