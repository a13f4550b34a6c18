// The part of a peer (see peer.c) that is of wolfSSL 5.9. As Debian builds it, it knows CIDs of 10 bytes at most, its own
// and others' (wolfSSL_dtls_cid_max_size): a handshake in which the other side wants a longer one fails (BUILD_MSG_ERROR).
#include "peer.h"

#include <wolfssl/options.h>
#include <wolfssl/ssl.h>
#include <string.h>

static WOLFSSL_CTX *context;
static WOLFSSL *ssl;
static WOLFSSL_SESSION *session;

static int on_send(WOLFSSL *of, char *bytes, int size, void *unused) {
    (void)of, (void)unused;
    transport_send(bytes, size);
    return size;
}

static int on_receive(WOLFSSL *of, char *bytes, int size, void *unused) {
    (void)unused;
    // Only in a handshake does wolfSSL want to be told that its timer has gone off.
    bool is_finished = wolfSSL_is_init_finished(of);
    int got = transport_receive(
        bytes, size, is_finished ? RECEIVE_TIMEOUT : wolfSSL_dtls_get_current_timeout(of) * 1000);
    if (got == -2) return WOLFSSL_CBIO_ERR_CONN_CLOSE;
    if (got >= 0) return got;
    return is_finished ? WOLFSSL_CBIO_ERR_WANT_READ : WOLFSSL_CBIO_ERR_TIMEOUT;
}

static int on_cookie(WOLFSSL *of, unsigned char *bytes, int size, void *unused) {
    (void)of, (void)unused;
    memset(bytes, 0x5c, size);
    return size;
}

static unsigned on_psk_of_client(
    WOLFSSL *of, const char *hint, char *identity, unsigned identity_size, unsigned char *key, unsigned key_size) {
    (void)of, (void)hint;
    if (options.psk_size > key_size || strlen(options.psk_identity) >= identity_size) return 0;
    strcpy(identity, options.psk_identity);
    memcpy(key, options.psk, options.psk_size);
    return options.psk_size;
}

static unsigned on_psk_of_server(WOLFSSL *of, const char *identity, unsigned char *key, unsigned key_size) {
    (void)of;
    if (options.psk_size > key_size || strcmp(options.psk_identity, identity)) return 0;
    memcpy(key, options.psk, options.psk_size);
    return options.psk_size;
}

void stack_prepare(void) {
    wolfSSL_Init();
    context = wolfSSL_CTX_new(options.is_server ? wolfDTLSv1_2_server_method() : wolfDTLSv1_2_client_method());
    must(context, "wolfSSL_CTX_new", 0);
    wolfSSL_CTX_set_verify(context, WOLFSSL_VERIFY_NONE, 0);
    wolfSSL_CTX_SetIORecv(context, on_receive);
    wolfSSL_CTX_SetIOSend(context, on_send);
    wolfSSL_CTX_SetGenCookie(context, on_cookie);
    if (options.psk_identity) {
        // Debian's build has no PSK-AES128-GCM-SHA256.
        wolfSSL_CTX_set_psk_client_callback(context, on_psk_of_client);
        wolfSSL_CTX_set_psk_server_callback(context, on_psk_of_server);
        must(wolfSSL_CTX_set_cipher_list(context, "ECDHE-PSK-CHACHA20-POLY1305:PSK-CHACHA20-POLY1305") == WOLFSSL_SUCCESS, "psk suites", 0);
    } else {
        must(wolfSSL_CTX_set_cipher_list(context, "ECDHE-ECDSA-AES128-GCM-SHA256") == WOLFSSL_SUCCESS, "suites", 0);
    }
    if (options.certificate) {
        must(wolfSSL_CTX_use_certificate_file(context, options.certificate, WOLFSSL_FILETYPE_PEM) == WOLFSSL_SUCCESS,
            "certificate", 0);
        must(wolfSSL_CTX_use_PrivateKey_file(context, options.key, WOLFSSL_FILETYPE_PEM) == WOLFSSL_SUCCESS, "key", 0);
    }
    if (!options.is_server) wolfSSL_CTX_UseSessionTicket(context);
}

static int cid_of(int (*size)(WOLFSSL *, unsigned *), int (*get)(WOLFSSL *, unsigned char *, unsigned),
    unsigned char *bytes) {
    unsigned count = 0;
    if (!wolfSSL_dtls_cid_is_enabled(ssl) || size(ssl, &count) != WOLFSSL_SUCCESS) return -1;
    if (count) get(ssl, bytes, count);
    return count;
}

int stack_handshake(bool resumes, struct agreed *agreed) {
    if (ssl) wolfSSL_free(ssl);
    ssl = wolfSSL_new(context);
    must(ssl, "wolfSSL_new", 0);
    if (options.has_cid) {
        must(wolfSSL_dtls_cid_use(ssl) == WOLFSSL_SUCCESS, "wolfSSL_dtls_cid_use", 0);
        if (options.cid_size)
            must(wolfSSL_dtls_cid_set(ssl, options.cid, options.cid_size) == WOLFSSL_SUCCESS, "wolfSSL_dtls_cid_set", 0);
    }
    if (resumes && session) must(wolfSSL_set_session(ssl, session) == WOLFSSL_SUCCESS, "session", 0);
    int done;
    do done = options.is_server ? wolfSSL_accept(ssl) : wolfSSL_connect(ssl);
    while (done != WOLFSSL_SUCCESS && wolfSSL_get_error(ssl, done) == WOLFSSL_ERROR_WANT_READ);
    if (done != WOLFSSL_SUCCESS) return wolfSSL_get_error(ssl, done);
    agreed->is_resumed = wolfSSL_session_reused(ssl);
    agreed->own_cid_size = cid_of(wolfSSL_dtls_cid_get_rx_size, wolfSSL_dtls_cid_get_rx, agreed->own_cid);
    agreed->peer_cid_size = cid_of(wolfSSL_dtls_cid_get_tx_size, wolfSSL_dtls_cid_get_tx, agreed->peer_cid);
    // wolfSSL calls the extension enabled when the other side has not answered it; then both CIDs are empty.
    if (agreed->own_cid_size <= 0 && agreed->peer_cid_size <= 0) agreed->own_cid_size = agreed->peer_cid_size = -1;
    if (!options.is_server) {
        if (session) wolfSSL_SESSION_free(session);
        session = wolfSSL_get1_session(ssl);
    }
    return 0;
}

int stack_send(const void *bytes, size_t size) { return wolfSSL_write(ssl, bytes, size); }

int stack_receive(void *bytes, size_t size) {
    int got = wolfSSL_read(ssl, bytes, size);
    if (got > 0) return got;
    int error = wolfSSL_get_error(ssl, got);
    if (error == WOLFSSL_ERROR_WANT_READ) return -1;
    return error == WOLFSSL_ERROR_ZERO_RETURN ? 0 : -2;
}

void stack_close(void) { wolfSSL_shutdown(ssl); }
