// IPv4 and IPv6 socket addresses, and as many different source addresses as a load with a million clients needs.
#pragma once
#include <netinet/in.h>
#include <sys/socket.h>

typedef struct {
    union {
        struct sockaddr any;
        struct sockaddr_in v4;
        struct sockaddr_in6 v6;
    };
    socklen_t length;  // 0 stands for no address
} Address;

// Reads "127.0.0.1:4433" or "[::1]:4433"; returns 0 for anything else.
int parse_address(const char *text, Address *address);

// Returns the address of client `number` (0 or more) of `network` (0 to 15) for a server on this machine: each client
// has an address and port of its own, with 32,768 clients on each IP address. IPv4 addresses are in 127.16.0.0/12; IPv6
// addresses are in fd00:d715::/64, for which the machine needs `ip route add local fd00:d715::/64 dev lo`.
Address source_address(const Address *server, int network, long number);
