// A growing list of times, and its percentiles.
#pragma once

typedef struct {
    double *seconds;
    long count, capacity;
} Latencies;

void add_latency(Latencies *latencies, double seconds);
// Returns the latency that `share` (0 to 1) of all did not exceed, in seconds, or 0 for an empty list. Sorts the list.
double latency_percentile(Latencies *latencies, double share);
