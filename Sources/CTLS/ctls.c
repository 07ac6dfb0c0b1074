// SPDX-License-Identifier: Apache-2.0
//
// Here because SwiftPM wants a source file in every C target; all of CTLS is static inline in ctls.h.
// No logic may move here. Keeps: the header compiles on its own.
#include "ctls.h"
