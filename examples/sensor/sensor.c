/* Keeps a device's sensor readings and answers questions about them.
 *
 *   POST   /readings            {"sensor":"t1","value":21.5}, or an array of up to 1000
 *   GET    /readings?limit=N    the newest N, oldest first; &sensor= for one sensor's
 *   DELETE /readings
 *   GET    /stats[?sensor=t1]   count, min, max, mean, stddev, last, alarm
 *
 * `alarm` is true when the last reading is outside ALARM_LOW..ALARM_HIGH (environment, each
 * optional). Every error is JSON, too.
 */
#include <errno.h>
#include <inttypes.h>
#include <math.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

#include "parse.h"
#include "stats.h"
#include "store.h"

enum {
    BODY_BYTES = 64 << 10,
    MOST_READINGS = 1000,
    DEFAULT_READINGS = 100,
    NUMBER_BYTES = 32,
};

static const char *variable(const char *name)
{
    const char *value = getenv(name);
    return value != NULL ? value : "";
}

/* Start a response; the JSON follows. */
static void print_head(const char *status)
{
    printf("Status: %s\nContent-Type: application/json\n\n", status);
}

__attribute__((format(printf, 2, 3))) static int print_error(const char *status, const char *format,
                                                             ...)
{
    va_list arguments;
    print_head(status);
    printf("{\"error\":\"");
    va_start(arguments, format);
    vprintf(format, arguments); /* our own messages: nothing in them needs escaping */
    va_end(arguments);
    printf("\"}\n");
    return 0;
}

static int print_store_error(int error)
{
    fprintf(stderr, "sensor: /data: %s\n", strerror(error));
    if (error == ENOSPC || error == EDQUOT) {
        return print_error("507 Insufficient Storage", "the volume is full");
    }
    if (error == EINVAL) {
        return print_error("500 Internal Server Error", "KEEP_BYTES must be 1048576 to 1073741824");
    }
    return print_error("500 Internal Server Error", "can't use the volume at /data: see the log");
}

/* The shortest decimal that reads back as the same value. */
static const char *format_number(double value, char text[static NUMBER_BYTES])
{
    for (int digits = 15; digits <= 17; digits++) {
        snprintf(text, NUMBER_BYTES, "%.*g", digits, value);
        if (strtod(text, NULL) == value) break;
    }
    return text;
}

/* Find `name` in the query. Values here need no escapes, so an escaped one is simply wrong.
 * Returns 1, or 0 when absent; -1 when longer than `size` allows. */
static int find_query(const char *name, char *value, size_t size)
{
    size_t name_length = strlen(name);
    const char *item = variable("QUERY_STRING");
    while (*item != '\0') {
        size_t length = strcspn(item, "&");
        if (length > name_length && strncmp(item, name, name_length) == 0 &&
            item[name_length] == '=') {
            size_t value_length = length - name_length - 1;
            if (value_length >= size) return -1;
            memcpy(value, item + name_length + 1, value_length);
            value[value_length] = '\0';
            return 1;
        }
        item += length + (item[length] == '&');
    }
    return 0;
}

/* Read the query's `sensor`; empty means all. Returns 0 after answering that it is wrong. */
static int read_sensor(char sensor[static SENSOR_BYTES])
{
    sensor[0] = '\0';
    int found = find_query("sensor", sensor, SENSOR_BYTES);
    if (found == 0 || (found == 1 && store_is_sensor(sensor))) return 1;
    return print_error("400 Bad Request",
                       "a sensor is 1 to 32 letters, digits, '.', '_' and '-'");
}

/* Read the query's `limit`. Returns 0 after answering that it is wrong. */
static int read_limit(size_t *limit)
{
    char text[8], *end = text;
    *limit = DEFAULT_READINGS;
    int found = find_query("limit", text, sizeof text);
    if (found == 0) return 1;
    if (found == 1 && text[0] >= '0' && text[0] <= '9') {
        *limit = strtoul(text, &end, 10);
        if (*end == '\0' && *limit >= 1 && *limit <= MOST_READINGS) return 1;
    }
    return print_error("400 Bad Request", "limit is a number from 1 to %d", MOST_READINGS);
}

/* Read the body into `body`, NUL at its end. Returns 0 after answering that it can't be had. */
static int read_body(char body[static BODY_BYTES + 2], size_t *length)
{
    const char *announced = variable("CONTENT_LENGTH");
    unsigned long long expected = strtoull(announced, NULL, 10);
    ssize_t count = 0;
    *length = 0;
    if (expected <= BODY_BYTES) {
        while (*length <= BODY_BYTES &&
               (count = read(STDIN_FILENO, body + *length, BODY_BYTES + 1 - *length)) > 0) {
            *length += (size_t)count;
        }
    }
    if (expected > BODY_BYTES || *length > BODY_BYTES) {
        return print_error("413 Content Too Large", "a body may have %d bytes", BODY_BYTES);
    }
    if (count < 0 || (*announced != '\0' && *length < expected)) {
        return print_error("400 Bad Request", "the body ended early");
    }
    body[*length] = '\0';
    return 1;
}

static void print_reading(const struct reading *reading)
{
    char number[NUMBER_BYTES];
    printf("{\"sensor\":\"%s\",\"value\":%s,\"time_ms\":%" PRId64 "}", reading->sensor,
           format_number(reading->value, number), reading->time_ms);
}

static void post_readings(void)
{
    static char body[BODY_BYTES + 2];
    static struct reading readings[MOST_READINGS];
    size_t length;
    if (!read_body(body, &length)) return;

    struct parse_error wrong;
    size_t count = parse_readings(body, length, readings, MOST_READINGS, &wrong);
    if (count == 0) {
        char message[96]; /* a message quotes keys: escape them for JSON */
        size_t used = 0;
        for (const char *p = wrong.message; *p != '\0' && used < sizeof message - 2; p++) {
            if (*p == '"' || *p == '\\') message[used++] = '\\';
            message[used++] = *p;
        }
        message[used] = '\0';
        print_error("400 Bad Request", "%s (byte %zu)", message, wrong.at);
        return;
    }
    struct timespec now;
    clock_gettime(CLOCK_REALTIME, &now);
    for (size_t i = 0; i < count; i++) {
        readings[i].time_ms = (int64_t)now.tv_sec * 1000 + now.tv_nsec / 1000000;
    }
    int error = store_append(readings, count);
    if (error != 0) {
        print_store_error(error);
        return;
    }
    print_head("201 Created");
    printf("{\"stored\":%zu}\n", count);
}

struct newest {
    const char *sensor; /* empty: all */
    size_t limit, count;
    struct reading ring[MOST_READINGS];
};

static void keep_newest(const struct reading *reading, void *context)
{
    struct newest *newest = context;
    if (newest->sensor[0] != '\0' && strcmp(newest->sensor, reading->sensor) != 0) return;
    newest->ring[newest->count++ % newest->limit] = *reading;
}

static void get_readings(void)
{
    static struct newest newest;
    char sensor[SENSOR_BYTES];
    size_t damaged;
    newest.sensor = sensor;
    if (!read_sensor(sensor) || !read_limit(&newest.limit)) return;
    int error = store_scan(keep_newest, &newest, &damaged);
    if (error != 0) {
        print_store_error(error);
        return;
    }
    size_t first = newest.count > newest.limit ? newest.count - newest.limit : 0;
    print_head("200 OK");
    printf("[");
    for (size_t i = first; i < newest.count; i++) {
        if (i > first) printf(",\n");
        print_reading(&newest.ring[i % newest.limit]);
    }
    printf("]\n");
}

static void delete_readings(void)
{
    int error = store_clear();
    if (error != 0) {
        print_store_error(error);
    } else {
        printf("Status: 204 No Content\n\n");
    }
}

struct selection {
    const char *sensor; /* empty: all */
    struct stats stats;
};

static void add_selected(const struct reading *reading, void *context)
{
    struct selection *selection = context;
    if (selection->sensor[0] != '\0' && strcmp(selection->sensor, reading->sensor) != 0) return;
    stats_add(&selection->stats, reading);
}

/* A threshold from the environment, `otherwise` without one. NaN when it isn't a number. */
static double threshold(const char *name, double otherwise)
{
    const char *text = variable(name);
    if (*text == '\0') return otherwise;
    char *end;
    double value = strtod(text, &end);
    return *end == '\0' ? value : NAN;
}

static void get_stats(void)
{
    char sensor[SENSOR_BYTES];
    size_t damaged;
    struct selection selection = {.sensor = sensor};
    if (!read_sensor(sensor)) return;
    double low = threshold("ALARM_LOW", -INFINITY), high = threshold("ALARM_HIGH", INFINITY);
    if (isnan(low) || isnan(high)) {
        print_error("500 Internal Server Error", "ALARM_LOW and ALARM_HIGH must be numbers");
        return;
    }
    int error = store_scan(add_selected, &selection, &damaged);
    if (error != 0) {
        print_store_error(error);
        return;
    }
    const struct stats *stats = &selection.stats;
    print_head("200 OK");
    printf("{\"count\":%zu,\"damaged\":%zu", stats->count, damaged);
    if (stats->count == 0) {
        printf(",\"min\":null,\"max\":null,\"mean\":null,\"stddev\":null,\"last\":null"
               ",\"alarm\":false}\n");
        return;
    }
    char number[NUMBER_BYTES];
    printf(",\"min\":%s", format_number(stats->min, number));
    printf(",\"max\":%s", format_number(stats->max, number));
    printf(",\"mean\":%s", format_number(stats->mean, number));
    printf(",\"stddev\":%s", format_number(stats_deviation(stats), number));
    printf(",\"last\":");
    print_reading(&stats->last);
    int is_alarm = stats->last.value < low || stats->last.value > high;
    printf(",\"alarm\":%s}\n", is_alarm ? "true" : "false");
}

static void get_index(void)
{
    print_head("200 OK");
    printf("{\"paths\":[\"/readings\",\"/stats\"]}\n");
}

static const struct route {
    const char *path, *method;
    void (*answer)(void);
} routes[] = {
    {"/", "GET", get_index},
    {"/readings", "GET", get_readings},
    {"/readings", "POST", post_readings},
    {"/readings", "DELETE", delete_readings},
    {"/stats", "GET", get_stats},
};

enum { ROUTES = sizeof routes / sizeof routes[0] };

static void answer_unrouted(const char *path)
{
    char allow[64] = "";
    for (size_t i = 0; i < ROUTES; i++) {
        if (strcmp(routes[i].path, path) != 0) continue;
        if (allow[0] != '\0') strcat(allow, ", ");
        strcat(allow, routes[i].method);
    }
    if (allow[0] != '\0') {
        printf("Allow: %s\n", allow);
        print_error("405 Method Not Allowed", "this path answers %s", allow);
    } else {
        print_error("404 Not Found", "the paths are /readings and /stats");
    }
}

int main(void)
{
    static char output[32 << 10];
    setvbuf(stdout, output, _IOFBF, sizeof output);
    const char *path = variable("PATH_INFO"), *method = variable("REQUEST_METHOD");
    if (*path == '\0') path = "/";
    if (strcmp(method, "HEAD") == 0) method = "GET"; /* the server leaves the body out */

    const struct route *route = routes;
    while (route < routes + ROUTES &&
           (strcmp(route->path, path) != 0 || strcmp(route->method, method) != 0)) {
        route++;
    }
    if (route < routes + ROUTES) {
        route->answer();
    } else {
        answer_unrouted(path);
    }
    return fflush(stdout) == 0 ? EXIT_SUCCESS : EXIT_FAILURE;
}
