// A clock that stands still until a test advances it, for one thread.
//
// OpenSSL's DTLS timers ask gettimeofday(), and nothing in its interface replaces it (3.0 to 3.5). This target defines
// that symbol in the test executable, where the dynamic linker finds it before libc's: libssl calls it too. A thread
// that has not started a virtual clock gets the real time.
#ifndef VIRTUAL_CLOCK_H
#define VIRTUAL_CLOCK_H

#include <stdint.h>

/// From now on this thread's gettimeofday() answers `microseconds` since 1970. Returns a number for this clock.
int64_t virtual_clock_start(int64_t microseconds);
void virtual_clock_advance(int64_t microseconds);
/// What this thread's gettimeofday() answers, in microseconds since 1970; 0 when no virtual clock was started.
int64_t virtual_clock_now(void);
/// This thread gets the real time again, unless another clock than the one of that number has been started since.
void virtual_clock_stop(int64_t number);

#endif
