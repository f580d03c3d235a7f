import Foundation
import TensorCore
import Testing

@testable import CheckpointCore

@Suite struct CheckpointDamageTests {
    let folder = try! TemporaryFolder()

    private func fileBytes(_ sample: Sample) throws -> [UInt8] {
        try sample.save(folder.file("sound.h5"))
        return try readFile(folder.file("sound.h5"))
    }

    /// Verification alone, which is before libhdf5.
    private func verification(_ bytes: [UInt8]) -> RingZooError? {
        fault { try bytes.withUnsafeBytes { _ = try CheckpointReader.verify($0, tensorBytes: true, path: "f.h5") } }
    }

    private func opening(_ bytes: [UInt8]) throws -> RingZooError? {
        try writeFile(folder.file("damaged.h5"), bytes)
        return fault { _ = try CheckpointReader(folder.file("damaged.h5")) }
    }

    @Test func everyFlippedByteIsRefusedBeforeLibhdf5() throws {
        var bytes = try fileBytes(.small())
        #expect(verification(bytes) == nil)
        var silent: [Int] = []
        for place in bytes.indices {
            let bit = UInt8(1) << UInt8(place % 8)
            bytes[place] ^= bit
            if verification(bytes)?.code != .corruptInput { silent.append(place) }
            bytes[place] ^= bit
        }
        #expect(silent.isEmpty, "damage at these places went unnoticed: \(silent.prefix(20))")
    }

    @Test func everyTruncationAndAppendedByteIsRefused() throws {
        let bytes = try fileBytes(.small())
        for count in Array(0..<80) + Array(stride(from: 80, to: bytes.count, by: 61)) + [bytes.count - 1] {
            #expect(verification(Array(bytes[..<count]))?.code == .corruptInput)
        }
        #expect(verification(bytes + [0])?.code == .corruptInput)
    }

    @Test func zeroedPageIsRefused() throws {
        let bytes = try fileBytes(.small())
        for page in stride(from: 0, to: bytes.count, by: 4096) {
            var damaged = bytes
            damaged.replaceSubrange(page..<page + 4096, with: [UInt8](repeating: 0, count: 4096))
            #expect(verification(damaged)?.code == .corruptInput)
        }
    }

    @Test func damageNamesFileAndTensor() throws {
        var bytes = try fileBytes(.small())
        let manifest = try bytes.withUnsafeBytes { try CheckpointReader.verify($0, tensorBytes: false, path: "") }
        bytes[manifest.tensors[1].offset + 5] ^= 4
        #expect(verification(bytes)?.message.contains("f.h5: tensor a.bias is damaged") == true)
        // Read lazily, the other tensors are still good, and this one is refused when it is asked for.
        try writeFile(folder.file("damaged.h5"), bytes)
        let reader = try CheckpointReader(folder.file("damaged.h5"), verify: .whenRead)
        #expect(try contents(reader, "b") == Sample.small().bytes[2])
        #expect(fault { _ = try reader.bytes(of: "a.bias") }?.code == .corruptInput)
    }

    @Test func swappedTensorsAreRefused() throws {
        let infos = ["a", "b"].map { TensorInfo(name: $0, shape: [4], dtype: .float32) }
        var bytes = try fileBytes(Sample(infos, seed: 2))
        let manifest = try bytes.withUnsafeBytes { try CheckpointReader.verify($0, tensorBytes: true, path: "") }
        let (a, b) = (manifest.tensors[0].range, manifest.tensors[1].range)
        let (first, second) = (Array(bytes[a]), Array(bytes[b]))
        bytes.replaceSubrange(a, with: second)
        bytes.replaceSubrange(b, with: first)
        #expect(verification(bytes)?.message.contains("tensor a is damaged") == true)
    }

    @Test func boolThatIsNeitherZeroNorOneIsRefused() throws {
        let source = TensorSource(TensorInfo(name: "flags", shape: [2], dtype: .bool), bytes: [0, 2])
        try CheckpointWriter.save(folder.file("a.h5"), tensors: [source])
        #expect(fault { _ = try CheckpointReader(folder.file("a.h5")) }?.message.contains("not a bool") == true)
    }

    /// A file with right sums but another manifest: what an enemy would make.
    private func forged(_ bytes: [UInt8], _ change: (inout String) -> Void) throws -> [UInt8] {
        var header = try bytes.withUnsafeBytes { try CheckpointHeader(verifying: $0, path: "") }
        let range = header.manifestOffset..<header.manifestOffset + header.manifestSize
        var text = String(decoding: bytes[range], as: UTF8.self)
        let before = text
        change(&text)
        #expect(text != before, "the forgery must change something")
        var manifest = Array(text.utf8)
        while manifest.count > range.count, manifest.last == UInt8(ascii: " ") { manifest.removeLast() }
        #expect(manifest.count <= range.count)
        manifest += [UInt8](repeating: UInt8(ascii: " "), count: range.count - manifest.count)
        var result = bytes
        result.replaceSubrange(range, with: manifest)
        header.manifestSHA256 = manifest.withUnsafeBytes { SHA256.digest($0) }
        result.replaceSubrange(0..<CheckpointFormat.headerSize, with: header.encoded())
        return result
    }

    @Test(arguments: [
        ("\"shape\":[3,4]", "\"shape\":[4,3]", "differ"),
        ("\"shape\":[3,4]", "\"shape\":[3,4,1]", "differ"),
        ("\"shape\":[3,4]", "\"shape\":[3,-4]", "is not"),
        ("\"shape\":[3,4]", "\"shape\":[4611686018427387904,4]", "is not"),
        ("\"shape\":[3,4]", "\"shape\":[3,4,1,1,1,1,1,1,1]", "is not"),
        ("\"shape\":[3,4]", "\"shape\":[3,5]", "is not"),
        ("\"float32\"", "\"int32\"", "differ"),
        ("\"float32\"", "\"float31\"", "unknown type"),
        ("\"name\":\"a.bias\"", "\"name\":\"a.bies\"", "the manifest does not"),
        ("\"name\":\"a.bias\"", "\"name\":\"a.weight\"", "twice"),
        ("\"name\":\"a.bias\"", "\"name\":\"a/bias\"", "slash"),
        ("\"name\":\"step\"", "\"name\":\"stap\"", "the manifest does not"),
        ("\"crc32c\"", "\"crc32d\"", "incomplete"),
        ("\"ringzoo-checkpoint\"", "\"ringzoo-chickpoint\"", "field"),
        ("{\"format\"", "[\"format\"", "at byte"),
    ])
    func forgedManifestIsRefused(_ old: String, _ new: String, _ words: String) throws {
        let bytes = try fileBytes(.small())
        let forged = try forged(bytes) { text in
            if let range = text.range(of: old) { text.replaceSubrange(range, with: new) }
        }
        let error = try opening(forged)
        #expect(error?.code == .corruptInput)
        #expect(error?.description.contains(words) == true, "\(error?.description ?? "no error")")
    }

    @Test func forgedPlacesAreRefused() throws {
        let bytes = try fileBytes(.small())
        let manifest = try bytes.withUnsafeBytes { try CheckpointReader.verify($0, tensorBytes: true, path: "") }
        let first = "\"offset\":\(manifest.tensors[0].offset)"
        for (place, words) in [
            ("\(bytes.count)", "not inside"), ("0", "not inside"), ("-4096", "not inside"),
            ("\(manifest.tensors[0].offset + 8)", "not inside"), ("9223372036854771712", "not inside"),
            ("\(manifest.tensors[1].offset)", "share bytes"),
        ] {
            let forged = try forged(bytes) { text in
                if let range = text.range(of: first) { text.replaceSubrange(range, with: "\"offset\":" + place) }
            }
            let error = try opening(forged)
            #expect(error?.message.contains(words) == true, "\(place): \(error?.description ?? "no error")")
        }
    }

    @Test func newerFormatIsNamed() throws {
        var bytes = try fileBytes(.small())
        bytes[8] = 2
        let sum = bytes[..<4064].withUnsafeBytes { SHA256.digest($0) }
        bytes.replaceSubrange(4064..<4096, with: sum)
        #expect(verification(bytes)?.message.contains("format 2; this build reads format 1") == true)
    }

    @Test(arguments: ["sound.h5", "external.h5", "virtual.h5", "links.h5", "shape_bomb.h5"])
    func foreignFileIsNoCheckpoint(_ name: String) {
        let error = fault { _ = try CheckpointReader(fixture(name)) }
        #expect(error?.code == .corruptInput && error?.message.contains("not a RingZoo checkpoint") == true)
    }

    @Test func libhdf5MustAgreeWithTheManifest() throws {
        // The same manifest over the structure of another file.
        let bytes = try fileBytes(.small())
        let manifest = try bytes.withUnsafeBytes { try CheckpointReader.verify($0, tensorBytes: true, path: "") }
        try Sample.everything().save(folder.file("other.h5"))
        let other = try readFile(folder.file("other.h5"))
        #expect(
            fault { try other.withUnsafeBytes { try CheckpointReader.checkHDF5($0, against: manifest, path: "") } }?
                .code
                == .corruptInput)
        let none = CheckpointManifest(tensors: [], metadata: [], structureSHA256: [])
        #expect(
            fault { try bytes.withUnsafeBytes { try CheckpointReader.checkHDF5($0, against: none, path: "") } }?.code
                == .corruptInput)
    }
}
