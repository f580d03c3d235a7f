import Foundation
import TensorCore

/// All bytes of a file; `.missingInput` where it is not there, `.inputOutput` where it cannot be read.
func readFile(_ path: String) throws -> [UInt8] {
    var isFolder: ObjCBool = false
    guard FileManager.default.fileExists(atPath: path, isDirectory: &isFolder) else { throw missing(path) }
    guard !isFolder.boolValue else { throw RingZooError(.missingInput, "\(path): a folder, where a file was wanted") }
    do {
        return Array(try Data(contentsOf: URL(fileURLWithPath: path)))
    } catch {
        throw RingZooError(.inputOutput, "\(path): the file cannot be read", underlying: error)
    }
}

func missing(_ path: String) -> RingZooError { RingZooError(.missingInput, "\(path): no such file") }

/// The lines of a file with their numbers, counted from 1; a carriage return before the line feed is dropped.
func lines(of bytes: [UInt8]) -> [(number: Int, line: ArraySlice<UInt8>)] {
    let pieces = bytes.split(separator: UInt8(ascii: "\n"), omittingEmptySubsequences: false)
    return pieces.enumerated().map { index, piece in
        (index + 1, piece.last == UInt8(ascii: "\r") ? piece.dropLast() : piece)
    }
}
