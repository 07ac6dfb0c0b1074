// SPDX-License-Identifier: Apache-2.0
// features.h comes first: liburing.h defines _GNU_SOURCE, and glibc's types would then differ from the
// ones Swift's own Glibc module saw.
#pragma once
#include <features.h>
#include <liburing.h>
