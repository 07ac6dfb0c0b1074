// SPDX-License-Identifier: Apache-2.0
// features.h comes first, as in CLiburing: glibc's types must be those that Swift's Glibc module saw. ares.h itself
// expects the socket headers.
#pragma once
#include <features.h>
#include <sys/socket.h>
#include <netdb.h>
#include <arpa/nameser.h>
#include <ares.h>
