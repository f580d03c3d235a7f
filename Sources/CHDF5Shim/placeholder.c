// CHDF5Shim
