// ringzooTests
