// BLASAttention
