#define _GNU_SOURCE
#include "COpenSSLClock.h"

#include <stddef.h>
#include <sys/time.h>
#include <time.h>

static _Thread_local int64_t ahead;

void openssl_clock_set_ahead(int64_t seconds) { ahead = seconds; }

int openssl_clock_is_ahead(void) { return ahead != 0; }

int gettimeofday(struct timeval *restrict now, void *restrict zone) {
    // As libc's.
    if (zone) *(struct timezone *)zone = (struct timezone){0};
    struct timespec real = {.tv_sec = (time_t)ahead};
    if (ahead == 0 && clock_gettime(CLOCK_REALTIME, &real) != 0) return -1;
    now->tv_sec = real.tv_sec;
    now->tv_usec = real.tv_nsec / 1000;
    return 0;
}
