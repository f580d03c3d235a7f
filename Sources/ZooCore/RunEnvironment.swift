/// What a bit-exact resume depends on besides the checkpoint itself.
struct RunEnvironment: Codable, Hashable {
    /// Nil in a checkpoint from before programs were recorded.
    var program: ProgramIdentity?
    var ranks: Int
    /// Nil in a checkpoint from before there were meshes.
    var mesh: String?
    private var meshText: String { mesh ?? "" }
    var threadsPerRank: Int
    var attention: String
    /// Kernels of products, and OpenBLAS's kernel set, which float64 uses always.
    var products: String

    /// What differs from the environment of an earlier part of the run; nil where nothing does.
    func difference(from earlier: RunEnvironment) -> String? {
        func change<Value: Equatable>(_ name: String, _ key: KeyPath<RunEnvironment, Value>) -> String? {
            self[keyPath: key] == earlier[keyPath: key]
                ? nil : "\(name) \(earlier[keyPath: key]) before, \(self[keyPath: key]) now"
        }
        let changes = [
            change("ranks:", \.ranks),
            ranks == earlier.ranks && earlier.mesh != nil ? change("mesh:", \.meshText) : nil,
            change("threads a rank:", \.threadsPerRank), change("attention:", \.attention),
            change("products:", \.products), change("another program:", \.programText),
        ].compactMap { $0 }
        return changes.isEmpty ? nil : changes.joined(separator: "; ")
    }

    private var programText: String { program?.description ?? "an unnamed one" }
}
