import ZooCore

/// The list of everything in the tree.
public enum ZooStandard {
    /// A zoo with all models, backends, tokenizers, data sets and optimizers of this repository.
    public static func zoo() throws -> Zoo {
        let zoo = Zoo()
        return zoo
    }
}
