// DataCoreTests
