// One DTLS client: a connected socket, and OpenSSL over it.
#pragma once
#include "address.h"
#include "connection_id.h"
#include "datagram_bio.h"

typedef enum { UNUSED, SHAKING_HANDS, OPEN, ENDED } ClientState;

typedef struct {
    ClientState state;
    int socket;
    SSL *ssl;
    DatagramPort port;
    double started, retransmission;  // of the handshake; by now()
    ServerCID cid;
    long datagrams, bytes;           // that have passed, both ways; their payload
    unsigned char *last_datagram;    // that it has sent, if `keeps_last` is set
    int last_length, keeps_last;
} Client;

// Makes the context of all clients: with ECDHE and certificates, which are not verified, or with the pre-shared key
// "IDENTITY:HEXADECIMAL" and the cheapest cipher suite for it, if `psk` is not NULL, or with one that has ECDHE, too, if
// `exchanges_keys`. With `offers_ids` they put the server's CID into their records (see connection_id.h).
SSL_CTX *make_client_context(const char *psk, int exchanges_keys, int offers_ids);

// After how many seconds a handshake has failed.
extern double handshake_patience;

// Sends the ClientHello, from `from`, or from wherever the kernel likes if it is NULL, and registers the socket with
// the epoll instance `events` (data.ptr is the client). `session` may be NULL. Ends the program if the socket cannot be
// opened. Returns the new state as continue_handshake() does: over loopback a server can be that quick.
ClientState begin_client(Client *client, SSL_CTX *context, SSL_SESSION *session, const Address *from,
                         const Address *to, int events);

// Goes on with the handshake when there is something to read. Returns the new state; ENDED means that it failed, and the
// client is then to be freed.
ClientState continue_handshake(Client *client);

// Sends the flight again if it is time to. Returns ENDED if it is not done after `handshake_patience`,
// as continue_handshake() does.
ClientState run_handshake_timer(Client *client, double time);

// Sends a message of a client whose handshake is done. Returns 0 where OpenSSL has not taken it.
int send_message(Client *client, const void *message, int length);

// Closes the socket, and goes on with another, from `from` or from wherever the kernel likes if it is NULL.
void move_client(Client *client, const Address *from, const Address *to, int events);

// Closes the socket, after close_notify if `says_goodbye` and the handshake is done. The session stays resumable.
void free_client(Client *client, int says_goodbye);

// Raises the limit of open files to what the machine allows.
void raise_descriptor_limit(void);

_Noreturn void give_up(const char *what);
