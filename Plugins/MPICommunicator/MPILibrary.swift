import CMPIShim
import Foundation
import Synchronization
import TensorCore

/// The MPI library of this machine, opened when it is first wanted.
public struct MPILibrary: Sendable {
    /// "Open MPI" or "MPICH".
    public let family: String
    /// The file it was opened by.
    public let file: String
    /// What it says of itself, its first line.
    public let version: String

    /// Names of Debian's run-time packages first, then those of other builds; no header or development package is needed.
    private static let openMPI = ["libmpi.so.40", "libmpi.so.80"]
    private static let mpich = ["libmpich.so.12", "libmpi.so.12"]

    private static let opened = Mutex<MPILibrary?>(nil)

    /// Opens the library that fits the launcher. RINGZOO_MPI names another file.
    /// - Throws: `.config` with what was tried and what to install.
    static func open(for launcher: Launcher?) throws -> MPILibrary {
        try opened.withLock { opened in
            if let opened { return opened }
            let library = try load(for: launcher)
            opened = library
            return library
        }
    }

    private static func load(for launcher: Launcher?) throws -> MPILibrary {
        let names: [String]
        switch (ProcessInfo.processInfo.environment["RINGZOO_MPI"], launcher?.family) {
        case (let name?, _): names = [name]
        case (nil, .openMPI): names = openMPI
        case (nil, .mpich): names = mpich
        case (nil, nil): names = openMPI + mpich
        }
        var tried: [String] = []
        for name in names {
            guard let reason = rz_mpi_open(name) else {
                let version = String(cString: rz_mpi_library_version()).split(whereSeparator: \.isNewline).first ?? ""
                return MPILibrary(
                    family: String(cString: rz_mpi_family()), file: name,
                    version: version.split(separator: ",").first.map(String.init) ?? "")
            }
            tried.append("\(name): \(String(cString: reason))")
        }
        tried.append(
            launcher?.family == .mpich
                ? "apt-get install libmpich12 would work" : "apt-get install openmpi-bin libopenmpi3 would work")
        throw RingZooError(
            .config, "no MPI library\(launcher.map { " for \($0.name)" } ?? "") can be opened here", tried: tried)
    }
}
