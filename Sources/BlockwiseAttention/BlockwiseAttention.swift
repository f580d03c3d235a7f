import AttentionCore
import CAttentionKernels
import TensorCore

/// The bridge from tensors to the blockwise C kernels, shared by every backend that runs on a `CPUDevice` and differs only in who
/// multiplies the blocks.
public struct BlockwiseAttention: Sendable {
    private let products: rz_attention_products

    /// - Parameter products: matrix products in place of the kernels' own tiles (`CAttentionKernels.h`); empty for their own.
    public init(products: rz_attention_products = .init()) { self.products = products }

    /// The kernel set in use: "amx", "avx512bf16", "avx512", "avx2", "portable" or, for tests, an emulated one.
    public static var kernels: String { String(cString: rz_attention_kernels()) }

    /// Forces a kernel set for the whole process; false when this machine lacks it. Not to be called while attention runs.
    public static func setKernels(_ name: String) -> Bool { rz_attention_set_kernels(name) }

    public func unsupportedReasons(_ problem: AttentionProblem) -> [String] {
        problem.dtype.isFloat ? [] : ["element type \(problem.dtype): floating-point tensors wanted"]
    }

    /// See `AttentionBackend.forward`.
    /// - Returns: the number of (batch row, key head, query block, key block) pairs computed, for tests of skipping.
    @discardableResult
    public func forward(
        q: Tensor, k: Tensor, v: Tensor, into state: inout AttentionState, _ problem: AttentionProblem
    ) throws -> Int {
        let call = try KernelCall(q, k, v, problem, products)
        state.reference.makeUnique()
        state.sum.makeUnique()
        state.accumulator.makeUnique()
        let (m, l, acc) = (state.reference.address, state.sum.address, state.accumulator.address)
        return call.run { p, executor in
            var (q, k, v) = (call.q.view, call.k.view, call.v.view)
            let isWide = problem.dtype == .float64
            let workspace = call.workspace(
                rz_attention_forward_workspace(p, isWide ? 8 : 4, executor.pointee.workers))
            if call.isRehearsed(products: 2) { return 0 }
            // An address alone would not keep the memory alive.
            return withExtendedLifetime(workspace) {
                isWide
                    ? rz_attention_forward_f64(
                        p, &q, &k, &v, m.assumingMemoryBound(to: Double.self),
                        l.assumingMemoryBound(to: Double.self), acc.assumingMemoryBound(to: Double.self), executor,
                        workspace.address)
                    : rz_attention_forward_f32(
                        p, &q, &k, &v, m.assumingMemoryBound(to: Float.self), l.assumingMemoryBound(to: Float.self),
                        acc.assumingMemoryBound(to: Float.self), executor, workspace.address)
            }
        }
    }

    /// See `AttentionBackend.backward`.
    /// - Returns: the number of block pairs computed.
    @discardableResult
    public func backward(
        dOut: Tensor, q: Tensor, k: Tensor, v: Tensor, lse: Tensor, delta: Tensor,
        into gradients: inout AttentionGradients, _ problem: AttentionProblem
    ) throws -> Int {
        let call = try KernelCall(q, k, v, problem, products)
        let upstream = KernelTensor(dOut)
        let (lse, delta) = (lse.detached.contiguous(), delta.detached.contiguous())
        gradients.q.makeUnique()
        gradients.k.makeUnique()
        gradients.v.makeUnique()
        gradients.bias?.makeUnique()
        let (dq, dk, dv) = (gradients.q.address, gradients.k.address, gradients.v.address)
        let dBias = gradients.bias?.address
        let biasStrides = gradients.bias.map(broadcastStrides) ?? [0, 0, 0, 0]
        defer { withExtendedLifetime((upstream, lse, delta)) {} }
        return call.run { p, executor in
            var (g, q, k, v) = (upstream.view, call.q.view, call.k.view, call.v.view)
            let isWide = problem.dtype == .float64
            let workspace = call.workspace(
                rz_attention_backward_workspace(p, isWide ? 8 : 4, executor.pointee.workers))
            if call.isRehearsed(products: 5) { return 0 }
            let lse = lse.address.assumingMemoryBound(to: Double.self)
            return withExtendedLifetime(workspace) {
                isWide
                    ? rz_attention_backward_f64(
                        p, &g, &q, &k, &v, lse, delta.address.assumingMemoryBound(to: Double.self),
                        dq.assumingMemoryBound(to: Double.self), dk.assumingMemoryBound(to: Double.self),
                        dv.assumingMemoryBound(to: Double.self), dBias?.assumingMemoryBound(to: Double.self),
                        biasStrides, executor, workspace.address)
                    : rz_attention_backward_f32(
                        p, &g, &q, &k, &v, lse, delta.address.assumingMemoryBound(to: Float.self),
                        dq.assumingMemoryBound(to: Float.self), dk.assumingMemoryBound(to: Float.self),
                        dv.assumingMemoryBound(to: Float.self), dBias?.assumingMemoryBound(to: Float.self),
                        biasStrides, executor, workspace.address)
            }
        }
    }
}
