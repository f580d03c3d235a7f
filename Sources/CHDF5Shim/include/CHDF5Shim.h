#ifndef RINGZOO_CHDF5SHIM_H
#define RINGZOO_CHDF5SHIM_H

#include "HDF5Library.h"
#include "System.h"

#endif
