// The scenario outage: what clients notice of a command that is run while the server works, such as the death of one of
// its processes or its upgrade.
//
//   load outage --to ADDRESS:PORT [-c CONNECTIONS] [-i SECONDS] [--rate HANDSHAKES] [-t SECONDS] --run COMMAND
//
// Each connection sends a message every -i seconds, whether or not the one before it has been answered. --rate more
// clients a second do a handshake and leave. After two seconds COMMAND is run by a shell; -t seconds
// later it is over. It reports:
//   lost             connections that ended, or were not answered any more
//   affected         connections that lost a message or waited more than 100 ms for an answer
//   restored         how long after the command a message was sent last that was never answered, or an answer came last
//                    that had taken more than 100 ms: from then on, every message of every connection was answered
//   silence          the longest time that a connection that had sent something waited until it heard anything
//   silence_p99      that of all but 1 % of the connections
//   messages_lost    of all that were sent from the command on
//   handshakes, failed, slowest
//                    handshakes from the command on: those that succeeded, those that failed, and the longest of all
#define _GNU_SOURCE
#include "clock.h"
#include "latencies.h"
#include "load.h"

#include <errno.h>
#include <openssl/err.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/wait.h>
#include <unistd.h>

#define MOST_HALF_OPEN 256
#define MOST_NEWCOMERS 4096
#define MESSAGES_REMEMBERED 64
#define MESSAGE_BYTES 64
#define TIMER_INTERVAL 0.02
#define WARM_UP 2.0
#define LATE 0.1
#define LEAVING 3.0  // seconds at the end in which no newcomer starts, and each connection must be answered

typedef struct {
    Client client;
    int has_ended;  // after its handshake
    unsigned sent, answered;  // numbers of the next message, and of the one after the last answered
    double sent_at[MESSAGES_REMEMBERED];
    double next_message;
    double waiting_since;  // 0 when all has been answered
    double last_answer, longest_silence;
    int is_affected;
} Talker;

static SSL_CTX *context;
static int events;
static Talker *talkers;
static Client newcomers[MOST_NEWCOMERS];
static int newcomer_count;  // of those in use, from the beginning of the array
static long messages_sent, messages_answered, handshakes, handshakes_failed;
static double command_at, last_trouble, slowest_handshake;

static int is_newcomer(const Client *client) {
    return client >= newcomers && client < newcomers + MOST_NEWCOMERS;
}

static void note_trouble(Talker *talker, double time) {
    if (!command_at || time < command_at) return;
    talker->is_affected = 1;
    if (time > last_trouble) last_trouble = time;
}

static void note_silence(Talker *talker, double time) {
    double silence = time - talker->waiting_since;
    if (command_at && time > command_at && silence > talker->longest_silence) talker->longest_silence = silence;
}

static void speak(Talker *talker, double time) {
    unsigned char message[MESSAGE_BYTES] = {0};
    memcpy(message, &talker->sent, sizeof talker->sent);
    send_message(&talker->client, message, sizeof message);
    talker->sent_at[talker->sent++ % MESSAGES_REMEMBERED] = time;
    if (!talker->waiting_since) talker->waiting_since = time;
    if (command_at) messages_sent++;
    // A machine that is late does not make up for it.
    talker->next_message += options.interval;
    if (talker->next_message < time) talker->next_message = time + options.interval;
}

static void hear(Talker *talker, unsigned number, double time) {
    if (number >= talker->sent || talker->sent - number > MESSAGES_REMEMBERED) return;
    double sent_at = talker->sent_at[number % MESSAGES_REMEMBERED];
    if (command_at && sent_at >= command_at) messages_answered++;
    note_silence(talker, time);
    if (time - sent_at > LATE) note_trouble(talker, time);
    if (number > talker->answered) note_trouble(talker, talker->sent_at[(number - 1) % MESSAGES_REMEMBERED]);
    if (number >= talker->answered) talker->answered = number + 1;
    talker->last_answer = time;
    talker->waiting_since =
        talker->answered < talker->sent ? talker->sent_at[talker->answered % MESSAGES_REMEMBERED] : 0;
}

static void listen_to(Talker *talker) {
    unsigned char message[MESSAGE_BYTES];
    int length;
    while ((length = SSL_read(talker->client.ssl, message, sizeof message)) > 0) {
        unsigned number;
        memcpy(&number, message, sizeof number);
        hear(talker, number, now());
    }
    if (SSL_get_error(talker->client.ssl, length) == SSL_ERROR_WANT_READ) return;
    talker->has_ended = 1;
    free_client(&talker->client, 0);
}

static void newcomer_went_on(Client *client, ClientState state) {
    if (state == SHAKING_HANDS) return;
    double took = now() - client->started;
    if (command_at && client->started >= command_at - LATE) {
        handshakes += state == OPEN;
        handshakes_failed += state == ENDED;
        if (took > slowest_handshake) slowest_handshake = took;
    }
    free_client(client, 1);
}

static void begin_newcomer(void) {
    for (int i = 0; i < MOST_NEWCOMERS; i++) {
        Client *client = &newcomers[i];
        if (client->state == SHAKING_HANDS) continue;
        if (i >= newcomer_count) newcomer_count = i + 1;
        newcomer_went_on(client, begin_client(client, context, NULL, NULL, &options.to, events));
        return;
    }
    give_up("more newcomers than there is room for");
}

static void run_timers(double time) {
    for (int i = 0; i < newcomer_count; i++)
        if (newcomers[i].state == SHAKING_HANDS)
            newcomer_went_on(&newcomers[i], run_handshake_timer(&newcomers[i], time));
    for (int i = 0; i < options.connections; i++) {
        Client *client = &talkers[i].client;
        if (client->state == SHAKING_HANDS && run_handshake_timer(client, time) == ENDED) give_up("handshake");
    }
}

static void turn(void) {
    static double next_timers;
    struct epoll_event ready[256];
    int ready_count = epoll_wait(events, ready, 256, 1);
    for (int i = 0; i < ready_count; i++) {
        Client *client = ready[i].data.ptr;
        if (is_newcomer(client)) {
            if (client->state == SHAKING_HANDS) newcomer_went_on(client, continue_handshake(client));
        } else if (client->state == OPEN) {
            listen_to((Talker *)client);  // which begins with its client
        } else if (client->state == SHAKING_HANDS && continue_handshake(client) == ENDED) {
            give_up("handshake");
        }
    }
    double time = now();
    if (time < next_timers) return;
    next_timers = time + TIMER_INTERVAL;
    run_timers(time);
}

static void open_talkers(void) {
    int started = 0, open = 0;
    while (open < options.connections) {
        while (started < options.connections && started - open < MOST_HALF_OPEN) {
            Address from = source_address(&options.to, 0, started);
            if (begin_client(&talkers[started++].client, context, NULL, &from, &options.to, events) == ENDED)
                give_up("handshake");
        }
        turn();
        open = 0;
        for (int i = 0; i < started; i++) open += talkers[i].client.state == OPEN;
    }
}

static int run_command(void) {
    int child = fork();
    if (child < 0) give_up("fork");
    if (child == 0) {
        // Standard output is for the results.
        dup2(2, 1);
        execl("/bin/sh", "sh", "-c", options.command, (char *)NULL);
        _exit(127);
    }
    return child;
}

// Keeps all of them talking until `end`; newcomers come until `last_newcomer`.
static void talk(double end, double last_newcomer) {
    static double next_newcomer;
    if (!next_newcomer) next_newcomer = now();
    for (double time; (time = now()) < end;) {
        for (int i = 0; i < options.connections; i++)
            if (talkers[i].client.state == OPEN && time >= talkers[i].next_message) speak(&talkers[i], time);
        while (options.rate > 0 && next_newcomer <= time && time < last_newcomer) {
            begin_newcomer();
            next_newcomer += 1 / options.rate;
        }
        turn();
    }
}

static int report(void) {
    Latencies silences = {0};
    int lost = 0, affected = 0, ended = 0;
    double end = now();
    for (int i = 0; i < options.connections; i++) {
        Talker *talker = &talkers[i];
        ended += talker->has_ended;
        if (talker->has_ended || talker->last_answer < end - LEAVING) {
            lost++;
            continue;
        }
        affected += talker->is_affected;
        add_latency(&silences, talker->longest_silence);
    }
    printf("connections=%d lost=%d ended=%d affected=%d", options.connections, lost, ended, affected);
    printf(" restored=%.0f", last_trouble ? (last_trouble - command_at) * 1e6 : 0);
    printf(" silence=%.0f silence_p99=%.0f", latency_percentile(&silences, 1) * 1e6,
           latency_percentile(&silences, 0.99) * 1e6);
    printf(" messages=%ld messages_lost=%ld", messages_sent, messages_sent - messages_answered);
    printf(" handshakes=%ld failed=%ld slowest=%.0f\n", handshakes, handshakes_failed, slowest_handshake * 1e6);
    return lost > 0 || handshakes_failed > 0;
}

int run_outage(void) {
    if (!options.command) give_up("--run is missing");
    context = make_client_context(options.psk, options.ecdhe, options.offers_ids);
    events = epoll_create1(EPOLL_CLOEXEC);
    talkers = calloc(options.connections, sizeof *talkers);
    if (events < 0 || !talkers) give_up("memory");
    open_talkers();
    double begun = now();
    for (int i = 0; i < options.connections; i++)
        talkers[i].next_message = begun + options.interval * i / options.connections;
    talk(begun + WARM_UP, begun + WARM_UP);
    command_at = now();
    int child = run_command();
    double end = command_at + options.seconds + LEAVING;
    talk(end, end - LEAVING);
    waitpid(child, NULL, WNOHANG);
    return report();
}
