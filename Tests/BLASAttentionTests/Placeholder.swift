// BLASAttentionTests
