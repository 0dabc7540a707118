// The public interface of the library: the ops DBFConv2D and DBFDense for apps in C and C++.
//
// An app makes them known to its runtime in one of three ways: as a delegate of an interpreter, as
// registrations of its op resolver, or to an environment of LiteRT 2. Types of the runtimes are
// only named here, so that their headers may, but need not, be included as well.

#ifndef DBF_EXPORT_DBF_OP_H_
#define DBF_EXPORT_DBF_OP_H_

#include <stdbool.h>
#include <stddef.h>

#if defined(_WIN32)
#define DBF_EXPORT __declspec(dllexport)
#else
#define DBF_EXPORT __attribute__((visibility("default")))
#endif

#ifdef __cplusplus
extern "C" {
#endif

struct LiteRtEnvironmentT;
struct TfLiteDelegate;
struct TfLiteRegistration;

// Makes a delegate, for TfLiteInterpreterOptionsAddDelegate or ModifyGraphWithDelegate. NULL if
// there is no memory.
DBF_EXPORT struct TfLiteDelegate* dbf_delegate_create(void);

// Frees a delegate, after the interpreters that use it. `delegate` may be NULL.
DBF_EXPORT void dbf_delegate_destroy(struct TfLiteDelegate* delegate);

// For apps that register ops: add these under the names "DBFConv2D" and "DBFDense", version 1.
DBF_EXPORT const struct TfLiteRegistration* dbf_conv2d_registration(void);
DBF_EXPORT const struct TfLiteRegistration* dbf_dense_registration(void);

// Makes the ops known to an environment of LiteRT 2 (a LiteRtEnvironment), so that its
// CompiledModels run them on processors (kLiteRtHwAcceleratorCpu). Call it before they are made;
// again is harmless. NULL stands for all environments that this process makes from now on, as long
// as LiteRT asks other libraries for accelerators, which it does not if it finds
// libLiteRtGpuAccelerator. Returns NULL, or what is wrong, in words.
DBF_EXPORT const char* dbf_register_litert(struct LiteRtEnvironmentT* environment);

// Sets the instruction set that ops use from now on, unless a delegate's options say otherwise:
// "avx512vnni", "avx512", "avx2", "neondot", "neon" or "baseline"; NULL for the best. Returns
// false, and changes nothing, if this processor does not have it.
DBF_EXPORT bool dbf_set_isa(const char* isa);

// Bytes that all ops of this process hold: packed coefficients, and scratch memory.
DBF_EXPORT void dbf_memory(size_t* packed, size_t* scratch);

#ifdef __cplusplus
}
#endif

#endif  // DBF_EXPORT_DBF_OP_H_
