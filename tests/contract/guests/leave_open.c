// Leaves a directory and a file open.
#include <dirent.h>
#include <fcntl.h>
int main(void) {
  readdir(opendir("/"));
  return open("/file", O_RDONLY) < 0;
}
