#define _GNU_SOURCE
#include "datagram_bio.h"

#include <stdlib.h>

double datagram_loss;

static int is_lost(void) {
    return datagram_loss > 0 && drand48() < datagram_loss;
}

static int port_read(BIO *bio, char *buffer, int capacity) {
    DatagramPort *port = BIO_get_data(bio);
    BIO_clear_retry_flags(bio);
    int length;
    do length = port->receive(port->owner, buffer, capacity);
    while (length >= 0 && is_lost());
    if (length < 0) BIO_set_retry_read(bio);
    return length;
}

static int port_write(BIO *bio, const char *datagram, int length) {
    DatagramPort *port = BIO_get_data(bio);
    BIO_clear_retry_flags(bio);
    if (!is_lost()) port->transmit(port->owner, datagram, length);
    return length;  // A datagram that the kernel does not accept is lost, like one on the wire.
}

static long port_control(BIO *bio, int command, long number, void *pointer) {
    (void)bio, (void)number, (void)pointer;
    switch (command) {
    case BIO_CTRL_FLUSH:
    case BIO_CTRL_DGRAM_SET_NEXT_TIMEOUT:
        return 1;
    case BIO_CTRL_DGRAM_QUERY_MTU:
    case BIO_CTRL_DGRAM_GET_FALLBACK_MTU:
        return LINK_MTU;
    case BIO_CTRL_DGRAM_GET_MTU_OVERHEAD:
        return 28;  // IPv4 and UDP headers
    default:
        return 0;
    }
}

static int port_create(BIO *bio) {
    BIO_set_init(bio, 1);
    return 1;
}

void use_port(SSL *ssl, DatagramPort *port) {
    static BIO_METHOD *method;
    if (!method) {
        method = BIO_meth_new(BIO_get_new_index() | BIO_TYPE_SOURCE_SINK, "datagram port");
        BIO_meth_set_read(method, port_read);
        BIO_meth_set_write(method, port_write);
        BIO_meth_set_ctrl(method, port_control);
        BIO_meth_set_create(method, port_create);
    }
    BIO *bio = BIO_new(method);
    if (!bio) abort();
    BIO_set_data(bio, port);
    SSL_set_bio(ssl, bio, bio);
    SSL_set_options(ssl, SSL_OP_NO_QUERY_MTU);
    SSL_set_mtu(ssl, LINK_MTU);
}
