// The scenario fleet: all clients of a fleet come back, after a power cut for example.
//
//   load fleet --to ADDRESS:PORT [-n CLIENTS] [-t SECONDS] [--resume]
//
// They begin within -t seconds, each at its own moment, and repeat their flights as RFC 6347 says, by OpenSSL's timers of 1,
// 2, 4 … seconds. Who has done the handshake stays. It reports:
//   opened, failed    clients; those that were not served within a minute have failed
//   all               seconds from the first hello until the last client was served
//   p50, p99, worst   seconds that a client waited
//   cpu, load_cpu     seconds of CPU time that server and load took; what one processor has to do, at least, on as many as
//                     there are
//   kib               of the server for each client, at the end
#define _GNU_SOURCE
#include "clock.h"
#include "latencies.h"
#include "load.h"
#include "process_tree.h"

#include <stdio.h>
#include <stdlib.h>
#include <sys/epoll.h>
#include <unistd.h>

#define CLIENTS_PER_ADDRESS 8000
#define PATIENCE 60
#define TIMER_INTERVAL 0.02

static SSL_SESSION *session;
static Client *clients;
static Latencies latencies;
static long opened, failed;

static int keep_session(SSL *ssl, SSL_SESSION *fresh) {
    (void)ssl;
    if (session) SSL_SESSION_free(session);
    session = fresh;
    return 1;
}

static void went_on(Client *client, ClientState state) {
    if (state == OPEN) {
        opened++;
        add_latency(&latencies, now() - client->started);
        // It says nothing more, and 20,000 of them need not keep what OpenSSL has.
        SSL_free_buffers(client->ssl);
    } else if (state == ENDED) {
        failed++;
        free_client(client, 0);
    }
}

static void turn(long started, int events) {
    static double next_timers;
    struct epoll_event ready[256];
    int count = epoll_wait(events, ready, 256, 1);
    for (int i = 0; i < count; i++) {
        Client *client = ready[i].data.ptr;
        if (client->state == SHAKING_HANDS) went_on(client, continue_handshake(client));
    }
    double time = now();
    if (time < next_timers) return;
    next_timers = time + TIMER_INTERVAL;
    for (long i = 0; i < started; i++)
        if (clients[i].state == SHAKING_HANDS) went_on(&clients[i], run_handshake_timer(&clients[i], time));
}

static void start(long number, SSL_CTX *context, int events) {
    Address from = {0};
    if (options.to.any.sa_family == AF_INET) {
        from.length = sizeof from.v4;
        from.v4.sin_family = AF_INET;
        from.v4.sin_addr.s_addr = htonl(INADDR_LOOPBACK + 1 + number / CLIENTS_PER_ADDRESS);
    }
    SSL_SESSION *resumed = options.resume ? session : NULL;
    went_on(&clients[number],
            begin_client(&clients[number], context, resumed, from.length ? &from : NULL, &options.to, events));
}

int run_fleet(void) {
    SSL_CTX *context = make_client_context(options.psk, options.ecdhe, options.offers_ids);
    SSL_CTX_sess_set_new_cb(context, keep_session);
    int events = epoll_create1(EPOLL_CLOEXEC);
    clients = calloc(options.total + 1, sizeof *clients);
    if (events < 0 || !clients) give_up("memory");
    handshake_patience = PATIENCE;
    // One client makes the session that the others resume.
    long first = options.resume ? 1 : 0;
    if (first) {
        start(0, context, events);
        while (opened + failed < 1) turn(1, events);
        opened = failed = latencies.count = 0;
    }
    TreeUsage before = measure_tree(options.server);
    double own_before = read_clock(CLOCK_PROCESS_CPUTIME_ID), began = now();
    long started = first, last = first + options.total;
    while (opened + failed < options.total) {
        double share = (now() - began) / options.seconds;
        long due = share >= 1 ? last : first + (long)(share * options.total);
        // The rest of the load has its turn, too.
        for (int i = 0; started < due && i < 64; i++) start(started++, context, events);
        turn(started, events);
    }
    double all = now() - began;
    TreeUsage after = measure_tree(options.server);
    printf("opened=%ld failed=%ld all=%.2f p50=%.2f p99=%.2f worst=%.2f", opened, failed, all,
           latency_percentile(&latencies, 0.5), latency_percentile(&latencies, 0.99),
           latency_percentile(&latencies, 1));
    printf(" cpu=%.2f load_cpu=%.2f kib=%.1f\n", after.cpu_seconds - before.cpu_seconds,
           read_clock(CLOCK_PROCESS_CPUTIME_ID) - own_before,
           (double)(after.pss_kib - before.pss_kib) / options.total);
    return failed > 0;
}
