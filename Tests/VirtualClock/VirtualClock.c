#include "VirtualClock.h"

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
