// CPUAttention
