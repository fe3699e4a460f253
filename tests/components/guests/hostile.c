#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

/* Asks the host for too much. Usage: hostile WHAT COUNT */
#define IMPORT(module, name) __attribute__((import_module(module "@0.2.12"), import_name(name)))
typedef int32_t handle;

IMPORT("wasi:cli/stdout", "get-stdout") handle get_stdout(void);
IMPORT("wasi:io/streams", "[method]output-stream.write")
void write_some(handle, const void *, int32_t, void *);
IMPORT("wasi:io/streams", "[method]output-stream.write-zeroes")
void write_zeroes(handle, int64_t, void *);
IMPORT("wasi:io/poll", "poll") void poll_all(const void *, int32_t, void *);
IMPORT("wasi:clocks/monotonic-clock", "subscribe-duration") handle subscribe(int64_t);
IMPORT("wasi:random/random", "get-random-bytes") void random_bytes(int64_t, void *);
IMPORT("wasi:cli/environment", "get-arguments") void get_arguments(void *);

static int32_t bad_memory;

__attribute__((export_name("cabi_realloc"))) void *cabi_realloc(void *old, size_t old_size,
                                                                size_t alignment, size_t size) {
  (void)old_size, (void)alignment;
  return bad_memory ? (void *)-16 : realloc(old, size);
}

int main(int argc, char **argv) {
  const char *what = argc > 1 ? argv[1] : "";
  int64_t count = argc > 2 ? atoll(argv[2]) : 0;
  uint64_t result[4];
  if (!strcmp(what, "write")) write_some(get_stdout(), calloc(count, 1), count, result);
  if (!strcmp(what, "zeroes")) write_zeroes(get_stdout(), count, result);
  if (!strcmp(what, "random")) random_bytes(count, result);
  if (!strcmp(what, "subscribe"))
    while (count--) subscribe(1);
  if (!strcmp(what, "poll")) {
    handle *pollables = calloc(count + 1, sizeof *pollables);
    for (int64_t at = 0; at < count; at++) pollables[at] = at ? pollables[0] : subscribe(1);
    poll_all(pollables, count, result);
  }
  if (!strcmp(what, "handle")) write_some(count, "x", 1, result);
  if (!strcmp(what, "outside")) write_some(get_stdout(), (void *)-16, count, result);
  if (!strcmp(what, "realloc")) {
    bad_memory = 1;
    get_arguments(result);
  }
  puts("done");
  return 0;
}
