package org.dbfkeras.demo;

import java.io.Closeable;
import java.nio.ByteBuffer;

/** A loaded model: the little of a TFLite runtime that the app uses. */
interface Session extends Closeable {
  /** Loads models. */
  interface Factory {
    /**
     * Loads a model and allocates its tensors.
     *
     * @param model the file, a direct buffer that nobody changes while the session is open
     * @throws IllegalArgumentException if the runtime cannot run it; says why
     */
    Session open(ByteBuffer model, int threads);
  }

  /** Returns the shape of the first input. */
  int[] inputShape();

  /**
   * Sets the first input to real values, quantised if the model wants integers.
   *
   * @throws IllegalArgumentException if there are not as many as the input has
   */
  void setInput(float[] values);

  /** Fills all inputs with random pixels 0–255, or with the type's whole range where that is an integer. */
  void setRandomInputs(long seed);

  /** Runs one inference. */
  void run();

  /** Returns the first output of the last inference as real values. */
  float[] output();

  @Override
  void close();
}
