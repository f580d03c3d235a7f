// RingAttention
