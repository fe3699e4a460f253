// What corpus programs share: printing a call's result and error number.
#pragma once
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#define TRY(call)                                                     \
  do {                                                                \
    errno = 0;                                                        \
    long long result_ = (long long)(call);                            \
    printf("%s = %lld", #call, result_);                              \
    if (result_ < 0) printf(" (%s)", strerror(errno));                \
    putchar('\n');                                                    \
  } while (0)
