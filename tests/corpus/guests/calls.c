// Makes raw WASI calls that a script in the arguments spells out, and prints what came back.
//
// Each argument is one line:  name argument... [> output...]
// Arguments expand to integers: 12 -3 0x10 | "te%20xt" (pointer, length) | ["a","b"] vectors with
// these contents (pointer, count) | [4,8] vectors of these lengths | @2 the address of region 2 |
// *2 the u32 in region 2 | %clock:1:500:0+read:0 subscriptions (pointer). Outputs: @2:8 bytes in hex |
// @2'8 as text | v for what the vectors now hold | fdstat@2, stat@2, times@2, dir@2:3 (used bytes in region 3)
// and events@2:3 (count in region 3) for records, without what differs between two runs.
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define REGIONS 8
#define REGION 8192
static _Alignas(16) unsigned char regions[REGIONS][REGION];
static _Alignas(16) unsigned char arena[1 << 16];
static size_t arena_used;
static uint32_t vectors, vector_count;

#define W(name) __attribute__((import_module("wasi_snapshot_preview1"), import_name(#name)))
#define I uint32_t
#define J uint64_t
W(args_get) I w_args_get(I, I);
W(args_sizes_get) I w_args_sizes_get(I, I);
W(clock_res_get) I w_clock_res_get(I, I);
W(clock_time_get) I w_clock_time_get(I, J, I);
W(environ_get) I w_environ_get(I, I);
W(environ_sizes_get) I w_environ_sizes_get(I, I);
W(fd_advise) I w_fd_advise(I, J, J, I);
W(fd_allocate) I w_fd_allocate(I, J, J);
W(fd_close) I w_fd_close(I);
W(fd_datasync) I w_fd_datasync(I);
W(fd_fdstat_get) I w_fd_fdstat_get(I, I);
W(fd_fdstat_set_flags) I w_fd_fdstat_set_flags(I, I);
W(fd_fdstat_set_rights) I w_fd_fdstat_set_rights(I, J, J);
W(fd_filestat_get) I w_fd_filestat_get(I, I);
W(fd_filestat_set_size) I w_fd_filestat_set_size(I, J);
W(fd_filestat_set_times) I w_fd_filestat_set_times(I, J, J, I);
W(fd_pread) I w_fd_pread(I, I, I, J, I);
W(fd_prestat_dir_name) I w_fd_prestat_dir_name(I, I, I);
W(fd_prestat_get) I w_fd_prestat_get(I, I);
W(fd_pwrite) I w_fd_pwrite(I, I, I, J, I);
W(fd_read) I w_fd_read(I, I, I, I);
W(fd_readdir) I w_fd_readdir(I, I, I, J, I);
W(fd_renumber) I w_fd_renumber(I, I);
W(fd_seek) I w_fd_seek(I, J, I, I);
W(fd_sync) I w_fd_sync(I);
W(fd_tell) I w_fd_tell(I, I);
W(fd_write) I w_fd_write(I, I, I, I);
W(path_create_directory) I w_path_create_directory(I, I, I);
W(path_filestat_get) I w_path_filestat_get(I, I, I, I, I);
W(path_filestat_set_times) I w_path_filestat_set_times(I, I, I, I, J, J, I);
W(path_link) I w_path_link(I, I, I, I, I, I, I);
W(path_open) I w_path_open(I, I, I, I, I, J, J, I, I);
W(path_readlink) I w_path_readlink(I, I, I, I, I, I);
W(path_remove_directory) I w_path_remove_directory(I, I, I);
W(path_rename) I w_path_rename(I, I, I, I, I, I);
W(path_symlink) I w_path_symlink(I, I, I, I, I);
W(path_unlink_file) I w_path_unlink_file(I, I, I);
W(poll_oneoff) I w_poll_oneoff(I, I, I, I);
W(proc_exit) _Noreturn void w_proc_exit(I);
W(proc_raise) I w_proc_raise(I);
W(random_get) I w_random_get(I, I);
W(sched_yield) I w_sched_yield(void);
W(sock_accept) I w_sock_accept(I, I, I);
W(sock_recv) I w_sock_recv(I, I, I, I, I, I);
W(sock_send) I w_sock_send(I, I, I, I, I);
W(sock_shutdown) I w_sock_shutdown(I, I);

static int64_t a[16];

static int call(const char *name) {
#define C(n, ...) if (!strcmp(name, #n)) return w_##n(__VA_ARGS__)
  C(args_get, a[0], a[1]);
  C(args_sizes_get, a[0], a[1]);
  C(clock_res_get, a[0], a[1]);
  C(clock_time_get, a[0], a[1], a[2]);
  C(environ_get, a[0], a[1]);
  C(environ_sizes_get, a[0], a[1]);
  C(fd_advise, a[0], a[1], a[2], a[3]);
  C(fd_allocate, a[0], a[1], a[2]);
  C(fd_close, a[0]);
  C(fd_datasync, a[0]);
  C(fd_fdstat_get, a[0], a[1]);
  C(fd_fdstat_set_flags, a[0], a[1]);
  C(fd_fdstat_set_rights, a[0], a[1], a[2]);
  C(fd_filestat_get, a[0], a[1]);
  C(fd_filestat_set_size, a[0], a[1]);
  C(fd_filestat_set_times, a[0], a[1], a[2], a[3]);
  C(fd_pread, a[0], a[1], a[2], a[3], a[4]);
  C(fd_prestat_dir_name, a[0], a[1], a[2]);
  C(fd_prestat_get, a[0], a[1]);
  C(fd_pwrite, a[0], a[1], a[2], a[3], a[4]);
  C(fd_read, a[0], a[1], a[2], a[3]);
  C(fd_readdir, a[0], a[1], a[2], a[3], a[4]);
  C(fd_renumber, a[0], a[1]);
  C(fd_seek, a[0], a[1], a[2], a[3]);
  C(fd_sync, a[0]);
  C(fd_tell, a[0], a[1]);
  C(fd_write, a[0], a[1], a[2], a[3]);
  C(path_create_directory, a[0], a[1], a[2]);
  C(path_filestat_get, a[0], a[1], a[2], a[3], a[4]);
  C(path_filestat_set_times, a[0], a[1], a[2], a[3], a[4], a[5], a[6]);
  C(path_link, a[0], a[1], a[2], a[3], a[4], a[5], a[6]);
  C(path_open, a[0], a[1], a[2], a[3], a[4], a[5], a[6], a[7], a[8]);
  C(path_readlink, a[0], a[1], a[2], a[3], a[4], a[5]);
  C(path_remove_directory, a[0], a[1], a[2]);
  C(path_rename, a[0], a[1], a[2], a[3], a[4], a[5]);
  C(path_symlink, a[0], a[1], a[2], a[3], a[4]);
  C(path_unlink_file, a[0], a[1], a[2]);
  C(poll_oneoff, a[0], a[1], a[2], a[3]);
  C(proc_raise, a[0]);
  C(random_get, a[0], a[1]);
  C(sched_yield);
  C(sock_accept, a[0], a[1], a[2]);
  C(sock_recv, a[0], a[1], a[2], a[3], a[4], a[5]);
  C(sock_send, a[0], a[1], a[2], a[3], a[4]);
  C(sock_shutdown, a[0], a[1]);
  if (!strcmp(name, "proc_exit")) { fflush(stdout); w_proc_exit(a[0]); }
  return -1;
}

static void *take(size_t n) {
  arena_used = (arena_used + 15) & ~(size_t)15;
  void *p = arena + arena_used;
  arena_used += n;
  if (arena_used > sizeof arena) abort();
  return p;
}

// A quoted text with %xx escapes; *end is left behind the closing quote.
static char *text(const char *s, const char **end, uint32_t *length) {
  const char *q = ++s;
  while (*q && *q != '"') q++;
  char *out = take(q - s + 1), *o = out;
  for (; s < q; s++) {
    if (*s == '%') { char h[3] = {s[1], s[2], 0}; *o++ = strtoul(h, 0, 16); s += 2; }
    else *o++ = *s;
  }
  *length = o - out;
  *end = q + 1;
  return out;
}

// Subscriptions joined by +: clock:id:timeout:flags | read:fd | write:fd | other:tag. The user data
// counts from 100.
static unsigned char *subscriptions(const char *s) {
  unsigned char *list = take(48 * 64), *p = list;
  memset(list, 0, 48 * 64);
  for (J user = 100; *s; user++, p += 48) {
    memcpy(p, &user, 8);
    char *colon = strchr(s, ':') + 1;
    I word = strtoul(colon, &colon, 0);
    p[8] = *s == 'r' ? 1 : *s == 'w' ? 2 : *s == 'o' ? word : 0;
    memcpy(p + 16, &word, 4);
    if (*s == 'c') {
      J timeout = strtoull(colon + 1, &colon, 0);
      uint16_t flags = strtoul(colon + 1, &colon, 0);
      memcpy(p + 24, &timeout, 8);
      memcpy(p + 40, &flags, 2);
    }
    s = *colon == '+' ? colon + 1 : colon;
  }
  return list;
}

static int argument(char *token, int n) {
  const char *end;
  uint32_t length;
  if (*token == '"') {
    char *t = text(token, &end, &length);
    a[n++] = (uintptr_t)t;
    a[n++] = length;
  } else if (*token == '[') {
    uint32_t *v = take(8 * 64), count = 0;
    const char *s = token + 1;
    while (*s && *s != ']' && count < 64) {
      if (*s == '"') { v[2 * count] = (uintptr_t)text(s, &end, &length); v[2 * count + 1] = length; s = end; }
      else { v[2 * count + 1] = strtoul(s, (char **)&end, 0); v[2 * count] = (uintptr_t)take(v[2 * count + 1]); s = end; }
      count++;
      if (*s == ',') s++;
    }
    a[n++] = vectors = (uintptr_t)v;
    a[n++] = vector_count = count;
  } else if (*token == '%') {
    a[n++] = (uintptr_t)subscriptions(token + 1);
  } else if (*token == '@') a[n++] = (uintptr_t)regions[atoi(token + 1)];
  else if (*token == '*') { memcpy(&length, regions[atoi(token + 1)], 4); a[n++] = length; }
  else a[n++] = *token == '-' ? strtoll(token, 0, 0) : (int64_t)strtoull(token, 0, 0);
  return n;
}

static void hex(const unsigned char *p, size_t n) { while (n--) printf("%02x", *p++); }

static void plain(const unsigned char *p, size_t n) {
  for (; n--; p++) *p >= 32 && *p < 127 ? putchar(*p) : printf("\\x%02x", *p);
}

static void show(char *token) {
  putchar(' ');
  if (*token == 'v') {
    for (uint32_t i = 0; i < vector_count; i++) {
      uint32_t v[2];
      memcpy(v, (char *)(uintptr_t)vectors + 8 * i, 8);
      putchar('|');
      plain((void *)(uintptr_t)v[0], v[1] > 200 ? 200 : v[1]);
    }
  } else if (!strncmp(token, "stat@", 5)) {
    unsigned char *p = regions[atoi(token + 5)];
    J nlink, size, dev;
    memcpy(&dev, p, 8); memcpy(&nlink, p + 24, 8); memcpy(&size, p + 32, 8);
    // A directory's size and links are the host file system's business.
    if (p[16] == 3) nlink = size = 0;
    printf("dev=%llu type=%d nlink=%llu size=%llu", dev, p[16], nlink, size);
  } else if (!strncmp(token, "fdstat@", 7)) {
    unsigned char *p = regions[atoi(token + 7)];
    uint16_t flags;
    J rights[2];
    memcpy(&flags, p + 2, 2); memcpy(rights, p + 8, 16);
    printf("type=%d flags=%d rights=%llx %llx", *p, flags, rights[0], rights[1]);
  } else if (!strncmp(token, "events@", 7)) {
    I count;
    memcpy(&count, regions[atoi(strchr(token, ':') + 1)], 4);
    printf("%u:", count);
    for (unsigned char *p = regions[atoi(token + 7)]; count--; p += 32) {
      J user, bytes;
      uint16_t error, flags;
      memcpy(&user, p, 8); memcpy(&error, p + 8, 2); memcpy(&bytes, p + 16, 8); memcpy(&flags, p + 24, 2);
      printf(" %llu,%d,%d,%llu,%d", user, error, p[10], bytes, flags);
    }
  } else if (!strncmp(token, "times@", 6)) {
    unsigned char *p = regions[atoi(token + 6)];
    J access, change;
    memcpy(&access, p + 40, 8); memcpy(&change, p + 48, 8);
    printf("atim=%llu mtim=%llu", access, change);
  } else if (!strncmp(token, "dir@", 4)) {
    // Names and types of whole entries; cookies only as an order.
    char *colon = strchr(token, ':');
    unsigned char *p = regions[atoi(token + 4)];
    uint32_t used, n;
    memcpy(&used, regions[atoi(colon + 1)], 4);
    printf("used=%u", used);
    for (uint32_t at = 0; at + 24 <= used; at += 24 + n) {
      J next;
      memcpy(&next, p + at, 8); memcpy(&n, p + at + 16, 4);
      printf(" %llu:%d:", next, p[at + 20]);
      plain(p + at + 24, n < used - at - 24 ? n : used - at - 24);
    }
  } else if (*token == '@') {
    char *p = token + 1;
    unsigned char *region = regions[strtoul(p, &p, 0)];
    size_t n = atoi(p + 1);
    *p == '\'' ? plain(region, n) : hex(region, n);
  }
}

int main(int argc, char **argv) {
  setvbuf(stdout, malloc(1 << 18), _IOFBF, 1 << 18);
  for (int i = 1; i < argc; i++) {
    char *save, *name = strtok_r(argv[i], " ", &save), *token;
    int n = 0, showing = 0;
    memset(a, 0, sizeof a);
    arena_used = 0;
    printf("%s", name);
    int result = 0, called = 0;
    while ((token = strtok_r(0, " ", &save))) {
      if (*token == '>') { showing = 1; fflush(stdout); result = call(name); called = 1; printf(" = %d", result); continue; }
      if (showing) show(token);
      else n = argument(token, n);
    }
    if (!called) { fflush(stdout); result = call(name); printf(" = %d", result); }
    putchar('\n');
    fflush(stdout);
  }
  return 0;
}
