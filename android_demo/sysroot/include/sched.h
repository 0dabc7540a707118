// What the op takes of bionic's sched.h.
#pragma once

int sched_getcpu(void);
int sched_yield(void);
