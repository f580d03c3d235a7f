import TensorCore
import Testing

@testable import DistributedCore

@Suite struct PacketHeaderTests {
    static let header = PacketHeader(
        sequence: 7, operation: .allToAll, number: 12, hop: nil, checksum: 0xffff_ffff,
        parts: [.init(dtype: .bfloat16, shape: [2, 0, 5]), .init(dtype: .float64, shape: [])], integers: [-1, 1 << 40])

    @Test func wordsGiveTheHeaderBack() throws {
        #expect(try PacketHeader(words: Self.header.words) == Self.header)
        let other = PacketHeader(
            sequence: 0, operation: .rotate, number: 1, hop: 3, checksum: nil, parts: [], integers: [])
        #expect(try PacketHeader(words: other.words) == other)
        #expect(Self.header.payloadBytes == 8)
    }

    /// Every bit of every word, and every length.
    @Test func noDamageIsRead() {
        let words = Self.header.words
        for index in words.indices {
            for bit in 0..<64 {
                var damaged = words
                damaged[index] ^= 1 << Int64(bit)
                #expect(throws: LinkFailure.self) { try PacketHeader(words: damaged) }
            }
            #expect(throws: LinkFailure.self) { try PacketHeader(words: Array(words.prefix(index))) }
        }
    }

    /// A header that claims more than there can be is refused before anything is allocated.
    @Test func absurdShapesAreRefused() {
        for shape in [[1 << 51], [1 << 40, 1 << 40], [-1], [1 << 30, 1 << 30, 1 << 30]] {
            var header = Self.header
            header.parts = [.init(dtype: .float32, shape: shape)]
            #expect(throws: LinkFailure.self, "\(shape)") { try PacketHeader(words: header.words) }
        }
    }
}
