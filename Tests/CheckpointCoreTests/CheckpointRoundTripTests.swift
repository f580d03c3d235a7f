import Foundation
import TensorCore
import Testing

@testable import CheckpointCore

@Suite struct CheckpointRoundTripTests {
    let folder = try! TemporaryFolder()

    @Test func everyTypeAndShapeComesBackUnchanged() throws {
        let sample = Sample.everything()
        try sample.save(folder.file("a.h5"))
        for verification in [CheckpointReader.Verification.everything, .whenRead] {
            let reader = try CheckpointReader(folder.file("a.h5"), verify: verification)
            #expect(reader.tensors == sample.infos)
            #expect(reader.metadata == sample.metadata)
            #expect(try sample.equals(reader))
        }
        #expect(folder.names == ["a.h5"])
    }

    @Test func checkpointOfNothingIsACheckpoint() throws {
        try CheckpointWriter.save(folder.file("a.h5"), tensors: [])
        let reader = try CheckpointReader(folder.file("a.h5"))
        #expect(reader.tensors.isEmpty && reader.metadata.isEmpty)
    }

    @Test func manyTensorsAndAManifestOfManyPagesComeBack() throws {
        let infos = (0..<600).map { TensorInfo(name: "layers.\($0 / 6).part\($0 % 6)", shape: [2], dtype: .float32) }
        let sample = Sample(infos, seed: 5, metadata: ["large": String(repeating: "æ", count: 70_000)])
        try sample.save(folder.file("a.h5"))
        #expect(try sample.isAt(folder.file("a.h5")))
    }

    @Test func equalInputGivesEqualBytesAtAnyTime() throws {
        try Sample.everything().save(folder.file("a.h5"))
        // libhdf5 likes to note the second in which it made a group.
        let second = time(nil)
        while time(nil) == second {}
        try Sample.everything().save(folder.file("b.h5"))
        #expect(try readFile(folder.file("a.h5")) == readFile(folder.file("b.h5")))
    }

    @Test func bytesAreMappedOnPagesOfTheirOwn() throws {
        let sample = Sample.everything()
        try sample.save(folder.file("a.h5"))
        let reader = try CheckpointReader(folder.file("a.h5"))
        for info in sample.infos where info.byteCount > 0 {
            let bytes = try reader.bytes(of: info.name)
            #expect(bytes.isMapped && bytes.isAligned(for: info.dtype))
            #expect(bytes.withUnsafeBytes { Int(bitPattern: $0.baseAddress) % 4096 } == 0)
        }
    }

    @Test func bytesOutliveTheirReader() throws {
        let sample = Sample.small()
        try sample.save(folder.file("a.h5"))
        let bytes = try CheckpointReader(folder.file("a.h5")).bytes(of: "b")
        // A newer checkpoint over the same name must not change what is mapped.
        try Sample.small(seed: 9).save(folder.file("a.h5"))
        #expect(bytes.withUnsafeBytes { Array($0) } == sample.bytes[2])
    }

    @Test func slicesOfManyThreadsMakeTheSameFile() throws {
        let info = TensorInfo(name: "w", shape: [100_003], dtype: .int32)
        let sample = Sample([info, TensorInfo(name: "v", shape: [7], dtype: .bool)], seed: 3)
        try sample.save(folder.file("whole.h5"))
        let writer = try CheckpointWriter(folder.file("slices.h5"), tensors: sample.infos)
        let bytes = sample.bytes[0]
        let cuts = [0, 1, 4_099, 4_099, 250_000, 399_999, bytes.count]
        DispatchQueue.concurrentPerform(iterations: cuts.count - 1) { i in
            let i = cuts.count - 2 - i
            bytes.withUnsafeBytes {
                let slice = UnsafeRawBufferPointer(rebasing: $0[cuts[i]..<cuts[i + 1]])
                do { try writer.write(slice, to: "w", at: cuts[i]) } catch { Issue.record(error) }
            }
        }
        try sample.bytes[1].withUnsafeBytes { try writer.write($0, to: "v") }
        try writer.commit()
        #expect(try readFile(folder.file("slices.h5")) == readFile(folder.file("whole.h5")))
    }

    @Test(arguments: [[0..<8], [0..<8, 4..<8], [0..<8, 4..<12], [4..<12], []])
    func tensorNotCoveredExactlyOnceIsNotCommitted(_ slices: [Range<Int>]) throws {
        let writer = try CheckpointWriter(
            folder.file("a.h5"), tensors: [TensorInfo(name: "w", shape: [3], dtype: .float32)])
        for slice in slices {
            try [UInt8](repeating: 1, count: slice.count).withUnsafeBytes {
                try writer.write($0, to: "w", at: slice.lowerBound)
            }
        }
        let error = fault { try writer.commit() }
        #expect(error?.code == .usage && error?.message.contains("tensor w") == true)
        writer.abandon()
        #expect(folder.names.isEmpty)
    }

    @Test func sourceOfTheWrongLengthIsRefusedAndLeavesNothing() {
        for count in [11, 13] {
            let info = TensorInfo(name: "w", shape: [3], dtype: .float32)
            let source = TensorSource(info, bytes: [UInt8](repeating: 0, count: count))
            #expect(
                fault { try CheckpointWriter.save(folder.file("a.h5"), tensors: [source]) }?.code == .internalFailure)
        }
        #expect(folder.names.isEmpty)
    }

    @Test(arguments: [
        [""], ["a..b"], [".a"], ["a."], ["a/b"], ["a\0b"], ["a", "a"], ["a", "a.b"], ["a.b.c", "a"],
    ])
    func namesThatCannotBeStoredAreRefused(_ names: [String]) {
        let infos = names.map { TensorInfo(name: $0, shape: [1], dtype: .bool) }
        #expect(fault { _ = try CheckpointWriter(folder.file("a.h5"), tensors: infos) }?.code == .usage)
    }

    @Test func impossibleShapesAndMetadataNamesAreRefused() {
        for shape in [[Int](repeating: 1, count: 9), [-1], [1 << 40, 1 << 40]] {
            let info = TensorInfo(name: "a", shape: shape, dtype: .float32)
            #expect(fault { _ = try CheckpointWriter(folder.file("a.h5"), tensors: [info]) }?.code == .usage)
        }
        for name in ["", ".", "..", "a/b", "\0"] {
            #expect(
                fault { _ = try CheckpointWriter(folder.file("a.h5"), tensors: [], metadata: [name: ""]) }?.code
                    == .usage)
        }
    }

    @Test func missingFileAndTensorAreNamed() throws {
        #expect(fault { _ = try CheckpointReader(folder.file("no.h5")) }?.code == .missingInput)
        try Sample.small().save(folder.file("a.h5"))
        let reader = try CheckpointReader(folder.file("a.h5"))
        let error = fault { _ = try reader.bytes(of: "c") }
        #expect(error?.code == .missingInput && error?.message.contains("no tensor c") == true)
    }

    @Test func sourcesOfAReaderWriteTheSameCheckpoint() throws {
        let sample = Sample.everything()
        try sample.save(folder.file("a.h5"))
        let reader = try CheckpointReader(folder.file("a.h5"))
        try CheckpointWriter.save(folder.file("b.h5"), tensors: reader.sources(), metadata: reader.metadata)
        #expect(try readFile(folder.file("a.h5")) == readFile(folder.file("b.h5")))
    }

    @Test(.enabled(if: FileManager.default.fileExists(atPath: "/proc/self/status"), "there is no /proc here"))
    func savingStreamsWithoutHoldingTensors() async {
        await #expect(processExitsWith: .success) {
            // Not getrusage: on Linux its peak begins with that of the process that started this one.
            func peak() throws -> Int {
                let status = try String(contentsOfFile: "/proc/self/status", encoding: .utf8)
                let line = status.split(separator: "\n").first { $0.hasPrefix("VmHWM:") } ?? ""
                return Int(line.filter(\.isNumber)) ?? 0  // KiB
            }
            let folder = try TemporaryFolder()
            try Sample.small().save(folder.file("warm.h5"))
            let before = try peak()
            // 256 MiB in 4 tensors, handed out in pieces of 1 MiB.
            let sources = (0..<4).map { index in
                TensorSource(TensorInfo(name: "w.\(index)", shape: [64 << 18], dtype: .float32)) { sink in
                    let piece = [UInt8](repeating: UInt8(index), count: 1 << 20)
                    for _ in 0..<64 { try piece.withUnsafeBytes { try sink($0) } }
                }
            }
            try CheckpointWriter.save(folder.file("a.h5"), tensors: sources)
            let grown = try peak() - before
            print("peak memory grew by \(grown) KiB while saving 256 MiB")
            precondition(before > 0 && grown < 16 << 10, "saving holds tensors in memory")
        }
    }
}
