/// SHA-256 (FIPS 180-4) of the little-endian bytes of ids, to compare long id sequences with the golden file.
func sha256(_ ids: [Int32]) -> String {
    sha256(bytes: ids.flatMap { id in (0..<4).map { UInt8(truncatingIfNeeded: id >> Int32(8 * $0)) } })
}

func sha256(bytes message: [UInt8]) -> String {
    var message = message
    let bitCount = UInt64(message.count) * 8
    message.append(0x80)
    while message.count % 64 != 56 { message.append(0) }
    message += (0..<8).map { UInt8(truncatingIfNeeded: bitCount >> UInt64(56 - 8 * $0)) }
    var state = initialState
    var w = [UInt32](repeating: 0, count: 64)
    for block in stride(from: 0, to: message.count, by: 64) {
        for i in 0..<16 { w[i] = (0..<4).reduce(0) { $0 << 8 | UInt32(message[block + 4 * i + $1]) } }
        for i in 16..<64 {
            let s0 = rotate(w[i - 15], 7) ^ rotate(w[i - 15], 18) ^ (w[i - 15] >> 3)
            let s1 = rotate(w[i - 2], 17) ^ rotate(w[i - 2], 19) ^ (w[i - 2] >> 10)
            w[i] = w[i - 16] &+ s0 &+ w[i - 7] &+ s1
        }
        var s = state
        for i in 0..<64 {
            let sum1 = rotate(s[4], 6) ^ rotate(s[4], 11) ^ rotate(s[4], 25)
            let choice = (s[4] & s[5]) ^ (~s[4] & s[6])
            let first = s[7] &+ sum1 &+ choice &+ roundConstants[i] &+ w[i]
            let sum0 = rotate(s[0], 2) ^ rotate(s[0], 13) ^ rotate(s[0], 22)
            let majority = (s[0] & s[1]) ^ (s[0] & s[2]) ^ (s[1] & s[2])
            s = [first &+ sum0 &+ majority, s[0], s[1], s[2], s[3] &+ first, s[4], s[5], s[6]]
        }
        for i in 0..<8 { state[i] &+= s[i] }
    }
    return state.map { word in
        let digits = String(word, radix: 16)
        return String(repeating: "0", count: 8 - digits.count) + digits
    }.joined()
}

private func rotate(_ x: UInt32, _ n: UInt32) -> UInt32 { x >> n | x << (32 - n) }

/// The first 32 bits of the fractional part of a root of each of the first primes, in exact integer arithmetic.
private func fraction(ofRoot degree: Int, count: Int) -> [UInt32] {
    let primes = (2...400).filter { n in !(2..<n).contains { n % $0 == 0 } }.prefix(count)
    return primes.map { prime in
        // The largest x with x^degree <= prime * 2^(32 * degree); its low 32 bits are the fraction.
        var low: UInt64 = 0
        var high: UInt64 = 1 << 37
        while high - low > 1 {
            let middle = (low + high) / 2
            if isPower(middle, degree, atMost: UInt64(prime)) { low = middle } else { high = middle }
        }
        return UInt32(truncatingIfNeeded: low)
    }
}

private func isPower(_ x: UInt64, _ degree: Int, atMost prime: UInt64) -> Bool {
    var power = UInt128(1)
    for _ in 0..<degree { power *= UInt128(x) }
    return power <= UInt128(prime) << UInt128(32 * degree)
}

private let initialState = fraction(ofRoot: 2, count: 8)
private let roundConstants = fraction(ofRoot: 3, count: 64)
