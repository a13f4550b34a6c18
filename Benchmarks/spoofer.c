// Packets are made once, and leave by sendmmsg over a raw socket with IP headers of our own (raw(7), IP_HDRINCL); only
// source and random change. So the sender costs little more than the kernel's own work, has any number of sources, and
// needs no socket for any of them. Over loopback it is the sender in whose time the kernel takes a packet up to the queue
// of the socket that it is for, so what the server's processes use is what they do about it, and nothing else.
#define _GNU_SOURCE
#include "spoofer.h"

#include "client.h"
#include "clock.h"

#include <errno.h>
#include <netinet/ip.h>
#include <netinet/udp.h>
#include <openssl/bio.h>
#include <openssl/rand.h>
#include <poll.h>
#include <sched.h>
#include <signal.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/wait.h>
#include <unistd.h>

#define BATCH 64
#define LONGEST_DATAGRAM 1024
#define SOURCES 0xc6120000u  // 198.18.0.0
#define SOURCE_MASK 0x1ffffu
#define RECORD_BYTES (13 + 8 + 64 + 16)
#define RECORD_HEADER 13
#define RANDOM_AT (RECORD_HEADER + 12 + 2)
#define COOKIE_AT (RANDOM_AT + 32 + 1)  // its length; no session is offered
#define GENUINE_BYTES 4                 // of a made-up cookie, which may say when it was made
#define PATIENCE_MILLISECONDS 2000

typedef struct {
    struct iphdr ip;
    struct udphdr udp;
    unsigned char bytes[LONGEST_DATAGRAM];
} __attribute__((packed)) Packet;

const char *const spoofed_kinds[SPOOFED_KINDS] = {"hello", "cookie", "record"};

static struct {
    volatile long sent;
    volatile int stops;
} *shared;
static pid_t sender;

// OpenSSL's own first hello.
static int make_hello(unsigned char *hello) {
    SSL_CTX *context = make_client_context(NULL, 0, 0);
    SSL *ssl = SSL_new(context);
    BIO *to = BIO_new(BIO_s_mem()), *from = BIO_new(BIO_s_mem());
    if (!ssl || !to || !from) give_up("hello");
    BIO_set_mem_eof_return(from, -1);
    SSL_set_options(ssl, SSL_OP_NO_QUERY_MTU);
    SSL_set_mtu(ssl, 1400);
    SSL_set_bio(ssl, from, to);
    SSL_connect(ssl);
    int length = BIO_read(to, hello, LONGEST_DATAGRAM);
    if (length <= COOKIE_AT || hello[COOKIE_AT - 1] || hello[COOKIE_AT]) give_up("hello");
    SSL_free(ssl);
    SSL_CTX_free(context);
    return length;
}

static void add_to_number(unsigned char *last_byte, int amount) {
    amount += last_byte[-1] << 8 | last_byte[0];
    last_byte[-1] = amount >> 8;
    last_byte[0] = amount;
}

// Asks the server for a cookie, and puts it into the hello.
static int add_cookie(unsigned char *hello, int length, const Address *server) {
    unsigned char answer[LONGEST_DATAGRAM];
    int asking = socket(server->any.sa_family, SOCK_DGRAM | SOCK_CLOEXEC, 0);
    if (asking < 0 || connect(asking, &server->any, server->length) < 0) give_up("socket");
    send(asking, hello, length, 0);
    struct pollfd readable = {.fd = asking, .events = POLLIN};
    int got = poll(&readable, 1, PATIENCE_MILLISECONDS) == 1 ? recv(asking, answer, sizeof answer, 0) : 0;
    close(asking);
    // The cookie is the end of a HelloVerifyRequest: header, version, its length.
    int at = RECORD_HEADER + 12 + 3, size = got - at;
    if (size <= GENUINE_BYTES || answer[at - 1] != size) give_up("no HelloVerifyRequest");
    memmove(hello + COOKIE_AT + 1 + size, hello + COOKIE_AT + 1, length - COOKIE_AT - 1);
    memcpy(hello + COOKIE_AT + 1, answer + at, size);
    hello[COOKIE_AT] = size;
    hello[RECORD_HEADER + 5] = 1;                 // message_seq
    add_to_number(hello + RECORD_HEADER - 1, size);  // length of the record, of the message, of the fragment
    add_to_number(hello + RECORD_HEADER + 3, size);
    add_to_number(hello + RECORD_HEADER + 11, size);
    return length + size;
}

static int make_datagram(unsigned char *bytes, const Address *server, SpoofedKind kind) {
    if (kind == SPOOFED_RECORD) {
        unsigned char header[RECORD_HEADER] = {23, 0xfe, 0xfd, 0, 1, 0, 0, 0, 0, 0, 1, 0, RECORD_BYTES - RECORD_HEADER};
        RAND_bytes(bytes, RECORD_BYTES);
        memcpy(bytes, header, sizeof header);
        return RECORD_BYTES;
    }
    int length = make_hello(bytes);
    return kind == SPOOFED_COOKIE ? add_cookie(bytes, length, server) : length;
}

static uint64_t next_number(void) {
    static uint64_t state = 88172645463325252;
    state ^= state << 13;
    state ^= state >> 7;
    state ^= state << 17;
    return state;
}

static void change(Packet *packet, SpoofedKind kind) {
    uint64_t number = next_number();
    packet->ip.saddr = htonl(SOURCES | (number & SOURCE_MASK));
    packet->udp.source = htons(1024 + (number >> 20) % 60000);
    if (kind == SPOOFED_RECORD) {
        memcpy(packet->bytes + RECORD_HEADER, &number, sizeof number);
        return;
    }
    memcpy(packet->bytes + RANDOM_AT, &number, sizeof number);
    if (kind == SPOOFED_COOKIE) memcpy(packet->bytes + COOKIE_AT + 1 + GENUINE_BYTES, &number, sizeof number);
}

static void send_all(const Address *server, SpoofedKind kind, double rate, const unsigned char *bytes, int length) {
    static Packet packets[BATCH];
    struct mmsghdr headers[BATCH] = {0};
    struct iovec vectors[BATCH];
    int raw = socket(AF_INET, SOCK_RAW | SOCK_CLOEXEC, IPPROTO_RAW);
    struct sockaddr_in to = {.sin_family = AF_INET, .sin_addr = server->v4.sin_addr};
    if (raw < 0 || connect(raw, (struct sockaddr *)&to, sizeof to) < 0) give_up("raw socket");
    for (int i = 0; i < BATCH; i++) {
        // The kernel adds length and checksum of the IP header; a UDP checksum of 0 stands for none (RFC 768).
        packets[i].ip = (struct iphdr){.version = 4, .ihl = 5, .ttl = 64, .protocol = IPPROTO_UDP,
                                       .daddr = server->v4.sin_addr.s_addr};
        packets[i].udp.dest = server->v4.sin_port;
        packets[i].udp.len = htons(sizeof(struct udphdr) + length);
        memcpy(packets[i].bytes, bytes, length);
        vectors[i] = (struct iovec){&packets[i], sizeof packets[i] - LONGEST_DATAGRAM + length};
        headers[i].msg_hdr.msg_iov = &vectors[i];
        headers[i].msg_hdr.msg_iovlen = 1;
    }
    double begun = now();
    while (!shared->stops) {
        int due = BATCH;
        if (rate > 0) {
            double late = (now() - begun) * rate - shared->sent;
            due = late < BATCH ? (int)late : BATCH;
            if (due < 1) {
                usleep(200);
                continue;
            }
        }
        for (int i = 0; i < due; i++) change(&packets[i], kind);
        int sent = sendmmsg(raw, headers, due, 0);
        if (sent < 0 && errno != ENOBUFS && errno != EAGAIN) give_up("sendmmsg");
        if (sent > 0) shared->sent += sent;
    }
}

void start_spoofer(const Address *server, SpoofedKind kind, double rate) {
    unsigned char bytes[LONGEST_DATAGRAM];
    if (server->any.sa_family != AF_INET) give_up("the flood is of IPv4 packets alone");
    int length = make_datagram(bytes, server, kind);
    shared = mmap(NULL, sizeof *shared, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
    if (shared == MAP_FAILED) give_up("memory");
    sender = fork();
    if (sender < 0) give_up("fork");
    if (sender > 0) return;
    prctl(PR_SET_PDEATHSIG, SIGKILL);
    // The last processor, so that how much of the others the server gets is not left to chance.
    cpu_set_t last;
    CPU_ZERO(&last);
    CPU_SET(sysconf(_SC_NPROCESSORS_ONLN) - 1, &last);
    sched_setaffinity(0, sizeof last, &last);
    send_all(server, kind, rate, bytes, length);
    _exit(0);
}

long spoofed_count(void) {
    return shared ? shared->sent : 0;
}

void stop_spoofer(void) {
    if (!shared) return;
    int status;
    shared->stops = 1;
    waitpid(sender, &status, 0);
    if (!WIFEXITED(status) || WEXITSTATUS(status)) give_up("the flood has ended early");
}
