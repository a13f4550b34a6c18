// The scenarios of clients whose addresses change, and whose records carry the server's connection ID (--cid).
//
//   load move    --to ADDRESS:PORT --cid [-c CONNECTIONS] [-t SECONDS]
//   load flood   --to ADDRESS:PORT --cid [-c CONNECTIONS] [-t SECONDS] [-i SECONDS] [--rate DATAGRAMS] --server PID
//   load reading --to ADDRESS:PORT [--cid] [-t SECONDS]
//
// move: within -t seconds each client sends a message, changes its port before the answer, and sends the next message.
//   lost             clients that got no answer any more
//   late             messages that were sent again, since a second had passed without an answer
//   first_p50, first_p99, first_worst
//                    from the first message of the new port to the first answer there
// flood: for -t seconds each, floods of records that carry CIDs, at --rate datagrams a second, from one address and from
// 250 networks, while all clients send a message every -i seconds. KIND is forged_one, forged_many (records that
// nobody has sealed, with the CIDs of clients), replayed_one, replayed_many (clients' own records, once more), unknown_one,
// unknown_many (with CIDs of nobody).
//   KIND             the CPU time of the server's processes for a datagram, less what the clients' messages cost before
//   KIND_rate        datagrams a second that the server has taken
//   KIND_dropped     datagrams that found the listener's queue full
//   messages, messages_lost, alive
//                    of the clients, and how many of these were answered at their addresses after all that
// reading: a client is silent for -t seconds, gets another port, and sends 20 bytes, which the server echoes. Without
// CIDs it has to do another handshake for that.
//   datagrams, bytes, ip_bytes
//                    both ways, from the change of the port to the answer; with and without the headers of IPv4 and UDP
#define _GNU_SOURCE
#include "clock.h"
#include "latencies.h"
#include "load.h"
#include "process_tree.h"

#include <errno.h>
#include <openssl/err.h>
#include <openssl/rand.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <unistd.h>

#define BEFORE 0  // networks of source_address()
#define AFTER 2
#define STRANGERS 4
#define STRANGER_COUNT 250
#define STRANGER_DISTANCE (256 * 32768L)  // each is in another IPv4 network of 24 bits
#define MOST_HALF_OPEN 256
#define MESSAGE_BYTES 64
#define READING_BYTES 20
#define PATIENCE 1.0
#define MOST_ATTEMPTS 5
#define TIMER_INTERVAL 0.02
#define HEADERS 28  // IPv4 and UDP
#define BATCH 8
#define LONGEST_DELAY 0.002

typedef struct {
    Client client;
    unsigned sent;      // the number of the next message
    unsigned awaited;   // the least number that is an answer
    int is_answered;
    double sent_at, moved_at, next_message;
    int attempts;
} Mover;

static SSL_CTX *context;
static int events;
static Mover *movers;
static long messages, answers, late;
static Latencies first_answers;

static void speak(Mover *mover, int size) {
    unsigned char message[MESSAGE_BYTES] = {0};
    memcpy(message, &mover->sent, sizeof mover->sent);
    mover->awaited = mover->sent++;
    mover->is_answered = 0;
    mover->sent_at = now();
    messages++;
    send_message(&mover->client, message, size);
}

static void hear(Mover *mover) {
    unsigned char message[MESSAGE_BYTES];
    unsigned number;
    while (SSL_read(mover->client.ssl, message, sizeof message) >= READING_BYTES) {
        memcpy(&number, message, sizeof number);
        answers++;
        if (number < mover->awaited || mover->is_answered) continue;
        mover->is_answered = 1;
        if (mover->moved_at) add_latency(&first_answers, now() - mover->moved_at);
        mover->moved_at = 0;
    }
    ERR_clear_error();
}

static void turn(int milliseconds) {
    static double next_timers;
    struct epoll_event ready[256];
    int count = epoll_wait(events, ready, 256, milliseconds);
    for (int i = 0; i < count; i++) {
        Mover *mover = ready[i].data.ptr;  // which begins with its client
        if (mover->client.state == OPEN) hear(mover);
        else if (mover->client.state == SHAKING_HANDS && continue_handshake(&mover->client) == ENDED)
            give_up("handshake");
    }
    double time = now();
    if (time < next_timers) return;
    next_timers = time + TIMER_INTERVAL;
    for (int i = 0; i < options.connections; i++)
        if (movers[i].client.state == SHAKING_HANDS && run_handshake_timer(&movers[i].client, time) == ENDED)
            give_up("handshake");
}

static void open_movers(void) {
    int started = 0, open = 0;
    while (open < options.connections) {
        while (started < options.connections && started - open < MOST_HALF_OPEN) {
            Address from = source_address(&options.to, BEFORE, started);
            if (begin_client(&movers[started++].client, context, NULL, &from, &options.to, events) == ENDED)
                give_up("handshake");
        }
        turn(1);
        open = 0;
        for (int i = 0; i < started; i++) open += movers[i].client.state == OPEN;
    }
    if (options.offers_ids && !movers[0].client.cid.length) {
        errno = EPROTO;
        give_up("the server agrees on no connection ID");
    }
}

static void prepare(void) {
    context = make_client_context(options.psk, options.ecdhe, options.offers_ids);
    events = epoll_create1(EPOLL_CLOEXEC);
    movers = calloc(options.connections, sizeof *movers);
    if (events < 0 || !movers) give_up("memory");
    open_movers();
}

// Sends again what has not been answered, and returns how many of the first `count` clients wait for an answer.
static int ask_again(int count) {
    int waiting = 0;
    double time = now();
    for (int i = 0; i < count; i++) {
        Mover *mover = &movers[i];
        if (mover->is_answered || mover->attempts > MOST_ATTEMPTS) continue;
        if (time - mover->sent_at > PATIENCE) {
            late++;
            if (++mover->attempts <= MOST_ATTEMPTS) speak(mover, MESSAGE_BYTES);
        }
        waiting++;
    }
    return waiting;
}

// Has each client send a message in tens, and returns how many are answered.
static int count_living(void) {
    int living = 0;
    for (int i = 0; i < options.connections; i++) {
        movers[i].attempts = 0;
        speak(&movers[i], MESSAGE_BYTES);
        if (i % 10 == 9) turn(0);
    }
    while (ask_again(options.connections)) turn(1);
    for (int i = 0; i < options.connections; i++) living += movers[i].is_answered;
    return living;
}

int run_move(void) {
    prepare();
    count_living();
    late = 0;
    double begun = now();
    for (int moved = 0; moved < options.connections;) {
        while (moved < options.connections && now() - begun >= options.seconds * moved / options.connections) {
            Mover *mover = &movers[moved];
            Address from = source_address(&options.to, AFTER, moved++);
            mover->attempts = 0;
            speak(mover, MESSAGE_BYTES);
            move_client(&mover->client, &from, &options.to, events);
            speak(mover, MESSAGE_BYTES);
            mover->moved_at = mover->sent_at;
        }
        ask_again(moved);
        turn(1);
    }
    double took = now() - begun;
    while (ask_again(options.connections)) turn(1);
    long late_moves = late;
    int living = count_living();
    printf("connections=%d seconds=%.1f lost=%d late=%ld", options.connections, took, options.connections - living,
           late_moves);
    printf(" first_p50=%.0f first_p99=%.0f first_worst=%.0f\n", latency_percentile(&first_answers, 0.5) * 1e6,
           latency_percentile(&first_answers, 0.99) * 1e6, latency_percentile(&first_answers, 1) * 1e6);
    return living < options.connections;
}

// What a flood sends: the next one of its datagrams.
typedef enum { NOTHING, FORGED, REPLAYED, UNKNOWN } Kind;

static int write_datagram(Kind kind, long number, unsigned char *bytes) {
    Client *client = &movers[number % options.connections].client;
    if (kind == REPLAYED) {
        memcpy(bytes, client->last_datagram, client->last_length);
        return client->last_length;
    }
    // With the explicit nonce, the content with its type, and the tag.
    int body = 8 + MESSAGE_BYTES + 1 + 16, length = client->cid.length;
    unsigned sequence = 1000000 + number;  // ahead of every record of the client
    memcpy(bytes, "\x19\xfe\xfd\0\1\0\0", 7);
    for (int i = 0; i < 4; i++) bytes[7 + i] = sequence >> (24 - 8 * i);
    memcpy(bytes + 11, client->cid.bytes, length);
    if (kind == UNKNOWN) memcpy(bytes + 12, &number, sizeof number);
    bytes[11 + length] = body >> 8;
    bytes[12 + length] = body & 255;
    memset(bytes + 13 + length, number, body);
    return 13 + length + body;
}

static void send_batch(Kind kind, int socket, long number) {
    static unsigned char bytes[BATCH][512];
    struct mmsghdr messages[BATCH] = {0};
    struct iovec parts[BATCH];
    for (int i = 0; i < BATCH; i++) {
        parts[i] = (struct iovec){bytes[i], write_datagram(kind, number + i, bytes[i])};
        messages[i].msg_hdr = (struct msghdr){.msg_iov = &parts[i], .msg_iovlen = 1};
    }
    sendmmsg(socket, messages, BATCH, 0);
}

static void keep_talking(void) {
    double time = now();
    for (int i = 0; i < options.connections; i++) {
        if (time < movers[i].next_message) continue;
        movers[i].next_message = time + options.interval;
        movers[i].client.keeps_last = 1;
        speak(&movers[i], MESSAGE_BYTES);
    }
}

static void flood(const char *name, Kind kind, const int *sockets, int count) {
    static double idle_cpu;  // of a second with the clients' messages alone
    TreeUsage before = measure_tree(options.server);
    long dropped = measure_kernel().udp_dropped, sent = 0;
    double due = 0;
    double end = now() + options.seconds, last = now();
    while (now() < end) {
        // A sender that is late makes up for two milliseconds at most, so that it does not send in bursts.
        double passed = now() - last;
        last += passed;
        if (passed > LONGEST_DELAY) passed = LONGEST_DELAY;
        for (due += passed * options.rate; kind != NOTHING && due >= BATCH; due -= BATCH, sent += BATCH)
            send_batch(kind, sockets[sent / BATCH % count], sent);
        keep_talking();
        turn(kind == NOTHING);
    }
    usleep(100000);
    double cpu = measure_tree(options.server).cpu_seconds - before.cpu_seconds;
    dropped = measure_kernel().udp_dropped - dropped;
    if (kind == NOTHING) {
        idle_cpu = cpu / options.seconds;
        return;
    }
    printf(" %s=%.2f %s_rate=%.0f %s_dropped=%ld", name, each(cpu - idle_cpu * options.seconds, sent - dropped), name,
           (sent - dropped) / options.seconds, name, dropped);
    fflush(stdout);
}

static int open_stranger(int number) {
    Address from = source_address(&options.to, STRANGERS, number * STRANGER_DISTANCE);
    int made = socket(options.to.any.sa_family, SOCK_DGRAM | SOCK_CLOEXEC, 0), one = 1;
    if (options.to.any.sa_family == AF_INET6) setsockopt(made, IPPROTO_IPV6, IPV6_FREEBIND, &one, sizeof one);
    if (made < 0 || bind(made, &from.any, from.length) < 0 || connect(made, &options.to.any, options.to.length) < 0)
        give_up("socket");
    return made;
}

int run_flood(void) {
    int strangers[STRANGER_COUNT];
    if (!options.rate) options.rate = 100000;
    prepare();
    for (int i = 0; i < STRANGER_COUNT; i++) strangers[i] = open_stranger(i);
    for (int i = 0; i < options.connections; i++)
        movers[i].next_message = now() + options.interval * i / options.connections;
    flood("none", NOTHING, strangers, 1);
    messages = answers = 0;
    flood("none", NOTHING, strangers, 1);
    flood("forged_one", FORGED, strangers, 1);
    flood("forged_many", FORGED, strangers, STRANGER_COUNT);
    flood("replayed_one", REPLAYED, strangers, 1);
    flood("replayed_many", REPLAYED, strangers, STRANGER_COUNT);
    flood("unknown_one", UNKNOWN, strangers, 1);
    flood("unknown_many", UNKNOWN, strangers, STRANGER_COUNT);
    for (double end = now() + PATIENCE; now() < end;) turn(1);
    printf(" messages=%ld messages_lost=%ld", messages, messages - answers);
    printf(" connections=%d alive=%d\n", options.connections, count_living());
    return 0;
}

int run_reading(void) {
    options.connections = 1;
    prepare();
    Client *client = &movers[0].client;
    for (double end = now() + options.seconds; now() < end;) turn(10);
    Address from = source_address(&options.to, AFTER, 0);
    client->datagrams = client->bytes = 0;
    if (client->cid.length) {
        move_client(client, &from, &options.to, events);
    } else {
        free_client(client, 0);
        if (begin_client(client, context, NULL, &from, &options.to, events) == ENDED) give_up("handshake");
        while (client->state != OPEN) turn(1);
    }
    speak(&movers[0], READING_BYTES);
    while (ask_again(1)) turn(1);
    printf("datagrams=%ld bytes=%ld ip_bytes=%ld answered=%d late=%ld\n", client->datagrams, client->bytes,
           client->bytes + HEADERS * client->datagrams, movers[0].is_answered, late);
    return !movers[0].is_answered;
}
