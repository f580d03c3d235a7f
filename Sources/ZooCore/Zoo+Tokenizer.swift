import DataCore

extension Zoo {
    /// The tokenizer of `NAME` or `NAME:PATH`, as a command line says it.
    ///
    /// - Throws: `.config` for a name that is not registered; what reading its files throws.
    public func tokenizer(named text: String) throws -> any Tokenizer {
        let parts = text.split(separator: ":", maxSplits: 1, omittingEmptySubsequences: false).map(String.init)
        return try tokenizers.entry(parts[0]).make(parts.count > 1 ? parts[1] : nil)
    }
}
