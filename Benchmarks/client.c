#define _GNU_SOURCE
#include "client.h"

#include "clock.h"

#include <errno.h>
#include <openssl/err.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/resource.h>
#include <unistd.h>

double handshake_patience = 10;
#define LONGEST_KEY 64

static struct {
    char identity[128];
    unsigned char key[LONGEST_KEY];
    long length;
} shared_key;

_Noreturn void give_up(const char *what) {
    fprintf(stderr, "load: %s: %s\n", what, strerror(errno));
    ERR_print_errors_fp(stderr);
    exit(2);
}

void raise_descriptor_limit(void) {
    struct rlimit limit;
    getrlimit(RLIMIT_NOFILE, &limit);
    limit.rlim_cur = limit.rlim_max;
    setrlimit(RLIMIT_NOFILE, &limit);
}

static unsigned give_key(SSL *ssl, const char *hint, char *identity, unsigned room, unsigned char *key, unsigned most) {
    (void)ssl, (void)hint;
    if (shared_key.length > most || strlen(shared_key.identity) >= room) return 0;
    strcpy(identity, shared_key.identity);
    memcpy(key, shared_key.key, shared_key.length);
    return shared_key.length;
}

static int read_key(const char *psk) {
    const char *colon = strchr(psk, ':');
    if (!colon || colon - psk >= (long)sizeof shared_key.identity) return 0;
    memcpy(shared_key.identity, psk, colon - psk);
    unsigned char *key = OPENSSL_hexstr2buf(colon + 1, &shared_key.length);
    if (!key || shared_key.length > LONGEST_KEY) return 0;
    memcpy(shared_key.key, key, shared_key.length);
    OPENSSL_free(key);
    return 1;
}

SSL_CTX *make_client_context(const char *psk, int exchanges_keys, int offers_ids) {
    SSL_CTX *context = SSL_CTX_new(DTLS_client_method());
    // The only suites of OpenSSL with ECDHE-PSK and AEAD have ChaCha20.
    const char *ciphers = !psk              ? "ECDHE-ECDSA-AES128-GCM-SHA256:ECDHE-RSA-AES128-GCM-SHA256"
                          : !exchanges_keys ? "PSK-AES128-GCM-SHA256"
                                            : "ECDHE-PSK-CHACHA20-POLY1305";
    if (!context || !SSL_CTX_set_cipher_list(context, ciphers) ||
        !SSL_CTX_set1_groups_list(context, "X25519:P-256:P-384"))
        give_up("TLS context");
    SSL_CTX_set_session_cache_mode(context, SSL_SESS_CACHE_CLIENT | SSL_SESS_CACHE_NO_INTERNAL);
    if (psk) {
        if (!read_key(psk)) give_up("pre-shared key");
        SSL_CTX_set_psk_client_callback(context, give_key);
        SSL_CTX_set_options(context, SSL_OP_NO_TICKET);
    }
    if (offers_ids) offer_connection_ids(context);
    return context;
}

static int receive(void *owner, char *buffer, int capacity) {
    Client *client = owner;
    int length;
    // An ICMP error is reported once, and the datagrams before and after it are still in the queue.
    while ((length = recv(client->socket, buffer, capacity, 0)) < 0 && errno == ECONNREFUSED) continue;
    if (length >= 0) {
        client->datagrams++;
        client->bytes += length;
    }
    return length;
}

static void transmit_as_it_is(Client *client, const unsigned char *bytes, int length) {
    client->datagrams++;
    client->bytes += length;
    if (client->keeps_last) {
        client->last_datagram = realloc(client->last_datagram, length);
        if (!client->last_datagram) give_up("memory");
        memcpy(client->last_datagram, bytes, length);
        client->last_length = length;
    }
    send(client->socket, bytes, length, 0);
}

static void transmit(void *owner, const char *bytes, int length) {
    // A flight's datagram has a few records, and one of application data has one.
    static unsigned char copy[65536];
    Client *client = owner;
    length = add_connection_id(&client->cid, client->ssl, (const unsigned char *)bytes, length, copy);
    transmit_as_it_is(client, copy, length);
}

int send_message(Client *client, const void *message, int length) {
    static unsigned char record[65536];
    int sealed = seal_with_connection_id(&client->cid, message, length, record);
    if (!sealed) return SSL_write(client->ssl, message, length) > 0;
    transmit_as_it_is(client, record, sealed);
    return 1;
}

static int open_socket(const Address *from, const Address *to) {
    int made = socket(to->any.sa_family, SOCK_DGRAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0), size = 1 << 20, one = 1;
    if (made < 0) give_up("socket");
    setsockopt(made, SOL_SOCKET, SO_RCVBUF, &size, sizeof size);
    // An IPv6 address of a local route is no address of an interface.
    if (to->any.sa_family == AF_INET6) setsockopt(made, IPPROTO_IPV6, IPV6_FREEBIND, &one, sizeof one);
    if (from && bind(made, &from->any, from->length) < 0) give_up("bind");
    if (connect(made, &to->any, to->length) < 0) give_up("connect");
    return made;
}

static ClientState fail(Client *client, const char *why) {
    static int reported;
    if (reported++ < 3) {
        fprintf(stderr, "load: handshake failed: %s\n", why);
        ERR_print_errors_fp(stderr);
    }
    ERR_clear_error();
    return client->state = ENDED;
}

static double next_retransmission(SSL *ssl) {
    struct timeval wait;
    return DTLSv1_get_timeout(ssl, &wait) ? now() + wait.tv_sec + wait.tv_usec * 1e-6 : 1e18;
}

static void watch(Client *client, int events) {
    struct epoll_event event = {.events = EPOLLIN, .data.ptr = client};
    if (epoll_ctl(events, EPOLL_CTL_ADD, client->socket, &event) < 0) give_up("epoll_ctl");
}

ClientState begin_client(Client *client, SSL_CTX *context, SSL_SESSION *session, const Address *from,
                         const Address *to, int events) {
    *client = (Client){.state = SHAKING_HANDS, .started = now(), .socket = open_socket(from, to)};
    client->ssl = SSL_new(context);
    if (!client->ssl) give_up("SSL_new");
    client->port = (DatagramPort){receive, transmit, client};
    use_port(client->ssl, &client->port);
    SSL_set_app_data(client->ssl, &client->cid);
    SSL_set_connect_state(client->ssl);
    if (session) SSL_set_session(client->ssl, session);
    watch(client, events);
    return continue_handshake(client);
}

void move_client(Client *client, const Address *from, const Address *to, int events) {
    int old = client->socket;
    client->socket = open_socket(from, to);
    close(old);
    watch(client, events);
}

ClientState continue_handshake(Client *client) {
    int result = SSL_do_handshake(client->ssl);
    if (result == 1) return client->state = OPEN;
    if (SSL_get_error(client->ssl, result) != SSL_ERROR_WANT_READ) return fail(client, "error");
    client->retransmission = next_retransmission(client->ssl);
    return SHAKING_HANDS;
}

ClientState run_handshake_timer(Client *client, double time) {
    if (time - client->started > handshake_patience) return fail(client, "no answer");
    if (time >= client->retransmission) {
        DTLSv1_handle_timeout(client->ssl);
        client->retransmission = next_retransmission(client->ssl);
    }
    return SHAKING_HANDS;
}

void free_client(Client *client, int says_goodbye) {
    if (says_goodbye && client->state == OPEN) SSL_shutdown(client->ssl);
    SSL_set_shutdown(client->ssl, SSL_SENT_SHUTDOWN | SSL_RECEIVED_SHUTDOWN);  // keeps the session resumable
    ERR_clear_error();
    SSL_free(client->ssl);
    close(client->socket);
    free_connection_id(&client->cid);
    free(client->last_datagram);
    client->last_datagram = NULL;
    client->ssl = NULL;
    client->state = ENDED;
}
