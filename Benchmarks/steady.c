// The scenarios handshake, echo and idle: a load that stays the same from its beginning to its end.
#define _GNU_SOURCE
#include "clock.h"
#include "latencies.h"
#include "load.h"
#include "process_tree.h"

#include <errno.h>
#include <openssl/err.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <unistd.h>

#define WIDEST_WINDOW 64
#define LONGEST_DATAGRAM 16384
#define MOST_HALF_OPEN 256
#define ECHO_PATIENCE 0.25
#define TIMER_INTERVAL 0.02
#define STRAYS 20000
#define CLIENTS_PER_ADDRESS 8000

typedef struct {
    Client client;
    unsigned sent;  // the number of the next datagram
    int under_way;
    double sent_at[WIDEST_WINDOW];
} Connection;

static struct {
    long started, opened, failed, resumed, sent, received, lost;
} counts;

static SSL_CTX *context;
static SSL_SESSION *session;
static Connection *connections;
static int events, half_open;
static int *unused, unused_count;  // a stack of indices into connections; of ended ones only if they are used again
static Latencies latencies;
static int only_handshakes, echoing;

// Ends a connection in any state. In handshake mode its slot is free for the next one.
static void end(Connection *connection) {
    if (connection->client.state != OPEN) half_open--;
    free_client(&connection->client, 1);
    if (only_handshakes) unused[unused_count++] = connection - connections;
}

static void send_window(Connection *connection) {
    unsigned char message[LONGEST_DATAGRAM];
    memset(message, 'd', options.bytes);
    while (connection->under_way < options.window) {
        memcpy(message, &connection->sent, sizeof connection->sent);
        connection->sent_at[connection->sent % WIDEST_WINDOW] = now();
        if (!send_message(&connection->client, message, options.bytes)) break;
        connection->sent++;
        connection->under_way++;
        counts.sent++;
    }
}

static void handshake_went_on(Connection *connection, ClientState state) {
    if (state == OPEN) {
        half_open--;
        counts.opened++;
        counts.resumed += SSL_session_reused(connection->client.ssl);
        if (!echoing) add_latency(&latencies, now() - connection->client.started);
        if (only_handshakes) end(connection);
    } else if (state == ENDED) {
        counts.failed++;
        end(connection);
    }
}

static void start(Connection *connection) {
    *connection = (Connection){0};
    Address from = {0};
    if (options.to.any.sa_family == AF_INET && ntohl(options.to.v4.sin_addr.s_addr) >> 24 == 127) {
        // One loopback address has fewer ports than a large run has connections.
        from.length = sizeof from.v4;
        from.v4.sin_family = AF_INET;
        from.v4.sin_addr.s_addr = htonl(INADDR_LOOPBACK + 1 + counts.started / CLIENTS_PER_ADDRESS);
    }
    half_open++;
    counts.started++;
    handshake_went_on(connection, begin_client(&connection->client, context, options.resume ? session : NULL,
                                               from.length ? &from : NULL, &options.to, events));
}

static void read_echoes(Connection *connection) {
    unsigned char message[LONGEST_DATAGRAM];
    int length;
    while ((length = SSL_read(connection->client.ssl, message, sizeof message)) > 0) {
        unsigned number;
        memcpy(&number, message, sizeof number);
        if (connection->under_way > 0) connection->under_way--;
        counts.received++;
        if (connection->sent - number <= WIDEST_WINDOW)
            add_latency(&latencies, now() - connection->sent_at[number % WIDEST_WINDOW]);
    }
    if (SSL_get_error(connection->client.ssl, length) != SSL_ERROR_WANT_READ) {
        ERR_clear_error();
        end(connection);
    } else if (echoing) {
        send_window(connection);
    }
}

static void run_timers(double time) {
    for (int i = 0; i < options.connections; i++) {
        Connection *connection = &connections[i];
        if (connection->client.state == SHAKING_HANDS) {
            handshake_went_on(connection, run_handshake_timer(&connection->client, time));
        } else if (connection->client.state == OPEN && echoing && connection->under_way > 0 &&
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
        Connection *connection = ready[i].data.ptr;  // begins with its client
        if (connection->client.state == SHAKING_HANDS)
            handshake_went_on(connection, continue_handshake(&connection->client));
        else if (connection->client.state == OPEN) read_echoes(connection);
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

static void prepare(void) {
    context = make_client_context(options.psk, options.ecdhe, options.offers_ids);
    SSL_CTX_sess_set_new_cb(context, keep_session);
    events = epoll_create1(EPOLL_CLOEXEC);
    connections = calloc(options.connections, sizeof *connections);
    unused = calloc(options.connections, sizeof *unused);
    if (events < 0 || !connections || !unused) give_up("memory");
    while (unused_count < options.connections) {
        unused[unused_count] = options.connections - 1 - unused_count;
        unused_count++;
    }
}

static int finish(void) {
    for (int i = 0; i < options.connections; i++)
        if (connections[i].client.state == OPEN) end(&connections[i]);
    return counts.failed > 0;
}

static double measure_strays(void) {
    unsigned char stray[LONGEST_DATAGRAM];
    memset(stray, 's', options.bytes);
    // A loopback address that no connection has (see start()).
    int from = socket(AF_INET, SOCK_DGRAM | SOCK_CLOEXEC, 0);
    struct sockaddr_in source = {.sin_family = AF_INET, .sin_addr.s_addr = htonl(INADDR_LOOPBACK)};
    if (from < 0 || bind(from, (struct sockaddr *)&source, sizeof source) < 0) give_up("socket");
    double started = read_clock(CLOCK_THREAD_CPUTIME_ID);
    for (int i = 0; i < STRAYS; i++)
        sendto(from, stray, options.bytes, 0, &options.to.any, options.to.length);
    double seconds = read_clock(CLOCK_THREAD_CPUTIME_ID) - started;
    close(from);
    return each(seconds, STRAYS);
}

static void report(const char *scenario, TreeUsage before, TreeUsage after, double seconds, long count) {
    printf("mode=%s opened=%ld failed=%ld resumed=%ld", scenario, counts.opened, counts.failed, counts.resumed);
    printf(" sent=%ld received=%ld lost=%ld per_second=%.0f", counts.sent, counts.received, counts.lost, count / seconds);
    printf(" p50=%.0f p99=%.0f p999=%.0f", latency_percentile(&latencies, 0.5) * 1e6,
           latency_percentile(&latencies, 0.99) * 1e6, latency_percentile(&latencies, 0.999) * 1e6);
    printf(" server_each=%.2f", each(after.cpu_seconds - before.cpu_seconds, count));
}

int run_handshakes(void) {
    only_handshakes = 1;
    prepare();
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
    puts("");
    return finish();
}

int run_echo(void) {
    prepare();
    shake_hands(options.connections, MOST_HALF_OPEN);
    latencies.count = 0;
    echoing = 1;
    TreeUsage before = measure_tree(options.server);
    double started = now();
    for (int i = 0; i < options.connections; i++)
        if (connections[i].client.state == OPEN) send_window(&connections[i]);
    while (now() - started < options.seconds) turn();
    double seconds = now() - started;
    report("echo", before, measure_tree(options.server), seconds, counts.received);
    puts("");
    return finish();
}

static double hold(void) {
    double started = now();
    while (now() - started < options.seconds) turn();
    return now() - started;
}

// kib_each: PSS of all processes for each connection but the first ones, for which a server has also written to its
// buffers for the first time. kernel_kib_each: the kernel's memory for the server's socket of each connection; the client's
// socket is of the same kind and takes as much, so it is the growth of the kernel's slabs divided by the growth of the
// number of sockets, times the server's share of them.
int run_idle(void) {
    prepare();
    long first = options.connections / 5;
    shake_hands(first, MOST_HALF_OPEN);
    hold();
    first = counts.opened;
    TreeUsage empty = measure_tree(options.server);
    KernelUsage kernel_before = measure_kernel();
    shake_hands(options.connections - options.connections / 5, MOST_HALF_OPEN);
    TreeUsage before = measure_tree(options.server);
    double seconds = hold();
    long more = counts.opened - first;
    TreeUsage after = measure_tree(options.server);
    KernelUsage kernel_after = measure_kernel();
    report("idle", before, after, seconds, 0);
    long sockets = kernel_after.udp_sockets - kernel_before.udp_sockets;
    double kib_per_socket = sockets > 0 ? (double)(kernel_after.slab_kib - kernel_before.slab_kib) / sockets : 0;
    double sockets_each = more ? (double)(after.descriptors - empty.descriptors) / more : 0;
    printf(" stray_each=%.2f", measure_strays());
    printf(" kib_each=%.2f", more ? (double)(after.pss_kib - empty.pss_kib) / more : 0);
    printf(" sockets_each=%.2f kernel_kib_each=%.2f\n", sockets_each, kib_per_socket * sockets_each);
    return finish();
}
