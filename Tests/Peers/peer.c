// A small DTLS 1.2 client or server on a stack that this project did not write. PEER is one of mbedtls-peer, wolfssl-peer
// and pion-peer, which all understand this:
//
//   PEER client HOST:PORT OPTION…
//   PEER server HOST:PORT OPTION…
//
// Options: cid=HEX (the CID that the other side is to use; "cid=" is one of length 0; without it, the extension is not
// used), psk=IDENTITY:HEX, certificate=FILE, key=FILE.
//
// A client does a handshake and takes commands from standard input: send TEXT, receive, echo COUNT (messages, each
// answered before the next one), move [PORT] (to another local port), resume (close, and resume the session in a new
// handshake). It closes at the end of the input. A server serves one client after the other: it echoes, goes on with the
// address from which the newest authentic message has come, and closes after a message that begins with "bye".
//
// Each line of output is one thing that happened.
#include "peer.h"

#include <arpa/inet.h>
#include <poll.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

struct options options;

static int descriptor = -1;
static struct sockaddr_in address;           // a server's own, or the server that a client has
static struct sockaddr_in peer, latest;      // of a server: whom it answers, and who has sent last
static bool is_established;
static bool has_message;                     // of a server: since the handshake, so that its last flight has come
static unsigned char hello[2048];            // that has come too early
static ssize_t hello_size;

void must(bool condition, const char *what, int code) {
    if (condition) return;
    printf("%s failed: %d\n", what, code);
    exit(1);
}

static void open_socket(int port) {
    struct sockaddr_in own = {.sin_family = AF_INET, .sin_port = htons(port)};
    socklen_t size = sizeof own;
    int opened = socket(AF_INET, SOCK_DGRAM, 0), one = 1;
    if (options.is_server) own = address;
    setsockopt(opened, SOL_SOCKET, SO_REUSEADDR, &one, sizeof one);
    must(!bind(opened, (void *)&own, sizeof own), "bind", port);
    if (!options.is_server) must(!connect(opened, (void *)&address, sizeof address), "connect", 0);
    // The new socket is opened before the old one is closed, so that its port is another one.
    if (descriptor >= 0) close(descriptor);
    descriptor = opened;
    getsockname(descriptor, (void *)&own, &size);
    printf("port %d\n", ntohs(own.sin_port));
}

static bool is_client_hello(const unsigned char *bytes, ssize_t size) {
    return size > 13 && bytes[0] == 22 && bytes[3] == 0 && bytes[4] == 0 && bytes[13] == 1;
}

int transport_receive(void *bytes, size_t size, int milliseconds) {
    struct pollfd readable = {.fd = descriptor, .events = POLLIN};
    socklen_t length = sizeof latest;
    if (hello_size > 0 && !is_established) {
        ssize_t got = hello_size < (ssize_t)size ? hello_size : (ssize_t)size;
        memcpy(bytes, hello, got);
        hello_size = 0;
        return got;
    }
    if (poll(&readable, 1, milliseconds) <= 0) return -1;
    ssize_t got = recvfrom(descriptor, bytes, size, 0, (void *)&latest, &length);
    if (got < 0) return -1;
    if (!options.is_server) return got;
    if (is_client_hello(bytes, got)) {
        if (is_established && got <= (ssize_t)sizeof hello) {
            memcpy(hello, bytes, got);
            hello_size = got;
            return -2;
        }
        peer = latest;
    }
    if (!has_message) peer = latest;
    return got;
}

void transport_send(const void *bytes, size_t size) {
    if (options.is_server) sendto(descriptor, bytes, size, 0, (void *)&peer, sizeof peer);
    else send(descriptor, bytes, size, 0);
}

static void print_cid(const char *name, const unsigned char *cid, int size) {
    printf(" %s=%s", name, size < 0 ? "none" : "");
    for (int index = 0; index < size; index++) printf("%02x", cid[index]);
}

static bool do_handshake(bool resumes) {
    struct agreed agreed = {.own_cid_size = -1, .peer_cid_size = -1};
    int error = stack_handshake(resumes, &agreed);
    if (error) {
        printf("handshake failed: %d\n", error);
        return false;
    }
    is_established = true;
    printf("handshake done: %s", agreed.is_resumed ? "resumed" : "full");
    print_cid("own", agreed.own_cid, agreed.own_cid_size);
    print_cid("peer", agreed.peer_cid, agreed.peer_cid_size);
    printf("\n");
    return true;
}

static int receive(char *text, size_t size) {
    int got = stack_receive(text, size - 1);
    text[got > 0 ? got : 0] = 0;
    return got;
}

static int run_client(void) {
    static char line[17000], text[17000];
    open_socket(0);
    if (!do_handshake(false)) return 1;
    while (fgets(line, sizeof line, stdin)) {
        line[strcspn(line, "\n")] = 0;
        if (!strncmp(line, "send ", 5)) {
            stack_send(line + 5, strlen(line + 5));
        } else if (!strcmp(line, "receive")) {
            int got = receive(text, sizeof text);
            if (got > 0) printf("received %s\n", text);
            else printf(got ? "received nothing\n" : "closed by the peer\n");
        } else if (!strncmp(line, "echo ", 5)) {
            int count = atoi(line + 5), echoed = 0;
            for (int number = 0; number < count; number++) {
                char message[40];
                snprintf(message, sizeof message, "message %d", number);
                stack_send(message, strlen(message));
                if (receive(text, sizeof text) > 0 && !strcmp(text, message)) echoed++;
            }
            printf("echoed %d of %d\n", echoed, count);
        } else if (!strncmp(line, "move", 4)) {
            open_socket(line[4] ? atoi(line + 5) : 0);
        } else if (!strcmp(line, "resume")) {
            stack_close();
            is_established = false;
            open_socket(0);
            if (!do_handshake(true)) return 1;
        } else {
            printf("unknown command: %s\n", line);
            return 2;
        }
    }
    stack_close();
    return 0;
}

static void run_server(void) {
    static char text[17000];
    open_socket(0);
    printf("listening\n");
    for (;;) {
        is_established = has_message = false;
        if (hello_size <= 0) {
            int got;
            do got = transport_receive(hello, sizeof hello, -1);
            while (!is_client_hello(hello, got));
            hello_size = got;
        }
        if (!do_handshake(false)) continue;
        for (;;) {
            int got = receive(text, sizeof text);
            if (got == -1) continue;
            if (got <= 0) break;
            has_message = true;
            if (peer.sin_port != latest.sin_port || peer.sin_addr.s_addr != latest.sin_addr.s_addr) {
                peer = latest;
                printf("the peer has moved to port %d\n", ntohs(peer.sin_port));
            }
            printf("received %s\n", text);
            stack_send(text, got);
            if (!strncmp(text, "bye", 3)) break;
        }
        if (hello_size <= 0) printf("closed\n");
        stack_close();
    }
}

static size_t read_hexadecimal(const char *text, unsigned char *bytes, size_t size) {
    size_t count = 0;
    unsigned value;
    while (count < size && sscanf(text + 2 * count, "%2x", &value) == 1) bytes[count++] = value;
    return count;
}

int main(int count, char **words) {
    char host[20];
    int port;
    setvbuf(stdout, 0, _IOLBF, 0);
    if (count < 3 || sscanf(words[2], "%15[0-9.]:%d", host, &port) != 2) return 2;
    options.is_server = !strcmp(words[1], "server");
    address.sin_family = AF_INET;
    address.sin_port = htons(port);
    inet_pton(AF_INET, host, &address.sin_addr);
    for (int index = 3; index < count; index++) {
        char *value = strchr(words[index], '=');
        if (!value) return 2;
        *value++ = 0;
        if (!strcmp(words[index], "cid")) {
            options.has_cid = true;
            options.cid_size = read_hexadecimal(value, options.cid, sizeof options.cid);
        } else if (!strcmp(words[index], "psk") && strchr(value, ':')) {
            options.psk_identity = value;
            value = strchr(value, ':');
            *value++ = 0;
            options.psk_size = read_hexadecimal(value, options.psk, sizeof options.psk);
        } else if (!strcmp(words[index], "certificate")) {
            options.certificate = value;
        } else if (!strcmp(words[index], "key")) {
            options.key = value;
        } else {
            return 2;
        }
    }
    stack_prepare();
    if (!options.is_server) return run_client();
    run_server();
}
