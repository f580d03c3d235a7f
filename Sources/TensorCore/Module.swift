/// A part of a model: a struct whose tensors are its parameters.
///
/// `visit` lists them, one line per field; the key is the name in checkpoints. That one method serves initialisation, counting,
/// saving, loading, optimizers and sharding. A test compares it with reflection, so a forgotten field fails by name.
public protocol Module: Sendable {
    mutating func visit(_ visitor: inout ParameterVisitor)
}

/// Walks a module tree and hands out each parameter with its full name, "layers.0.attention.q_proj.weight".
public struct ParameterVisitor {
    private var path: String
    private let body: (String, inout Tensor) throws -> Void
    fileprivate private(set) var failure: (any Error)?

    fileprivate init(_ body: @escaping (String, inout Tensor) throws -> Void) {
        path = ""
        self.body = body
    }

    public mutating func callAsFunction(_ key: String, _ parameter: inout Tensor) {
        if failure != nil { return }
        do { try body(path + key, &parameter) } catch { failure = error }
    }

    public mutating func callAsFunction(_ key: String, _ parameter: inout Tensor?) {
        if parameter != nil { self(key, &parameter!) }
    }

    public mutating func callAsFunction<M: Module>(_ key: String, _ module: inout M) {
        let outer = path
        path += key.isEmpty ? "" : key + "."
        module.visit(&self)
        path = outer
    }

    public mutating func callAsFunction<M: Module>(_ key: String, _ module: inout M?) {
        if module != nil { self(key, &module!) }
    }

    /// Elements are named by their index: "layers.0", "layers.1".
    public mutating func callAsFunction<M: Module>(_ key: String, _ modules: inout [M]) {
        for index in modules.indices { self("\(key).\(index)", &modules[index]) }
    }
}

extension Module {
    /// Calls `body` with the name of every parameter and the parameter itself, which may be replaced or written in place.
    public mutating func forEachParameter(_ body: (String, inout Tensor) throws -> Void) rethrows {
        let failure: (any Error)? = withoutActuallyEscaping(body) { escaping in
            var visitor = ParameterVisitor(escaping)
            visit(&visitor)
            return visitor.failure
        }
        if let failure { try { throw failure }() }
    }

    /// Names and tensors, in the order of `visit`.
    public var parameters: [(name: String, tensor: Tensor)] {
        var copy = self
        var list: [(name: String, tensor: Tensor)] = []
        copy.forEachParameter { name, tensor in list.append((name, tensor)) }
        return list
    }

    /// The number of trained values.
    public var parameterCount: Int { parameters.reduce(0) { $0 + $1.tensor.elementCount } }
}
