// The simplest backend for `handler = "forward"`: sends each datagram back to where it came from.
//
//   backend PORT        listens on 127.0.0.1; prints "ready" on standard output
#define _GNU_SOURCE
#include <arpa/inet.h>
#include <netinet/in.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/socket.h>

#define BATCH 64
#define LONGEST_DATAGRAM 16384

int main(int count, char **arguments) {
    if (count != 2) {
        fprintf(stderr, "usage: backend PORT\n");
        return 2;
    }
    struct sockaddr_in local = {
        .sin_family = AF_INET, .sin_port = htons(atoi(arguments[1])), .sin_addr.s_addr = htonl(INADDR_LOOPBACK)};
    int made = socket(AF_INET, SOCK_DGRAM | SOCK_CLOEXEC, 0), size = 4 << 20;
    setsockopt(made, SOL_SOCKET, SO_RCVBUF, &size, sizeof size);
    if (made < 0 || bind(made, (struct sockaddr *)&local, sizeof local) < 0) {
        perror("backend");
        return 1;
    }
    puts("ready");
    fflush(stdout);
    static char bytes[BATCH][LONGEST_DATAGRAM];
    static struct sockaddr_in peers[BATCH];
    struct iovec parts[BATCH];
    struct mmsghdr messages[BATCH];
    for (;;) {
        for (int i = 0; i < BATCH; i++) {
            parts[i] = (struct iovec){bytes[i], sizeof bytes[i]};
            messages[i].msg_hdr = (struct msghdr){.msg_name = &peers[i], .msg_namelen = sizeof peers[i],
                                                  .msg_iov = &parts[i], .msg_iovlen = 1};
        }
        int received = recvmmsg(made, messages, BATCH, MSG_WAITFORONE, NULL);
        for (int i = 0; i < received; i++) parts[i].iov_len = messages[i].msg_len;
        for (int sent = 0; sent < received;) {
            int more = sendmmsg(made, messages + sent, received - sent, 0);
            sent += more > 0 ? more : 1;
        }
    }
}
