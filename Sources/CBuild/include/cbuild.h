// SPDX-License-Identifier: Apache-2.0
//
// Which commit this program was built from.
#pragma once

#ifdef __cplusplus
extern "C" {
#endif

/// The first twelve digits of the commit that was checked out, or "unknown". Changes that were not committed do not
/// show.
const char *cbuild_commit(void);

#ifdef __cplusplus
}
#endif
