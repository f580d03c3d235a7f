// CTensorKernels
