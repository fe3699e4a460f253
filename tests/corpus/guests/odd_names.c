#include "say.h"
int main(void) {
  char name[300], path[5000];
  TRY(open("/work/h\xc3\xa9llo", O_CREAT | O_WRONLY, 0600) > 2);
  TRY(open("/work/\xff\xfe", O_CREAT | O_WRONLY, 0600));
  TRY(open("/work/a b\tc\nd", O_CREAT | O_WRONLY, 0600) > 2);
  TRY(open("/work/\\", O_CREAT | O_WRONLY, 0600) > 2);
  TRY(open("/work/...", O_CREAT | O_WRONLY, 0600) > 2);
  memset(name, 'n', 299);
  memcpy(name, "/work/", 6);
  name[6 + 255] = 0;
  TRY(open(name, O_CREAT | O_WRONLY, 0600) > 2);
  name[6 + 255] = 'n';
  name[6 + 256] = 0;
  TRY(open(name, O_CREAT | O_WRONLY, 0600));
  memset(path, 0, sizeof path);
  strcpy(path, "/work");
  while (strlen(path) < 4100) strcat(path, "/.");
  TRY(open(path, O_RDONLY) < 0 ? -1 : 0);
  TRY(symlink("\xff", "/work/bytes"));
  TRY(mkdir("/work/\xe2\x82", 0700));
}
