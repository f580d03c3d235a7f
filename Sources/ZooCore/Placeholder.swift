// ZooCore
