// CAttentionKernelsTests
