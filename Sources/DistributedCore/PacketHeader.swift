import CDigest
import TensorCore

/// What ranks do together. Both ends of a packet have to mean the same.
public enum Operation: Int, Sendable, CaseIterable {
    case rotate, allGather, allReduce, reduceScatter, allToAll, broadcast, barrier, split
}

/// What a packet says of itself, as 64-bit words with a checksum of their own at the end.
///
/// Words go as they lie in memory: all ranks have the same byte order, or the first word shows that they have not.
public struct PacketHeader: Sendable, Hashable {
    /// One tensor of the payload.
    public struct Part: Sendable, Hashable {
        public var dtype: DType
        public var shape: [Int]

        public var byteCount: Int { shape.reduce(dtype.byteCount, *) }
    }

    /// Counts the packets from its sender to its receiver in one group, from 0.
    public var sequence: Int
    public var operation: Operation
    /// Counts the operations of the group, from 1.
    public var number: Int
    public var hop: Int?
    /// CRC-32C of the payload; nil where it was not asked for.
    public var checksum: UInt32?
    public var parts: [Part]
    public var integers: [Int]

    public var payloadBytes: Int { parts.reduce(0) { $0 + $1.byteCount } }
}

// MARK: As words

extension PacketHeader {
    /// "RingZoo" and the version of this layout.
    private static let mark = Int64(bitPattern: 0x5269_6e67_5a6f_6f01)
    private static let none: Int64 = -1
    /// Of one extent and of one payload: far above any memory, far below where products overflow.
    private static let limit = Int64(1) << 50

    public var words: [Int64] {
        var words: [Int64] = [
            Self.mark, Int64(sequence), Int64(operation.rawValue), Int64(number), hop.map(Int64.init) ?? Self.none,
            checksum.map(Int64.init) ?? Self.none, Int64(parts.count), Int64(integers.count),
        ]
        for part in parts {
            words += [Int64(DType.allCases.firstIndex(of: part.dtype)!), Int64(part.shape.count)]
            words += part.shape.map(Int64.init)
        }
        words += integers.map(Int64.init)
        words.append(Self.checksum(words))
        return words
    }

    /// - Throws: `LinkFailure` for words that are not as `words` made them.
    public init(words: [Int64]) throws {
        guard let last = words.last, words.count > 8, Self.checksum(words.dropLast()) == last, words[0] == Self.mark
        else { throw LinkFailure("the header of its packet is damaged") }
        var rest = words.dropFirst().dropLast()
        func next() throws -> Int {
            guard let word = rest.popFirst() else { throw LinkFailure("the header of its packet is too short") }
            return Int(word)
        }
        func extent() throws -> Int {
            let count = try next()
            if count < 0 || count > Self.limit { throw LinkFailure("the header of its packet has \(count) in it") }
            return count
        }
        sequence = try next()
        guard let operation = Operation(rawValue: try next()) else {
            throw LinkFailure("the header of its packet names an operation that does not exist")
        }
        self.operation = operation
        number = try next()
        let (hop, checksum) = (try next(), try next())
        self.hop = hop < 0 ? nil : hop
        self.checksum = UInt32(exactly: checksum)
        let (partCount, integerCount) = (try extent(), try extent())
        parts = []
        for _ in 0..<min(partCount, rest.count) {
            let (type, rank) = (try extent(), try extent())
            if type >= DType.allCases.count { throw LinkFailure("the header of its packet has no such element type") }
            var shape: [Int] = []
            var bytes = DType.allCases[type].byteCount
            for _ in 0..<min(rank, rest.count) {
                shape.append(try extent())
                let (product, overflow) = bytes.multipliedReportingOverflow(by: shape.last!)
                if overflow || product > Self.limit { throw LinkFailure("its packet claims \(shape)") }
                bytes = product
            }
            parts.append(Part(dtype: DType.allCases[type], shape: shape))
        }
        if rest.count != integerCount || parts.count != partCount {
            throw LinkFailure("the header of its packet has \(words.count) words, which do not add up")
        }
        integers = rest.map { Int($0) }
    }

    private static func checksum(_ words: some Sequence<Int64>) -> Int64 {
        Array(words).withUnsafeBytes { Int64(ringzoo_crc32c(0, $0.baseAddress, $0.count)) }
    }
}

/// CRC-32C of the bytes of all tensors, one after another.
func payloadChecksum(_ tensors: [Tensor]) -> UInt32 {
    tensors.reduce(0) { sum, tensor in
        tensor.byteCount == 0 ? sum : tensor.withBytes { ringzoo_crc32c(sum, $0.baseAddress, $0.count) }
    }
}
