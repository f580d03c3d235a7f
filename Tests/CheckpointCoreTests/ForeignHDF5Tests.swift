import Foundation
import TensorCore
import Testing

@testable import CheckpointCore

@Suite struct ForeignHDF5Tests {
    let folder = try! TemporaryFolder()

    private let ramp = (0..<24).map(Float.init)

    private func values<T>(_ file: ForeignHDF5File, _ name: String, _ type: T.Type) throws -> [T] {
        try file.bytes(of: name).withUnsafeBytes { bytes in
            (0..<bytes.count / MemoryLayout<T>.size).map {
                bytes.loadUnaligned(fromByteOffset: $0 * MemoryLayout<T>.size, as: type)
            }
        }
    }

    @Test func tensorsOfH5pyAreRead() throws {
        let file = try HDF5File.readForeign(fixture("sound.h5"))
        #expect(try values(file, "float32", Float.self) == ramp)
        #expect(try values(file, "/float64", Double.self) == ramp.map(Double.init))
        #expect(try values(file, "float16", UInt16.self) == (0..<24).map { float16Bits(of: $0) })
        #expect(try values(file, "bfloat16", UInt16.self) == ramp.map { BFloat16($0).bitPattern })
        #expect(try values(file, "group/int32", Int32.self) == (0..<24).map(Int32.init))
        #expect(try values(file, "group/int64", Int64.self) == (0..<24).map(Int64.init))
        #expect(try values(file, "group/inner/bool", UInt8.self) == [1, 0, 1])
        #expect(try values(file, "scalar", Float.self) == [7])
        #expect(try values(file, "empty", Float.self) == [])
        let infos = Dictionary(uniqueKeysWithValues: file.tensors.map { ($0.name, $0) })
        #expect(
            infos["float32"]?.shape == [2, 3, 4] && infos["scalar"]?.shape == [] && infos["empty"]?.shape == [0, 3])
        #expect(infos["bfloat16"]?.dtype == .bfloat16 && infos["group/inner/bool"]?.dtype == .bool)
        #expect(infos.count == 9 && file.refused.isEmpty)
        #expect(try file.bytes(of: "float32").isMapped)
    }

    @Test func chunkedDataIsUnpacked() throws {
        let file = try HDF5File.readForeign(fixture("chunked.h5"))
        #expect(try values(file, "packed", Float.self) == ramp)
        #expect(try values(file, "plain", Float.self) == ramp)
    }

    @Test(arguments: [
        ("external.h5", "q", "external storage"),
        ("virtual.h5", "q", "virtual"),
        ("links.h5", "soft", "soft link"),
        ("links.h5", "dangling", "soft link"),
        ("links.h5", "outside", "another file"),
        ("links.h5", "outside/real", "another file"),
        ("shape_bomb.h5", "contiguous", "none were ever written"),
        ("shape_bomb.h5", "chunked", "cannot hold"),
        ("shape_bomb.h5", "overflow", "impossible"),
        ("shape_bomb.h5", "wide_chunk", "cannot hold"),
        ("shape_bomb.h5", "never_written", "none were ever written"),
        ("cycle.h5", "a", "more than one name"),
        ("types.h5", "big_endian", "element type"),
        ("types.h5", "uint32", "another integer"),
        ("types.h5", "text", "variable-length string"),
        ("types.h5", "compound", "compound"),
        ("types.h5", "rank9", "9 axes"),
        ("types.h5", "lzf", "packed by something else"),
        ("types.h5", "compact", "compact"),
        ("newer.h5", "chunked", "libhdf5 cannot describe it"),
        ("overlap.h5", "a", "shares bytes"),
        ("overlap.h5", "b", "shares bytes"),
        ("overlap.h5", "c", "not inside"),
    ])
    func hostileObjectIsRefusedWithItsReason(_ name: String, _ object: String, _ words: String) throws {
        let file = try HDF5File.readForeign(fixture(name))
        let error = fault { _ = try file.bytes(of: object) }
        #expect(error?.code == .corruptInput)
        #expect(error?.message.contains(words) == true, "\(error?.message ?? "no error")")
        #expect(error?.message.contains(object.split(separator: "/")[0]) == true)
    }

    @Test func soundObjectsBesideHostileOnesAreRead() throws {
        for (name, object) in [("links.h5", "real"), ("types.h5", "fine")] {
            #expect(try values(HDF5File.readForeign(fixture(name)), object, Float.self) == ramp)
        }
    }

    @Test func groupsTooDeepAreRefused() {
        let error = fault { _ = try HDF5File.readForeign(fixture("deep.h5")) }
        #expect(error?.code == .corruptInput && error?.description.contains("64 deep") == true)
    }

    @Test func whatIsNoHDF5IsRefused() throws {
        for bytes in [[], [UInt8](repeating: 7, count: 10_000), CheckpointFormat.hdf5Signature] {
            try writeFile(folder.file("a.h5"), bytes)
            let error = fault { _ = try HDF5File.readForeign(folder.file("a.h5")) }
            #expect(error?.code == .corruptInput && error?.tried.isEmpty == false)
        }
    }

    @Test func plainFileComesBackUnchanged() throws {
        var sample = Sample.everything()
        for i in sample.infos.indices {
            sample.infos[i].name = sample.infos[i].name.replacingOccurrences(of: ".", with: "/")
        }
        try HDF5File.write(folder.file("a.h5"), tensors: sample.sources)
        #expect(try sample.equals(HDF5File.readForeign(folder.file("a.h5"))))
    }

    @Test func checkpointIsReadAsAnOrdinaryHDF5File() throws {
        let sample = Sample.small()
        try sample.save(folder.file("a.h5"))
        let file = try HDF5File.readForeign(folder.file("a.h5"))
        #expect(try contents(file, "tensors/a/weight") == sample.bytes[0])
        #expect(file.refused.keys.sorted() == ["manifest", "metadata/step"])
    }

    @Test func badNamesOfPlainFilesAreRefused() {
        for names in [[""], ["a//b"], ["/a"], ["a/."], ["a", "a"], ["a", "a/b"], ["\0"]] {
            let sources = names.map { TensorSource(TensorInfo(name: $0, shape: [1], dtype: .bool), bytes: [0]) }
            #expect(fault { try HDF5File.write(folder.file("a.h5"), tensors: sources) }?.code == .usage)
        }
    }

    @Test func threadsReadAtTheSameTime() throws {
        let file = try HDF5File.readForeign(fixture("chunked.h5"))
        DispatchQueue.concurrentPerform(iterations: 16) { _ in
            do {
                let again = try HDF5File.readForeign(fixture("sound.h5"))
                #expect(try values(again, "float32", Float.self) == ramp)
                #expect(try values(file, "packed", Float.self) == ramp)
            } catch { Issue.record(error) }
        }
    }

    // Float16 does not exist on every platform.
    private func float16Bits(of value: Int) -> UInt16 {
        guard value > 0 else { return 0 }
        let exponent = Int.bitWidth - 1 - value.leadingZeroBitCount
        return UInt16((exponent + 15) << 10 | (value << (10 - exponent)) & 0x3ff)
    }
}

/// Other programs read what we write: the check is h5py.
@Suite(.enabled(if: Python.hasH5py, "python3 with h5py is not installed"))
struct H5pyTests {
    let folder = try! TemporaryFolder()

    @Test func h5pyListsEveryTensorOfACheckpointWithItsBytes() throws {
        let sample = Sample.everything()
        try sample.save(folder.file("a.h5"))
        let listing = try Python.run(
            """
            import h5py, sys, zlib
            f = h5py.File(sys.argv[1], "r")
            def show(name, o):
                if isinstance(o, h5py.Dataset):
                    raw = bytearray(o.id.get_storage_size())
                    if raw:
                        with open(sys.argv[1], "rb") as g:
                            g.seek(o.id.get_offset()); raw = g.read(len(raw))
                    print(name.replace("/", ".").removeprefix("tensors."), list(o.shape), o.dtype, zlib.adler32(bytes(raw)))
            f["tensors"].visititems(show)
            """, folder.file("a.h5"))
        let types: [DType: String] = [
            .float32: "float32", .float64: "float64", .float16: "float16", .int32: "int32", .int64: "int64",
            .bool: "bool",
            // A 16-bit float that numpy does not have, which h5py therefore widens exactly.
            .bfloat16: "float32",
        ]
        let wanted = zip(sample.infos, sample.bytes).map { info, bytes in
            "\(info.name) \(info.shape) \(types[info.dtype]!) \(adler32(bytes))"
        }
        #expect(Set(listing.split(separator: "\n").map(String.init)) == Set(wanted))
    }

    @Test func h5pyReadsTheNumbersAndTheMetadata() throws {
        func source(_ name: String, _ dtype: DType, _ bytes: [UInt8]) -> TensorSource {
            TensorSource(TensorInfo(name: name, shape: [bytes.count / dtype.byteCount], dtype: dtype), bytes: bytes)
        }
        func words(_ words: [UInt16]) -> [UInt8] { words.flatMap { [UInt8($0 & 255), UInt8($0 >> 8)] } }
        let floats: [Float] = [0, -0.0, 1.5, -3.25, .infinity, 0x1p-130, 3e38].map { BFloat16($0).float }
        try CheckpointWriter.save(
            folder.file("a.h5"),
            tensors: [
                source("bf16", .bfloat16, words(floats.map { BFloat16($0).bitPattern })),
                source("f16", .float16, words([0x3c00, 0xc000, 0x0001, 0x7c00])),
                source("flags", .bool, [1, 0, 1]),
            ], metadata: ["config": "größe: 3\n", "empty": ""])
        let shown = try Python.run(
            """
            import h5py, sys, numpy
            f = h5py.File(sys.argv[1], "r")
            print(f["tensors/bf16"][()].view(numpy.uint32).tolist())
            print(f["tensors/f16"][()].astype(float).tolist(), f["tensors/flags"][()].tolist())
            print(repr(f["metadata/config"].asstr()[()]), repr(f["metadata/empty"].asstr()[()]))
            print(f["manifest"][()].tobytes().decode()[:30])
            """, folder.file("a.h5"))
        #expect(
            shown == """
                \(floats.map(\.bitPattern))
                [1.0, -2.0, 5.960464477539063e-08, inf] [True, False, True]
                'größe: 3\\n' ''
                {"format":"ringzoo-checkpoint"

                """)
    }

    @Test func h5pyReadsAPlainFile() throws {
        let bytes = (0..<6).flatMap { value in withUnsafeBytes(of: Float(value)) { Array($0) } }
        let source = TensorSource(TensorInfo(name: "block/q", shape: [2, 3], dtype: .float32), bytes: bytes)
        try HDF5File.write(folder.file("a.h5"), tensors: [source])
        let shown = try Python.run(
            "import h5py, sys; print(h5py.File(sys.argv[1], 'r')['block/q'][()].tolist())", folder.file("a.h5"))
        #expect(shown == "[[0.0, 1.0, 2.0], [3.0, 4.0, 5.0]]\n")
    }

    private func adler32(_ bytes: [UInt8]) -> UInt32 {
        var a: UInt32 = 1
        var b: UInt32 = 0
        for byte in bytes {
            a = (a + UInt32(byte)) % 65_521
            b = (b + a) % 65_521
        }
        return b << 16 | a
    }
}

enum Python {
    static let hasH5py = (try? run("import h5py")) != nil

    /// What a script prints; throws when it fails or there is no python3.
    static func run(_ script: String, _ arguments: String...) throws -> String {
        let process = Process()
        process.executableURL = URL(fileURLWithPath: "/usr/bin/env")
        process.arguments = ["python3", "-c", script] + arguments
        let output = Pipe()
        process.standardOutput = output
        process.standardError = Pipe()
        try process.run()
        let data = output.fileHandleForReading.readDataToEndOfFile()
        process.waitUntilExit()
        guard process.terminationStatus == 0 else { throw RingZooError(.failed, "python3 failed") }
        return String(decoding: data, as: UTF8.self)
    }
}
