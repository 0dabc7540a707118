package org.dbfkeras.demo;

import java.util.Arrays;

/** Statistics of timed runs, as the Python benchmark computes them. */
final class Statistics {
  private Statistics() {}

  static double median(double[] values) {
    return percentile(values, 50);
  }

  /**
   * Returns what {@code percent} % of the values stay within, linear between neighbours (NumPy's default).
   *
   * @throws IllegalArgumentException if there is no value
   */
  static double percentile(double[] values, double percent) {
    if (values.length == 0) {
      throw new IllegalArgumentException("A percentile needs at least one value.");
    }
    double[] sorted = values.clone();
    Arrays.sort(sorted);
    double position = percent / 100 * (sorted.length - 1);
    int below = (int) position;
    int above = Math.min(below + 1, sorted.length - 1);
    return sorted[below] + (position - below) * (sorted[above] - sorted[below]);
  }
}
