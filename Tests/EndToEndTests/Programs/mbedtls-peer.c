// A DTLS client or server of Mbed TLS (2.28 or 3), for what other stacks do and OpenSSL's programs cannot.
//
//   mbedtls-peer client HOST:PORT [mfl=CODE] -- STEP…   steps: send:TEXT, empty (a record without content), receive, sleep:MS
//   mbedtls-peer server HOST:PORT CERTIFICATE KEY [ca=FILE]
//
// The server answers each message with an empty record and the message, and says close_notify after "bye". With ca, it
// wants certificates of its clients, and gives them session tickets. Each line of output is one thing that happened.
#include <arpa/inet.h>
#include <mbedtls/ctr_drbg.h>
#include <mbedtls/entropy.h>
#include <mbedtls/net_sockets.h>
#include <mbedtls/ssl.h>
#include <mbedtls/ssl_ticket.h>
#include <mbedtls/timing.h>
#include <mbedtls/version.h>
#include <psa/crypto.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

static mbedtls_ssl_context ssl;
static mbedtls_ssl_config config;
static mbedtls_entropy_context entropy;
static mbedtls_ctr_drbg_context drbg;
static mbedtls_timing_delay_context timer;
static mbedtls_net_context net;
static mbedtls_x509_crt certificate, authority;
static mbedtls_pk_context key;
static mbedtls_ssl_ticket_context tickets;
static struct sockaddr_in address = {.sin_family = AF_INET};
static char bytes[17000];

static void check(const char *what, int result) {
    if (result >= 0) return;
    printf("%s failed: -0x%x\n", what, -result);
    exit(1);
}

static void configure(int role, const char *place) {
    char host[20];
    int port;
    if (sscanf(place, "%15[0-9.]:%d", host, &port) != 2) exit(2);
    inet_pton(AF_INET, host, &address.sin_addr);
    address.sin_port = htons(port);
    psa_crypto_init();
    mbedtls_ssl_init(&ssl);
    mbedtls_ssl_config_init(&config);
    mbedtls_entropy_init(&entropy);
    mbedtls_ctr_drbg_init(&drbg);
    mbedtls_ssl_ticket_init(&tickets);
    check("seed", mbedtls_ctr_drbg_seed(&drbg, mbedtls_entropy_func, &entropy, 0, 0));
    check("config", mbedtls_ssl_config_defaults(
        &config, role, MBEDTLS_SSL_TRANSPORT_DATAGRAM, MBEDTLS_SSL_PRESET_DEFAULT));
    mbedtls_ssl_conf_rng(&config, mbedtls_ctr_drbg_random, &drbg);
    mbedtls_ssl_conf_authmode(&config, MBEDTLS_SSL_VERIFY_NONE);
    net.fd = socket(AF_INET, SOCK_DGRAM, 0);
}

static int handshake(void) {
    int result;
    check("setup", mbedtls_ssl_setup(&ssl, &config));
    mbedtls_ssl_set_bio(&ssl, &net, mbedtls_net_send, mbedtls_net_recv, mbedtls_net_recv_timeout);
    mbedtls_ssl_set_timer_cb(&ssl, &timer, mbedtls_timing_set_delay, mbedtls_timing_get_delay);
    do result = mbedtls_ssl_handshake(&ssl);
    while (result == MBEDTLS_ERR_SSL_WANT_READ || result == MBEDTLS_ERR_SSL_WANT_WRITE);
    if (result) printf("handshake failed: -0x%x\n", -result);
    else printf("handshake done\n");
    return result;
}

static int receive(void) {
    int count;
    do count = mbedtls_ssl_read(&ssl, (void *)bytes, sizeof bytes);
    while (count == MBEDTLS_ERR_SSL_WANT_READ);
    if (count < 0) printf("receive failed: -0x%x\n", -count);
    else printf("received %d: %.*s\n", count, count < 40 ? count : 40, bytes);
    return count;
}

static int client(int count, char **words) {
    int index = 1;
    configure(MBEDTLS_SSL_IS_CLIENT, words[0]);
    mbedtls_ssl_conf_read_timeout(&config, 10000);
    for (; index < count && strcmp(words[index], "--"); index++)
        if (!strncmp(words[index], "mfl=", 4))
            check("mfl", mbedtls_ssl_conf_max_frag_len(&config, atoi(words[index] + 4)));
    connect(net.fd, (void *)&address, sizeof address);
    if (handshake()) return 1;
    for (index++; index < count; index++) {
        char *text = strchr(words[index], ':');
        if (!strncmp(words[index], "send:", 5)) check("send", mbedtls_ssl_write(&ssl, (void *)(text + 1), strlen(text + 1)));
        else if (!strcmp(words[index], "empty")) check("empty", mbedtls_ssl_write(&ssl, (void *)"", 0));
        else if (!strncmp(words[index], "sleep:", 6)) usleep(atoi(text + 1) * 1000);
        else if (receive() < 0) return 1;
    }
    mbedtls_ssl_close_notify(&ssl);
    return 0;
}

static void server(int count, char **words) {
    configure(MBEDTLS_SSL_IS_SERVER, words[0]);
    mbedtls_ssl_conf_read_timeout(&config, 5000);
    check("certificate", mbedtls_x509_crt_parse_file(&certificate, words[1]));
#if MBEDTLS_VERSION_MAJOR >= 3
    check("key", mbedtls_pk_parse_keyfile(&key, words[2], 0, mbedtls_ctr_drbg_random, &drbg));
#else
    check("key", mbedtls_pk_parse_keyfile(&key, words[2], 0));
#endif
    check("own certificate", mbedtls_ssl_conf_own_cert(&config, &certificate, &key));
    mbedtls_ssl_conf_dtls_cookies(&config, 0, 0, 0);
    if (count > 3) {
        check("ca", mbedtls_x509_crt_parse_file(&authority, words[3] + 3));
        mbedtls_ssl_conf_ca_chain(&config, &authority, 0);
        mbedtls_ssl_conf_authmode(&config, MBEDTLS_SSL_VERIFY_REQUIRED);
        check("tickets", mbedtls_ssl_ticket_setup(
            &tickets, mbedtls_ctr_drbg_random, &drbg, MBEDTLS_CIPHER_AES_256_GCM, 86400));
        mbedtls_ssl_conf_session_tickets_cb(&config, mbedtls_ssl_ticket_write, mbedtls_ssl_ticket_parse, &tickets);
    }
    check("bind", bind(net.fd, (void *)&address, sizeof address));
    printf("listening\n");
    for (;;) {
        struct sockaddr_in peer, nobody = {.sin_family = AF_UNSPEC};
        socklen_t size = sizeof peer;
        connect(net.fd, (void *)&nobody, sizeof nobody);
        if (recvfrom(net.fd, bytes, sizeof bytes, MSG_PEEK, (void *)&peer, &size) < 0) continue;
        if (bytes[0] != 22) {
            // No hello: what a connection that is over has been sent.
            recv(net.fd, bytes, sizeof bytes, 0);
            continue;
        }
        connect(net.fd, (void *)&peer, size);
        mbedtls_ssl_free(&ssl);
        mbedtls_ssl_init(&ssl);
        if (handshake()) continue;
        for (int got; (got = receive()) >= 0;) {
            mbedtls_ssl_write(&ssl, (void *)"", 0);
            mbedtls_ssl_write(&ssl, (void *)bytes, got);
            if (got >= 3 && !memcmp(bytes, "bye", 3)) {
                mbedtls_ssl_close_notify(&ssl);
                break;
            }
        }
    }
}

int main(int count, char **words) {
    setvbuf(stdout, 0, _IOLBF, 0);
    if (count > 2 && !strcmp(words[1], "client")) return client(count - 2, words + 2);
    if (count > 4 && !strcmp(words[1], "server")) server(count - 2, words + 2);
    return 2;
}
