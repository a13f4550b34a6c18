#include "VirtualClock.h"

#include <stddef.h>
#include <sys/time.h>
#include <time.h>

static _Thread_local int64_t now;
static _Thread_local int64_t current;

int64_t virtual_clock_start(int64_t microseconds) {
    now = microseconds;
    return ++current;
}

void virtual_clock_advance(int64_t microseconds) { now += microseconds; }
int64_t virtual_clock_now(void) { return now; }

void virtual_clock_stop(int64_t number) {
    if (number == current) now = 0;
}

int gettimeofday(struct timeval *restrict time, void *restrict zone) {
    (void)zone;
    if (now != 0) {
        time->tv_sec = now / 1000000;
        time->tv_usec = now % 1000000;
        return 0;
    }
    struct timespec real;
    if (clock_gettime(CLOCK_REALTIME, &real) != 0) return -1;
    time->tv_sec = real.tv_sec;
    time->tv_usec = real.tv_nsec / 1000;
    return 0;
}
