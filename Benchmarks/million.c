// The scenario million: a server that holds very many connections, most of them parked.
//
//   load million --to ADDRESS:PORT [-n CONNECTIONS] [-c AT_ONCE] [--sample CLIENTS] [-t SECONDS] --server PID
//
// Each client has an address and port of its own, does its handshake, and closes its socket without close_notify, so
// that the server holds its connection and the client costs nothing. A sample, spread evenly over all, stays alive.
// It measures, each time after the server has given up its sockets, for which it waits -t seconds at most:
//   per_second       handshakes a second while the connections were opened
//   pss_mib, slab_mib, tables_mib, memory_mib
//                    what the connections have added: to the PSS of the server's processes, to the kernel's slabs and page
//                    tables, and all of these together; the slabs include the sockets of the sample
//   available_mib    what MemAvailable has lost, less the growth of this program: a check of memory_mib
//   bytes_each       the growth of memory_mib for each connection of the second half
//   ten_million_mib  what ten million connections would take, from that growth
//   idle_cpu         the share of one core that the server uses meanwhile, in percent
//   one_p50, one_p99 the echo of one parked client after the other
//   batch_p50, batch_all
//                    the echoes of half of the sample, which send at once: until half and all of them have theirs
//   stray_server, stray_kernel
//                    the CPU time of the server's processes, and of the kernel until it has queued the datagram (over
//                    loopback that is the sender's, its system call included), for a datagram that looks like a record
//                    and is of no connection; *_dropped is how many of them found the queue full
//   forged_server, forged_kernel
//                    the same for a datagram that comes from a parked client and is not authentic
//   *_sockets        the most descriptors that the server has had more than before, while these came
//   alive            how many clients of the sample got their echo after all that
#define _GNU_SOURCE
#include "clock.h"
#include "latencies.h"
#include "load.h"
#include "process_tree.h"

#include <openssl/err.h>
#include <openssl/rand.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <unistd.h>

#define CLIENTS 0    // networks of source_address()
#define STRANGERS 1
#define STRANGER_COUNT 256
#define OTHER_DESCRIPTORS 16  // that a server has for each listener, not for a connection, once there is traffic
#define TIMER_INTERVAL 0.02
#define ECHO_PATIENCE 1.0
#define DATAGRAMS 50000
#define BURST 32
#define PAUSE_MICROSECONDS 1200
#define MESSAGE_BYTES 64
#define RECORD_BYTES (13 + 8 + MESSAGE_BYTES + 16)  // AES-GCM: explicit nonce and tag
#define MEBIBYTE 1024.0                             // in KiB

typedef struct {
    TreeUsage server;
    KernelUsage kernel;
    long own_kib;
} Memory;

static SSL_CTX *context;
static int events;
static Client *half_open;    // options.connections of them
static Client *sample;       // options.sample of them
static double *answered_at;  // for each client of the sample; 0 until its echo is there
static int sample_count;
static long started, opened, failed;
static Memory empty;

static Memory measure_memory(void) {
    return (Memory){measure_tree(options.server), measure_kernel(), own_pss_kib()};
}

static long added_kernel_kib(const Memory *memory) {
    return memory->kernel.slab_kib - empty.kernel.slab_kib + memory->kernel.page_tables_kib -
           empty.kernel.page_tables_kib;
}

static long added_kib(const Memory *memory) {
    return memory->server.pss_kib - empty.server.pss_kib + added_kernel_kib(memory);
}

static void keep_in_sample(Client *client) {
    Client *kept = &sample[sample_count++];
    *kept = *client;
    kept->port.owner = kept;
    // The BIO points to the port.
    BIO_set_data(SSL_get_rbio(kept->ssl), &kept->port);
    struct epoll_event event = {.events = EPOLLIN, .data.ptr = kept};
    if (epoll_ctl(events, EPOLL_CTL_MOD, kept->socket, &event) < 0) give_up("epoll_ctl");
    client->state = UNUSED;
}

static void handshake_went_on(Client *client, ClientState state) {
    if (state == SHAKING_HANDS) return;
    if (state == ENDED) {
        failed++;
        free_client(client, 0);
        return;
    }
    opened++;
    if (opened * options.sample / options.total > sample_count && sample_count < options.sample)
        keep_in_sample(client);
    else free_client(client, 0);
}

static void start(Client *client) {
    Address from = source_address(&options.to, CLIENTS, started++);
    handshake_went_on(client, begin_client(client, context, NULL, &from, &options.to, events));
}

static void read_echo(Client *client) {
    unsigned char message[MESSAGE_BYTES];
    int length;
    while ((length = SSL_read(client->ssl, message, sizeof message)) > 0)
        if (!answered_at[client - sample]) answered_at[client - sample] = now();
    ERR_clear_error();
}

static void turn(int milliseconds) {
    static double next_timers;
    struct epoll_event ready[256];
    int ready_count = epoll_wait(events, ready, 256, milliseconds);
    for (int i = 0; i < ready_count; i++) {
        Client *client = ready[i].data.ptr;
        if (client->state == SHAKING_HANDS) handshake_went_on(client, continue_handshake(client));
        else if (client->state == OPEN) read_echo(client);
    }
    double time = now();
    if (time < next_timers) return;
    next_timers = time + TIMER_INTERVAL;
    for (int i = 0; i < options.connections; i++)
        if (half_open[i].state == SHAKING_HANDS)
            handshake_went_on(&half_open[i], run_handshake_timer(&half_open[i], time));
}

// Opens connections until there have been `total`, and returns how many seconds that took.
static double open_until(long total) {
    double begun = now();
    while (opened + failed < total) {
        for (int i = 0; i < options.connections && started < total; i++)
            if (half_open[i].state != SHAKING_HANDS) start(&half_open[i]);
        turn(1);
        static double next_report;
        if (now() > next_report) {
            next_report = now() + 10;
            fprintf(stderr, "load: %ld connections, %ld failed\n", opened, failed);
        }
    }
    return now() - begun;
}

// Waits until the server has hardly more descriptors than at its start, and returns whether that happened.
static int wait_until_parked(void) {
    for (double begun = now(); now() - begun < options.seconds;) {
        if (measure_tree(options.server).descriptors <= empty.server.descriptors + OTHER_DESCRIPTORS) return 1;
        for (double pause = now(); now() - pause < 0.25;) turn(10);
    }
    fprintf(stderr, "load: the server still has %ld descriptors more than at its start\n",
            measure_tree(options.server).descriptors - empty.server.descriptors);
    return 0;
}

static void ask(int number) {
    unsigned char message[MESSAGE_BYTES] = {0};
    answered_at[number] = 0;
    send_message(&sample[number], message, sizeof message);
}

// Sends one message after the other, each from another client of the second half of the sample.
static void measure_single_echoes(void) {
    Latencies latencies = {0};
    int unanswered = 0;
    for (int i = sample_count / 2; i < sample_count; i++) {
        double sent_at = now();
        ask(i);
        while (!answered_at[i] && now() - sent_at < ECHO_PATIENCE) turn(1);
        if (answered_at[i]) add_latency(&latencies, answered_at[i] - sent_at);
        else unanswered++;
    }
    printf(" one_p50=%.0f one_p99=%.0f one_worst=%.0f one_lost=%d", latency_percentile(&latencies, 0.5) * 1e6,
           latency_percentile(&latencies, 0.99) * 1e6, latency_percentile(&latencies, 1) * 1e6, unanswered);
}

// Sends a message from each of these clients, and returns how many have not been answered after a second.
static int ask_at_once(int first, int end, Latencies *latencies) {
    double begun = now();
    for (int i = first; i < end; i++) ask(i);
    int unanswered = end - first;
    while (unanswered > 0 && now() - begun < ECHO_PATIENCE) {
        turn(1);
        unanswered = 0;
        for (int i = first; i < end; i++) unanswered += !answered_at[i];
    }
    for (int i = first; i < end; i++)
        if (answered_at[i]) add_latency(latencies, answered_at[i] - begun);
    return unanswered;
}

static void measure_batch(void) {
    Latencies latencies = {0};
    int unanswered = ask_at_once(0, sample_count / 2, &latencies);
    printf(" batch=%d batch_p50=%.0f batch_all=%.0f batch_lost=%d", sample_count / 2,
           latency_percentile(&latencies, 0.5) * 1e6, latency_percentile(&latencies, 1) * 1e6, unanswered);
}

static int open_stranger(int number) {
    Address from = source_address(&options.to, STRANGERS, number);
    int made = socket(options.to.any.sa_family, SOCK_DGRAM | SOCK_CLOEXEC, 0), one = 1;
    if (options.to.any.sa_family == AF_INET6) setsockopt(made, IPPROTO_IPV6, IPV6_FREEBIND, &one, sizeof one);
    if (made < 0 || bind(made, &from.any, from.length) < 0 || connect(made, &options.to.any, options.to.length) < 0)
        give_up("socket");
    return made;
}

// Sends records of application data that nobody has sealed from these sockets in turn, slowly enough that the server
// takes them all.
static void measure_unauthentic(const char *name, const int *sockets, int count) {
    unsigned char record[RECORD_BYTES] = {23, 0xfe, 0xfd, 0, 1};
    record[11] = (RECORD_BYTES - 13) >> 8;
    record[12] = (RECORD_BYTES - 13) & 255;
    RAND_bytes(record + 13, RECORD_BYTES - 13);
    TreeUsage before = measure_tree(options.server);
    KernelUsage kernel_before = measure_kernel();
    double sending = 0;
    long most_sockets = 0, sent = 0;
    while (sent < DATAGRAMS) {
        double begun = read_clock(CLOCK_THREAD_CPUTIME_ID);
        for (int i = 0; i < BURST; i++, sent++) {
            unsigned number = 1000 + sent;  // ahead of every record of the client
            memcpy(record + 7, &number, sizeof number);
            memcpy(record + 13, &sent, sizeof sent);
            send(sockets[sent % count], record, sizeof record, 0);
        }
        sending += read_clock(CLOCK_THREAD_CPUTIME_ID) - begun;
        usleep(PAUSE_MICROSECONDS);
        if (sent % (BURST * 128) == 0) {
            long more = measure_tree(options.server).descriptors - before.descriptors;
            if (more > most_sockets) most_sockets = more;
        }
    }
    usleep(200000);
    TreeUsage after = measure_tree(options.server);
    long dropped = measure_kernel().udp_dropped - kernel_before.udp_dropped;
    printf(" %s_server=%.2f %s_kernel=%.2f", name, each(after.cpu_seconds - before.cpu_seconds, sent - dropped), name,
           each(sending, sent));
    printf(" %s_sockets=%ld %s_dropped=%ld", name, most_sockets, name, dropped);
}

static void measure_strays(void) {
    int strangers[STRANGER_COUNT];
    for (int i = 0; i < STRANGER_COUNT; i++) strangers[i] = open_stranger(i);
    measure_unauthentic("stray", strangers, STRANGER_COUNT);
    for (int i = 0; i < STRANGER_COUNT; i++) close(strangers[i]);
}

static void measure_forgeries(void) {
    int *sockets = calloc(sample_count, sizeof *sockets);
    if (!sockets) give_up("memory");
    for (int i = 0; i < sample_count; i++) sockets[i] = sample[i].socket;
    measure_unauthentic("forged", sockets, sample_count);
    free(sockets);
}

// Every client of the sample once more, in tens: nothing that was forged in its name may have done it harm.
static int count_living(void) {
    Latencies latencies = {0};
    int living = 0;
    for (int i = 0; i < sample_count; i += 10) {
        int end = i + 10 < sample_count ? i + 10 : sample_count;
        living += end - i - ask_at_once(i, end, &latencies);
    }
    return living;
}

static void measure_idle_cpu(void) {
    double before = measure_tree(options.server).cpu_seconds, begun = now();
    usleep(3000000);
    printf(" idle_cpu=%.2f", (measure_tree(options.server).cpu_seconds - before) / (now() - begun) * 100);
}

static void report_memory(const Memory *half, const Memory *full) {
    double connections = options.total - options.total / 2;
    double growth = (added_kib(full) - added_kib(half)) / connections;
    printf(" pss_mib=%.1f slab_mib=%.1f tables_mib=%.1f memory_mib=%.1f",
           (full->server.pss_kib - empty.server.pss_kib) / MEBIBYTE,
           (full->kernel.slab_kib - empty.kernel.slab_kib) / MEBIBYTE,
           (full->kernel.page_tables_kib - empty.kernel.page_tables_kib) / MEBIBYTE, added_kib(full) / MEBIBYTE);
    printf(" start_mib=%.1f available_mib=%.1f", empty.server.pss_kib / MEBIBYTE,
           (empty.kernel.available_kib - full->kernel.available_kib - (full->own_kib - empty.own_kib)) / MEBIBYTE);
    printf(" bytes_each=%.0f ten_million_mib=%.0f", growth * 1024,
           (empty.server.pss_kib + added_kib(full) + growth * (1e7 - options.total)) / MEBIBYTE);
}

int run_million(void) {
    context = make_client_context(options.psk, options.ecdhe, options.offers_ids);
    events = epoll_create1(EPOLL_CLOEXEC);
    half_open = calloc(options.connections, sizeof *half_open);
    sample = calloc(options.sample, sizeof *sample);
    answered_at = calloc(options.sample, sizeof *answered_at);
    if (events < 0 || !half_open || !sample || !answered_at) give_up("memory");

    empty = measure_memory();
    double opening = open_until(options.total / 2);
    int parked = wait_until_parked();
    Memory half = measure_memory();
    opening += open_until(options.total);
    parked &= wait_until_parked();
    Memory full = measure_memory();

    printf("opened=%ld failed=%ld per_second=%.0f parked=%d", opened, failed, opened / opening, parked);
    report_memory(&half, &full);
    measure_idle_cpu();
    measure_single_echoes();
    wait_until_parked();
    measure_batch();
    wait_until_parked();
    measure_strays();
    measure_forgeries();
    printf(" sample=%d alive=%d\n", sample_count, count_living());
    return failed > 0;
}
