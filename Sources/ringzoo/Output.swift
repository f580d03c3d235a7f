import Foundation

/// What programs read: standard output.
enum Output {
    /// Writes at once, so that a reader on the other side of a pipe sees text as it comes.
    static func write(_ text: String) {
        if Terminal.rank == 0 { FileHandle.standardOutput.write(Data(text.utf8)) }
    }

    /// One JSON object on a line of its own, its keys in alphabetical order.
    static func json(_ object: [String: Any]) throws {
        let data = try JSONSerialization.data(withJSONObject: object, options: [.sortedKeys, .withoutEscapingSlashes])
        write(String(decoding: data, as: UTF8.self) + "\n")
    }

    /// A number, or null where it is not finite: JSON has no other word for it.
    static func number(_ value: Double?) -> Any {
        guard let value, value.isFinite else { return NSNull() }
        return value
    }
}
