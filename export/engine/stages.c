#include "engine/stages.h"

#include "support/require.h"

const DbfStages* DbfStagesOf(DbfForm form) {
  static const DbfStages* const kStages[kDbfNumForms] = {
      [kDbfFormFloat] = &kDbfStagesFloat,
      [kDbfFormWinograd] = &kDbfStagesWinograd,
      [kDbfFormInt8] = &kDbfStagesInt8,
  };
  DBF_REQUIRE(form >= 0 && form < kDbfNumForms, "unknown form");
  return kStages[form];
}

void DbfCombineRows(const DbfConv* conv, const DbfRows* rows, char* scratch, const void* signs,
                    void (*combine)(const DbfCombine*)) {
  const DbfPlan* plan = conv->plan;
  const size_t taps = conv->x.taps, raw = plan->raw, code_lines = plan->rule.code_lines;
  char* raw_lines = scratch + conv->scratch.raw_lines + rows->at * kDbfRawBytes;
  DbfCombine args = {
      .ops = plan->copy_ops,
      .num_ops = raw,
      .taps = 1,  // 4 bytes are copied, whatever they are
      .spans = rows->count,
      .src = scratch + conv->scratch.raw_row,
      .src_pitch = conv->row_pitch,
      .src_span = conv->row_entries,
      .dst_pitch = conv->line_pitch,
      .dst_span = conv->x.out,
      .width = rows->out,
  };
  for (size_t t = 0; t < taps && raw > 0; ++t) {
    args.offsets = &conv->x_offset[t];
    args.dst = raw_lines + t * raw * conv->line_pitch * kDbfRawBytes;
    plan->rule.kernels->combine(&args);
  }
  if (code_lines == 0) return;
  args.ops = plan->rule.line_ops;
  args.num_ops = code_lines;
  args.signs = signs;
  args.offsets = conv->x_offset;
  args.taps = (int)taps;
  args.src = scratch + conv->scratch.code_row;
  args.dst = scratch + conv->scratch.code_lines + rows->at * conv->stages->wide;
  combine(&args);
}
