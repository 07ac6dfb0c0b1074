// SPDX-License-Identifier: Apache-2.0
//
// Here because SwiftPM wants a source file in every C target; all of CUring is static inline in
// curing.h. No logic may move here. Keeps: the header compiles on its own.
#include "curing.h"
