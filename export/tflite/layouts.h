// Whether a runtime's structs lie in memory as tflite_abi.h declares them.

#ifndef DBF_EXPORT_TFLITE_LAYOUTS_H_
#define DBF_EXPORT_TFLITE_LAYOUTS_H_

#include "tflite/tflite_abi.h"

// Looks for what no runtime would say if all fields lay where we read them: sizes and kinds out of
// their ranges, pointers that are none. Each field is read only after those that lead to it, so
// that a runtime of other layouts is told from ours before one of its pointers is misread. Returns
// which struct differs, in words, or NULL. After "TfLiteContext" its functions, the one that
// reports errors too, must not be called.
const char* DbfLayoutError(TfLiteContext* context);

#endif  // DBF_EXPORT_TFLITE_LAYOUTS_H_
