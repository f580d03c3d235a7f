// DistributedCore
