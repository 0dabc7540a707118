package org.dbfkeras.demo;

/** What was measured of one model; times in milliseconds. */
final class Result {
  String name;
  String path;
  long fileBytes;
  long peakMemoryBytes;
  long opPackedBytes;
  long opScratchBytes;
  double loadMs;
  double firstMs;

  /** Of every timed run. */
  double[] timesMs;

  /** Null if the model came without expected outputs. */
  OutputCheck check;

  double percentile(double percent) {
    return Statistics.percentile(timesMs, percent);
  }

  double median() {
    return Statistics.median(timesMs);
  }
}
