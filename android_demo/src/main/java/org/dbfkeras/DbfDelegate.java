package org.dbfkeras;

import java.io.Closeable;
import org.tensorflow.lite.Delegate;

/**
 * Runs the ops DBFConv2D and DBFDense of on-the-fly exports in TensorFlow Lite, from libdbf_op.so.
 *
 * <pre>{@code
 * try (DbfDelegate delegate = new DbfDelegate();
 *     Interpreter interpreter =
 *         new Interpreter(model, new Interpreter.Options().addDelegate(delegate))) {
 *   interpreter.run(input, output);
 * }
 * }</pre>
 *
 * <p>Close it after the interpreters that use it, as above. Files without these ops run as ever. The
 * runtime that Google Play services provide takes no delegates of others; use the one that comes
 * with the app.
 */
public final class DbfDelegate implements Delegate, Closeable {
  static {
    System.loadLibrary("dbf_op");
  }

  private long handle;

  /** Makes a delegate that uses the best instruction set of this processor. */
  public DbfDelegate() {
    this(null);
  }

  /**
   * Makes a delegate that uses an instruction set.
   *
   * @param isa its name in the library, such as "neon", or null for the best of this processor
   * @throws IllegalArgumentException if this processor does not have it
   */
  public DbfDelegate(String isa) {
    handle = create(isa);
  }

  /**
   * Returns the library's delegate, a {@code TfLiteDelegate*}.
   *
   * @throws IllegalStateException if this is closed
   */
  @Override
  public synchronized long getNativeHandle() {
    if (handle == 0) {
      throw new IllegalStateException("The delegate is closed.");
    }
    return handle;
  }

  /** Frees the library's delegate. No interpreter may use it any more. Does nothing if closed. */
  @Override
  public synchronized void close() {
    destroy(handle);
    handle = 0;
  }

  /** Returns the bytes of packed coefficients and of scratch memory that all ops of this process hold. */
  public static native long[] memory();

  private static native long create(String isa);

  private static native void destroy(long handle);
}
