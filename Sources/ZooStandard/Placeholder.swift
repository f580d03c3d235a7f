// ZooStandard
