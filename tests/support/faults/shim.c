/* A library to be preloaded (LD_PRELOAD): it stands between a process and its files.
 *
 * Calls that change files below a watched folder are counted. They can be logged with
 * what they wrote, made to fail, or answered by SIGKILL; the clock can be set wrong.
 * Nothing happens until one of the functions shim_... is called in the process itself.
 */
#define _GNU_SOURCE
#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <signal.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/types.h>
#include <sys/uio.h>
#include <time.h>
#include <unistd.h>

#define MOST_FAILURES 8

typedef struct {
    char call[16];
    char part[256];
    int error;
    long first, last, seen;
} Failure;

static char watched[PATH_MAX];
static int log_fd = -1;
static long count, kill_at;
static int kill_is_torn;
static Failure failures[MOST_FAILURES];
static int num_failures;
static double clock_offset;

/* ---- what tests call in the process ---- */

void shim_watch(const char *folder) { snprintf(watched, sizeof watched, "%s", folder); }
void shim_kill_at(long number, int torn) { kill_at = number; kill_is_torn = torn; }
long shim_count(void) { return count; }
void shim_clock(double seconds) { clock_offset = seconds; }

/* Fail calls first to last, counted from 1, of those on paths with a part in them. */
void shim_fail(const char *call, const char *part, int error, long first, long last) {
    if (num_failures == MOST_FAILURES) abort();
    Failure *failure = &failures[num_failures++];
    snprintf(failure->call, sizeof failure->call, "%s", call);
    snprintf(failure->part, sizeof failure->part, "%s", part);
    failure->error = error, failure->first = first, failure->last = last;
}

void shim_forget_failures(void) {
    memset(failures, 0, sizeof failures);
    num_failures = 0;
}

int shim_log(const char *path) {
    log_fd = syscall(SYS_openat, AT_FDCWD, path,
                     O_WRONLY | O_CREAT | O_APPEND | O_CLOEXEC, 0600);
    return log_fd;
}

/* ---- inside ---- */

static int is_watched(const char *path) {
    size_t length = strlen(watched);
    return length && !strncmp(path, watched, length);
}

static const char *absolute(int folder, const char *path, char *buffer) {
    char link[64];
    ssize_t length;
    if (!path || path[0] == '/') return path ? path : "";
    if (folder == AT_FDCWD)
        snprintf(link, sizeof link, "/proc/self/cwd");
    else
        snprintf(link, sizeof link, "/proc/self/fd/%d", folder);
    length = syscall(SYS_readlinkat, AT_FDCWD, link, buffer, PATH_MAX - 1);
    if (length < 0) return "";
    snprintf(buffer + length, PATH_MAX - length, "/%s", path);
    return buffer;
}

static const char *path_of(int fd, char *buffer) {
    char link[64];
    snprintf(link, sizeof link, "/proc/self/fd/%d", fd);
    ssize_t length = syscall(SYS_readlinkat, AT_FDCWD, link, buffer, PATH_MAX - 1);
    buffer[length < 0 ? 0 : length] = 0;
    return buffer;
}

/* A part that ends with $ is the end of the path. */
static int has_part(const char *path, const char *part) {
    size_t length = strlen(part), whole = strlen(path);
    if (!length || part[length - 1] != '$') return strstr(path, part) != NULL;
    return whole >= --length && !strncmp(path + whole - length, part, length);
}

static int fails(const char *call, const char *path) {
    for (int i = 0; i < num_failures; i++) {
        Failure *failure = &failures[i];
        if (strcmp(failure->call, call) || !has_part(path, failure->part)) continue;
        long number = __atomic_add_fetch(&failure->seen, 1, __ATOMIC_SEQ_CST);
        if (number < failure->first || number > failure->last) continue;
        errno = failure->error;
        return 1;
    }
    return 0;
}

static int is_due(void) {
    long number = __atomic_add_fetch(&count, 1, __ATOMIC_SEQ_CST);
    return kill_at && number == kill_at;
}

/* A line of tab-separated fields, then the bytes that were written. */
static void note(const char *call, unsigned long inode, const char *path,
                 const char *other, long offset, const void *data, size_t size) {
    char line[2 * PATH_MAX + 200];
    if (log_fd < 0) return;
    int length = snprintf(line, sizeof line, "%s\t%lu\t%s\t%s\t%ld\t%zu\n", call, inode,
                          path, other, offset, size);
    struct iovec parts[2] = {{line, length}, {(void *)data, size}};
    syscall(SYS_writev, log_fd, parts, size ? 2 : 1);
}

/* Note which call is not done any more, and end. */
static void die(const char *call, const char *path) {
    note("killed", 0, path, call, 0, NULL, 0);
    syscall(SYS_kill, syscall(SYS_getpid), SIGKILL);
    for (;;) pause();
}

void shim_mark(const char *text) { note("mark", 0, text, "", 0, NULL, 0); }

static unsigned long inode_of(int fd) {
    struct stat found;
    return fstat(fd, &found) ? 0 : found.st_ino;
}

static unsigned long inode_at(const char *path) {
    struct stat found;
    return lstat(path, &found) ? 0 : found.st_ino;
}

static int do_open(int folder, const char *path, int flags, mode_t mode) {
    char buffer[PATH_MAX + 300];
    const char *full = absolute(folder, path, buffer);
    int changes = flags & (O_CREAT | O_TRUNC);
    if (!is_watched(full)) return syscall(SYS_openat, folder, path, flags, mode);
    if (fails(changes ? "open" : "openr", full)) return -1;
    unsigned long before = changes ? inode_at(full) : 0;
    if (changes && is_due()) die("open", full);
    int fd = syscall(SYS_openat, folder, path, flags, mode);
    if (fd >= 0 && changes) {
        int error = errno;
        const char *what = before ? (flags & O_TRUNC ? "truncate" : "") : "create";
        if (*what) note(what, inode_of(fd), full, "", 0, NULL, 0);
        errno = error;
    }
    return fd;
}

static mode_t mode_of(int flags, va_list arguments) {
    return flags & (O_CREAT | __O_TMPFILE) ? va_arg(arguments, mode_t) : 0;
}

/* ---- what stands in the place of the C library's functions ---- */

#define OPEN(name)                                      \
    int name(const char *path, int flags, ...) {        \
        va_list arguments;                              \
        va_start(arguments, flags);                     \
        mode_t mode = mode_of(flags, arguments);        \
        va_end(arguments);                              \
        return do_open(AT_FDCWD, path, flags, mode);    \
    }
#define OPENAT(name)                                            \
    int name(int folder, const char *path, int flags, ...) {    \
        va_list arguments;                                      \
        va_start(arguments, flags);                             \
        mode_t mode = mode_of(flags, arguments);                \
        va_end(arguments);                                      \
        return do_open(folder, path, flags, mode);              \
    }
OPEN(open)
OPEN(open64)
OPENAT(openat)
OPENAT(openat64)

ssize_t read(int fd, void *data, size_t size) {
    char path[PATH_MAX];
    if (num_failures && is_watched(path_of(fd, path)) && fails("read", path)) return -1;
    return syscall(SYS_read, fd, data, size);
}

static ssize_t do_write(int fd, const void *data, size_t size, off_t place) {
    char path[PATH_MAX];
    int is_ours = watched[0] && is_watched(path_of(fd, path));
    if (is_ours) {
        if (fails("write", path)) return -1;
        if (is_due()) {
            if (kill_is_torn) syscall(SYS_write, fd, data, size / 2);
            die("write", path);
        }
        if (place < 0) {
            struct stat found;
            int at_end = fcntl(fd, F_GETFL) & O_APPEND;
            off_t here = at_end && !fstat(fd, &found) ? found.st_size
                                                      : lseek(fd, 0, SEEK_CUR);
            ssize_t done = syscall(SYS_write, fd, data, size);
            if (done > 0) note("write", inode_of(fd), path, "", here, data, done);
            return done;
        }
    }
    if (place < 0) return syscall(SYS_write, fd, data, size);
    ssize_t done = syscall(SYS_pwrite64, fd, data, size, place);
    if (is_ours && done > 0) note("write", inode_of(fd), path, "", place, data, done);
    return done;
}

ssize_t write(int fd, const void *data, size_t size) {
    return do_write(fd, data, size, -1);
}

ssize_t pwrite(int fd, const void *data, size_t size, off_t place) {
    return do_write(fd, data, size, place);
}

ssize_t pwrite64(int fd, const void *data, size_t size, off_t place) {
    return do_write(fd, data, size, place);
}

ssize_t writev(int fd, const struct iovec *parts, int number) {
    char path[PATH_MAX];
    if (!watched[0] || !is_watched(path_of(fd, path)))
        return syscall(SYS_writev, fd, parts, number);
    for (int i = 0; i < number; i++) /* a short write is allowed */
        if (parts[i].iov_len) return do_write(fd, parts[i].iov_base, parts[i].iov_len, -1);
    return 0;
}

static int do_sync(long call, int fd) {
    char path[PATH_MAX];
    if (!watched[0] || !is_watched(path_of(fd, path))) return syscall(call, fd);
    if (fails("fsync", path)) return -1;
    if (is_due()) die("fsync", path);
    int failed = syscall(call, fd);
    if (!failed) note("fsync", inode_of(fd), path, "", 0, NULL, 0);
    return failed;
}

int fsync(int fd) { return do_sync(SYS_fsync, fd); }
int fdatasync(int fd) { return do_sync(SYS_fdatasync, fd); }

static int do_truncate(int fd, off_t size) {
    char path[PATH_MAX];
    if (!watched[0] || !is_watched(path_of(fd, path)))
        return syscall(SYS_ftruncate, fd, size);
    if (fails("truncate", path)) return -1;
    if (is_due()) die("truncate", path);
    int failed = syscall(SYS_ftruncate, fd, size);
    if (!failed) note("truncate", inode_of(fd), path, "", size, NULL, 0);
    return failed;
}

int ftruncate(int fd, off_t size) { return do_truncate(fd, size); }
int ftruncate64(int fd, off_t size) { return do_truncate(fd, size); }

int renameat2(int from_folder, const char *from, int to_folder, const char *to,
              unsigned flags) {
    char one[PATH_MAX + 300], two[PATH_MAX + 300];
    const char *source = absolute(from_folder, from, one);
    const char *target = absolute(to_folder, to, two);
    if (!is_watched(target))
        return syscall(SYS_renameat2, from_folder, from, to_folder, to, flags);
    if (fails("rename", target)) return -1;
    if (is_due()) die("rename", target);
    int failed = syscall(SYS_renameat2, from_folder, from, to_folder, to, flags);
    if (!failed) note("rename", inode_at(target), source, target, 0, NULL, 0);
    return failed;
}

int renameat(int from_folder, const char *from, int to_folder, const char *to) {
    return renameat2(from_folder, from, to_folder, to, 0);
}

int rename(const char *from, const char *to) {
    return renameat2(AT_FDCWD, from, AT_FDCWD, to, 0);
}

int mkdirat(int folder, const char *path, mode_t mode) {
    char buffer[PATH_MAX + 300];
    const char *full = absolute(folder, path, buffer);
    if (!is_watched(full)) return syscall(SYS_mkdirat, folder, path, mode);
    if (fails("mkdir", full)) return -1;
    if (is_due()) die("mkdir", full);
    int failed = syscall(SYS_mkdirat, folder, path, mode);
    if (!failed) note("mkdir", inode_at(full), full, "", 0, NULL, 0);
    return failed;
}

int mkdir(const char *path, mode_t mode) { return mkdirat(AT_FDCWD, path, mode); }

int unlinkat(int folder, const char *path, int flags) {
    char buffer[PATH_MAX + 300];
    const char *full = absolute(folder, path, buffer);
    const char *call = flags & AT_REMOVEDIR ? "rmdir" : "unlink";
    if (!is_watched(full)) return syscall(SYS_unlinkat, folder, path, flags);
    if (fails(call, full)) return -1;
    if (is_due()) die(call, full);
    unsigned long inode = inode_at(full);
    int failed = syscall(SYS_unlinkat, folder, path, flags);
    if (!failed) note(call, inode, full, "", 0, NULL, 0);
    return failed;
}

int unlink(const char *path) { return unlinkat(AT_FDCWD, path, 0); }
int rmdir(const char *path) { return unlinkat(AT_FDCWD, path, AT_REMOVEDIR); }

int clock_gettime(clockid_t clock, struct timespec *now) {
    int failed = syscall(SYS_clock_gettime, clock, now);
    if (!failed && clock == CLOCK_REALTIME && clock_offset != 0) {
        double seconds = (double)now->tv_sec + clock_offset;
        now->tv_sec = seconds < 0 ? 0 : (time_t)seconds;
    }
    return failed;
}

time_t time(time_t *place) {
    struct timespec now;
    clock_gettime(CLOCK_REALTIME, &now);
    if (place) *place = now.tv_sec;
    return now.tv_sec;
}
