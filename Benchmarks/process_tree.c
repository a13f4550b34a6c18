#include "process_tree.h"

#include <ctype.h>
#include <dirent.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define MOST_PROCESSES 4096

typedef struct {
    int pid, parent;
} Process;

static int parent_of(int pid) {
    char path[64], text[1024];
    snprintf(path, sizeof path, "/proc/%d/stat", pid);
    FILE *file = fopen(path, "r");
    if (!file) return -1;
    size_t length = fread(text, 1, sizeof text - 1, file);
    fclose(file);
    text[length] = 0;
    // The name in parentheses may contain parentheses itself, so the fields start after the last one.
    char *after_name = strrchr(text, ')');
    int parent;
    return after_name && sscanf(after_name + 1, " %*c %d", &parent) == 1 ? parent : -1;
}

static int list_processes(Process *processes) {
    DIR *proc = opendir("/proc");
    if (!proc) return 0;
    int count = 0;
    for (struct dirent *entry; (entry = readdir(proc)) && count < MOST_PROCESSES;)
        if (isdigit((unsigned char)entry->d_name[0])) {
            int pid = atoi(entry->d_name);
            processes[count++] = (Process){pid, parent_of(pid)};
        }
    closedir(proc);
    return count;
}

// schedstat has nanoseconds; stat counts in ticks of 10 ms.
static double cpu_seconds(int pid) {
    char path[64];
    snprintf(path, sizeof path, "/proc/%d/task", pid);
    DIR *tasks = opendir(path);
    if (!tasks) return 0;
    double seconds = 0;
    for (struct dirent *entry; (entry = readdir(tasks));) {
        // The entry ".." is the process, whose schedstat is that of its first thread once more.
        if (entry->d_name[0] == '.') continue;
        char file_path[400];
        snprintf(file_path, sizeof file_path, "%s/%s/schedstat", path, entry->d_name);
        FILE *file = fopen(file_path, "r");
        if (!file) continue;
        unsigned long long nanoseconds;
        if (fscanf(file, "%llu", &nanoseconds) == 1) seconds += nanoseconds * 1e-9;
        fclose(file);
    }
    closedir(tasks);
    return seconds;
}

// Returns the number after `name` in the first line of a file that begins so, or 0.
static long named_number(const char *path, const char *name) {
    char line[1024];
    FILE *file = fopen(path, "r");
    if (!file) return 0;
    long number = 0;
    size_t length = strlen(name);
    while (fgets(line, sizeof line, file))
        if (!strncmp(line, name, length)) {
            number = atol(line + length);
            break;
        }
    fclose(file);
    return number;
}

static long pss_kib(int pid) {
    char path[64];
    snprintf(path, sizeof path, "/proc/%d/smaps_rollup", pid);
    return named_number(path, "Pss:");
}

long own_pss_kib(void) {
    return named_number("/proc/self/smaps_rollup", "Pss:");
}

static long descriptor_count(int pid) {
    char path[64];
    snprintf(path, sizeof path, "/proc/%d/fd", pid);
    DIR *folder = opendir(path);
    if (!folder) return 0;
    long count = 0;
    for (struct dirent *entry; (entry = readdir(folder));) count += entry->d_name[0] != '.';
    closedir(folder);
    return count;
}

TreeUsage measure_tree(int root) {
    static Process processes[MOST_PROCESSES];
    static int tree[MOST_PROCESSES];
    TreeUsage usage = {0};
    if (root <= 0) return usage;
    int count = list_processes(processes), size = 1;
    tree[0] = root;
    for (int at = 0; at < size; at++) {
        usage.cpu_seconds += cpu_seconds(tree[at]);
        usage.pss_kib += pss_kib(tree[at]);
        usage.descriptors += descriptor_count(tree[at]);
        for (int i = 0; i < count && size < MOST_PROCESSES; i++)
            if (processes[i].parent == tree[at]) tree[size++] = processes[i].pid;
    }
    return usage;
}

// The lines of /proc/net/snmp come in pairs: "Udp: NAME NAME …", and "Udp: NUMBER NUMBER …".
static long udp_errors(void) {
    char names[1024], numbers[1024];
    FILE *file = fopen("/proc/net/snmp", "r");
    if (!file) return 0;
    long errors = 0;
    while (fgets(names, sizeof names, file) && fgets(numbers, sizeof numbers, file)) {
        if (strncmp(names, "Udp:", 4)) continue;
        char *name_rest, *number_rest;
        char *name = strtok_r(names, " \n", &name_rest), *number = strtok_r(numbers, " \n", &number_rest);
        for (; name && number; name = strtok_r(NULL, " \n", &name_rest), number = strtok_r(NULL, " \n", &number_rest))
            if (!strcmp(name, "InErrors")) errors = atol(number);
    }
    fclose(file);
    return errors;
}

KernelUsage measure_kernel(void) {
    return (KernelUsage){
        .slab_kib = named_number("/proc/meminfo", "Slab:"),
        .page_tables_kib = named_number("/proc/meminfo", "PageTables:"),
        .available_kib = named_number("/proc/meminfo", "MemAvailable:"),
        .udp_sockets =
            named_number("/proc/net/sockstat", "UDP: inuse") + named_number("/proc/net/sockstat6", "UDP6: inuse"),
        .udp_dropped = udp_errors() + named_number("/proc/net/snmp6", "Udp6InErrors"),
    };
}
