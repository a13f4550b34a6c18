// The clock that OpenSSL's DTLS timers go by.
//
// They ask gettimeofday() (dtls1_start_timer, dtls1_get_timeout; ossl_time_now since 3.2), and nothing in OpenSSL's
// interface replaces it or has a flight sent again before its time: when the system's clock is set back during a
// handshake, lost flights would stay lost for as long as it was set back. So this target defines that symbol in the
// program, where the dynamic linker finds it before libc's. It answers as libc's does, but for the calls of a thread
// that has set it ahead.
#ifndef COPENSSLCLOCK_H
#define COPENSSLCLOCK_H

#include <stdint.h>

/// From now on this thread's gettimeofday() answers so many seconds since 1970; 0: the system's time again.
void openssl_clock_set_ahead(int64_t seconds);
/// Whether this thread has set it ahead.
int openssl_clock_is_ahead(void);

#endif
