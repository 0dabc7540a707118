# Builds for 64-bit ARM on another machine, where the tests run under QEMU. CMAKE_C_COMPILER may be clang, from 16 on.
#
#   cmake -S export -B build-arm -DCMAKE_TOOLCHAIN_FILE=aarch64-linux-gnu.cmake -DDBF_QEMU_CPU=cortex-a53
#
# Debian's packages: gcc-aarch64-linux-gnu libc6-dev-arm64-cross qemu-user-static.

set(CMAKE_SYSTEM_NAME Linux)
set(CMAKE_SYSTEM_PROCESSOR aarch64)
if(NOT CMAKE_C_COMPILER)
  set(CMAKE_C_COMPILER aarch64-linux-gnu-gcc)
endif()
set(CMAKE_C_COMPILER_TARGET aarch64-linux-gnu)

set(DBF_QEMU_CPU max CACHE STRING "Processor that QEMU is, such as cortex-a53 (NEON) or cortex-a76 (and dotprod)")
find_program(DBF_QEMU NAMES qemu-aarch64-static qemu-aarch64)
if(DBF_QEMU)
  set(CMAKE_CROSSCOMPILING_EMULATOR ${DBF_QEMU} -L /usr/aarch64-linux-gnu -cpu ${DBF_QEMU_CPU})
endif()
