// Makes the processor look to this process like one with AVX2 and nothing newer (Linux on x86-64).
//
// CPUID is made to fault in the calling thread and all threads that it starts from then on; a
// signal handler answers in its place. Programs that are started are not affected.

#define _GNU_SOURCE
#include <cpuid.h>
#include <errno.h>
#include <signal.h>
#include <string.h>
#include <sys/syscall.h>
#include <ucontext.h>
#include <unistd.h>

enum { kArchSetCpuid = 0x1012 };  // of arch_prctl

static struct sigaction previous;

static long AllowCpuid(int allowed) { return syscall(SYS_arch_prctl, kArchSetCpuid, allowed); }

static void Mask(unsigned leaf, unsigned subleaf, unsigned registers[4]) {
  if (leaf != 7) return;
  if (subleaf > 0) {  // AVX-VNNI, AVX512-BF16, AMX-FP16, AVX10 and other latecomers
    memset(registers, 0, 4 * sizeof(registers[0]));
    return;
  }
  registers[1] &= ~0xdc230000u;  // AVX512: F, DQ, IFMA, PF, ER, CD, BW, VL
  registers[2] &= ~0x00005942u;  // AVX512: VBMI, VBMI2, VNNI, BITALG, VPOPCNTDQ; GFNI
  registers[3] &= ~0x03c0010cu;  // AVX512: 4VNNIW, 4FMAPS, VP2INTERSECT, FP16; AMX
}

static void Handle(int signal, siginfo_t* info, void* context) {
  greg_t* saved = ((ucontext_t*)context)->uc_mcontext.gregs;
  // A general protection fault, not one of an address: RIP can be read.
  if (info->si_code != SI_KERNEL || memcmp((const void*)saved[REG_RIP], "\x0f\xa2", 2) != 0) {
    sigaction(signal, &previous, NULL);  // meets the same fault again
    return;
  }
  const unsigned leaf = (unsigned)saved[REG_RAX], subleaf = (unsigned)saved[REG_RCX];
  unsigned registers[4];
  AllowCpuid(1);
  __cpuid_count(leaf, subleaf, registers[0], registers[1], registers[2], registers[3]);
  AllowCpuid(0);
  Mask(leaf, subleaf, registers);
  saved[REG_RAX] = registers[0];
  saved[REG_RBX] = registers[1];
  saved[REG_RCX] = registers[2];
  saved[REG_RDX] = registers[3];
  saved[REG_RIP] += 2;
}

// Returns 0, or an errno: ENODEV if the processor or its hypervisor cannot make CPUID fault.
int dbf_mask_cpuid(void) {
  struct sigaction action = {.sa_sigaction = Handle, .sa_flags = SA_SIGINFO | SA_ONSTACK};
  if (sigaction(SIGSEGV, &action, &previous) != 0) return errno;
  if (AllowCpuid(0) == 0) return 0;
  const int error = errno;
  sigaction(SIGSEGV, &previous, NULL);
  return error;
}
