// SPDX-License-Identifier: Apache-2.0
//
// The commit that is checked out, read by the compiler. Git's reflog of HEAD has a line for each change of HEAD,
// "OLD NEW who when what", and its last one names the commit. Because the reflog is an input of this file, every new
// commit compiles it again, by any way of building. Nothing but the twelve digits gets into the program: the
// reflog's names are there while this is compiled and no longer. (SwiftPM's Context.gitInformation is remembered with
// the manifest and stays the old one after a commit.)
//
// An archive made by `git archive` has no reflog: there Git itself writes the commit into `archived`, as .gitattributes
// asks. Without both it is "unknown".
#include "include/cbuild.h"

#pragma clang diagnostic ignored "-Wc23-extensions"

namespace {

constexpr int digits = 12;

struct Commit {
  char text[digits + 1];
};

constexpr bool is_digit(char c) { return (c >= '0' && c <= '9') || (c >= 'a' && c <= 'f'); }

/// The digits at `from`, or "unknown" if it is not that many.
constexpr Commit commit_at(const char *text, long from, long length) {
  Commit found = {"unknown"};
  if (from < 0 || from + digits > length) return found;
  for (int k = 0; k < digits; k++) {
    if (!is_digit(text[from + k])) return found;
  }
  for (int k = 0; k < digits; k++) found.text[k] = text[from + k];
  found.text[digits] = 0;
  return found;
}

#if defined(__has_embed) && __has_embed("../../.git/logs/HEAD") == 1

constexpr char reflog[] = {
#embed "../../.git/logs/HEAD"
};

/// NEW of the last line.
constexpr Commit head() {
  long length = sizeof reflog;
  long start = length - 1;
  while (start > 0 && reflog[start - 1] != '\n') start--;
  long space = start;
  while (space < length && reflog[space] != ' ') space++;
  return commit_at(reflog, space + 1, length);
}

constexpr Commit commit = head();

#else

constexpr char archived[] = "$Format:%H$";
constexpr Commit commit = commit_at(archived, 0, sizeof archived - 1);

#endif

}  // namespace

const char *cbuild_commit(void) { return commit.text; }
