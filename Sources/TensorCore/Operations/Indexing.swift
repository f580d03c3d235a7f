extension Tensor {
    /// Rows of this tensor by int32 or int64 indices: [V, ...] and [I...] -> [I..., ...]. Negative indices give zeros.
    public func gather(_ indices: Tensor) -> Tensor {
        if rank == 0 || indices.dtype.isFloat || indices.dtype == .bool {
            shapeFault("gather", "rows and int32 or int64 indices wanted", self, indices)
        }
        let out = Tensor(uninitialised: indices.shape + shape.dropFirst(), dtype, on: device)
        let index = indices.detached.contiguous()
        device.gather(detached, index, into: out)
        let table = shape
        return Tensor.record("gather", inputs: [self], output: out) { g in
            let wide = Tensor.zeros(table, g.dtype.accumulator, on: g.device)
            g.device.scatterAdd(g.cast(to: wide.dtype), index, into: wide)
            return [wide.cast(to: g.dtype)]
        }
    }

    /// Adds rows into a copy of this tensor: out[indices[i], ...] += rows[i, ...]. Negative indices are skipped.
    public func scatteringAdd(_ rows: Tensor, at indices: Tensor) -> Tensor {
        if indices.shape + shape.dropFirst() != rows.shape || rows.dtype != dtype {
            shapeFault("scatteringAdd", "rows do not fit target and indices", self, rows, indices)
        }
        let out = Tensor(uninitialised: shape, dtype, on: device)
        let index = indices.detached.contiguous()
        device.copy(detached, into: out)
        device.scatterAdd(rows.detached, index, into: out)
        return Tensor.record("scatteringAdd", inputs: [self, rows], output: out) { g in [g, g.gather(index)] }
    }
}
