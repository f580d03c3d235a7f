/// Stops the program because of a programmer error: shapes, axes or types that cannot fit together.
///
/// One helper for all of them, so that the message always names the operation, what it got and what it wanted. It is
/// `fatalError`, since the text of `precondition` is not printed in release builds.
public func shapeFault(_ operation: String, _ problem: String, _ tensors: Tensor...) -> Never {
    let shapes = tensors.map { "\($0.dtype)\($0.shape)" }.joined(separator: " and ")
    fatalError("\(operation): \(problem)" + (shapes.isEmpty ? "" : "; got \(shapes)"))
}
