// CPUAttentionTests
