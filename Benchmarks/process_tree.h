// CPU time and memory of a process and all its descendants, from /proc.
#pragma once

typedef struct {
    double cpu_seconds;  // user and system, of living threads
    long pss_kib;        // proportional set size: shared pages are counted once
} TreeUsage;

// A process that ends while it is being read is not counted. A `root` of 0 gives zeros.
TreeUsage measure_tree(int root);
