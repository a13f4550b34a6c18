// c-ares: asynchronous questions to name servers. Only the resolver process calls it.
#ifndef CCARES_SHIM_H
#define CCARES_SHIM_H
// What ares.h includes of the C library stays Glibc's by this. Else a file that imports Glibc alone may find that timespec
// or SOCK_DGRAM is of this module, and does not compile, by the order in which the compiler has come to its files.
#pragma clang module import SwiftGlibc
#include <ares.h>
#endif
