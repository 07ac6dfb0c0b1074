// SPDX-License-Identifier: Apache-2.0
//
// Lets the kernel refuse what a thread submits, as it does when it has no memory for a request. Not for errors of
// single operations: those are results of completions.
#pragma once

// The next `count` io_uring_submit calls of this thread give -error; returns how many of the last ones are left.
int refuse_submits(int count, int error);
