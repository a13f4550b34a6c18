// What the peers in C share: their command line, their commands and a UDP socket whose port can change. A stack is what
// is behind these five functions.
#ifndef PEER_H
#define PEER_H
#include <stdbool.h>
#include <stddef.h>

struct options {
    bool is_server;
    bool has_cid;  // offers, or answers, the extension connection_id
    unsigned char cid[32];
    size_t cid_size;
    const char *psk_identity;  // NULL: certificates
    unsigned char psk[64];
    size_t psk_size;
    const char *certificate, *key;  // of a server
};
extern struct options options;

// What a handshake has led to. A CID that was not agreed on has the size -1.
struct agreed {
    bool is_resumed;
    unsigned char own_cid[64], peer_cid[64];
    int own_cid_size, peer_cid_size;
};

// Reads a datagram into memory. Returns its size, or -1 when nothing came within the time, or -2 when a new ClientHello
// came instead, which the next call returns.
int transport_receive(void *bytes, size_t size, int milliseconds);
void transport_send(const void *bytes, size_t size);
// Ends the process where a step that cannot fail has failed.
void must(bool condition, const char *what, int code);

void stack_prepare(void);
// Returns 0, or the stack's error. A client resumes the session that it has had, if it may.
int stack_handshake(bool resumes, struct agreed *agreed);
int stack_send(const void *bytes, size_t size);
// Returns the size of a message, 0 when the peer has closed, or something negative when nothing came for some seconds.
int stack_receive(void *bytes, size_t size);
// Says close_notify, and forgets the connection.
void stack_close(void);

#define RECEIVE_TIMEOUT 4000  // milliseconds
#endif
