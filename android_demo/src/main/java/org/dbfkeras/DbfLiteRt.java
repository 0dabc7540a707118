package org.dbfkeras;

/**
 * Runs the ops DBFConv2D and DBFDense of on-the-fly exports in LiteRT 2, from libdbf_op.so.
 *
 * <pre>{@code
 * DbfLiteRt.register();
 * CompiledModel model = CompiledModel.create(path, new CompiledModel.Options(Accelerator.CPU));
 * }</pre>
 *
 * <p>LiteRT's {@code CompiledModel} takes no delegates; with its {@code Interpreter}, use {@link
 * DbfDelegate}.
 */
public final class DbfLiteRt {
  static {
    System.loadLibrary("litert_jni");
    System.loadLibrary("dbf_op");
  }

  private DbfLiteRt() {}

  /**
   * Has all LiteRT environments of this process that are made from now on, also those that
   * CompiledModel makes for itself, run the ops on processors. Again is harmless.
   *
   * @throws IllegalStateException if this release of LiteRT takes no ops of other libraries
   */
  public static void register() {
    String error = registerWithAll();
    if (error != null) {
      throw new IllegalStateException("LiteRT cannot run the DBF ops: " + error + ".");
    }
  }

  private static native String registerWithAll();
}
