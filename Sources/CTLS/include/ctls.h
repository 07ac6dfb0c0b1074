// SPDX-License-Identifier: Apache-2.0
//
// What Swift cannot import from OpenSSL 3: macros over SSL_CTX_ctrl and SSL_ctrl, options made by a
// macro, typed stacks. Not a wrapper: no logic and no state lives here.
#pragma once
#include <features.h>
#include <openssl/bio.h>
#include <openssl/core_names.h>
#include <openssl/err.h>
#include <openssl/ssl.h>
#include <openssl/x509.h>
#include <openssl/x509v3.h>
#include <stdint.h>

static const uint64_t CTLS_NO_RENEGOTIATION = SSL_OP_NO_RENEGOTIATION;
static const uint64_t CTLS_NO_COMPRESSION = SSL_OP_NO_COMPRESSION;
static const uint64_t CTLS_SERVER_PREFERENCE = SSL_OP_CIPHER_SERVER_PREFERENCE;
static const uint64_t CTLS_PRIORITIZE_CHACHA = SSL_OP_PRIORITIZE_CHACHA;
static const uint64_t CTLS_NO_TICKET = SSL_OP_NO_TICKET;

static const unsigned long CTLS_NAME_RFC2253 = XN_FLAG_RFC2253;
static const long CTLS_CACHE_OFF = SSL_SESS_CACHE_OFF;
static const long CTLS_CACHE_CLIENT = SSL_SESS_CACHE_CLIENT | SSL_SESS_CACHE_NO_INTERNAL;

/// Gives an idle session's buffers back; a write may be taken up from another address, record by record.
static inline void ctls_set_modes(SSL_CTX *context) {
  SSL_CTX_set_mode(context, SSL_MODE_RELEASE_BUFFERS | SSL_MODE_ENABLE_PARTIAL_WRITE |
                                SSL_MODE_ACCEPT_MOVING_WRITE_BUFFER);
}
static inline void ctls_set_session_cache(SSL_CTX *context, long mode) {
  SSL_CTX_set_session_cache_mode(context, mode);
}
static inline void ctls_set_read_ahead(SSL_CTX *context, int on) {
  SSL_CTX_set_read_ahead(context, on);
}
static inline int ctls_set_max_send_fragment(SSL_CTX *context, long bytes) {
  return (int)SSL_CTX_set_max_send_fragment(context, bytes);
}
static inline void ctls_set_certificates_max(SSL_CTX *context, long bytes) {
  SSL_CTX_set_max_cert_list(context, bytes);
}
static inline void ctls_set_dh_auto(SSL_CTX *context) { SSL_CTX_set_dh_auto(context, 1); }

typedef int (*ctls_name_callback)(SSL *, int *, void *);
static inline void ctls_set_name_callback(SSL_CTX *context, ctls_name_callback callback,
                                          void *argument) {
  SSL_CTX_set_tlsext_servername_callback(context, callback);
  SSL_CTX_set_tlsext_servername_arg(context, argument);
}
static inline int ctls_send_name(SSL *session, const char *name) {
  return (int)SSL_set_tlsext_host_name(session, name);
}
/// An index for data of ours in every SSL_CTX, with what is called when a context goes.
static inline int ctls_context_index(CRYPTO_EX_free *gone) {
  return SSL_CTX_get_ex_new_index(0, NULL, NULL, NULL, gone);
}

/// HMAC-SHA-256 with a key. Here because a parameter keeps the address of its name, and names are macros.
static inline int ctls_set_hmac_key(EVP_MAC_CTX *code, uint8_t *key, size_t bytes) {
  OSSL_PARAM parameters[] = {
      OSSL_PARAM_construct_octet_string(OSSL_MAC_PARAM_KEY, key, bytes),
      OSSL_PARAM_construct_utf8_string(OSSL_MAC_PARAM_DIGEST, (char *)"SHA256", 0),
      OSSL_PARAM_construct_end(),
  };
  return EVP_MAC_CTX_set_params(code, parameters);
}

static inline void ctls_read_again(BIO *bio) { BIO_set_retry_read(bio); }
static inline void ctls_clear_retry(BIO *bio) { BIO_clear_retry_flags(bio); }
static inline long ctls_memory(BIO *bio, char **bytes) { return BIO_get_mem_data(bio, bytes); }

static inline int ctls_reason(unsigned long error) { return ERR_GET_REASON(error); }
static inline int ctls_library(unsigned long error) { return ERR_GET_LIB(error); }

static inline int ctls_name_count(const GENERAL_NAMES *names) {
  return sk_GENERAL_NAME_num(names);
}
/// The DNS name at a place, or NULL if there is a name of another kind.
static inline const ASN1_IA5STRING *ctls_dns_name(const GENERAL_NAMES *names, int place) {
  const GENERAL_NAME *name = sk_GENERAL_NAME_value(names, place);
  return name->type == GEN_DNS ? name->d.dNSName : NULL;
}
static inline STACK_OF(X509) *ctls_new_stack(void) { return sk_X509_new_null(); }
static inline int ctls_push(STACK_OF(X509) *stack, X509 *certificate) {
  return sk_X509_push(stack, certificate);
}
static inline void ctls_free_stack(STACK_OF(X509) *stack) { sk_X509_free(stack); }
static inline int ctls_cipher_count(const STACK_OF(SSL_CIPHER) *stack) {
  return sk_SSL_CIPHER_num(stack);
}
static inline const SSL_CIPHER *ctls_cipher(const STACK_OF(SSL_CIPHER) *stack, int place) {
  return sk_SSL_CIPHER_value(stack, place);
}
