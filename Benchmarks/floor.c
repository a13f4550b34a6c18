// The simplest DTLS server that OpenSSL allows, which echoes or forwards. It has one process, one epoll loop, a connected UDP socket for
// each client, and one recvfrom and one send for each datagram; it has no hand-over, no logs, no limits and no timers.
// scripts/bench tells the costs of dtlsd as multiples of the costs of this server.
//
//   floor PORT CERTIFICATE KEY [BACKEND_PORT [PSK]]   listens on 127.0.0.1, or on the IPv4 address that the variable
//                                                     FLOOR_ADDRESS has; prints "ready" on standard output
//
// With BACKEND_PORT, unless it is 0, it forwards what a client sends to this port of 127.0.0.1, through a connected socket
// for each client, and sends the client what comes back. With PSK (hexadecimal), clients may have this key, under any
// identity.
#define _GNU_SOURCE
#include "datagram_bio.h"

#include <arpa/inet.h>
#include <errno.h>
#include <linux/filter.h>
#include <netinet/in.h>
#include <openssl/crypto.h>
#include <openssl/err.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <unistd.h>

#define LONGEST_MISDELIVERED 2048
#define MOST_MISDELIVERED 256
#define LONGEST_DATAGRAM 65536

typedef struct Connection {
    int socket;  // -1 until the cookie is verified; until then answers leave through the listener
    int backend;  // a socket, or -1
    SSL *ssl;
    struct sockaddr_in peer;
    const char *first;  // a datagram that the listener has already read
    int first_length;
    int is_open;
    DatagramPort port;
    struct Connection *next_closed;
} Connection;

typedef struct {
    int length;
    struct sockaddr_in from;
    char bytes[LONGEST_MISDELIVERED];
} MisdeliveredDatagram;

static int listener, events;
static struct sockaddr_in local, backend_address;  // the port of the latter is 0 in a server that echoes
static SSL_CTX *context;
static MisdeliveredDatagram misdelivered[MOST_MISDELIVERED];
static int misdelivered_count;
static char datagram[LONGEST_DATAGRAM];
static Connection *closed;  // those whose other socket may still have an event in the batch

static _Noreturn void fail(const char *what) {
    fprintf(stderr, "floor: %s: %s\n", what, strerror(errno));
    ERR_print_errors_fp(stderr);
    exit(1);
}

static int same_peer(const struct sockaddr_in *one, const struct sockaddr_in *other) {
    return one->sin_port == other->sin_port && one->sin_addr.s_addr == other->sin_addr.s_addr;
}

static int receive_from(int socket, char *buffer, int capacity, struct sockaddr_in *from) {
    socklen_t size = sizeof *from;
    return (int)recvfrom(socket, buffer, capacity, 0, (struct sockaddr *)from, &size);
}

// Keeps another client's datagram until the listener is read next. A new socket receives such datagrams until it is
// connected.
static void keep_for_listener(const char *bytes, int length, const struct sockaddr_in *from) {
    if (length > LONGEST_MISDELIVERED || misdelivered_count == MOST_MISDELIVERED) return;
    MisdeliveredDatagram *entry = &misdelivered[misdelivered_count++];
    entry->length = length;
    entry->from = *from;
    memcpy(entry->bytes, bytes, length);
}

static int connection_receive(void *owner, char *buffer, int capacity) {
    Connection *connection = owner;
    if (connection->first_length > 0) {
        int length = connection->first_length < capacity ? connection->first_length : capacity;
        memcpy(buffer, connection->first, length);
        connection->first_length = 0;
        return length;
    }
    if (connection->socket < 0) return -1;
    for (;;) {
        struct sockaddr_in from;
        int length = receive_from(connection->socket, buffer, capacity, &from);
        if (length < 0 || same_peer(&from, &connection->peer)) return length;
        keep_for_listener(buffer, length, &from);
    }
}

static void connection_transmit(void *owner, const char *bytes, int length) {
    Connection *connection = owner;
    if (connection->socket < 0)
        sendto(listener, bytes, length, 0, (struct sockaddr *)&connection->peer, sizeof connection->peer);
    else
        send(connection->socket, bytes, length, 0);
}

static int bound_socket(void) {
    int one = 1, made = socket(AF_INET, SOCK_DGRAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0);
    if (made < 0) fail("socket");
    setsockopt(made, SOL_SOCKET, SO_REUSEPORT, &one, sizeof one);
    if (bind(made, (struct sockaddr *)&local, sizeof local) < 0) fail("bind");
    return made;
}

// The lowest bit of the event's data tells a connection's two sockets apart.
static void watch(int socket, Connection *connection, int is_backend) {
    struct epoll_event event = {.events = EPOLLIN, .data.u64 = (uintptr_t)connection | is_backend};
    if (epoll_ctl(events, EPOLL_CTL_ADD, socket, &event) < 0) fail("epoll_ctl");
}

static Connection *new_connection(void) {
    Connection *connection = calloc(1, sizeof *connection);
    if (!connection || !(connection->ssl = SSL_new(context))) fail("SSL_new");
    connection->socket = connection->backend = -1;
    connection->port = (DatagramPort){connection_receive, connection_transmit, connection};
    use_port(connection->ssl, &connection->port);
    SSL_set_accept_state(connection->ssl);
    return connection;
}

static void close_connection(Connection *connection) {
    ERR_clear_error();
    SSL_free(connection->ssl);
    // A client that comes back at once from the same port has its ClientHello in this queue, a handshake record of
    // epoch 0.
    struct sockaddr_in from;
    for (int length; (length = receive_from(connection->socket, datagram, sizeof datagram, &from)) >= 0;)
        if (length > 13 && datagram[0] == 22 && !datagram[3] && !datagram[4])
            keep_for_listener(datagram, length, &from);
    close(connection->socket);
    if (connection->backend >= 0) close(connection->backend);
    connection->ssl = NULL;
    connection->next_closed = closed;
    closed = connection;
}

static void free_closed(void) {
    while (closed) {
        Connection *next = closed->next_closed;
        free(closed);
        closed = next;
    }
}

static void open_backend(Connection *connection) {
    connection->backend = socket(AF_INET, SOCK_DGRAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0);
    if (connection->backend < 0 ||
        connect(connection->backend, (struct sockaddr *)&backend_address, sizeof backend_address) < 0)
        fail("backend");
    watch(connection->backend, connection, 1);
}

static void read_backend(Connection *connection) {
    for (int length; (length = recv(connection->backend, datagram, sizeof datagram, 0)) >= 0;)
        SSL_write(connection->ssl, datagram, length);
}

static void serve(Connection *connection) {
    int result = 1;
    if (!connection->is_open) {
        result = SSL_do_handshake(connection->ssl);
        if (result == 1) {
            connection->is_open = 1;
            SSL_free_buffers(connection->ssl);
            if (backend_address.sin_port) open_backend(connection);
        }
    }
    if (connection->is_open)
        while ((result = SSL_read(connection->ssl, datagram, sizeof datagram)) > 0) {
            if (connection->backend >= 0) send(connection->backend, datagram, result, 0);
            else SSL_write(connection->ssl, datagram, result);
        }
    if (SSL_get_error(connection->ssl, result) != SSL_ERROR_WANT_READ) close_connection(connection);
}

// Gives a client whose cookie is verified a socket of its own, and continues the handshake.
static void open_connection(Connection *connection) {
    connection->socket = bound_socket();
    if (connect(connection->socket, (struct sockaddr *)&connection->peer, sizeof connection->peer) < 0)
        fail("connect");
    watch(connection->socket, connection, 0);
    serve(connection);
}

static void accept_datagram(const struct sockaddr_in *peer, int length) {
    static Connection *spare;  // answers ClientHellos without a cookie; becomes the connection of the first valid one
    static BIO_ADDR *unused;
    if (!spare) spare = new_connection();
    if (!unused) unused = BIO_ADDR_new();
    spare->first = datagram;
    spare->first_length = length;
    spare->peer = *peer;
    int has_cookie = DTLSv1_listen(spare->ssl, unused);
    spare->first_length = 0;
    ERR_clear_error();
    if (has_cookie <= 0) return;
    Connection *connection = spare;
    spare = NULL;
    open_connection(connection);
}

static void read_listener(void) {
    for (;;) {
        struct sockaddr_in peer;
        int length;
        if (misdelivered_count > 0) {
            MisdeliveredDatagram *entry = &misdelivered[--misdelivered_count];
            length = entry->length;
            peer = entry->from;
            memcpy(datagram, entry->bytes, length);
        } else {
            length = receive_from(listener, datagram, sizeof datagram, &peer);
        }
        if (length < 0) return;
        accept_datagram(&peer, length);
    }
}

// A cookie costs nothing to make and to check here, and is the same for all.
static const unsigned char only_cookie[20] = "no cookie of others";

static int make_cookie(SSL *ssl, unsigned char *cookie, unsigned *length) {
    (void)ssl;
    memcpy(cookie, only_cookie, sizeof only_cookie);
    *length = sizeof only_cookie;
    return 1;
}

static int check_cookie(SSL *ssl, const unsigned char *cookie, unsigned length) {
    (void)ssl;
    return length == sizeof only_cookie && !memcmp(cookie, only_cookie, sizeof only_cookie);
}

static unsigned char shared_key[64];
static long shared_key_length;

static unsigned find_key(SSL *ssl, const char *identity, unsigned char *key, unsigned most) {
    (void)ssl, (void)identity;
    if (shared_key_length > most) return 0;
    memcpy(key, shared_key, shared_key_length);
    return shared_key_length;
}

static void use_shared_key(const char *text) {
    unsigned char *key = OPENSSL_hexstr2buf(text, &shared_key_length);
    if (!key || shared_key_length > (long)sizeof shared_key) fail("PSK");
    memcpy(shared_key, key, shared_key_length);
    OPENSSL_free(key);
    SSL_CTX_set_psk_server_callback(context, find_key);
}

static void make_context(const char *certificate, const char *key) {
    context = SSL_CTX_new(DTLS_server_method());
    if (!context || SSL_CTX_use_certificate_chain_file(context, certificate) != 1 ||
        SSL_CTX_use_PrivateKey_file(context, key, SSL_FILETYPE_PEM) != 1)
        fail("certificate and key");
    SSL_CTX_set_cookie_generate_cb(context, make_cookie);
    SSL_CTX_set_cookie_verify_cb(context, check_cookie);
    SSL_CTX_set1_groups_list(context, "X25519:P-256:P-384");
    SSL_CTX_set_session_cache_mode(context, SSL_SESS_CACHE_OFF);  // sessions are resumed by ticket alone
    SSL_CTX_set_options(context, SSL_OP_CIPHER_SERVER_PREFERENCE);
}

static void open_listener(int port) {
    const char *address = getenv("FLOOR_ADDRESS");
    local = (struct sockaddr_in){.sin_family = AF_INET, .sin_port = htons(port)};
    if (inet_pton(AF_INET, address ? address : "127.0.0.1", &local.sin_addr) != 1) fail("FLOOR_ADDRESS");
    listener = bound_socket();
    int size = 4 << 20;
    setsockopt(listener, SOL_SOCKET, SO_RCVBUF, &size, sizeof size);
    // Every datagram of the reuseport group goes to its first socket, the listener, and not to a connection that is not
    // connected yet.
    struct sock_filter code[] = {{BPF_RET | BPF_K, 0, 0, 0}};
    struct sock_fprog program = {1, code};
    setsockopt(listener, SOL_SOCKET, SO_ATTACH_REUSEPORT_CBPF, &program, sizeof program);
    watch(listener, NULL, 0);
}

int main(int count, char **arguments) {
    if (count < 4 || count > 6) {
        fprintf(stderr, "usage: floor PORT CERTIFICATE KEY [BACKEND_PORT [PSK]]\n");
        return 2;
    }
    struct rlimit limit;
    getrlimit(RLIMIT_NOFILE, &limit);
    limit.rlim_cur = limit.rlim_max;
    setrlimit(RLIMIT_NOFILE, &limit);
    make_context(arguments[2], arguments[3]);
    backend_address = (struct sockaddr_in){.sin_family = AF_INET, .sin_addr.s_addr = htonl(INADDR_LOOPBACK)};
    if (count >= 5) backend_address.sin_port = htons(atoi(arguments[4]));
    if (count == 6) use_shared_key(arguments[5]);
    events = epoll_create1(EPOLL_CLOEXEC);
    open_listener(atoi(arguments[1]));
    puts("ready");
    fflush(stdout);
    for (;;) {
        struct epoll_event ready[256];
        int ready_count = epoll_wait(events, ready, 256, -1);
        for (int i = 0; i < ready_count; i++) {
            Connection *connection = (Connection *)(uintptr_t)(ready[i].data.u64 & ~1ull);
            if (!connection) read_listener();
            else if (!connection->ssl) continue;
            else if (ready[i].data.u64 & 1) read_backend(connection);
            else serve(connection);
        }
        free_closed();
        if (misdelivered_count > 0) read_listener();
    }
}
