// AttentionCoreTests
