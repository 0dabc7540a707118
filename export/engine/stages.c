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

void DbfCopyRawLines(const DbfConv* conv, const DbfRows* rows, char* scratch) {
  const DbfPlan* plan = conv->plan;
  char* raw_lines = scratch + conv->scratch.raw_lines + rows->at * kDbfRawBytes;
  DbfCombine copy = {
      .ops = plan->copy_ops,
      .num_ops = plan->raw,
      .taps = 1,  // 4 bytes are copied, whatever they are
      .spans = rows->count,
      .src = scratch + conv->scratch.raw_row,
      .src_pitch = conv->row_pitch,
      .src_span = conv->row_entries,
      .dst_pitch = conv->line_pitch,
      .dst_span = conv->x.out,
      .width = rows->out,
  };
  for (size_t t = 0; t < conv->x.taps && plan->raw > 0; ++t) {
    copy.offsets = &conv->x_offset[t];
    copy.dst = raw_lines + t * plan->raw * conv->line_pitch * kDbfRawBytes;
    plan->rule.kernels->combine(&copy);
  }
}

DbfCombine DbfCodeLines(const DbfConv* conv, const DbfRows* rows, char* scratch) {
  const DbfRule* rule = &conv->plan->rule;
  return (DbfCombine){
      .ops = rule->line_ops,
      .num_ops = rule->code_lines,
      .offsets = conv->x_offset,
      .taps = (int)conv->x.taps,
      .spans = rows->count,
      .src = scratch + conv->scratch.code_row,
      .src_pitch = conv->row_pitch,
      .src_span = conv->row_entries,
      .dst = scratch + conv->scratch.code_lines + rows->at * conv->stages->wide,
      .dst_pitch = conv->line_pitch,
      .dst_span = conv->x.out,
      .width = rows->out,
  };
}
