// A process that floods a server with datagrams whose sources are made up.
#pragma once
#include "address.h"

typedef enum {
    SPOOFED_HELLO,   // a first ClientHello
    SPOOFED_COOKIE,  // a second one: its cookie looks like one of the server's, and is not
    SPOOFED_RECORD,  // a record of application data (type 23)
    SPOOFED_KINDS
} SpoofedKind;

extern const char *const spoofed_kinds[SPOOFED_KINDS];

// Starts the process, which sends to the server as many of a kind a second, or as many as it can if `rate` is 0. It needs
// the right to open raw sockets, and sends from 198.18.0.0/15 (RFC 2544) to an IPv4 address of this machine.
void start_spoofer(const Address *server, SpoofedKind kind, double rate);

// How many it has sent by now.
long spoofed_count(void);

void stop_spoofer(void);
