// SPDX-License-Identifier: Apache-2.0
// features.h comes first, as in CLiburing: glibc's types must be those that Swift's Glibc module saw.
#pragma once
#include <features.h>
#include <openssl/bio.h>
#include <openssl/core_names.h>
#include <openssl/crypto.h>
#include <openssl/err.h>
#include <openssl/evp.h>
#include <openssl/pem.h>
#include <openssl/rand.h>
#include <openssl/ssl.h>
#include <openssl/x509.h>
#include <openssl/x509v3.h>
