import CDigest

/// CRC-32C of the bytes, continuing from `crc`.
func crc32c(_ bytes: UnsafeRawBufferPointer, from crc: UInt32 = 0) -> UInt32 {
    ringzoo_crc32c(crc, bytes.baseAddress, bytes.count)
}

/// SHA-256 (FIPS 180-4), fed piece by piece.
struct SHA256 {
    private var sum = ringzoo_sha256()

    init() { ringzoo_sha256_begin(&sum) }

    mutating func add(_ bytes: UnsafeRawBufferPointer) {
        if bytes.count > 0 { ringzoo_sha256_add(&sum, bytes.baseAddress, bytes.count) }
    }

    /// Adds zero bytes that are nowhere in memory.
    mutating func addZeros(_ count: Int) {
        let zeros = [UInt8](repeating: 0, count: min(count, 4096))
        var left = count
        while left > 0 {
            let part = min(left, zeros.count)
            zeros.withUnsafeBytes { add(UnsafeRawBufferPointer(rebasing: $0[..<part])) }
            left -= part
        }
    }

    /// The digest; nothing may be added afterwards.
    mutating func finish() -> [UInt8] {
        var digest = [UInt8](repeating: 0, count: 32)
        ringzoo_sha256_end(&sum, &digest)
        return digest
    }

    static func digest(_ bytes: UnsafeRawBufferPointer) -> [UInt8] {
        var sum = SHA256()
        sum.add(bytes)
        return sum.finish()
    }
}

/// Lower-case hexadecimal digits, two for each byte.
func hexadecimal(_ bytes: some Sequence<UInt8>) -> String {
    let digits = Array("0123456789abcdef".utf8)
    return String(decoding: bytes.flatMap { [digits[Int($0 >> 4)], digits[Int($0 & 15)]] }, as: UTF8.self)
}

/// The sum of two runs of bytes, one after the other, from their own sums.
func crc32cOfJoined(_ first: UInt32, _ second: UInt32, _ secondCount: Int) -> UInt32 {
    ringzoo_crc32c_combine(first, second, UInt64(secondCount))
}
