import CDigest
import Testing

@testable import CheckpointCore

@Suite struct DigestTests {
    @Test func crc32cHasThePublishedValues() {
        // RFC 3720, appendix B.4, and the usual check value.
        #expect(Array("123456789".utf8).withUnsafeBytes { crc32c($0) } == 0xe306_9283)
        #expect([UInt8](repeating: 0, count: 32).withUnsafeBytes { crc32c($0) } == 0x8a91_36aa)
        #expect([UInt8](repeating: 0xff, count: 32).withUnsafeBytes { crc32c($0) } == 0x62a8_ab43)
        #expect(Array(UInt8(0)..<32).withUnsafeBytes { crc32c($0) } == 0x46dd_794e)
    }

    @Test func instructionEqualsTableAtEveryLengthAndStart() {
        let bytes = sampleBytes(.init(name: "", shape: [40_000], dtype: .int32), seed: 4)
        bytes.withUnsafeBytes { all in
            for count in Array(0..<70) + [4095, 4096, 12_287, 12_288, 12_289, 24_576, 36_871, 100_000] {
                for start in 0..<9 {
                    let part = UnsafeRawBufferPointer(rebasing: all[start..<start + count])
                    #expect(crc32c(part, from: 77) == ringzoo_crc32c_table(77, part.baseAddress, part.count))
                }
            }
        }
    }

    @Test func joinedSumsEqualTheSumOfTheWhole() {
        let bytes = sampleBytes(.init(name: "", shape: [5_000], dtype: .int32), seed: 5)
        bytes.withUnsafeBytes { all in
            for cut in [0, 1, 7, 4096, 10_001, all.count] {
                let first = crc32c(UnsafeRawBufferPointer(rebasing: all[..<cut]))
                let second = crc32c(UnsafeRawBufferPointer(rebasing: all[cut...]))
                #expect(crc32cOfJoined(first, second, all.count - cut) == crc32c(all))
            }
        }
    }

    @Test func sha256HasThePublishedValues() {
        // FIPS 180-4 examples.
        func sum(_ text: String) -> String { hexadecimal(Array(text.utf8).withUnsafeBytes { SHA256.digest($0) }) }
        #expect(sum("") == "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855")
        #expect(sum("abc") == "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad")
        #expect(
            sum("abcdbcdecdefdefgefghfghighijhijkijkljklmklmnlmnomnopnopq")
                == "248d6a61d20638b8e5c026930c3e6039a33ce45964ff2167f6ecedd419db06c1")
        #expect(
            sum(String(repeating: "a", count: 1_000_000))
                == "cdc76e5c9914fb9281a1c7e284d73e67f1809a48a497200e046d39ccc7112cd0")
    }

    @Test func sha256DoesNotDependOnThePieces() {
        let bytes = sampleBytes(.init(name: "", shape: [300], dtype: .bfloat16), seed: 6)
        for piece in [1, 3, 55, 56, 63, 64, 65, 599] {
            var sum = SHA256()
            for start in stride(from: 0, to: bytes.count, by: piece) {
                bytes[start..<min(start + piece, bytes.count)].withUnsafeBytes { sum.add($0) }
            }
            #expect(sum.finish() == bytes.withUnsafeBytes { SHA256.digest($0) })
        }
    }
}
