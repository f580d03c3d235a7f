// Where the time goes: the program is interrupted every millisecond of its own time, and the function it was in is counted. Stages
// of the kernels are functions that are not inlined, and their names are in the symbol table of this very file.
#define _GNU_SOURCE
#include "bench.h"

#include <elf.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/time.h>
#include <ucontext.h>

enum { MAXIMUM_SAMPLES = 1 << 16, STAGES = 64 };
static uintptr_t samples[MAXIMUM_SAMPLES];
static volatile int sample_count;

static void take_sample(int signal, siginfo_t *info, void *context) {
#if defined(__x86_64__)
    if (sample_count < MAXIMUM_SAMPLES)
        samples[sample_count++] = (uintptr_t)((ucontext_t *)context)->uc_mcontext.gregs[REG_RIP];
#endif
}

static void set_timer(int microseconds) {
    const struct itimerval every = {{0, microseconds}, {0, microseconds}};
    setitimer(ITIMER_PROF, &every, NULL);
}

void start_profile(void) {
    struct sigaction action = {.sa_sigaction = take_sample, .sa_flags = SA_SIGINFO | SA_RESTART};
    sigaction(SIGPROF, &action, NULL);
    sample_count = 0;
    set_timer(1000);
}

static char *read_program(void) {
    FILE *file = fopen("/proc/self/exe", "rb");
    if (!file) return NULL;
    fseek(file, 0, SEEK_END);
    const long bytes = ftell(file);
    rewind(file);
    char *program = malloc((size_t)bytes);
    if (fread(program, 1, (size_t)bytes, file) != (size_t)bytes) program[0] = 0;
    fclose(file);
    return program;
}

typedef struct {
    const char *name;
    int count;
} stage;

static int by_count(const void *a, const void *b) { return ((const stage *)b)->count - ((const stage *)a)->count; }

void print_profile(const char *title) {
    set_timer(0);
    char *program = read_program();
    const Elf64_Ehdr *header = (const Elf64_Ehdr *)program;
    if (!program || memcmp(header->e_ident, ELFMAG, SELFMAG) != 0 || header->e_type != ET_EXEC) return;   // moved when loaded
    const Elf64_Shdr *sections = (const Elf64_Shdr *)(program + header->e_shoff);
    stage stages[STAGES] = {{0}};
    for (int section = 0; section < header->e_shnum; section++) {
        if (sections[section].sh_type != SHT_SYMTAB) continue;
        const Elf64_Sym *symbols = (const Elf64_Sym *)(program + sections[section].sh_offset);
        const char *names = program + sections[sections[section].sh_link].sh_offset;
        const size_t count = sections[section].sh_size / sizeof *symbols;
        for (int i = 0; i < sample_count; i++)
            for (size_t j = 0; j < count; j++) {
                if (ELF64_ST_TYPE(symbols[j].st_info) != STT_FUNC || samples[i] < symbols[j].st_value
                    || samples[i] >= symbols[j].st_value + symbols[j].st_size)
                    continue;
                int at = 0;
                while (at < STAGES - 1 && stages[at].name && strcmp(stages[at].name, names + symbols[j].st_name) != 0) at++;
                stages[at].name = names + symbols[j].st_name;
                stages[at].count++;
                break;
            }
    }
    qsort(stages, STAGES, sizeof(stage), by_count);
    printf("  stages of %s:", title);
    for (int i = 0; i < STAGES && stages[i].count * 200 > sample_count; i++)
        printf(" %s %.1f %%", stages[i].name, 100.0 * stages[i].count / sample_count);
    printf("\n");
    free(program);
}
