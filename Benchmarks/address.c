#include "address.h"

#include <arpa/inet.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define FIRST_PORT 32768
#define PORTS 32768

int parse_address(const char *text, Address *address) {
    char host[64];
    unsigned port;
    int end = 0;
    memset(address, 0, sizeof *address);
    if (sscanf(text, "[%63[0-9a-fA-F:.]]:%u%n", host, &port, &end) == 2 && !text[end]) {
        address->v6.sin6_family = AF_INET6;
        address->v6.sin6_port = htons(port);
        address->length = sizeof address->v6;
        return port > 0 && port < 65536 && inet_pton(AF_INET6, host, &address->v6.sin6_addr) == 1;
    }
    if (sscanf(text, "%63[0-9.]:%u%n", host, &port, &end) == 2 && !text[end]) {
        address->v4.sin_family = AF_INET;
        address->v4.sin_port = htons(port);
        address->length = sizeof address->v4;
        return port > 0 && port < 65536 && inet_pton(AF_INET, host, &address->v4.sin_addr) == 1;
    }
    return 0;
}

Address source_address(const Address *server, int network, long number) {
    Address source = {.length = server->length};
    unsigned host = 1 + number / PORTS;
    unsigned short port = htons(FIRST_PORT + number % PORTS);
    if (server->any.sa_family == AF_INET6) {
        source.v6.sin6_family = AF_INET6;
        source.v6.sin6_port = port;
        unsigned words[4] = {htonl(0xfd00d715), 0, htonl(network), htonl(host)};
        memcpy(&source.v6.sin6_addr, words, sizeof words);
    } else {
        source.v4.sin_family = AF_INET;
        source.v4.sin_port = port;
        source.v4.sin_addr.s_addr = htonl(0x7f100000u + ((unsigned)network << 16) + host);
    }
    return source;
}
