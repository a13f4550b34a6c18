// What the kernel alone takes of a flood: a loop that reads datagrams and answers each with 60 bytes, or drops it, and
// looks at none. scripts/bench shows what a server's processes use beside it.
//
//   bare ADDRESS:PORT answer|drop   prints "ready" on standard output
//
// It reads and answers by the batch, asks for the local address of each datagram, and leaves the socket alone for half a
// millisecond when it has read it empty, as dtlsd does in a flood.
#define _GNU_SOURCE
#include "address.h"

#include <poll.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#define BATCH 64
#define LONGEST_DATAGRAM 2048
#define ANSWER_BYTES 60
#define CONTROL_BYTES 64
#define PAUSE_MICROSECONDS 500
#define RECEIVE_BUFFER (4 << 20)

static struct mmsghdr received[BATCH];
static struct iovec places[BATCH], answer;
static struct sockaddr_storage peers[BATCH];
static char bytes[BATCH][LONGEST_DATAGRAM], controls[BATCH][CONTROL_BYTES];

static int open_socket(const Address *local) {
    int one = 1, size = RECEIVE_BUFFER, made = socket(local->any.sa_family, SOCK_DGRAM | SOCK_NONBLOCK, 0);
    if (made < 0 || bind(made, &local->any, local->length) < 0) {
        perror("bare");
        exit(1);
    }
    if (setsockopt(made, SOL_SOCKET, SO_RCVBUFFORCE, &size, sizeof size) < 0)
        setsockopt(made, SOL_SOCKET, SO_RCVBUF, &size, sizeof size);
    if (local->any.sa_family == AF_INET) setsockopt(made, IPPROTO_IP, IP_PKTINFO, &one, sizeof one);
    else setsockopt(made, IPPROTO_IPV6, IPV6_RECVPKTINFO, &one, sizeof one);
    return made;
}

static void prepare(int count) {
    for (int i = 0; i < count; i++) {
        received[i].msg_hdr = (struct msghdr){.msg_name = &peers[i], .msg_namelen = sizeof peers[i],
            .msg_iov = &places[i], .msg_iovlen = 1, .msg_control = controls[i], .msg_controllen = CONTROL_BYTES};
        places[i] = (struct iovec){bytes[i], LONGEST_DATAGRAM};
    }
}

// What has been received says whom to answer, and from which address: the kernel takes it as it has given it. But the
// answer may leave by another interface.
static void answer_all(int socket, int count) {
    for (int i = 0; i < count; i++) {
        struct cmsghdr *control = CMSG_FIRSTHDR(&received[i].msg_hdr);
        received[i].msg_hdr.msg_iov = &answer;
        if (!control) continue;
        if (control->cmsg_level == IPPROTO_IP) ((struct in_pktinfo *)CMSG_DATA(control))->ipi_ifindex = 0;
        else ((struct in6_pktinfo *)CMSG_DATA(control))->ipi6_ifindex = 0;
    }
    for (int sent = 0; sent < count;) {
        int taken = sendmmsg(socket, received + sent, count - sent, MSG_DONTWAIT);
        sent += taken > 0 ? taken : 1;
    }
}

int main(int count, char **arguments) {
    Address local;
    if (count != 3 || !parse_address(arguments[1], &local)) {
        fprintf(stderr, "usage: bare ADDRESS:PORT answer|drop\n");
        return 2;
    }
    int answers = !strcmp(arguments[2], "answer"), socket = open_socket(&local);
    static char answer_bytes[ANSWER_BYTES];
    answer = (struct iovec){answer_bytes, sizeof answer_bytes};
    prepare(BATCH);
    puts("ready");
    fflush(stdout);
    for (;;) {
        int got = recvmmsg(socket, received, BATCH, MSG_DONTWAIT, NULL);
        if (got > 0 && answers) answer_all(socket, got);
        if (got > 0) prepare(got);
        if (got == BATCH) continue;
        usleep(PAUSE_MICROSECONDS);
        struct pollfd readable = {.fd = socket, .events = POLLIN};
        poll(&readable, 1, -1);
    }
}
