// The part of a peer (see peer.c) that is of Mbed TLS 3.6.
#include "peer.h"

#include <mbedtls/ctr_drbg.h>
#include <mbedtls/entropy.h>
#include <mbedtls/ssl.h>
#include <mbedtls/ssl_cookie.h>
#include <mbedtls/ssl_ticket.h>
#include <mbedtls/timing.h>
#include <psa/crypto.h>
#include <string.h>

static mbedtls_ssl_context ssl;
static mbedtls_ssl_config config;
static mbedtls_entropy_context entropy;
static mbedtls_ctr_drbg_context drbg;
static mbedtls_timing_delay_context timer;
static mbedtls_x509_crt certificate;
static mbedtls_pk_context key;
static mbedtls_ssl_ticket_context tickets;
static mbedtls_ssl_cookie_ctx cookies;
static mbedtls_ssl_session session;
static bool has_session;
static const int psk_suites[] = {
    MBEDTLS_TLS_PSK_WITH_AES_128_GCM_SHA256, MBEDTLS_TLS_PSK_WITH_CHACHA20_POLY1305_SHA256, 0};

static int on_send(void *context, const unsigned char *bytes, size_t size) {
    (void)context;
    transport_send(bytes, size);
    return size;
}

static int on_receive(void *context, unsigned char *bytes, size_t size, uint32_t timeout) {
    (void)context;
    int got = transport_receive(bytes, size, timeout ? (int)timeout : -1);
    if (got == -2) return MBEDTLS_ERR_SSL_CONN_EOF;
    return got < 0 ? MBEDTLS_ERR_SSL_TIMEOUT : got;
}

void stack_prepare(void) {
    must(psa_crypto_init() == PSA_SUCCESS, "psa_crypto_init", 0);
    mbedtls_ssl_init(&ssl);
    mbedtls_ssl_config_init(&config);
    mbedtls_entropy_init(&entropy);
    mbedtls_ctr_drbg_init(&drbg);
    mbedtls_ssl_session_init(&session);
    int code = mbedtls_ctr_drbg_seed(&drbg, mbedtls_entropy_func, &entropy, 0, 0);
    must(!code, "seed", code);
    code = mbedtls_ssl_config_defaults(&config, options.is_server ? MBEDTLS_SSL_IS_SERVER : MBEDTLS_SSL_IS_CLIENT,
        MBEDTLS_SSL_TRANSPORT_DATAGRAM, MBEDTLS_SSL_PRESET_DEFAULT);
    must(!code, "config", code);
    mbedtls_ssl_conf_rng(&config, mbedtls_ctr_drbg_random, &drbg);
    mbedtls_ssl_conf_authmode(&config, MBEDTLS_SSL_VERIFY_NONE);
    mbedtls_ssl_conf_read_timeout(&config, RECEIVE_TIMEOUT);
    if (options.psk_identity) {
        code = mbedtls_ssl_conf_psk(&config, options.psk, options.psk_size, (const void *)options.psk_identity,
            strlen(options.psk_identity));
        must(!code, "psk", code);
        mbedtls_ssl_conf_ciphersuites(&config, psk_suites);
    }
    if (options.certificate) {
        code = mbedtls_x509_crt_parse_file(&certificate, options.certificate);
        must(!code, "certificate", code);
        code = mbedtls_pk_parse_keyfile(&key, options.key, 0, mbedtls_ctr_drbg_random, &drbg);
        must(!code, "key", code);
        code = mbedtls_ssl_conf_own_cert(&config, &certificate, &key);
        must(!code, "own certificate", code);
    }
    if (options.is_server) {
        mbedtls_ssl_cookie_init(&cookies);
        code = mbedtls_ssl_cookie_setup(&cookies, mbedtls_ctr_drbg_random, &drbg);
        must(!code, "cookies", code);
        mbedtls_ssl_conf_dtls_cookies(&config, mbedtls_ssl_cookie_write, mbedtls_ssl_cookie_check, &cookies);
        mbedtls_ssl_ticket_init(&tickets);
        code = mbedtls_ssl_ticket_setup(&tickets, mbedtls_ctr_drbg_random, &drbg, MBEDTLS_CIPHER_AES_256_GCM, 86400);
        must(!code, "tickets", code);
        mbedtls_ssl_conf_session_tickets_cb(&config, mbedtls_ssl_ticket_write, mbedtls_ssl_ticket_parse, &tickets);
    }
    if (options.has_cid) {
        code = mbedtls_ssl_conf_cid(&config, options.cid_size, MBEDTLS_SSL_UNEXPECTED_CID_IGNORE);
        must(!code, "cid", code);
    }
}

int stack_handshake(bool resumes, struct agreed *agreed) {
    int code = 0, enabled;
    size_t size;
    mbedtls_ssl_free(&ssl);
    mbedtls_ssl_init(&ssl);
    must(!mbedtls_ssl_setup(&ssl, &config), "setup", 0);
    mbedtls_ssl_set_bio(&ssl, 0, on_send, 0, on_receive);
    mbedtls_ssl_set_timer_cb(&ssl, &timer, mbedtls_timing_set_delay, mbedtls_timing_get_delay);
    if (options.has_cid) {
        code = mbedtls_ssl_set_cid(&ssl, MBEDTLS_SSL_CID_ENABLED, options.cid, options.cid_size);
        must(!code, "cid", code);
    }
    if (resumes && has_session) {
        must(!mbedtls_ssl_set_session(&ssl, &session), "session", 0);
    }
    bool had_certificate = false;
    do {
        if (options.is_server) mbedtls_ssl_set_client_transport_id(&ssl, (const void *)"client", 6);
        while (!mbedtls_ssl_is_handshake_over(&ssl)) {
            code = mbedtls_ssl_handshake_step(&ssl);
            if (code) break;
            // A resumed handshake has no ServerHelloDone.
            if (ssl.MBEDTLS_PRIVATE(state) == MBEDTLS_SSL_SERVER_HELLO_DONE) had_certificate = true;
        }
        if (code == MBEDTLS_ERR_SSL_HELLO_VERIFY_REQUIRED) mbedtls_ssl_session_reset(&ssl);
        if (code == MBEDTLS_ERR_SSL_HELLO_VERIFY_REQUIRED && options.has_cid)
            mbedtls_ssl_set_cid(&ssl, MBEDTLS_SSL_CID_ENABLED, options.cid, options.cid_size);
    } while (code == MBEDTLS_ERR_SSL_WANT_READ || code == MBEDTLS_ERR_SSL_WANT_WRITE ||
             code == MBEDTLS_ERR_SSL_HELLO_VERIFY_REQUIRED);
    if (code) return code;
    agreed->is_resumed = !had_certificate;
    // Mbed TLS calls an empty CID a disabled one.
    if (!mbedtls_ssl_get_peer_cid(&ssl, &enabled, agreed->peer_cid, &size) && enabled) {
        agreed->peer_cid_size = size;
        agreed->own_cid_size = options.cid_size;
        memcpy(agreed->own_cid, options.cid, options.cid_size);
    }
    if (!options.is_server) {
        mbedtls_ssl_session_free(&session);
        mbedtls_ssl_session_init(&session);
        has_session = !mbedtls_ssl_get_session(&ssl, &session);
    }
    return 0;
}

int stack_send(const void *bytes, size_t size) { return mbedtls_ssl_write(&ssl, bytes, size); }

int stack_receive(void *bytes, size_t size) {
    int got;
    do got = mbedtls_ssl_read(&ssl, bytes, size);
    while (got == MBEDTLS_ERR_SSL_WANT_READ);
    if (got == MBEDTLS_ERR_SSL_PEER_CLOSE_NOTIFY) return 0;
    if (got == MBEDTLS_ERR_SSL_TIMEOUT) return -1;
    return got < 0 ? -2 : got;
}

void stack_close(void) { mbedtls_ssl_close_notify(&ssl); }
