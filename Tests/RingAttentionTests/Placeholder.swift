// RingAttentionTests
