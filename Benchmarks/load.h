// What the scenarios of the load generator share.
#pragma once
#include "client.h"

typedef struct {
    Address to;
    long total;          // handshakes, or the connections of `million`
    int connections;     // at once
    int bytes, window;   // of echo
    double seconds;
    int resume;
    int server;          // process ID; 0 for none
    const char *psk;     // "IDENTITY:HEXADECIMAL"; NULL for certificates
    int sample;          // how many clients of `million` stay alive
    double interval;     // seconds between the messages of a connection of `outage`, `flood` and `spoofed`
    double rate;         // handshakes a second of `outage`, datagrams of `flood` and `spoofed`
    const char *command; // what `outage` runs
    int offers_ids;      // connection IDs
    int ecdhe;           // with the pre-shared key
    const char *kind;    // of the datagrams of `spoofed`
    double newcomers;    // handshakes a second of `spoofed`
} Options;

extern Options options;

// Each runs one scenario, prints its line of name=value, and returns the exit status.
int run_handshakes(void);
int run_echo(void);
int run_idle(void);
int run_million(void);
int run_outage(void);
int run_move(void);
int run_flood(void);
int run_reading(void);
int run_fleet(void);
int run_spoofed(void);

// Microseconds for each of `count`.
static inline double each(double seconds, double count) {
    return count > 0 ? seconds * 1e6 / count : 0;
}
