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

static long pss_kib(int pid) {
    char path[64], line[256];
    snprintf(path, sizeof path, "/proc/%d/smaps_rollup", pid);
    FILE *file = fopen(path, "r");
    if (!file) return 0;
    long kib = 0;
    while (fgets(line, sizeof line, file))
        if (sscanf(line, "Pss: %ld", &kib) == 1) break;
    fclose(file);
    return kib;
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
        for (int i = 0; i < count && size < MOST_PROCESSES; i++)
            if (processes[i].parent == tree[at]) tree[size++] = processes[i].pid;
    }
    return usage;
}
