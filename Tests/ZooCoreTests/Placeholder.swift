// ZooCoreTests
