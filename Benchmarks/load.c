// A load generator for DTLS servers that echo.
//
//   load handshake --to ADDRESS:PORT [-n TOTAL] [-c AT_ONCE] [--resume] [--loss PERCENT]
//   load echo      --to ADDRESS:PORT [-c CONNECTIONS] [-s BYTES] [-w WINDOW] [-t SECONDS]
//   load idle      --to ADDRESS:PORT [-c CONNECTIONS] [-t SECONDS]
//   load million   --to ADDRESS:PORT [-n CONNECTIONS] [-c AT_ONCE] [--sample CLIENTS] [-t SECONDS]
//   load outage    --to ADDRESS:PORT [-c CONNECTIONS] [-i SECONDS] [--rate HANDSHAKES] [-t SECONDS] --run COMMAND
//
//   load fleet     --to ADDRESS:PORT [-n CLIENTS] [-t SECONDS] [--resume]
//
//   load move|flood|reading (moves.c)
//   load spoofed            (spoofed.c)
//
//   --server PID        measures the CPU time and memory of that process and its descendants
//   --psk IDENTITY:HEX  does handshakes with this pre-shared key; else with the server's certificate, unverified
//   --ecdhe             exchanges keys, too, where it has a pre-shared key
//   --cid               offers an empty connection ID, and puts the server's into its records
//
// handshake opens and closes connections; --loss drops so many of the datagrams, each way. echo keeps WINDOW datagrams of every connection in flight.
// idle opens the connections, holds them, and then sends datagrams that belong to no connection (stray_each: the CPU
// time that one costs the kernel; over loopback that is the sender's). million.c, outage.c, moves.c, fleet.c and spoofed.c
// explain the others.
// Each prints one line of name=value, with times in microseconds, and exits with 1 when a handshake failed.
#define _GNU_SOURCE
#include "load.h"

#include <getopt.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define WIDEST_WINDOW 64
#define LONGEST_DATAGRAM 16384

Options options = {.total = 1000, .connections = 32, .bytes = 64, .window = 1, .seconds = 3, .sample = 2000,
                   .interval = 0.5};

static const struct {
    const char *name;
    int (*run)(void);
} scenarios[] = {
    {"handshake", run_handshakes}, {"echo", run_echo}, {"idle", run_idle}, {"million", run_million},
    {"outage", run_outage},       {"move", run_move}, {"flood", run_flood}, {"reading", run_reading},
    {"fleet", run_fleet},         {"spoofed", run_spoofed},
};

static int usage(void) {
    fprintf(stderr, "usage: load SCENARIO --to ADDRESS:PORT [-n TOTAL] [-c CONNECTIONS]\n"
                    "            [-s BYTES] [-w WINDOW] [-t SECONDS] [-i SECONDS] [--rate HANDSHAKES] [--run COMMAND]\n"
                    "            [--sample CLIENTS] [--psk IDENTITY:HEX] [--ecdhe] [--resume] [--cid] [--server PID]\n"
                    "            [--kind KIND] [--newcomers HANDSHAKES] [--loss PERCENT]\n");
    return 2;
}

static int parse_options(int count, char **arguments) {
    struct option long_options[] = {
        {"to", required_argument, 0, 'T'},   {"resume", no_argument, 0, 'r'},    {"server", required_argument, 0, 'p'},
        {"psk", required_argument, 0, 'k'},  {"sample", required_argument, 0, 'S'}, {"rate", required_argument, 0, 'R'},
        {"run", required_argument, 0, 'C'},  {"cid", no_argument, 0, 'I'},       {"ecdhe", no_argument, 0, 'E'},
        {"kind", required_argument, 0, 'K'}, {"newcomers", required_argument, 0, 'N'},
        {"loss", required_argument, 0, 'L'},
        {0}};
    optind = 2;
    for (int option; (option = getopt_long(count, arguments, "n:c:s:w:t:i:", long_options, 0)) != -1;) switch (option) {
        case 'T': if (!parse_address(optarg, &options.to)) return 0; break;
        case 'r': options.resume = 1; break;
        case 'p': options.server = atoi(optarg); break;
        case 'k': options.psk = optarg; break;
        case 'S': options.sample = atoi(optarg); break;
        case 'R': options.rate = atof(optarg); break;
        case 'C': options.command = optarg; break;
        case 'I': options.offers_ids = 1; break;
        case 'E': options.ecdhe = 1; break;
        case 'K': options.kind = optarg; break;
        case 'N': options.newcomers = atof(optarg); break;
        case 'L': datagram_loss = atof(optarg) / 100; break;
        case 'n': options.total = atol(optarg); break;
        case 'c': options.connections = atoi(optarg); break;
        case 's': options.bytes = atoi(optarg); break;
        case 'w': options.window = atoi(optarg); break;
        case 't': options.seconds = atof(optarg); break;
        case 'i': options.interval = atof(optarg); break;
        default: return 0;
        }
    return options.to.length && options.total > 0 && options.connections >= !options.kind && options.seconds > 0 &&
           options.bytes >= (int)sizeof(unsigned) && options.bytes <= LONGEST_DATAGRAM && options.window >= 1 &&
           options.window <= WIDEST_WINDOW && options.sample >= 2 && options.interval > 0 && options.rate >= 0 &&
           options.newcomers >= 0 && datagram_loss >= 0 && datagram_loss < 1;
}

int main(int count, char **arguments) {
    if (count < 2 || !parse_options(count, arguments)) return usage();
    raise_descriptor_limit();
    for (unsigned i = 0; i < sizeof scenarios / sizeof *scenarios; i++)
        if (!strcmp(arguments[1], scenarios[i].name)) return scenarios[i].run();
    return usage();
}
