// CheckpointCoreTests
