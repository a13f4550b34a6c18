// What Swift cannot see of OpenSSL (macros, function-like macros, stacks), as static inline functions without logic.
#ifndef COPENSSL_SHIM_H
#define COPENSSL_SHIM_H

#include <malloc.h>
#include <stdint.h>
#include <time.h>
#include <openssl/bio.h>
#include <openssl/conf.h>
#include <openssl/core_dispatch.h>
#include <openssl/core_names.h>
#include <openssl/err.h>
#include <openssl/evp.h>
#include <openssl/hmac.h>
#include <openssl/kdf.h>
#include <openssl/ocsp.h>
#include <openssl/params.h>
#include <openssl/pem.h>
#include <openssl/provider.h>
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
static const uint64_t CO_SSL_OP_LEGACY_SERVER_CONNECT = SSL_OP_LEGACY_SERVER_CONNECT;
static const uint64_t CO_SSL_OP_NO_TICKET = SSL_OP_NO_TICKET;
static const unsigned long CO_XN_FLAG_RFC2253 = XN_FLAG_RFC2253;
static inline void co_bio_clear_retry_flags(BIO *b) { BIO_clear_retry_flags(b); }

static inline long co_ssl_ctx_set_min_version(SSL_CTX *c, int v) { return SSL_CTX_set_min_proto_version(c, v); }
static inline long co_ssl_ctx_set_max_version(SSL_CTX *c, int v) { return SSL_CTX_set_max_proto_version(c, v); }
static inline long co_ssl_ctx_set_mode(SSL_CTX *c, long m) { return SSL_CTX_set_mode(c, m); }
static inline long co_ssl_ctx_set_session_cache_mode(SSL_CTX *c, long m) { return SSL_CTX_set_session_cache_mode(c, m); }
static inline long co_ssl_ctx_set_sigalgs_list(SSL_CTX *c, const char *l) { return SSL_CTX_set1_sigalgs_list(c, l); }
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

static inline long co_ssl_get_negotiated_group(SSL *s) { return SSL_get_negotiated_group(s); }

static inline int co_sk_ssl_cipher_num(const STACK_OF(SSL_CIPHER) *s) { return sk_SSL_CIPHER_num(s); }
static inline const SSL_CIPHER *co_sk_ssl_cipher_value(const STACK_OF(SSL_CIPHER) *s, int i) { return sk_SSL_CIPHER_value(s, i); }
static inline void co_sk_ssl_cipher_free(STACK_OF(SSL_CIPHER) *s) { sk_SSL_CIPHER_free(s); }

// ASN1_STRING and its kin (ASN1_TIME, ASN1_INTEGER and others) are structures up to OpenSSL 3 and opaque from 4.0 on,
// and Swift has another type of pointer for each. With void pointers the same Swift code compiles with all of them.
static inline const unsigned char *co_asn1_string_data(const void *s) { return ASN1_STRING_get0_data((const ASN1_STRING *)s); }
static inline int co_asn1_string_length(const void *s) { return ASN1_STRING_length((const ASN1_STRING *)s); }
static inline int co_asn1_string_to_utf8(unsigned char **out, const void *s) { return ASN1_STRING_to_UTF8(out, (const ASN1_STRING *)s); }
static inline int co_asn1_integer_cmp(const void *a, const void *b) { return ASN1_INTEGER_cmp((const ASN1_INTEGER *)a, (const ASN1_INTEGER *)b); }
static inline int co_asn1_time_to_tm(const void *t, struct tm *parts) { return ASN1_TIME_to_tm((const ASN1_TIME *)t, parts); }
static inline int co_asn1_time_cmp(const void *t, time_t other) { return ASN1_TIME_cmp_time_t((const ASN1_TIME *)t, other); }
static inline int co_asn1_time_print(BIO *b, const void *t) { return ASN1_TIME_print_ex(b, (const ASN1_TIME *)t, ASN1_DTFLGS_ISO8601); }
static inline int co_asn1_integer_print(BIO *b, const void *i) { return i2a_ASN1_INTEGER(b, (const ASN1_INTEGER *)i); }
static inline const void *co_x509_name_entry_data(const X509_NAME_ENTRY *e) { return X509_NAME_ENTRY_get_data(e); }
static inline const void *co_x509_not_before(const X509 *x) { return X509_get0_notBefore(x); }
static inline const void *co_x509_not_after(const X509 *x) { return X509_get0_notAfter(x); }
static inline const void *co_x509_serial_number(const X509 *x) { return X509_get0_serialNumber(x); }
static inline const void *co_x509_crl_last_update(const X509_CRL *l) { return X509_CRL_get0_lastUpdate(l); }
static inline const void *co_x509_crl_next_update(const X509_CRL *l) { return X509_CRL_get0_nextUpdate(l); }
static inline const void *co_x509_revocation_date(const X509_REVOKED *r) { return X509_REVOKED_get0_revocationDate(r); }
// The context is a structure whose fields differ between versions.
static inline int co_x509_add_extension(X509 *x, X509 *issuer, int nid, const char *value) {
    X509V3_CTX context;
    X509V3_set_ctx_nodb(&context);
    X509V3_set_ctx(&context, issuer, x, NULL, NULL, 0);
    X509_EXTENSION *item = X509V3_EXT_conf_nid(NULL, &context, nid, value);
    int result = item != NULL && X509_add_ext(x, item, -1);
    X509_EXTENSION_free(item);
    return result;
}
static inline int co_ocsp_single_status(OCSP_SINGLERESP *s, const void **start, const void **end) { return OCSP_single_get0_status(s, NULL, NULL, (ASN1_GENERALIZEDTIME **)start, (ASN1_GENERALIZEDTIME **)end); }
static inline int co_ocsp_check_validity(const void *start, const void *end, long leeway) { return OCSP_check_validity((ASN1_GENERALIZEDTIME *)start, (ASN1_GENERALIZEDTIME *)end, leeway, -1); }
static inline int co_ocsp_id_info(const OCSP_CERTID *i, const void **name_hash, ASN1_OBJECT **digest, const void **serial) { return OCSP_id_get0_info((ASN1_OCTET_STRING **)name_hash, digest, NULL, (ASN1_INTEGER **)serial, (OCSP_CERTID *)i); }

// TLS' pseudorandom function (RFC 5246, section 5); the label stands at the beginning of the seed.
static inline int co_tls1_prf(EVP_KDF *kdf, const char *digest, const unsigned char *secret, size_t secret_size, const unsigned char *seed, size_t seed_size, unsigned char *out, size_t size) {
    EVP_KDF_CTX *context = EVP_KDF_CTX_new(kdf);
    OSSL_PARAM parameters[] = {
        OSSL_PARAM_construct_utf8_string(OSSL_KDF_PARAM_DIGEST, (char *)digest, 0),
        OSSL_PARAM_construct_octet_string(OSSL_KDF_PARAM_SECRET, (void *)secret, secret_size),
        OSSL_PARAM_construct_octet_string(OSSL_KDF_PARAM_SEED, (void *)seed, seed_size),
        OSSL_PARAM_construct_end(),
    };
    int result = context != NULL && EVP_KDF_derive(context, out, size, parameters);
    EVP_KDF_CTX_free(context);
    return result;
}

// Raw public keys (RFC 7250), which OpenSSL has from 3.2 on. The functions are none of older headers.
#ifdef TLSEXT_cert_type_rpk
static inline int co_has_raw_public_keys(void) { return 1; }
static inline int co_ssl_ctx_set_server_cert_type(SSL_CTX *c, const unsigned char *types, size_t n) { return SSL_CTX_set1_server_cert_type(c, types, n); }
static inline int co_ssl_ctx_set_client_cert_type(SSL_CTX *c, const unsigned char *types, size_t n) { return SSL_CTX_set1_client_cert_type(c, types, n); }
static inline int co_ssl_get_server_cert_type(const SSL *s) { return SSL_get_negotiated_server_cert_type(s); }
static inline EVP_PKEY *co_ssl_peer_raw_public_key(const SSL *s) { return SSL_get0_peer_rpk(s); }
static inline EVP_PKEY *co_ssl_session_peer_raw_public_key(SSL_SESSION *s) { return SSL_SESSION_get0_peer_rpk(s); }
static inline EVP_PKEY *co_x509_store_ctx_raw_public_key(const X509_STORE_CTX *x) { return X509_STORE_CTX_get0_rpk(x); }
#else
static inline int co_has_raw_public_keys(void) { return 0; }
static inline int co_ssl_ctx_set_server_cert_type(SSL_CTX *c, const unsigned char *types, size_t n) { return 0; }
static inline int co_ssl_ctx_set_client_cert_type(SSL_CTX *c, const unsigned char *types, size_t n) { return 0; }
static inline int co_ssl_get_server_cert_type(const SSL *s) { return 0; }
static inline EVP_PKEY *co_ssl_peer_raw_public_key(const SSL *s) { return NULL; }
static inline EVP_PKEY *co_ssl_session_peer_raw_public_key(SSL_SESSION *s) { return NULL; }
static inline EVP_PKEY *co_x509_store_ctx_raw_public_key(const X509_STORE_CTX *x) { return NULL; }
#endif

// Puts a reason of this program's own into the error queue.
static inline void co_raise_error(const char *text) { ERR_raise_data(ERR_LIB_PROV, ERR_R_OPERATION_FAIL, "%s", text); }
static inline int co_err_get_lib(unsigned long e) { return ERR_GET_LIB(e); }
static inline int co_err_get_reason(unsigned long e) { return ERR_GET_REASON(e); }

static inline int co_bio_flags_source_sink(void) { return BIO_TYPE_SOURCE_SINK; }
static inline long co_bio_get_mem_data(BIO *b, const char **p) { return BIO_get_mem_data(b, (char **)p); }
static inline void co_bio_set_retry_read(BIO *b) { BIO_set_retry_read(b); }

#endif
