import Foundation

/// `make test` runs the small scale, `make test-all` (RINGZOO_TEST_ALL) the full one.
enum TestScale {
    static let full = ProcessInfo.processInfo.environment["RINGZOO_TEST_ALL"] != nil
    static let sizes = [1, 2, 3, 4, 5, 7, 8] + (full ? [16] : [])
}
