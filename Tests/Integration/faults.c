// SPDX-License-Identifier: Apache-2.0
//
// Makes the n-th call of a function fail, in a program that knows nothing of it (LD_PRELOAD). The numbers stand in a
// file that the test maps too ($SLUICE_FAULTS), so one process goes through one failure after the other. Not for
// functions whose failure the program cannot see.
#define _GNU_SOURCE
#include <dlfcn.h>
#include <errno.h>
#include <fcntl.h>
#include <pthread.h>
#include <stdarg.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/socket.h>
#include <time.h>
#include <unistd.h>

// The order is that of `faults.py`.
enum { SOCKET, ACCEPT_OPTIONS, SET_OPTION, WRITE, FILES_UPDATE, SUBMIT, ENTER, THREAD, OPENSSL, OPEN, PLACES };

// Calls number `first` to `last` fail with `error`; calls are counted from 1.
struct place {
  uint64_t calls, first, last, error;
};

static struct place none[PLACES];
static struct place *places = none;

static int fails(int which) {
  struct place *place = &places[which];
  uint64_t number = __atomic_add_fetch(&place->calls, 1, __ATOMIC_RELAXED);
  if (number < place->first || number > place->last) return 0;
  errno = (int)place->error;
  return errno;
}

static void *openssl_malloc(size_t size, const char *file, int line) {
  return fails(OPENSSL) ? NULL : malloc(size);
}
static void *openssl_realloc(void *old, size_t size, const char *file, int line) {
  return fails(OPENSSL) ? NULL : realloc(old, size);
}
static void openssl_free(void *old, const char *file, int line) { free(old); }

__attribute__((constructor)) static void begin(void) {
  const char *path = getenv("SLUICE_FAULTS");
  int file = path ? open(path, O_RDWR | O_CLOEXEC) : -1;
  if (file < 0) return;
  void *mapped = mmap(NULL, sizeof none, PROT_READ | PROT_WRITE, MAP_SHARED, file, 0);
  close(file);
  if (mapped != MAP_FAILED) places = mapped;
  int (*set)(void *, void *, void *) = dlsym(RTLD_DEFAULT, "CRYPTO_set_mem_functions");
  if (set) set(openssl_malloc, openssl_realloc, openssl_free);
}

#define REAL(type, name, ...) ((type(*)(__VA_ARGS__))dlsym(RTLD_NEXT, #name))

int socket(int domain, int type, int protocol) {
  return fails(SOCKET) ? -1 : REAL(int, socket, int, int, int)(domain, type, protocol);
}

int getsockopt(int fd, int level, int name, void *value, socklen_t *length) {
  if (fails(ACCEPT_OPTIONS)) return -1;
  return REAL(int, getsockopt, int, int, int, void *, socklen_t *)(fd, level, name, value, length);
}

int setsockopt(int fd, int level, int name, const void *value, socklen_t length) {
  if (fails(SET_OPTION)) return -1;
  return REAL(int, setsockopt, int, int, int, const void *, socklen_t)(fd, level, name, value, length);
}

ssize_t write(int fd, const void *bytes, size_t count) {
  return fails(WRITE) ? -1 : REAL(ssize_t, write, int, const void *, size_t)(fd, bytes, count);
}

struct io_uring;
struct io_uring_cqe;

int io_uring_register_files_update(struct io_uring *ring, unsigned first, const int *files, unsigned count) {
  int error = fails(FILES_UPDATE);
  if (error) return -error;
  return REAL(int, io_uring_register_files_update, struct io_uring *, unsigned, const int *, unsigned)(
      ring, first, files, count);
}

int io_uring_submit(struct io_uring *ring) {
  int error = fails(SUBMIT);
  return error ? -error : REAL(int, io_uring_submit, struct io_uring *)(ring);
}

int io_uring_submit_and_wait_timeout(struct io_uring *ring, struct io_uring_cqe **found, unsigned count,
                                     void *time, void *mask) {
  int error = fails(ENTER);
  if (error) return -error;
  return REAL(int, io_uring_submit_and_wait_timeout, struct io_uring *, struct io_uring_cqe **, unsigned, void *,
              void *)(ring, found, count, time, mask);
}

int pthread_create(pthread_t *thread, const pthread_attr_t *attributes, void *(*body)(void *), void *argument) {
  int error = fails(THREAD);
  if (error) return error;
  return REAL(int, pthread_create, pthread_t *, const pthread_attr_t *, void *(*)(void *), void *)(
      thread, attributes, body, argument);
}

// A file that waits for ever, as on a server that is gone: any path that ends so.
int open(const char *path, int flags, ...) {
  va_list rest;
  va_start(rest, flags);
  mode_t mode = va_arg(rest, mode_t);
  va_end(rest);
  size_t length = strlen(path);
  if (length > 8 && strcmp(path + length - 8, ".waiting") == 0) {
    struct timespec tick = {0, 50000000};
    if (places[OPEN].error) fails(OPEN);
    while (places[OPEN].error) nanosleep(&tick, NULL);
  }
  return REAL(int, open, const char *, int, ...)(path, flags, mode);
}
