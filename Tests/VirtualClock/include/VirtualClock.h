// A clock that stands still until a test advances it, for one thread: what a test gives engines and associations as the
// present time.
#ifndef VIRTUAL_CLOCK_H
#define VIRTUAL_CLOCK_H

#include <stdint.h>

/// Starts at `microseconds`. Returns a number for this clock.
int64_t virtual_clock_start(int64_t microseconds);
void virtual_clock_advance(int64_t microseconds);
/// In microseconds; 0 when none was started.
int64_t virtual_clock_now(void);
/// Stops it, unless another clock than the one of that number has been started since.
void virtual_clock_stop(int64_t number);

#endif
