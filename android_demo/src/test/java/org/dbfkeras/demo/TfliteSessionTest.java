package org.dbfkeras.demo;

import static org.junit.Assert.assertArrayEquals;
import static org.junit.Assert.assertEquals;
import static org.junit.Assert.assertFalse;
import static org.junit.Assert.assertThrows;
import static org.junit.Assert.assertTrue;

import java.io.IOException;
import java.nio.ByteBuffer;
import java.nio.channels.FileChannel;
import java.nio.file.Files;
import java.nio.file.Path;
import java.nio.file.Paths;
import java.util.ArrayList;
import java.util.Arrays;
import java.util.List;
import org.dbfkeras.DbfDelegate;
import org.junit.Test;
import org.tensorflow.lite.Interpreter;

/** The app's models in Android's TensorFlow Lite with Android's libdbf_op.so, on this machine. */
public class TfliteSessionTest {
  static final Path ASSETS = Paths.get(System.getProperty("dbf.assets"));

  static final class Folder implements BundledModels.Assets {
    @Override
    public byte[] read(String name) throws IOException {
      return Files.readAllBytes(ASSETS.resolve(name));
    }

    @Override
    public ByteBuffer map(String name) throws IOException {
      return TfliteSessionTest.map(ASSETS.resolve(name));
    }
  }

  static ByteBuffer map(Path path) throws IOException {
    try (FileChannel file = FileChannel.open(path)) {
      return file.map(FileChannel.MapMode.READ_ONLY, 0, file.size());
    }
  }

  private static Session digits() throws IOException {
    return new TfliteSession(map(ASSETS.resolve("digits_onthefly.tflite")), 1);
  }

  private static long residentBytes() throws IOException {
    System.gc(); // frees buffers outside the heap
    for (String line : Files.readAllLines(Paths.get("/proc/self/status"))) {
      if (line.startsWith("VmRSS:")) {
        return 1024 * Long.parseLong(line.replaceAll("[^0-9]", ""));
      }
    }
    throw new IOException("no VmRSS");
  }

  @Test
  public void everyModelGivesWhatItShould() throws IOException {
    List<String> wrong = new ArrayList<>();
    List<Model> models = BundledModels.list(new Folder());
    for (Model model : models) {
      for (int threads = 1; threads <= 2; ++threads) {
        try (Session session = new TfliteSession(model.source.open(), threads)) {
          OutputCheck check = OutputCheck.of(session, model.examples);
          System.out.printf("%s, %d threads: %.1e%n", model.name, threads, check.difference);
          if (!check.passed()) {
            wrong.add(model.name + " differs by " + check.difference);
          }
        }
      }
    }
    assertTrue(models.size() >= 12);
    assertTrue(wrong.toString(), wrong.isEmpty());
  }

  @Test
  public void onTheFlyModelsUseTheDelegate() throws IOException {
    assertArrayEquals(new long[] {0, 0}, DbfDelegate.memory());
    try (Session session = digits()) {
      assertTrue(DbfDelegate.memory()[0] > 10_000);
      assertTrue(DbfDelegate.memory()[1] > 0);
    }
    assertArrayEquals(new long[] {0, 0}, DbfDelegate.memory());
  }

  /** On an AVX processor XNNPACK is several times as fast as what TensorFlow Lite does without it. */
  @Test
  public void otherOpsRunOnXnnpack() throws IOException {
    Model model = BundledModels.list(new Folder()).get(0);
    try (Session session = new TfliteSession(model.source.open(), 1);
        Interpreter plain =
            new Interpreter(
                model.source.open(),
                new Interpreter.Options().setUseXNNPACK(false).setNumThreads(1))) {
      ByteBuffer input = ByteBuffer.allocateDirect(plain.getInputTensor(0).numBytes());
      ByteBuffer output = ByteBuffer.allocateDirect(plain.getOutputTensor(0).numBytes());
      double with = Double.MAX_VALUE;
      double without = Double.MAX_VALUE;
      for (int i = 0; i < 20; ++i) {
        long start = System.nanoTime();
        session.run();
        with = Math.min(with, System.nanoTime() - start);
        input.rewind();
        output.rewind();
        start = System.nanoTime();
        plain.run(input, output);
        without = Math.min(without, System.nanoTime() - start);
      }
      assertTrue(with + " ns with XNNPACK, " + without + " without", 1.5 * with < without);
    }
  }

  @Test
  public void delegatesDoNotLeak() throws IOException {
    long before = 0;
    for (int i = 0; i < 2_000_000; ++i) {
      if (i == 1_000_000) {
        before = residentBytes();
      }
      new DbfDelegate().close();
    }
    long grown = residentBytes() - before;
    assertTrue("grown by " + grown, grown < 16 << 20); // a delegate is 64 bytes or more
  }

  @Test
  public void sessionsDoNotLeak() throws IOException {
    ByteBuffer file = map(ASSETS.resolve("digits_onthefly.tflite"));
    long before = 0;
    for (int i = 0; i < 1200; ++i) {
      if (i == 200) {
        before = residentBytes();
      }
      try (Session session = new TfliteSession(file, 1)) {
        session.run();
      }
    }
    long grown = residentBytes() - before;
    assertTrue("grown by " + grown, grown < 32 << 20); // packed coefficients alone are 53 kB
    assertArrayEquals(new long[] {0, 0}, DbfDelegate.memory());
  }

  @Test
  public void aBadInstructionSetIsAnException() {
    IllegalArgumentException error =
        assertThrows(IllegalArgumentException.class, () -> new DbfDelegate("mmx"));
    assertTrue(error.getMessage(), error.getMessage().contains("baseline"));
    new DbfDelegate("baseline").close();
  }

  @Test
  public void aClosedDelegateHasNoHandle() {
    DbfDelegate delegate = new DbfDelegate();
    assertFalse(delegate.getNativeHandle() == 0);
    delegate.close();
    delegate.close();
    assertThrows(IllegalStateException.class, delegate::getNativeHandle);
  }

  @Test
  public void brokenFilesAreExceptions() throws IOException {
    byte[] file = Files.readAllBytes(ASSETS.resolve("digits_onthefly.tflite"));
    for (int size : new int[] {0, 4, 100, file.length / 2}) {
      ByteBuffer part = ByteBuffer.allocateDirect(size);
      part.put(file, 0, size);
      part.rewind();
      assertThrows(String.valueOf(size), RuntimeException.class, () -> new TfliteSession(part, 1));
    }
    assertArrayEquals(new long[] {0, 0}, DbfDelegate.memory());
  }

  @Test
  public void inputsMustFit() throws IOException {
    try (Session session = digits()) {
      assertArrayEquals(new int[] {1, 8, 8, 1}, session.inputShape());
      IllegalArgumentException error =
          assertThrows(IllegalArgumentException.class, () -> session.setInput(new float[3]));
      assertTrue(error.getMessage(), error.getMessage().contains("64"));
    }
  }

  @Test
  public void randomInputsAreTheSeeds() throws IOException {
    try (Session session = digits()) {
      session.setRandomInputs(1);
      session.run();
      float[] first = session.output();
      session.setRandomInputs(2);
      session.run();
      assertFalse(Arrays.equals(first, session.output()));
      session.setRandomInputs(1);
      session.run();
      assertArrayEquals(first, session.output(), 0);
      assertEquals(10, first.length);
    }
  }
}
