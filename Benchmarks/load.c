// A load generator for DTLS echo servers on IPv4.
//
//   load handshake --to ADDRESS:PORT [-n TOTAL] [-c AT_ONCE] [--resume] [--server PID]
//   load echo      --to ADDRESS:PORT [-c CONNECTIONS] [-s BYTES] [-w WINDOW] [-t SECONDS] [--server PID]
//   load idle      --to ADDRESS:PORT [-c CONNECTIONS] [-t SECONDS] [--server PID]
//
// handshake opens and closes connections. echo keeps WINDOW datagrams of every connection in flight.
// idle opens the connections, holds them, and then sends datagrams that belong to no connection (stray_each: the CPU
// time that one costs the kernel; over loopback that is the sender's).
// With --server, it measures the CPU time of that process and its descendants, and their memory before and after.
// It prints one line of name=value, with times in microseconds, and exits with 1 when a handshake failed.
#define _GNU_SOURCE
#include "datagram_bio.h"
#include "latencies.h"
#include "process_tree.h"

#include <arpa/inet.h>
#include <errno.h>
#include <getopt.h>
#include <netinet/in.h>
#include <openssl/err.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <time.h>
#include <unistd.h>

#define WIDEST_WINDOW 64
#define LONGEST_DATAGRAM 16384
#define MOST_HALF_OPEN 256
#define HANDSHAKE_PATIENCE 10.0
#define ECHO_PATIENCE 0.25
#define TIMER_INTERVAL 0.02
#define STRAYS 20000

typedef enum { HANDSHAKE, ECHO, IDLE } Mode;
typedef enum { UNUSED, SHAKING_HANDS, OPEN, ENDED } State;

typedef struct {
    State state;
    int socket;
    SSL *ssl;
    DatagramPort port;
    double started, retransmission;
    unsigned sent;  // the number of the next datagram
    int under_way;
    double sent_at[WIDEST_WINDOW];
} Connection;

static struct {
    Mode mode;
    struct sockaddr_in to;
    int total, connections, bytes, window, resume, server;
    double seconds;
} options = {.total = 1000, .connections = 32, .bytes = 64, .window = 1, .seconds = 3};

static struct {
    long started, opened, failed, resumed, sent, received, lost;
} counts;

static SSL_CTX *context;
static SSL_SESSION *session;
static Connection *connections;
static int events, half_open;
static int *unused, unused_count;  // a stack of indices into connections
static Latencies latencies;
static int echoing;

static double read_clock(clockid_t clock) {
    struct timespec time;
    clock_gettime(clock, &time);
    return time.tv_sec + time.tv_nsec * 1e-9;
}

static double now(void) {
    return read_clock(CLOCK_MONOTONIC);
}

static _Noreturn void give_up(const char *what) {
    fprintf(stderr, "load: %s: %s\n", what, strerror(errno));
    ERR_print_errors_fp(stderr);
    exit(2);
}

static int connection_receive(void *owner, char *buffer, int capacity) {
    Connection *connection = owner;
    int length;
    // An ICMP error is reported once, and the datagrams before and after it are still in the queue.
    while ((length = recv(connection->socket, buffer, capacity, 0)) < 0 && errno == ECONNREFUSED) continue;
    return length;
}

static void connection_transmit(void *owner, const char *bytes, int length) {
    send(((Connection *)owner)->socket, bytes, length, 0);
}

static int open_socket(void) {
    int made = socket(AF_INET, SOCK_DGRAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0), size = 1 << 20;
    if (made < 0) give_up("socket");
    setsockopt(made, SOL_SOCKET, SO_RCVBUF, &size, sizeof size);
    if (ntohl(options.to.sin_addr.s_addr) >> 24 == 127) {
        // One loopback address has fewer ports than a large run has connections.
        struct sockaddr_in source = {
            .sin_family = AF_INET, .sin_addr.s_addr = htonl(INADDR_LOOPBACK + 1 + counts.started / 8000)};
        if (bind(made, (struct sockaddr *)&source, sizeof source) < 0) give_up("bind");
    }
    if (connect(made, (struct sockaddr *)&options.to, sizeof options.to) < 0) give_up("connect");
    return made;
}

static double next_retransmission(SSL *ssl) {
    struct timeval wait;
    return DTLSv1_get_timeout(ssl, &wait) ? now() + wait.tv_sec + wait.tv_usec * 1e-6 : 1e18;
}

// Ends a connection in any state. In handshake mode its slot is free for the next one.
static void end(Connection *connection) {
    if (connection->state == OPEN) SSL_shutdown(connection->ssl);
    else half_open--;
    SSL_set_shutdown(connection->ssl, SSL_SENT_SHUTDOWN | SSL_RECEIVED_SHUTDOWN);  // keeps the session resumable
    SSL_free(connection->ssl);
    close(connection->socket);
    connection->state = options.mode == HANDSHAKE ? UNUSED : ENDED;
    if (options.mode == HANDSHAKE) unused[unused_count++] = connection - connections;
}

static void send_window(Connection *connection) {
    unsigned char message[LONGEST_DATAGRAM];
    memset(message, 'd', options.bytes);
    while (connection->under_way < options.window) {
        memcpy(message, &connection->sent, sizeof connection->sent);
        connection->sent_at[connection->sent % WIDEST_WINDOW] = now();
        if (SSL_write(connection->ssl, message, options.bytes) <= 0) break;
        connection->sent++;
        connection->under_way++;
        counts.sent++;
    }
}

static void fail(Connection *connection, const char *why) {
    if (counts.failed++ < 3) {
        fprintf(stderr, "load: handshake failed: %s\n", why);
        ERR_print_errors_fp(stderr);
    }
    end(connection);
}

static void handshake(Connection *connection) {
    int result = SSL_do_handshake(connection->ssl);
    if (result == 1) {
        connection->state = OPEN;
        half_open--;
        counts.opened++;
        counts.resumed += SSL_session_reused(connection->ssl);
        if (!echoing) add_latency(&latencies, now() - connection->started);
        if (options.mode == HANDSHAKE) end(connection);
    } else if (SSL_get_error(connection->ssl, result) == SSL_ERROR_WANT_READ) {
        connection->retransmission = next_retransmission(connection->ssl);
    } else {
        fail(connection, "error");
    }
}

static void start(Connection *connection) {
    *connection = (Connection){.state = SHAKING_HANDS, .started = now()};
    connection->socket = open_socket();
    connection->ssl = SSL_new(context);
    if (!connection->ssl) give_up("SSL_new");
    connection->port = (DatagramPort){connection_receive, connection_transmit, connection};
    use_port(connection->ssl, &connection->port);
    SSL_set_connect_state(connection->ssl);
    if (options.resume && session) SSL_set_session(connection->ssl, session);
    struct epoll_event event = {.events = EPOLLIN, .data.ptr = connection};
    if (epoll_ctl(events, EPOLL_CTL_ADD, connection->socket, &event) < 0) give_up("epoll_ctl");
    half_open++;
    counts.started++;
    handshake(connection);
}

static void read_echoes(Connection *connection) {
    unsigned char message[LONGEST_DATAGRAM];
    int length;
    while ((length = SSL_read(connection->ssl, message, sizeof message)) > 0) {
        unsigned number;
        memcpy(&number, message, sizeof number);
        if (connection->under_way > 0) connection->under_way--;
        counts.received++;
        if (connection->sent - number <= WIDEST_WINDOW)
            add_latency(&latencies, now() - connection->sent_at[number % WIDEST_WINDOW]);
    }
    if (SSL_get_error(connection->ssl, length) != SSL_ERROR_WANT_READ) {
        ERR_clear_error();
        end(connection);
    } else if (echoing) {
        send_window(connection);
    }
}

static void run_timers(double time) {
    for (int i = 0; i < options.connections; i++) {
        Connection *connection = &connections[i];
        if (connection->state == SHAKING_HANDS) {
            if (time - connection->started > HANDSHAKE_PATIENCE) {
                fail(connection, "no answer");
            } else if (time >= connection->retransmission) {
                DTLSv1_handle_timeout(connection->ssl);
                connection->retransmission = next_retransmission(connection->ssl);
            }
        } else if (connection->state == OPEN && echoing && connection->under_way > 0 &&
                   time - connection->sent_at[(connection->sent - 1) % WIDEST_WINDOW] > ECHO_PATIENCE) {
            counts.lost += connection->under_way;
            connection->under_way = 0;
            send_window(connection);
        }
    }
}

static void turn(void) {
    static double next_timers;
    struct epoll_event ready[256];
    int ready_count = epoll_wait(events, ready, 256, 1);
    for (int i = 0; i < ready_count; i++) {
        Connection *connection = ready[i].data.ptr;
        if (connection->state == SHAKING_HANDS) handshake(connection);
        else if (connection->state == OPEN) read_echoes(connection);
    }
    double time = now();
    if (time >= next_timers) {
        next_timers = time + TIMER_INTERVAL;
        run_timers(time);
    }
}

// Returns when `total` handshakes have succeeded or failed.
static void shake_hands(long total, int at_once) {
    long first = counts.opened + counts.failed, last_start = counts.started + total;
    while (counts.opened + counts.failed < first + total) {
        while (counts.started < last_start && unused_count > 0 && half_open < at_once)
            start(&connections[unused[--unused_count]]);
        turn();
    }
}

static int keep_session(SSL *ssl, SSL_SESSION *fresh) {
    (void)ssl;
    if (session) SSL_SESSION_free(session);
    session = fresh;
    return 1;
}

static void make_context(void) {
    context = SSL_CTX_new(DTLS_client_method());
    if (!context ||
        !SSL_CTX_set_cipher_list(context, "ECDHE-ECDSA-AES128-GCM-SHA256:ECDHE-RSA-AES128-GCM-SHA256") ||
        !SSL_CTX_set1_groups_list(context, "X25519:P-256:P-384"))
        give_up("TLS context");
    SSL_CTX_set_session_cache_mode(context, SSL_SESS_CACHE_CLIENT | SSL_SESS_CACHE_NO_INTERNAL);
    SSL_CTX_sess_set_new_cb(context, keep_session);
}

static double each(double seconds, long count) {
    return count > 0 ? seconds * 1e6 / count : 0;
}

static double measure_strays(void) {
    unsigned char stray[LONGEST_DATAGRAM];
    memset(stray, 's', options.bytes);
    // A loopback address that no connection has (see open_socket).
    int from = socket(AF_INET, SOCK_DGRAM | SOCK_CLOEXEC, 0);
    struct sockaddr_in source = {.sin_family = AF_INET, .sin_addr.s_addr = htonl(INADDR_LOOPBACK)};
    if (from < 0 || bind(from, (struct sockaddr *)&source, sizeof source) < 0) give_up("socket");
    double started = read_clock(CLOCK_THREAD_CPUTIME_ID);
    for (int i = 0; i < STRAYS; i++)
        sendto(from, stray, options.bytes, 0, (struct sockaddr *)&options.to, sizeof options.to);
    double seconds = read_clock(CLOCK_THREAD_CPUTIME_ID) - started;
    close(from);
    return each(seconds, STRAYS);
}

static void report(const char *mode, TreeUsage before, TreeUsage after, double seconds, long count) {
    printf("mode=%s opened=%ld failed=%ld resumed=%ld", mode, counts.opened, counts.failed, counts.resumed);
    printf(" sent=%ld received=%ld lost=%ld per_second=%.0f", counts.sent, counts.received, counts.lost, count / seconds);
    printf(" p50=%.0f p99=%.0f p999=%.0f", latency_percentile(&latencies, 0.5) * 1e6,
           latency_percentile(&latencies, 0.99) * 1e6, latency_percentile(&latencies, 0.999) * 1e6);
    printf(" server_each=%.2f", each(after.cpu_seconds - before.cpu_seconds, count));
    if (options.mode == IDLE) printf(" stray_each=%.2f", measure_strays());
    printf(" kib_each=%.2f\n", counts.opened ? (double)(after.pss_kib - before.pss_kib) / counts.opened : 0);
}

static void run_handshakes(void) {
    if (options.resume) {
        // One full handshake makes the session that all measured handshakes resume.
        shake_hands(1, 1);
        counts.opened = counts.resumed = 0;
        latencies.count = 0;
    }
    TreeUsage before = measure_tree(options.server);
    double started = now();
    shake_hands(options.total, options.connections);
    double seconds = now() - started;
    report("handshake", before, measure_tree(options.server), seconds, counts.opened);
}

static void run_connections(void) {
    TreeUsage empty = measure_tree(options.server);
    shake_hands(options.connections, MOST_HALF_OPEN);
    TreeUsage before = measure_tree(options.server);
    double started = now();
    if (options.mode == ECHO) {
        latencies.count = 0;
        echoing = 1;
        for (int i = 0; i < options.connections; i++)
            if (connections[i].state == OPEN) send_window(&connections[i]);
    }
    while (now() - started < options.seconds) turn();
    double seconds = now() - started;
    TreeUsage after = measure_tree(options.server);
    before.pss_kib = empty.pss_kib;
    report(options.mode == ECHO ? "echo" : "idle", before, after, seconds, counts.received);
}

static int usage(void) {
    fprintf(stderr, "usage: load handshake|echo|idle --to ADDRESS:PORT [-n TOTAL] [-c CONNECTIONS] [-s BYTES]\n"
                    "            [-w WINDOW] [-t SECONDS] [--resume] [--server PID]\n");
    return 2;
}

static int parse_destination(char *text) {
    char *colon = strrchr(text, ':');
    if (!colon) return 0;
    *colon = 0;
    options.to.sin_family = AF_INET;
    options.to.sin_port = htons(atoi(colon + 1));
    return inet_pton(AF_INET, text, &options.to.sin_addr) == 1;
}

static int parse_options(int count, char **arguments) {
    if (count < 2) return 0;
    if (!strcmp(arguments[1], "handshake")) options.mode = HANDSHAKE;
    else if (!strcmp(arguments[1], "echo")) options.mode = ECHO;
    else if (!strcmp(arguments[1], "idle")) options.mode = IDLE;
    else return 0;
    struct option long_options[] = {
        {"to", required_argument, 0, 'T'}, {"resume", no_argument, 0, 'r'}, {"server", required_argument, 0, 'p'}, {0}};
    optind = 2;
    for (int option; (option = getopt_long(count, arguments, "n:c:s:w:t:", long_options, 0)) != -1;) switch (option) {
        case 'T': if (!parse_destination(optarg)) return 0; break;
        case 'r': options.resume = 1; break;
        case 'p': options.server = atoi(optarg); break;
        case 'n': options.total = atoi(optarg); break;
        case 'c': options.connections = atoi(optarg); break;
        case 's': options.bytes = atoi(optarg); break;
        case 'w': options.window = atoi(optarg); break;
        case 't': options.seconds = atof(optarg); break;
        default: return 0;
        }
    return options.to.sin_port && options.total > 0 && options.connections > 0 && options.seconds > 0 &&
           options.bytes >= (int)sizeof(unsigned) && options.bytes <= LONGEST_DATAGRAM &&
           options.window >= 1 && options.window <= WIDEST_WINDOW;
}

int main(int count, char **arguments) {
    if (!parse_options(count, arguments)) return usage();
    struct rlimit limit;
    getrlimit(RLIMIT_NOFILE, &limit);
    limit.rlim_cur = limit.rlim_max;
    setrlimit(RLIMIT_NOFILE, &limit);
    make_context();
    events = epoll_create1(EPOLL_CLOEXEC);
    connections = calloc(options.connections, sizeof *connections);
    unused = calloc(options.connections, sizeof *unused);
    if (events < 0 || !connections || !unused) give_up("memory");
    while (unused_count < options.connections) {
        unused[unused_count] = options.connections - 1 - unused_count;
        unused_count++;
    }
    if (options.mode == HANDSHAKE) run_handshakes();
    else run_connections();
    for (int i = 0; i < options.connections; i++)
        if (connections[i].state == OPEN) end(&connections[i]);
    return counts.failed > 0;
}
