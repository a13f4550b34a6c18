// The scenario spoofed: what a flood of datagrams with made-up sources costs a server, and what its clients notice.
//
//   load spoofed --to ADDRESS:PORT --kind hello|cookie|record|none [--rate DATAGRAMS] [-c CONNECTIONS] [-i SECONDS]
//                [--newcomers HANDSHAKES] [-t SECONDS] --server PID
//
// The connections are opened first. Then the flood begins: --rate datagrams a second, or as many as one processor sends if
// that is 0 (spoofer.c); none where the kind is none. Each connection sends a message every -i
// seconds, and --newcomers more clients a second do a handshake and leave. After -t seconds no newcomer starts, and the flood goes on until the last one has come in or failed.
// It reports, of the first -t seconds:
//   sent, dropped    datagrams of the flood, and those that found the server's queue full; per_second: sent
//   each_sent        the CPU time of the server's processes for each that was sent
//   each_read        that for each that the server has read. Over loopback the kernel's part up to the server's queue is the
//                    sender's, and in neither
// and, until the end of the flood:
//   handshakes, failed, p50, p99, worst       of the newcomers; one fails after 8 seconds, and waited as long
//   messages, lost, echo_p50, echo_p99, echo_worst
//                    of the connections
// A raw socket needs root, and the answers need a route to 198.18.0.0/15 on which they vanish (scripts/bench).
#define _GNU_SOURCE
#include "clock.h"
#include "latencies.h"
#include "load.h"
#include "process_tree.h"
#include "spoofer.h"

#include <openssl/err.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <unistd.h>

#define MOST_NEWCOMERS 4096
#define MESSAGE_BYTES 64
#define NEWCOMER_PATIENCE 8
#define WARM_UP 0.5
#define ECHO_PATIENCE 1.0
#define TIMER_INTERVAL 0.01

typedef struct {
    Client client;
    unsigned sent;
    double sent_at;  // of the last message; 0 when it has been answered
    double next_message;
} Talker;

static SSL_CTX *context;
static int events;
static Talker *talkers;
static Client newcomers[MOST_NEWCOMERS];
static Latencies handshakes, echoes;
static long failed, talkers_open, messages, lost;
static int is_flooded;

static int is_newcomer(const Client *client) {
    return client >= newcomers && client < newcomers + MOST_NEWCOMERS;
}

static void went_on(Client *client, ClientState state) {
    if (state == SHAKING_HANDS) return;
    if (!is_newcomer(client)) {
        if (state != OPEN) give_up("a connection could not be opened");
        talkers_open++;
        return;
    }
    add_latency(&handshakes, now() - client->started);
    failed += state == ENDED;
    free_client(client, state == OPEN);
}

static void hear(Talker *talker) {
    unsigned char message[MESSAGE_BYTES];
    while (SSL_read(talker->client.ssl, message, sizeof message) > 0) {
        unsigned number;
        memcpy(&number, message, sizeof number);
        if (!talker->sent_at || number + 1 != talker->sent) continue;
        add_latency(&echoes, now() - talker->sent_at);
        talker->sent_at = 0;
    }
    ERR_clear_error();
}

// A connection that has no answer within a second has lost its message, and sends the next one.
static void speak(Talker *talker, double time) {
    unsigned char message[MESSAGE_BYTES] = {0};
    if (time < talker->next_message || (talker->sent_at && time - talker->sent_at < ECHO_PATIENCE)) return;
    lost += talker->sent_at > 0;
    memcpy(message, &talker->sent, sizeof talker->sent);
    talker->sent++;
    talker->sent_at = now();
    talker->next_message += options.interval;
    if (talker->next_message < time) talker->next_message = time;
    messages++;
    send_message(&talker->client, message, sizeof message);
}

static void run_handshake_timers(double time) {
    for (int i = 0; i < options.connections; i++)
        if (talkers[i].client.state == SHAKING_HANDS)
            went_on(&talkers[i].client, run_handshake_timer(&talkers[i].client, time));
    for (int i = 0; i < MOST_NEWCOMERS; i++)
        if (newcomers[i].state == SHAKING_HANDS) went_on(&newcomers[i], run_handshake_timer(&newcomers[i], time));
}

static void turn(void) {
    static double next_timers;
    struct epoll_event ready[256];
    int count = epoll_wait(events, ready, 256, 1);
    for (int i = 0; i < count; i++) {
        Client *client = ready[i].data.ptr;
        if (client->state == SHAKING_HANDS) went_on(client, continue_handshake(client));
        else if (client->state == OPEN) hear((Talker *)client);
    }
    double time = now();
    // A message must not wait for others, or it is measured how long they wait for each other.
    for (int i = 0; is_flooded && i < options.connections; i++)
        if (talkers[i].client.state == OPEN) speak(&talkers[i], time);
    if (time < next_timers) return;
    next_timers = time + TIMER_INTERVAL;
    run_handshake_timers(time);
}

static void open_talkers(void) {
    talkers = calloc(options.connections, sizeof *talkers);
    if (!talkers) give_up("memory");
    for (int i = 0; i < options.connections; i++) {
        // Not all at once: their messages are spread over the interval.
        talkers[i].next_message = now() + options.interval * i / options.connections;
        went_on(&talkers[i].client, begin_client(&talkers[i].client, context, NULL, NULL, &options.to, events));
        while (i + 1 - talkers_open > 64) turn();
    }
    while (talkers_open < options.connections) turn();
}

static void start_newcomer(void) {
    for (int i = 0; i < MOST_NEWCOMERS; i++)
        if (newcomers[i].state == UNUSED || newcomers[i].state == ENDED) {
            went_on(&newcomers[i], begin_client(&newcomers[i], context, NULL, NULL, &options.to, events));
            return;
        }
}

static int are_newcomers_left(void) {
    for (int i = 0; i < MOST_NEWCOMERS; i++)
        if (newcomers[i].state == SHAKING_HANDS) return 1;
    return 0;
}

#define NO_KIND -1

static int kind_named(const char *name) {
    if (name && !strcmp(name, "none")) return NO_KIND;
    for (int kind = 0; kind < SPOOFED_KINDS; kind++)
        if (name && !strcmp(name, spoofed_kinds[kind])) return kind;
    fprintf(stderr, "load: --kind is hello, cookie, record or none\n");
    exit(2);
}

static void report_latencies(Latencies *latencies, const char *prefix) {
    printf(" %sp50=%.1f %sp99=%.1f %sworst=%.1f", prefix, latency_percentile(latencies, 0.5) * 1e3, prefix,
           latency_percentile(latencies, 0.99) * 1e3, prefix, latency_percentile(latencies, 1) * 1e3);
}

int run_spoofed(void) {
    int kind = kind_named(options.kind);
    context = make_client_context(options.psk, options.ecdhe, options.offers_ids);
    events = epoll_create1(EPOLL_CLOEXEC);
    if (events < 0) give_up("epoll_create1");
    open_talkers();
    handshake_patience = NEWCOMER_PATIENCE;
    if (kind != NO_KIND) start_spoofer(&options.to, kind, options.rate);
    // A queue that fills up, and the server's own measures against it, take their time.
    for (double begun = now(); now() - begun < WARM_UP;) turn();

    is_flooded = 1;
    long sent = spoofed_count(), dropped = measure_kernel().udp_dropped, started = 0;
    TreeUsage before = measure_tree(options.server);
    double begun = now();
    for (double time; (time = now() - begun) < options.seconds; turn())
        for (int i = 0; started < time * options.newcomers && i < 16; i++, started++) start_newcomer();
    double seconds = now() - begun, cpu = measure_tree(options.server).cpu_seconds - before.cpu_seconds;
    sent = spoofed_count() - sent;
    dropped = measure_kernel().udp_dropped - dropped;
    while (are_newcomers_left()) turn();
    is_flooded = 0;
    stop_spoofer();

    printf("kind=%s sent=%ld per_second=%.0f dropped=%ld read=%ld each_sent=%.2f each_read=%.2f", options.kind, sent,
           sent / seconds, dropped, sent - dropped, each(cpu, sent), each(cpu, sent - dropped));
    printf(" cpu=%.2f handshakes=%ld failed=%ld", cpu / seconds, handshakes.count, failed);
    report_latencies(&handshakes, "");
    printf(" messages=%ld lost=%ld", messages, lost);
    report_latencies(&echoes, "echo_");
    puts("");
    return 0;
}
