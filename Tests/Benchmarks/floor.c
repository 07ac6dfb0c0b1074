/* SPDX-License-Identifier: Apache-2.0
 *
 * The least that this kernel lets a held connection cost: accept, hold, and one byte every so often, by
 * io_uring and nothing else. It is no SMTP server and checks nothing; it is what Sluice is measured
 * against. Keeps: each held connection is in exactly one slot of the wheel, or, with -i 0, in none.
 *
 *   cc -O2 -o floor floor.c -luring
 *   floor [-a 127.0.0.1] [-p 2525] [-n 19000] [-W 1] [-i 1000] [-r none|poll] [-x 600]
 *
 *   -n  connections of one worker, one table of direct descriptors; at most the limit on open files
 *   -W  workers: processes on one port (SO_REUSEPORT); the kernel spreads clients by a hash of both ends
 *   -i  milliseconds between two bytes to one connection, a multiple of 10; 0: accept and sleep
 *   -r  what is armed on a held socket: nothing (an end shows at the next byte), or a poll for hang-up
 *   -x  seconds until it ends by itself, whatever happens
 *
 * SIGUSR1 prints the counts of each worker on standard error.
 */
#define _GNU_SOURCE
#include <arpa/inet.h>
#include <errno.h>
#include <liburing.h>
#include <netinet/in.h>
#include <poll.h>
#include <signal.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <time.h>
#include <unistd.h>

enum { TICK_MS = 10, SUBMISSIONS = 1024, COMPLETIONS = 16384 };
enum operation { ACCEPT = 1, SEND, POLL, CLOSE };
enum { HELD = 1, CLOSING = 2, LISTED = 4 };

/* The connections whose byte is due in the same tick, in no order. */
struct slot {
    int32_t *members;
    uint32_t count, room;
};

static struct io_uring ring;
static struct slot *wheel;
static uint32_t slots;
static uint8_t *state; /* by direct descriptor */
static int listener, polls;
static unsigned long accepted, held, sent, ended;
static volatile sig_atomic_t wants_counts;

static void fail(const char *what, int error)
{
    fprintf(stderr, "floor: %s: %s\n", what, strerror(error));
    exit(1);
}

static void on_signal(int number)
{
    (void)number;
    wants_counts = 1;
}

static int64_t milliseconds(void)
{
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return (int64_t)t.tv_sec * 1000 + t.tv_nsec / 1000000;
}

static struct io_uring_sqe *entry(enum operation operation, int32_t index)
{
    struct io_uring_sqe *sqe;
    while (!(sqe = io_uring_get_sqe(&ring)))
        io_uring_submit(&ring);
    /* The prep functions of liburing leave this field alone. */
    sqe->user_data = (uint64_t)operation << 32 | (uint32_t)index;
    return sqe;
}

static void arm_accept(void)
{
    io_uring_prep_multishot_accept_direct(entry(ACCEPT, 0), listener, NULL, NULL, 0);
}

static void list(uint32_t tick, int32_t index)
{
    struct slot *slot = &wheel[tick % slots];
    if (slot->count == slot->room) {
        slot->room = slot->room ? slot->room + slot->room / 2 : 64;
        slot->members = realloc(slot->members, slot->room * sizeof *slot->members);
        if (!slot->members)
            fail("no memory", ENOMEM);
    }
    slot->members[slot->count++] = index;
    state[index] |= LISTED;
}

static void end(int32_t index)
{
    if (!(state[index] & HELD))
        return;
    state[index] = (state[index] & LISTED) | CLOSING;
    io_uring_prep_close_direct(entry(CLOSE, index), index);
}

/* One byte to each member of a slot. Who has ended is taken out here, when the wheel passes. */
static void drip(struct slot *slot)
{
    static const char byte = '2';
    uint32_t kept = 0;
    for (uint32_t k = 0; k < slot->count; k++) {
        int32_t index = slot->members[k];
        if (!(state[index] & HELD)) {
            state[index] &= ~LISTED;
            continue;
        }
        slot->members[kept++] = index;
        struct io_uring_sqe *sqe = entry(SEND, index);
        io_uring_prep_send(sqe, index, &byte, 1, MSG_NOSIGNAL | MSG_DONTWAIT);
        sqe->flags |= IOSQE_FIXED_FILE | IOSQE_CQE_SKIP_SUCCESS;
        sent++;
    }
    slot->count = kept;
}

static void complete(const struct io_uring_cqe *cqe, uint32_t tick)
{
    int32_t index = (int32_t)cqe->user_data;
    switch ((enum operation)(cqe->user_data >> 32)) {
    case ACCEPT:
        if (cqe->res >= 0) {
            index = cqe->res;
            accepted++;
            held++;
            state[index] = (state[index] & LISTED) | HELD;
            /* Its number may still be listed from its last life; then it keeps that place. */
            if (slots && !(state[index] & LISTED))
                list(tick, index);
            if (polls) {
                struct io_uring_sqe *sqe = entry(POLL, index);
                io_uring_prep_poll_add(sqe, index, POLLIN | POLLRDHUP);
                sqe->flags |= IOSQE_FIXED_FILE;
            }
        } else {
            fprintf(stderr, "floor: accept: %s\n", strerror(-cqe->res));
        }
        if (!(cqe->flags & IORING_CQE_F_MORE))
            arm_accept();
        break;
    case SEND: /* only failures are told; a full socket loses its byte */
        if (cqe->res != -EAGAIN)
            end(index);
        break;
    case POLL:
        end(index);
        break;
    case CLOSE:
        state[index] &= ~CLOSING;
        held--;
        ended++;
        break;
    }
}

static void work(const char *address, int port, int capacity, int interval, int shared)
{
    state = calloc(capacity, 1);
    slots = interval / TICK_MS;
    wheel = calloc(slots ? slots : 1, sizeof *wheel);
    if (!state || !wheel)
        fail("no memory", ENOMEM);

    int on = 1;
    struct sockaddr_in place = {.sin_family = AF_INET, .sin_port = htons(port)};
    listener = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
    setsockopt(listener, SOL_SOCKET, SO_REUSEADDR, &on, sizeof on);
    if (shared)
        setsockopt(listener, SOL_SOCKET, SO_REUSEPORT, &on, sizeof on);
    if (inet_pton(AF_INET, address, &place.sin_addr) != 1)
        fail(address, EINVAL);
    if (bind(listener, (struct sockaddr *)&place, sizeof place) || listen(listener, 65535))
        fail("listen", errno);

    struct io_uring_params parameters = {
        .flags = IORING_SETUP_SINGLE_ISSUER | IORING_SETUP_DEFER_TASKRUN | IORING_SETUP_CQSIZE,
        .cq_entries = COMPLETIONS,
    };
    int status = io_uring_queue_init_params(SUBMISSIONS, &ring, &parameters);
    if (status < 0)
        fail("io_uring", -status);
    io_uring_register_ring_fd(&ring);
    status = io_uring_register_files_sparse(&ring, capacity);
    if (status < 0)
        fail("a table of that size (see the limit on open files)", -status);
    arm_accept();
    fprintf(stderr, "floor ready\n");

    int64_t start = milliseconds();
    uint32_t tick = 0;
    for (;;) {
        int64_t now = milliseconds();
        if (slots)
            for (; start + (int64_t)tick * TICK_MS <= now; tick++)
                drip(&wheel[tick % slots]);
        int64_t wait = slots ? start + (int64_t)tick * TICK_MS - now : 1000;
        struct __kernel_timespec time = {.tv_sec = wait / 1000, .tv_nsec = wait % 1000 * 1000000};
        struct io_uring_cqe *first;
        io_uring_submit_and_wait_timeout(&ring, &first, 1, &time, NULL);
        if (wants_counts) {
            wants_counts = 0;
            fprintf(stderr, "floor held=%lu accepted=%lu sent=%lu ended=%lu\n", held, accepted, sent,
                    ended);
        }
        struct io_uring_cqe *cqe;
        unsigned head, count = 0;
        io_uring_for_each_cqe(&ring, head, cqe) {
            complete(cqe, tick);
            count++;
        }
        io_uring_cq_advance(&ring, count);
    }
}

int main(int argc, char **argv)
{
    const char *address = "127.0.0.1";
    int port = 2525, capacity = 19000, workers = 1, interval = 1000, life = 600, option;
    while ((option = getopt(argc, argv, "a:p:n:W:i:r:x:")) != -1) {
        switch (option) {
        case 'a': address = optarg; break;
        case 'p': port = atoi(optarg); break;
        case 'n': capacity = atoi(optarg); break;
        case 'W': workers = atoi(optarg); break;
        case 'i': interval = atoi(optarg); break;
        case 'r': polls = strcmp(optarg, "poll") == 0; break;
        case 'x': life = atoi(optarg); break;
        default: return 2;
        }
    }
    if (port < 1 || port > 65535 || capacity < 1 || workers < 1 || workers > 1024 || interval < 0 ||
        interval % TICK_MS || life < 1) {
        fprintf(stderr, "floor: a number is out of its range; see the head of floor.c\n");
        return 2;
    }
    if (strncmp(address, "127.", 4) != 0) {
        fprintf(stderr, "floor: only 127.0.0.0/8\n");
        return 2;
    }
    struct rlimit limit;
    getrlimit(RLIMIT_NOFILE, &limit);
    limit.rlim_cur = limit.rlim_max;
    setrlimit(RLIMIT_NOFILE, &limit);
    signal(SIGPIPE, SIG_IGN);
    alarm(life);
    struct sigaction action = {.sa_handler = on_signal};
    sigaction(SIGUSR1, &action, NULL);
    if (workers == 1)
        work(address, port, capacity, interval, 0);
    for (int k = 0; k < workers; k++) {
        pid_t child = fork();
        if (child < 0)
            fail("fork", errno);
        if (child == 0) {
            prctl(PR_SET_PDEATHSIG, SIGTERM);
            alarm(life);
            work(address, port, capacity, interval, 1);
        }
    }
    for (;;)
        pause();
}
