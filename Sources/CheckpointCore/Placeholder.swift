// CheckpointCore
