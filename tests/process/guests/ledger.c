/* A book of records on a volume. POST: writes that the record `id` begins, waits `ms` milliseconds
 * (2 by default), writes that it ends, each durably, and answers 201; two writers at once would be seen
 * between each other's lines. GET: answers with the book. `ENTRY` of the environment is in each line. */
#include <errno.h>
#include <fcntl.h>

#include "guest.h"

static int write_line(int book, char what, const char *id)
{
    char line[256];
    const char *entry = getenv("ENTRY");
    /* A line that a cut has torn stays a line of its own. */
    int length = snprintf(line, sizeof line, "\n%c %.100s %.100s;\n", what, id, entry ? entry : "-");
    if (write(book, line, (size_t)length) != length) return -1;
    return fsync(book);
}

static int refuse(void)
{
    printf("Status: 507\n\nerrno %d\n", errno);
    return 0;
}

int main(void)
{
    static char buffer[65536];
    const char *method = getenv("REQUEST_METHOD");
    ssize_t count;
    int book = open("/data/book", O_RDWR | O_CREAT | O_APPEND, 0600);
    if (book < 0) return refuse();
    if (method != NULL && strcmp(method, "POST") == 0) {
        char id[128];
        snprintf(id, sizeof id, "%s", text_parameter("id", "none"));
        if (write_line(book, 'B', id) != 0) return refuse();
        sleep_millis(parameter("ms", 2));
        if (write_line(book, 'E', id) != 0) return refuse();
        printf("Status: 201\n\n%s\n", id);
        return 0;
    }
    printf("Content-Type: text/plain\n\n");
    while ((count = read(book, buffer, sizeof buffer)) > 0) {
        fwrite(buffer, 1, (size_t)count, stdout);
    }
    return count < 0 || fflush(stdout) != 0;
}
