import TensorCore
import Testing

@Suite struct ViewTests {
    let device = CPUDevice(threads: 2)

    func counting(_ shape: [Int]) -> Tensor {
        Tensor((0..<shape.reduce(1, *)).map { Int32($0) }, shape, on: device)
    }

    @Test func permutedReadsTheNamedAxes() {
        let x = counting([2, 3, 4])
        let host = HostArray(x)
        for order in [[0, 1, 2], [0, 2, 1], [1, 0, 2], [1, 2, 0], [2, 0, 1], [2, 1, 0]] {
            let y = x.permuted(order)
            #expect(y.shape == order.map { x.shape[$0] })
            let expected = places(y.shape).map { place -> Double in
                var source = [0, 0, 0]
                for (i, axis) in order.enumerated() { source[axis] = place[i] }
                return host[source]
            }
            #expect(y.doubles == expected, "\(order)")
            #expect(y.storage === x.storage, "a view moves nothing")
        }
    }

    /// Every reshape of every permuted, sliced or repeated view shows the elements in row-major order.
    @Test func reshapeKeepsRowMajorOrderOfAnyView() {
        let base = counting([4, 3, 2, 4])
        let views: [(String, Tensor)] = [
            ("whole", base), ("permuted 0213", base.permuted([0, 2, 1, 3])),
            ("permuted 3012", base.permuted([3, 0, 1, 2])),
            ("permuted 2301", base.permuted([2, 3, 0, 1])), ("reversed", base.permuted([3, 2, 1, 0])),
            ("sliced 0", base.slice(axis: 0, 1..<3)), ("sliced 3", base.slice(axis: 3, 1..<3)),
            ("one", base.slice(axis: 1, 2..<3)), ("one, permuted", base.slice(axis: 1, 2..<3).permuted([1, 3, 0, 2])),
            ("last one", base.slice(axis: 3, 2..<3)),
            ("repeated", base.slice(axis: 2, 1..<2).broadcast(to: [4, 3, 5, 4])),
            ("repeated first", base.slice(axis: 0, 1..<2).broadcast(to: [4, 3, 2, 4])),
        ]
        for (name, view) in views {
            let count = view.elementCount
            let expected = view.contiguous().doubles
            #expect(expected == places(view.shape).map { HostArray(view)[$0] })
            for a in 1...count where count % a == 0 {
                for b in 1...(count / a) where count / a % b == 0 {
                    for shape in [[a, b, count / a / b], [a, 1, b, count / a / b, 1]] {
                        let y = view.reshaped(shape)
                        if y.doubles != expected || y.shape != shape { Issue.record("\(name) to \(shape)") }
                    }
                }
            }
        }
    }

    @Test func reshapeCopiesOnlyWhereStridesForbidAView() {
        let x = counting([4, 3, 2])
        #expect(x.reshaped([12, 2]).storage === x.storage)
        #expect(x.slice(axis: 0, 1..<3).reshaped([2, 6]).storage === x.storage)
        #expect(x.permuted([2, 0, 1]).reshaped([2, 12]).storage === x.storage)
        #expect(x.transposed(0, 1).reshaped([3, 2, 2, 2]).storage === x.storage)
        #expect(x.transposed(0, 1).reshaped([12, 2]).storage !== x.storage)
        #expect(x.contiguous().storage === x.storage)
        #expect(x.transposed().contiguous().storage !== x.storage)
    }

    @Test func freeExtentIsFoundAlsoAmongZeros() {
        #expect(counting([4, 3]).reshaped([-1, 2]).shape == [6, 2])
        #expect(counting([0, 3]).reshaped([-1, 3]).shape == [0, 3])
        #expect(counting([4]).reshaped([2, -1, 2]).shape == [2, 1, 2])
    }

    @Test(arguments: DType.allCases) func concatenateUndoesSplit(_ dtype: DType) {
        let x = counting([4, 6, 3]).cast(to: dtype)
        for axis in [0, 1, 2, -1] {
            let extent = x.shape[axis < 0 ? axis + 3 : axis]
            let parts = x.split(axis: axis, [1, 0, extent - 2, 1])
            #expect(parts.map { $0.shape[axis < 0 ? axis + 3 : axis] } == [1, 0, extent - 2, 1])
            #expect(Tensor.concatenate(parts, axis: axis).bytes == x.bytes)
            #expect(Tensor.concatenate(parts.map { Layout.reversed.arrange($0) }, axis: axis).bytes == x.bytes)
        }
    }

    @Test func broadcastRepeatsAndSliceShowsAWindow() {
        let x = counting([2, 1, 3])
        let y = x.broadcast(to: [2, 2, 4, 3])
        let host = HostArray(x)
        #expect(y.doubles == places(y.shape).map { host.broadcast($0) })
        #expect(y.storage === x.storage)
        #expect(counting([5, 4]).slice(axis: 1, 1..<3).slice(axis: 0, 2..<4).doubles == [9, 10, 13, 14])
        #expect(counting([5, 4]).prefix(1).doubles == [0, 1, 2, 3])
        #expect(counting([5, 4]).prefix(9).shape == [5, 4])
        #expect(counting([2]).broadcast(to: [0, 2]).doubles == [])
    }

    @Test(arguments: [DType.float32, .float64, .bfloat16, .float16, .int32, .int64])
    func gatherAndScatterEqualReference(_ dtype: DType) {
        let table = counting([5, 2, 3]).cast(to: dtype)
        let indices: [Int64] = [4, 0, 0, -1, 2, 4, -7]
        for (layout, index) in [
            (Layout.contiguous, Tensor(indices, on: device)),
            (.reversed, Tensor(indices.map { Int32($0) }, on: device)),
        ] {
            let host = HostArray(table)
            let rows = layout.arrange(table).gather(index)
            #expect(rows.shape == [7, 2, 3] && rows.dtype == dtype)
            #expect(
                rows.doubles
                    == places([7, 2, 3]).map { indices[$0[0]] < 0 ? 0 : host[[Int(indices[$0[0]])] + $0.dropFirst()] })
            let values = sample([7, 2, 3], dtype, in: -9...9, on: device)
            let sums = layout.arrange(table).scatteringAdd(layout.arrange(values), at: index)
            // Every sum is rounded to the element type in the order of the indices.
            var expected = host.values
            for (i, row) in indices.enumerated() where row >= 0 {
                for j in 0..<6 {
                    let sum = expected[Int(row) * 6 + j] + values.doubles[i * 6 + j]
                    expected[Int(row) * 6 + j] = Tensor([sum], on: device).cast(to: dtype).item
                }
            }
            #expect(sums.doubles == expected)
            #expect(table.doubles == host.values, "the operand itself is left alone")
        }
    }

    /// A gradient row hit 4096 times: half-precision sums would stop growing at 256.
    @Test func gradientOfGatherIsSummedInTheAccumulator() throws {
        let table = Tensor.zeros([2, 3], .bfloat16, on: device)
        let index = Tensor([Int32](repeating: 1, count: 4096), on: device)
        let gradient = try valueAndGradient(at: [table]) { $0[0].gather(index).cast(to: .float32).sum() }.gradients[0]
        #expect(gradient.dtype == .bfloat16)
        #expect(gradient.doubles == [0, 0, 0, 4096, 4096, 4096])
    }

    // MARK: Value semantics

    @Test func uniqueCopyLeavesTheOtherUntouched() {
        let original = Tensor([1, 2, 3, 4] as [Float], [2, 2], on: device, kind: .parameters)
        var copy = original
        copy.makeUnique()
        device.fill(copy, with: 9)
        #expect(original.doubles == [1, 2, 3, 4])
        #expect(copy.doubles == [9, 9, 9, 9])
        #expect(copy.storage.kind == .parameters)

        let view = original.transposed()
        var writable = original
        writable.makeUnique()
        device.fill(writable, with: 7)
        #expect(view.doubles == [1, 3, 2, 4], "a view counts as sharing")
    }

    @Test func uniqueTensorIsNotCopied() {
        var x = Tensor([1, 2] as [Float], on: device)
        let address = x.address
        let allocations = device.ledger.allocations
        x.makeUnique()
        #expect(x.address == address && device.ledger.allocations == allocations)
        var turned = Tensor([1, 2, 3, 4] as [Float], [2, 2], on: device).transposed()
        turned.makeUnique()
        #expect(turned.isContiguous && turned.doubles == [1, 3, 2, 4], "writers may walk memory in order")
    }

    @Test func hostReadsRoundTrip() {
        let x = counting([2, 3]).transposed()
        #expect(x.values(Int32.self) == [0, 3, 1, 4, 2, 5])
        #expect(Tensor.scalar(4, .int64, on: device).item == 4)
        #expect(Tensor(bytes: UnsafeRawBufferPointer(start: nil, count: 0), [0, 2], .bool, on: device).bytes == [])
        #expect(counting([3]).description == "int32[3] [0.0, 1.0, 2.0]")
        #expect(counting([10]).description.hasSuffix("7.0, ...]"))
    }
}
