// Connection IDs (RFC 9146) for a client with OpenSSL, which has none: the client offers an empty CID of its own, so that
// the server's records reach OpenSSL as they are, and its own protected records are sealed anew with the server's CID. Its
// messages do not pass through OpenSSL at all: each would be sealed, opened and sealed, and clients that are slower than
// those without CIDs make a server look slower, since it finds fewer datagrams each time it wakes up.
#pragma once
#include <openssl/ssl.h>
#include <stdint.h>

#define LONGEST_CONNECTION_ID 32
#define CONNECTION_ID_OVERHEAD (LONGEST_CONNECTION_ID + 1)  // that a record grows by at most

#define RECORD_OVERHEAD (13 + 8 + 16 + CONNECTION_ID_OVERHEAD)

// What a client has of it; zeros before its handshake.
typedef struct {
    unsigned char bytes[LONGEST_CONNECTION_ID];  // what the server wants to find in records
    int length;                                  // 0 where it has not agreed, or wants none
    unsigned char salt[4];                       // of the nonces
    EVP_CIPHER_CTX *opening, *sealing;           // of what the client writes
    uint64_t next_number;                        // of its records, with the epoch; OpenSSL's own numbers are not sent
} ServerCID;

// Offers the extension in each handshake of this context. The application data (SSL_set_app_data) of its connections have
// to point to their ServerCID.
void offer_connection_ids(SSL_CTX *context);

// Copies a datagram that OpenSSL has written, with the server's CID in each protected record (of AES-128-GCM). `copy` has
// to have room for CONNECTION_ID_OVERHEAD more for each record. Returns the length of the copy.
int add_connection_id(ServerCID *cid, SSL *ssl, const unsigned char *datagram, int length, unsigned char *copy);

// Seals a message into a record of its own. `record` has to have room for RECORD_OVERHEAD more. Returns its length, or 0
// where the messages are OpenSSL's: without a CID, and before the handshake is done.
int seal_with_connection_id(ServerCID *cid, const void *message, int length, unsigned char *record);

void free_connection_id(ServerCID *cid);
