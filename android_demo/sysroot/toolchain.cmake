# Builds for Android with Debian's clang and lld and without an NDK: this folder's headers declare what the op takes of
# bionic, and stub libraries (native.sh makes them in DBF_STUBS) name it to the linker.

set(CMAKE_TRY_COMPILE_PLATFORM_VARIABLES DBF_ARCHITECTURE DBF_STUBS)
set(CMAKE_TRY_COMPILE_TARGET_TYPE STATIC_LIBRARY)
set(CMAKE_SYSTEM_NAME Linux)  # with "Android", CMake looks for an NDK
set(CMAKE_SYSTEM_PROCESSOR ${DBF_ARCHITECTURE})
set(CMAKE_C_COMPILER clang-16)
set(CMAKE_C_COMPILER_TARGET ${DBF_ARCHITECTURE}-linux-android21)
set(CMAKE_C_FLAGS_INIT "-nostdlibinc -isystem ${CMAKE_CURRENT_LIST_DIR}/include")
set(CMAKE_SHARED_LINKER_FLAGS_INIT "-Wno-unused-command-line-argument -nostdlib --ld-path=/usr/bin/ld.lld-16 -L${DBF_STUBS} -Wl,--no-undefined \
-Wl,--hash-style=gnu -Wl,-z,relro,-z,now -Wl,-s")
# As the NDK links what compilers want of a runtime. 64-bit ARM wants it for atomics only, and they can do without.
if(DBF_ARCHITECTURE STREQUAL "aarch64")
  string(APPEND CMAKE_C_FLAGS_INIT " -mno-outline-atomics")
else()
  execute_process(COMMAND clang-16 --target=${DBF_ARCHITECTURE}-linux-gnu --rtlib=compiler-rt -print-libgcc-file-name
    OUTPUT_VARIABLE DBF_BUILTINS OUTPUT_STRIP_TRAILING_WHITESPACE)
  set(CMAKE_C_STANDARD_LIBRARIES_INIT "${DBF_BUILTINS}")
endif()
string(APPEND CMAKE_C_STANDARD_LIBRARIES_INIT " -lc -ldl -lm")
set(CMAKE_HAVE_LIBC_PTHREAD TRUE)  # find_package(Threads) would try to link a program
set(CMAKE_FIND_ROOT_PATH_MODE_PROGRAM NEVER)
