/* Preloaded into a process under test (LD_PRELOAD): counts calls of the C library that reach the
 * disk, and has the n-th call of one kind fail, once. Which, is set at run time (failing_calls.py).
 * A call that fails is not made; but close(), which is made and then fails, as the kernel has it.
 */
#define _GNU_SOURCE
#include <dlfcn.h>
#include <errno.h>
#include <fcntl.h>
#include <stdarg.h>
#include <stdatomic.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <sys/uio.h>
#include <unistd.h>

/* The order of CALLS in failing_calls.py. */
enum { PREAD, PWRITE, READ, WRITE, WRITEV, PWRITEV, FDATASYNC, FSYNC, FTRUNCATE, FALLOCATE, MMAP,
       OPEN, RENAME, UNLINK, RMDIR, MKDIR, CLOSE, KINDS };

static atomic_int counting, fired;
static atomic_long counts[KINDS];
static int failing_kind = -1, failing_errno;
static long failing_number;

void calls_arm(int kind, long number, int error) {
  for (int i = 0; i < KINDS; i++) atomic_store(&counts[i], 0);
  atomic_store(&fired, 0);
  failing_kind = kind;
  failing_number = number;
  failing_errno = error;
  atomic_store(&counting, 1);
}
void calls_disarm(void) { atomic_store(&counting, 0); }
long calls_counted(int kind) { return atomic_load(&counts[kind]); }
int calls_fired(void) { return atomic_load(&fired); }

static int fails(int kind) {
  if (!atomic_load(&counting)) return 0;
  long number = atomic_fetch_add(&counts[kind], 1) + 1;
  if (kind != failing_kind || number != failing_number) return 0;
  atomic_store(&fired, 1);
  errno = failing_errno;
  return 1;
}

#define REAL(name) ((__typeof__(&name))dlsym(RTLD_NEXT, #name))
#define WRAPPED_IF(counted, type, name, kind, failure, parameters, arguments) \
  type name parameters {                                          \
    static __typeof__(&name) real;                                \
    if (!real) real = REAL(name);                                 \
    if ((counted) && fails(kind)) return failure;                 \
    return real arguments;                                        \
  }

#define WRAPPED(...) WRAPPED_IF(1, __VA_ARGS__)
/* Memory is mapped as well, by Python for its objects: only files count. */
#define WRAPPED_MMAP(...) WRAPPED_IF(f >= 0, __VA_ARGS__)

WRAPPED(ssize_t, pread, PREAD, -1, (int f, void *b, size_t n, off_t o), (f, b, n, o))
WRAPPED(ssize_t, pread64, PREAD, -1, (int f, void *b, size_t n, off64_t o), (f, b, n, o))
WRAPPED(ssize_t, pwrite, PWRITE, -1, (int f, const void *b, size_t n, off_t o), (f, b, n, o))
WRAPPED(ssize_t, pwrite64, PWRITE, -1, (int f, const void *b, size_t n, off64_t o), (f, b, n, o))
WRAPPED(ssize_t, read, READ, -1, (int f, void *b, size_t n), (f, b, n))
WRAPPED(ssize_t, write, WRITE, -1, (int f, const void *b, size_t n), (f, b, n))
WRAPPED(ssize_t, writev, WRITEV, -1, (int f, const struct iovec *v, int n), (f, v, n))
WRAPPED(ssize_t, pwritev, PWRITEV, -1, (int f, const struct iovec *v, int n, off_t o), (f, v, n, o))
WRAPPED(ssize_t, pwritev64, PWRITEV, -1, (int f, const struct iovec *v, int n, off64_t o), (f, v, n, o))
WRAPPED(int, fdatasync, FDATASYNC, -1, (int f), (f))
WRAPPED(int, fsync, FSYNC, -1, (int f), (f))
WRAPPED(int, ftruncate, FTRUNCATE, -1, (int f, off_t n), (f, n))
WRAPPED(int, ftruncate64, FTRUNCATE, -1, (int f, off64_t n), (f, n))
WRAPPED(int, posix_fallocate, FALLOCATE, failing_errno, (int f, off_t o, off_t n), (f, o, n))
WRAPPED(int, posix_fallocate64, FALLOCATE, failing_errno, (int f, off64_t o, off64_t n), (f, o, n))
WRAPPED_MMAP(void *, mmap, MMAP, MAP_FAILED, (void *a, size_t n, int p, int g, int f, off_t o), (a, n, p, g, f, o))
WRAPPED_MMAP(void *, mmap64, MMAP, MAP_FAILED, (void *a, size_t n, int p, int g, int f, off64_t o), (a, n, p, g, f, o))
WRAPPED(int, rename, RENAME, -1, (const char *a, const char *b), (a, b))
WRAPPED(int, renameat, RENAME, -1, (int d, const char *a, int e, const char *b), (d, a, e, b))
WRAPPED(int, unlink, UNLINK, -1, (const char *p), (p))
WRAPPED(int, unlinkat, UNLINK, -1, (int d, const char *p, int g), (d, p, g))
WRAPPED(int, rmdir, RMDIR, -1, (const char *p), (p))
WRAPPED(int, mkdir, MKDIR, -1, (const char *p, mode_t m), (p, m))

int close(int file) {
  static int (*real)(int);
  if (!real) real = (int (*)(int))dlsym(RTLD_NEXT, "close");
  if (!fails(CLOSE)) return real(file);
  real(file);
  errno = failing_errno;
  return -1;
}

/* Which has one argument more where a file may be made. */
#define OPENING(name, fixed, passed)                        \
  int name fixed {                                          \
    static int (*real)();                                   \
    mode_t mode = 0;                                        \
    if (!real) real = (int (*)())dlsym(RTLD_NEXT, #name);   \
    if (flags & (O_CREAT | O_TMPFILE)) {                    \
      va_list rest;                                         \
      va_start(rest, flags);                                \
      mode = va_arg(rest, mode_t);                          \
      va_end(rest);                                         \
    }                                                       \
    return fails(OPEN) ? -1 : real passed;                  \
  }

OPENING(open, (const char *path, int flags, ...), (path, flags, mode))
OPENING(open64, (const char *path, int flags, ...), (path, flags, mode))
OPENING(openat, (int folder, const char *path, int flags, ...), (folder, path, flags, mode))
OPENING(openat64, (int folder, const char *path, int flags, ...), (folder, path, flags, mode))
