// c-ares: asynchronous questions to name servers. Only the resolver process calls it.
#ifndef CCARES_SHIM_H
#define CCARES_SHIM_H
#include <ares.h>
#endif
