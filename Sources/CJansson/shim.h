// Jansson: JSON in C, for what an authorizer answers. Workers call it; they have no Foundation.
#ifndef CJANSSON_SHIM_H
#define CJANSSON_SHIM_H
// What jansson.h includes of the C library stays Glibc's by this (see CCares).
#pragma clang module import SwiftGlibc
#include <jansson.h>
#endif
