import Foundation

/// 1.5 GiB, 12.0 MiB, 512 bytes.
public func byteText(_ count: Int) -> String {
    let units = ["KiB", "MiB", "GiB", "TiB"]
    var value = Double(count)
    var unit = -1
    while value >= 1024 && unit < units.count - 1 {
        value /= 1024
        unit += 1
    }
    return unit < 0 ? "\(count) bytes" : String(format: "%.1f %@", value, units[unit])
}
