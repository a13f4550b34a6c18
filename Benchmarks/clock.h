// Times in seconds.
#pragma once
#include <time.h>

static inline double read_clock(clockid_t clock) {
    struct timespec time;
    clock_gettime(clock, &time);
    return time.tv_sec + time.tv_nsec * 1e-9;
}

static inline double now(void) {
    return read_clock(CLOCK_MONOTONIC);
}
