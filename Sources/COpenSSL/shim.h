// What Swift cannot see of OpenSSL (macros, function-like macros, stacks), as static inline functions without logic.
#ifndef COPENSSL_SHIM_H
#define COPENSSL_SHIM_H

#include <stdint.h>
#include <openssl/bio.h>
#include <openssl/conf.h>
#include <openssl/core_names.h>
#include <openssl/err.h>
#include <openssl/evp.h>
#include <openssl/ocsp.h>
#include <openssl/params.h>
#include <openssl/pem.h>
#include <openssl/rand.h>
#include <openssl/ssl.h>
#include <openssl/x509.h>
#include <openssl/x509v3.h>
#include <openssl/x509_vfy.h>

static const uint64_t CO_SSL_OP_NO_QUERY_MTU = SSL_OP_NO_QUERY_MTU;
static const uint64_t CO_SSL_OP_NO_RENEGOTIATION = SSL_OP_NO_RENEGOTIATION;
static const uint64_t CO_SSL_OP_ALLOW_CLIENT_RENEGOTIATION = SSL_OP_ALLOW_CLIENT_RENEGOTIATION;
static const uint64_t CO_SSL_OP_COOKIE_EXCHANGE = SSL_OP_COOKIE_EXCHANGE;
static const uint64_t CO_SSL_OP_NO_COMPRESSION = SSL_OP_NO_COMPRESSION;
static const uint64_t CO_SSL_OP_CIPHER_SERVER_PREFERENCE = SSL_OP_CIPHER_SERVER_PREFERENCE;
static const uint64_t CO_SSL_OP_NO_ENCRYPT_THEN_MAC = SSL_OP_NO_ENCRYPT_THEN_MAC;
static const uint64_t CO_SSL_OP_NO_TICKET = SSL_OP_NO_TICKET;
static const unsigned long CO_XN_FLAG_RFC2253 = XN_FLAG_RFC2253;
static inline void co_bio_clear_retry_flags(BIO *b) { BIO_clear_retry_flags(b); }

static inline unsigned long co_version(void) { return OPENSSL_VERSION_NUMBER; }

static inline long co_ssl_ctx_set_min_version(SSL_CTX *c, int v) { return SSL_CTX_set_min_proto_version(c, v); }
static inline long co_ssl_ctx_set_max_version(SSL_CTX *c, int v) { return SSL_CTX_set_max_proto_version(c, v); }
static inline long co_ssl_ctx_set_mode(SSL_CTX *c, long m) { return SSL_CTX_set_mode(c, m); }
static inline long co_ssl_ctx_set_session_cache_mode(SSL_CTX *c, long m) { return SSL_CTX_set_session_cache_mode(c, m); }
static inline long co_ssl_ctx_set_groups_list(SSL_CTX *c, const char *l) { return SSL_CTX_set1_groups_list(c, l); }
static inline long co_ssl_ctx_set_dh_auto(SSL_CTX *c, long on) { return SSL_CTX_set_dh_auto(c, on); }
static inline long co_ssl_ctx_set_servername_callback(SSL_CTX *c, int (*f)(SSL *, int *, void *)) { return SSL_CTX_set_tlsext_servername_callback(c, f); }
static inline long co_ssl_ctx_set_status_callback(SSL_CTX *c, int (*f)(SSL *, void *)) { return SSL_CTX_set_tlsext_status_cb(c, f); }
static inline long co_ssl_ctx_add_chain_cert(SSL_CTX *c, X509 *x) { return SSL_CTX_add1_chain_cert(c, x); }
static inline long co_ssl_ctx_set_max_cert_list(SSL_CTX *c, long n) { return SSL_CTX_set_max_cert_list(c, n); }
static inline long co_ssl_ctx_get_max_cert_list(SSL_CTX *c) { return SSL_CTX_get_max_cert_list(c); }
static inline long co_ssl_set_max_cert_list(SSL *s, long n) { return SSL_set_max_cert_list(s, n); }
static inline long co_ssl_set_mtu(SSL *s, long mtu) { return SSL_set_mtu(s, mtu); }
static inline long co_dtls_get_timeout(SSL *s, struct timeval *t) { return DTLSv1_get_timeout(s, t); }
static inline long co_dtls_handle_timeout(SSL *s) { return DTLSv1_handle_timeout(s); }
static inline long co_ssl_set_tlsext_host_name(SSL *s, const char *n) { return SSL_set_tlsext_host_name(s, (char *)n); }
// Takes the bytes, which OPENSSL_memdup has made.
static inline long co_ssl_set_status_response(SSL *s, void *p, long n) { return SSL_set_tlsext_status_ocsp_resp(s, p, n); }
static inline void *co_memdup(const void *p, size_t n) { return OPENSSL_memdup(p, n); }
static inline const char *co_ssl_cipher_name(const SSL *s) { return SSL_CIPHER_get_name(SSL_get_current_cipher(s)); }

static inline int co_sk_ssl_cipher_num(const STACK_OF(SSL_CIPHER) *s) { return sk_SSL_CIPHER_num(s); }
static inline const SSL_CIPHER *co_sk_ssl_cipher_value(const STACK_OF(SSL_CIPHER) *s, int i) { return sk_SSL_CIPHER_value(s, i); }
static inline void co_sk_ssl_cipher_free(STACK_OF(SSL_CIPHER) *s) { sk_SSL_CIPHER_free(s); }

static inline int co_err_get_lib(unsigned long e) { return ERR_GET_LIB(e); }
static inline int co_err_get_reason(unsigned long e) { return ERR_GET_REASON(e); }

static inline int co_bio_flags_source_sink(void) { return BIO_TYPE_SOURCE_SINK; }
static inline long co_bio_get_mem_data(BIO *b, const char **p) { return BIO_get_mem_data(b, (char **)p); }
static inline void co_bio_set_retry_read(BIO *b) { BIO_set_retry_read(b); }

#endif
