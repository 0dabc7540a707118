package org.dbfkeras.demo;

import android.content.Context;
import android.content.res.TypedArray;
import android.graphics.Canvas;
import android.graphics.Paint;
import android.util.AttributeSet;
import android.util.TypedValue;
import android.view.View;

/** Bars below each other, each with its name above and its value behind. */
public final class BarChartView extends View {
  private static final int[] COLORS = {
    0xff4c78a8, 0xfff58518, 0xff54a24b, 0xffb279a2, 0xffe45756, 0xff72b7b2, 0xff9d755d, 0xffeeca3b
  };

  private final Paint text = new Paint(Paint.ANTI_ALIAS_FLAG);
  private final Paint bar = new Paint(Paint.ANTI_ALIAS_FLAG);
  private String title = "";
  private String[] names = {};
  private double[] values = {};
  private String[] labels = {};

  public BarChartView(Context context, AttributeSet attributes) {
    super(context, attributes);
    TypedArray styled = context.obtainStyledAttributes(new int[] {android.R.attr.textColorPrimary});
    text.setColor(styled.getColor(0, 0xff000000));
    styled.recycle();
    text.setTextSize(
        TypedValue.applyDimension(
            TypedValue.COMPLEX_UNIT_SP, 13, context.getResources().getDisplayMetrics()));
  }

  /** Shows values of 0 or more with the texts that stand for them. */
  void show(String title, String[] names, double[] values, String[] labels) {
    this.title = title;
    this.names = names;
    this.values = values;
    this.labels = labels;
    StringBuilder read = new StringBuilder(title);
    for (int i = 0; i < names.length; ++i) {
      read.append("; ").append(names[i]).append(": ").append(labels[i]);
    }
    setContentDescription(read);
    requestLayout();
    invalidate();
  }

  private float line() {
    return text.getFontSpacing();
  }

  @Override
  protected void onMeasure(int width, int height) {
    int wanted = (int) Math.ceil(line() * (2 + 2.2f * names.length));
    setMeasuredDimension(getDefaultSize(0, width), resolveSize(wanted, height));
  }

  @Override
  protected void onDraw(Canvas canvas) {
    float y = line() * 1.4f;
    text.setFakeBoldText(true);
    canvas.drawText(title, 0, y, text);
    text.setFakeBoldText(false);
    double largest = 0;
    float space = 0;
    for (int i = 0; i < names.length; ++i) {
      largest = Math.max(largest, values[i]);
      space = Math.max(space, text.measureText(labels[i]));
    }
    float gap = line() / 3;
    float longest = getWidth() - space - gap;
    for (int i = 0; i < names.length; ++i) {
      y += line() * 1.1f;
      canvas.drawText(names[i], 0, y, text);
      float length = largest > 0 ? (float) (longest * values[i] / largest) : 0;
      bar.setColor(COLORS[i % COLORS.length]);
      canvas.drawRect(0, y + line() * 0.3f, Math.max(2, length), y + line(), bar);
      y += line() * 1.1f;
      canvas.drawText(labels[i], Math.max(2, length) + gap, y - line() * 0.2f, text);
    }
  }
}
