package org.dbfkeras.demo;

import java.io.IOException;
import java.nio.ByteBuffer;

/** A .tflite file, and the test inputs and outputs that it came with. */
final class Model {
  /** Opens the file. */
  interface Source {
    /** Returns the whole file as a direct buffer. */
    ByteBuffer open() throws IOException;
  }

  /** What a model came with. */
  static final class Examples {
    /** Names of the classes, in the order of the outputs. */
    final String[] classes;

    /** Height, width and channels of an image. */
    final int[] shape;

    /** Raw pixels, 0–255, [image][height · width · channels]. */
    final float[][] images;

    /** The outputs for them, [image][class]. */
    final float[][] expected;

    /** The largest difference allowed, as a share of the largest expected output. */
    final double tolerance;

    Examples(String[] classes, int[] shape, float[][] images, float[][] expected, double tolerance) {
      this.classes = classes;
      this.shape = shape;
      this.images = images;
      this.expected = expected;
      this.tolerance = tolerance;
    }
  }

  /** The file's name without its ending. */
  final String name;

  final String path;
  final long bytes;

  /** The zoo model that it is an export of, or null. */
  final String zooModel;

  /** Null for files from storage. */
  final Examples examples;

  final Source source;

  Model(String name, String path, long bytes, String zooModel, Examples examples, Source source) {
    this.name = name;
    this.path = path;
    this.bytes = bytes;
    this.zooModel = zooModel;
    this.examples = examples;
    this.source = source;
  }

  @Override
  public String toString() {
    return name;
  }
}
