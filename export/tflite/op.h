// The ops DBFConv2D and DBFDense of FORMAT.md, as TensorFlow Lite sees them.

#ifndef DBF_EXPORT_TFLITE_OP_H_
#define DBF_EXPORT_TFLITE_OP_H_

#include <stdbool.h>
#include <stddef.h>

#include "kernels/kernels.h"
#include "tflite/tflite_abi.h"

typedef struct DbfOp DbfOp;

typedef enum DbfOpType { kDbfConv2D, kDbfDense } DbfOpType;

// Whether ops of this custom name are ours, and which. `name` may be NULL.
bool DbfOpTypeOf(const char* name, DbfOpType* type);

// Makes an op from the custom options of its node. Never reports: DbfOpPrepare reports what is
// wrong with the options. NULL only if there is no memory.
DbfOp* DbfOpCreate(DbfOpType type, const void* options, size_t size, const DbfKernels* kernels);

// Checks the tensors, packs the coefficients (the first time), resizes the output and takes all
// memory and threads. Reports and returns kTfLiteError if options or tensors are not as FORMAT.md
// says. `op` may be NULL.
TfLiteStatus DbfOpPrepare(DbfOp* op, TfLiteContext* context, const TfLiteIntArray* inputs,
                          const TfLiteIntArray* outputs);

// Computes the output of an op that is prepared. Reports and returns kTfLiteError if its tensors
// have changed since.
TfLiteStatus DbfOpInvoke(DbfOp* op, TfLiteContext* context);

// Returns what a profiler shows of an op: instruction set, type, bytes of packed coefficients and
// of scratch memory. It is valid until the next call or until the op is freed.
const char* DbfOpProfile(DbfOp* op);

void DbfOpFree(DbfOp* op);

#endif  // DBF_EXPORT_TFLITE_OP_H_
