// The shape of UTF-8 (Unicode Standard, table 3-7).

/// How many bytes a character with this first byte has; 0 where no character starts with it.
@inline(__always)
func utf8Length(lead: UInt8) -> Int {
    switch lead {
    case 0x00...0x7F: 1
    case 0xC2...0xDF: 2
    case 0xE0...0xEF: 3
    case 0xF0...0xF4: 4
    default: 0
    }
}

/// The values the second byte may take after this first byte.
@inline(__always)
func utf8SecondByteRange(lead: UInt8) -> ClosedRange<UInt8> {
    switch lead {
    case 0xE0: 0xA0...0xBF
    case 0xED: 0x80...0x9F
    case 0xF0: 0x90...0xBF
    case 0xF4: 0x80...0x8F
    default: 0x80...0xBF
    }
}

/// The character at `index` and its length in bytes; nil with length 1 where the bytes are not valid UTF-8.
@inline(__always)
func scalar(in bytes: UnsafeBufferPointer<UInt8>, at index: Int) -> (scalar: Unicode.Scalar?, length: Int) {
    let lead = bytes[index]
    let length = utf8Length(lead: lead)
    if length == 1 { return (Unicode.Scalar(lead), 1) }
    guard length > 1, index + length <= bytes.count, utf8SecondByteRange(lead: lead).contains(bytes[index + 1]) else {
        return (nil, 1)
    }
    var value = UInt32(lead) & (0x7F >> UInt32(length))
    for offset in 1..<length {
        let next = bytes[index + offset]
        guard next & 0xC0 == 0x80 else { return (nil, 1) }
        value = value << 6 | UInt32(next & 0x3F)
    }
    return (Unicode.Scalar(value), length)
}
