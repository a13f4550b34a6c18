// A BIO that reads and writes datagrams through two functions of its owner, with a fixed MTU.
// OpenSSL's own datagram BIO makes two or three more system calls for each record, which neither side of the benchmark
// should pay for.
#pragma once
#include <openssl/ssl.h>

#define LINK_MTU 1400

typedef struct {
    // Returns the length that was read, or -1 when nothing is there.
    int (*receive)(void *owner, char *buffer, int capacity);
    void (*transmit)(void *owner, const char *datagram, int length);
    void *owner;
} DatagramPort;

// The share of the datagrams that are lost in each direction, 0 to 1.
extern double datagram_loss;

// Gives `ssl` a BIO over `port`, which must live as long as `ssl`.
void use_port(SSL *ssl, DatagramPort *port);
