// A BIO that reads and writes datagrams through two functions of its owner, with a fixed MTU.
// OpenSSL's own datagram BIO makes two or three further system calls for each record; neither side of the benchmark does.
#pragma once
#include <openssl/ssl.h>

#define LINK_MTU 1400

typedef struct {
    // Returns the length read, or -1 where there is nothing now.
    int (*receive)(void *owner, char *buffer, int capacity);
    void (*transmit)(void *owner, const char *datagram, int length);
    void *owner;
} DatagramPort;

// Gives `ssl` a BIO over `port`, which must live as long as `ssl`.
void use_port(SSL *ssl, DatagramPort *port);
