// Jansson: JSON in C, for what an authorizer answers. Workers call it; they have no Foundation.
#ifndef CJANSSON_SHIM_H
#define CJANSSON_SHIM_H
#include <jansson.h>
#endif
