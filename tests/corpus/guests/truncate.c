#include "say.h"
int main(void) {
  FILE *f = fopen("/work/a.txt", "w");
  fputs("short", f);
  fclose(f);
  f = fopen("/work/a.txt", "a+");
  fprintf(f, ", longer");
  rewind(f);
  char line[64];
  puts(fgets(line, 64, f));
  fclose(f);
  TRY(truncate("/work/a.txt", 3));
  TRY(truncate("/work/a.txt", -1));
  TRY(truncate("/work/d", 3));
  TRY(truncate("/work/absent", 3));
  f = fopen("/work/a.txt", "r");
  TRY(fprintf(f, "no") < 0 || fflush(f) < 0);
  fclose(f);
  TRY(fopen("/work/d", "w") == 0);
  TRY(fopen("/work/new/x", "w") == 0);
}
