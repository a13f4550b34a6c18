#include "connection_id.h"

#include <endian.h>
#include <openssl/core_names.h>
#include <openssl/kdf.h>
#include <openssl/params.h>
#include <stdlib.h>
#include <string.h>

#define CONNECTION_ID_EXTENSION 54
#define TLS12_CID 25
#define HEADER 13
#define EXPLICIT_NONCE 8
#define TAG 16
#define KEY 16
#define SALT 4
#define LONGEST_CONTENT 16384

static int add_extension(SSL *ssl, unsigned type, unsigned context, const unsigned char **bytes, size_t *length,
                         X509 *certificate, size_t index, int *alert, void *argument) {
    static const unsigned char empty_id[] = {0};
    (void)ssl, (void)type, (void)context, (void)certificate, (void)index, (void)alert, (void)argument;
    *bytes = empty_id;
    *length = sizeof empty_id;
    return 1;
}

static int parse_extension(SSL *ssl, unsigned type, unsigned context, const unsigned char *bytes, size_t length,
                           X509 *certificate, size_t index, int *alert, void *argument) {
    ServerCID *cid = SSL_get_app_data(ssl);
    (void)type, (void)context, (void)certificate, (void)index, (void)argument;
    if (length < 1 || bytes[0] != length - 1 || bytes[0] > LONGEST_CONNECTION_ID) {
        *alert = SSL_AD_DECODE_ERROR;
        return 0;
    }
    cid->length = bytes[0];
    memcpy(cid->bytes, bytes + 1, cid->length);
    return 1;
}

void offer_connection_ids(SSL_CTX *context) {
    if (!SSL_CTX_add_custom_ext(context, CONNECTION_ID_EXTENSION, SSL_EXT_CLIENT_HELLO | SSL_EXT_TLS1_2_SERVER_HELLO,
                                add_extension, NULL, NULL, parse_extension, NULL))
        abort();
}

static EVP_CIPHER_CTX *make_cipher(const unsigned char *key, int seals) {
    EVP_CIPHER_CTX *cipher = EVP_CIPHER_CTX_new();
    if (!cipher || !EVP_CipherInit_ex(cipher, EVP_aes_128_gcm(), NULL, key, NULL, seals) ||
        !EVP_CIPHER_CTX_ctrl(cipher, EVP_CTRL_AEAD_SET_IVLEN, SALT + EXPLICIT_NONCE, NULL))
        abort();
    return cipher;
}

// RFC 5246, section 6.3: the client's key, the server's key, the client's part of the nonce, the server's part.
static void derive_keys(ServerCID *cid, SSL *ssl) {
    unsigned char secret[48], client_random[32], server_random[32], block[2 * KEY + 2 * SALT];
    SSL_SESSION_get_master_key(SSL_get_session(ssl), secret, sizeof secret);
    SSL_get_client_random(ssl, client_random, sizeof client_random);
    SSL_get_server_random(ssl, server_random, sizeof server_random);
    EVP_KDF *function = EVP_KDF_fetch(NULL, "TLS1-PRF", NULL);
    EVP_KDF_CTX *derivation = EVP_KDF_CTX_new(function);
    OSSL_PARAM parameters[] = {
        OSSL_PARAM_construct_utf8_string(OSSL_KDF_PARAM_DIGEST, "SHA256", 0),
        OSSL_PARAM_construct_octet_string(OSSL_KDF_PARAM_SECRET, secret, sizeof secret),
        OSSL_PARAM_construct_octet_string(OSSL_KDF_PARAM_SEED, "key expansion", 13),
        OSSL_PARAM_construct_octet_string(OSSL_KDF_PARAM_SEED, server_random, sizeof server_random),
        OSSL_PARAM_construct_octet_string(OSSL_KDF_PARAM_SEED, client_random, sizeof client_random),
        OSSL_PARAM_construct_end()};
    if (EVP_KDF_derive(derivation, block, sizeof block, parameters) <= 0) abort();
    EVP_KDF_CTX_free(derivation);
    EVP_KDF_free(function);
    memcpy(cid->salt, block + 2 * KEY, sizeof cid->salt);
    cid->opening = make_cipher(block, 0);
    cid->sealing = make_cipher(block, 1);
    cid->next_number = (uint64_t)1 << 48;
}

// RFC 9146, sections 4 and 5.3. `content` is followed by room for its type.
static int seal(ServerCID *cid, unsigned char *content, int count, unsigned char type, unsigned char *sealed) {
    unsigned char nonce[SALT + EXPLICIT_NONCE], data[23 + LONGEST_CONNECTION_ID];
    unsigned char *body = sealed + HEADER + cid->length;
    int done = 0;

    content[count++] = type;
    int body_length = EXPLICIT_NONCE + count + TAG;
    uint64_t number = htobe64(cid->next_number++);
    sealed[0] = TLS12_CID;
    sealed[1] = DTLS1_2_VERSION >> 8;
    sealed[2] = DTLS1_2_VERSION & 255;
    memcpy(sealed + 3, &number, sizeof number);
    memcpy(sealed + 11, cid->bytes, cid->length);
    body[-2] = body_length >> 8;
    body[-1] = body_length & 255;
    memcpy(body, &number, EXPLICIT_NONCE);
    memcpy(nonce, cid->salt, SALT);
    memcpy(nonce + SALT, body, EXPLICIT_NONCE);
    memset(data, 255, 8);
    data[8] = TLS12_CID;
    data[9] = cid->length;
    memcpy(data + 10, sealed, 11 + cid->length);
    data[21 + cid->length] = count >> 8;
    data[22 + cid->length] = count & 255;
    if (!EVP_CipherInit_ex(cid->sealing, NULL, NULL, NULL, nonce, 1) ||
        !EVP_CipherUpdate(cid->sealing, NULL, &done, data, 23 + cid->length) ||
        !EVP_CipherUpdate(cid->sealing, body + EXPLICIT_NONCE, &done, content, count) ||
        EVP_CipherFinal_ex(cid->sealing, body + EXPLICIT_NONCE + count, &done) <= 0 ||
        !EVP_CIPHER_CTX_ctrl(cid->sealing, EVP_CTRL_AEAD_GET_TAG, TAG, body + EXPLICIT_NONCE + count))
        abort();
    return HEADER + cid->length + body_length;
}

// A record that OpenSSL has sealed is never sent, so each nonce, which is the epoch and number again, is used once.
static int seal_anew(ServerCID *cid, const unsigned char *record, int length, unsigned char *sealed) {
    static unsigned char content[LONGEST_CONTENT + 1];
    unsigned char nonce[SALT + EXPLICIT_NONCE], data[13];
    int count = length - HEADER - EXPLICIT_NONCE - TAG, done = 0;

    // Its additional data are the epoch and number, type, version and length.
    memcpy(nonce, cid->salt, SALT);
    memcpy(nonce + SALT, record + HEADER, EXPLICIT_NONCE);
    memcpy(data, record + 3, 8);
    memcpy(data + 8, record, 3);
    data[11] = count >> 8;
    data[12] = count & 255;
    if (!EVP_CipherInit_ex(cid->opening, NULL, NULL, NULL, nonce, 0) ||
        !EVP_CipherUpdate(cid->opening, NULL, &done, data, sizeof data) ||
        !EVP_CipherUpdate(cid->opening, content, &done, record + HEADER + EXPLICIT_NONCE, count) ||
        !EVP_CIPHER_CTX_ctrl(cid->opening, EVP_CTRL_AEAD_SET_TAG, TAG, (void *)(record + length - TAG)) ||
        EVP_CipherFinal_ex(cid->opening, content + count, &done) <= 0)
        abort();
    return seal(cid, content, count, record[0], sealed);
}

int seal_with_connection_id(ServerCID *cid, const void *message, int length, unsigned char *record) {
    static unsigned char content[LONGEST_CONTENT + 1];
    if (!cid->sealing || length > LONGEST_CONTENT) return 0;
    memcpy(content, message, length);
    return seal(cid, content, length, SSL3_RT_APPLICATION_DATA, record);
}

int add_connection_id(ServerCID *cid, SSL *ssl, const unsigned char *datagram, int length, unsigned char *copy) {
    int written = 0, record_length;
    for (; length >= HEADER; datagram += record_length, length -= record_length) {
        record_length = HEADER + (datagram[11] << 8 | datagram[12]);
        if (record_length > length) abort();
        if (cid->length > 0 && (datagram[3] || datagram[4])) {
            if (!cid->sealing) derive_keys(cid, ssl);
            written += seal_anew(cid, datagram, record_length, copy + written);
        } else {
            memcpy(copy + written, datagram, record_length);
            written += record_length;
        }
    }
    return written;
}

void free_connection_id(ServerCID *cid) {
    EVP_CIPHER_CTX_free(cid->opening);
    EVP_CIPHER_CTX_free(cid->sealing);
    *cid = (ServerCID){0};
}
