// CPU time and memory of a process and all its descendants, and of the kernel, from /proc.
#pragma once

typedef struct {
    double cpu_seconds;  // user and system, of living threads
    long pss_kib;        // proportional set size: shared pages are counted once
    long descriptors;    // open files and sockets
} TreeUsage;

// A process that ends while it is being read is not counted. A `root` of 0 gives zeros.
TreeUsage measure_tree(int root);

// The proportional set size of this process.
long own_pss_kib(void);

typedef struct {
    long slab_kib;         // Slab of /proc/meminfo: sockets, files, epoll entries, and everything else
    long page_tables_kib;  // PageTables
    long available_kib;    // MemAvailable
    long udp_sockets;      // "inuse" of /proc/net/sockstat and sockstat6
    long udp_dropped;      // InErrors of /proc/net/snmp and snmp6: for want of room, or by a filter of the socket
} KernelUsage;

KernelUsage measure_kernel(void);
