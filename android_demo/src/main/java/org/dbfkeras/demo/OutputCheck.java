package org.dbfkeras.demo;

/** How far a model's outputs are from those it came with. */
final class OutputCheck {
  /** The largest difference, as a share of the largest expected output. */
  final double difference;

  final double tolerance;

  OutputCheck(double difference, double tolerance) {
    this.difference = difference;
    this.tolerance = tolerance;
  }

  boolean passed() {
    return difference <= tolerance; // NaN does not
  }

  /** Runs a model on all of its examples. */
  static OutputCheck of(Session session, Model.Examples examples) {
    double difference = 0;
    double largest = 0;
    for (int i = 0; i < examples.images.length; ++i) {
      session.setInput(examples.images[i]);
      session.run();
      float[] got = session.output();
      float[] expected = examples.expected[i];
      if (got.length != expected.length) {
        return new OutputCheck(Double.NaN, examples.tolerance);
      }
      for (int k = 0; k < got.length; ++k) {
        difference = Math.max(difference, Math.abs((double) got[k] - expected[k])); // keeps NaN
        largest = Math.max(largest, Math.abs(expected[k]));
      }
    }
    return new OutputCheck(difference / largest, examples.tolerance);
  }
}
