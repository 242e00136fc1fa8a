/* Stands between a keeper and the disk of its store. What a file says, named by TEST_DISK, is what the disk is: "full" or
 * "read-only"; anything else leaves it as it is. */
#define _GNU_SOURCE
#include <dlfcn.h>
#include <errno.h>
#include <fcntl.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

static ssize_t (*real_write)(int, const void *, size_t);
static ssize_t (*real_pwrite)(int, const void *, size_t, off_t);
static int (*real_open)(const char *, int, ...);

__attribute__((constructor)) static void find(void) {
    real_write = dlsym(RTLD_NEXT, "write");
    real_pwrite = dlsym(RTLD_NEXT, "pwrite64");
    real_open = dlsym(RTLD_NEXT, "open64");
}

static int is_of_store(const char *path) {
    return strstr(path, "/statekeeper.db") && !strstr(path, ".sock");
}

static int disk_is(const char *word) {
    char said[16] = "";
    const char *path = getenv("TEST_DISK");
    int fd = path ? real_open(path, O_RDONLY) : -1;
    if (fd < 0) return 0;
    ssize_t length = read(fd, said, sizeof said - 1);
    close(fd);
    return length > 0 && !strncmp(said, word, strlen(word));
}

/* Why nothing can be written there, or 0. */
static int trouble(int fd) {
    char link[64], path[4096];
    snprintf(link, sizeof link, "/proc/self/fd/%d", fd);
    ssize_t length = readlink(link, path, sizeof path - 1);
    if (length <= 0) return 0;
    path[length] = 0;
    if (!is_of_store(path)) return 0;
    if (disk_is("full")) return ENOSPC;
    return disk_is("read-only") ? EROFS : 0;
}

ssize_t write(int fd, const void *from, size_t size) {
    int error = trouble(fd);
    if (error) { errno = error; return -1; }
    return real_write(fd, from, size);
}

ssize_t pwrite64(int fd, const void *from, size_t size, off_t at) {
    int error = trouble(fd);
    if (error) { errno = error; return -1; }
    return real_pwrite(fd, from, size, at);
}

ssize_t pwrite(int fd, const void *from, size_t size, off_t at) {
    return pwrite64(fd, from, size, at);
}

int open64(const char *path, int flags, ...) {
    va_list more;
    va_start(more, flags);
    mode_t mode = flags & O_CREAT ? va_arg(more, mode_t) : 0;
    va_end(more);
    int writes = flags & (O_WRONLY | O_RDWR | O_CREAT);
    if (writes && is_of_store(path) && disk_is("read-only")) { errno = EROFS; return -1; }
    return real_open(path, flags, mode);
}

int open(const char *path, int flags, ...) {
    va_list more;
    va_start(more, flags);
    mode_t mode = flags & O_CREAT ? va_arg(more, mode_t) : 0;
    va_end(more);
    return open64(path, flags, mode);
}
