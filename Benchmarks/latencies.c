#include "latencies.h"

#include <stdlib.h>

void add_latency(Latencies *latencies, double seconds) {
    if (latencies->count == latencies->capacity) {
        latencies->capacity = latencies->capacity ? latencies->capacity * 2 : 65536;
        latencies->seconds = realloc(latencies->seconds, latencies->capacity * sizeof(double));
        if (!latencies->seconds) abort();
    }
    latencies->seconds[latencies->count++] = seconds;
}

static int compare(const void *one, const void *other) {
    double difference = *(const double *)one - *(const double *)other;
    return (difference > 0) - (difference < 0);
}

double latency_percentile(Latencies *latencies, double share) {
    if (latencies->count == 0) return 0;
    qsort(latencies->seconds, latencies->count, sizeof(double), compare);
    long index = (long)(latencies->count * share);
    return latencies->seconds[index < latencies->count ? index : latencies->count - 1];
}
