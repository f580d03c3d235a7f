// DistributedCoreTests
