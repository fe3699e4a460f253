#include "say.h"
#include <stdint.h>
__attribute__((import_module("wasi_snapshot_preview1"), import_name("fd_renumber"))) int renumber(int, int);
int main(void) {
  char buffer[16] = {0};
  int a = open("/work/a.txt", O_RDONLY), b = open("/work/d/x", O_RDONLY), c = open("/work/d", O_RDONLY);
  printf("%d %d %d\n", b - a, c - a, renumber(a, b));
  TRY(read(b, buffer, 15));
  puts(buffer);
  TRY(read(a, buffer, 1));
  printf("%d %d %d %d\n", renumber(a, b), renumber(b, a), renumber(b, b), renumber(b, 1000));
  TRY(open("/work/a.txt", O_RDONLY) == a);
  TRY(close(a));
  TRY(close(b));
  TRY(open("/work/a.txt", O_RDONLY) == b);
  TRY(open("/work/a.txt", O_RDONLY) == a);
  TRY(open("/work/a.txt", O_RDONLY) == c + 1);
  int out = open("/work/stdout", O_WRONLY | O_CREAT, 0600);
  fflush(stdout);
  renumber(out, 1);
  puts("into the file");
  fflush(stdout);
  close(0);
  TRY(open("/work/a.txt", O_RDONLY) == 0);
  fprintf(stderr, "%d\n", (int)read(0, buffer, 5));
  close(2);
  TRY(write(2, "x", 1));
}
