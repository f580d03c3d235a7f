// CAttentionKernels
