// What the op takes of bionic's sys/auxv.h.
#pragma once

#define AT_HWCAP 16

unsigned long getauxval(unsigned long);
