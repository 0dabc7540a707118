package org.dbfkeras.demo;

import static org.junit.Assert.assertArrayEquals;
import static org.junit.Assert.assertEquals;
import static org.junit.Assert.assertFalse;
import static org.junit.Assert.assertNull;
import static org.junit.Assert.assertThrows;
import static org.junit.Assert.assertTrue;

import java.io.FileNotFoundException;
import java.util.Arrays;
import java.util.Collections;
import java.util.concurrent.CancellationException;
import org.junit.Test;

public class BenchmarkTest {
  private final Fakes fakes = new Fakes();
  private final Benchmark benchmark = new Benchmark(fakes, fakes);
  private final Model a =
      fakes.model('a', new Fakes.Behaviour(200_000_000, 500, 0.75f, 0.25f), examples(0.25f, 0.1));
  private final Model b = fakes.model('b', new Fakes.Behaviour(100_000_000, 300, 1), null);
  private final Model broken = fakes.model('x', new Fakes.Behaviour(1, 1, (float[]) null), null);

  private static Model.Examples examples(float second, double tolerance) {
    return new Model.Examples(
        new String[] {"no", "yes"}, new int[] {1, 1, 1}, new float[2][1],
        new float[][] {{0.75f, 0.25f}, {0.75f, second}}, tolerance);
  }

  @Test
  public void modelsTakeTurns() {
    Report report = benchmark.run(Arrays.asList(a, b), 7, 2, fakes);
    // First inference and two examples of a, first inference of b, a second of warm-up, then three timed runs after one.
    assertEquals("aaa" + "b" + "abababab" + "aaaabbbb" + "aaaabbbb" + "aabb", fakes.runs.toString());
    Result first = report.results.get(0);
    Result second = report.results.get(1);
    double[] times = new double[7];
    Arrays.fill(times, 200);
    assertArrayEquals(times, first.timesMs, 1e-9);
    assertEquals(100, second.median(), 1e-9);
    assertEquals(2, report.speedup(second), 1e-9);
    assertEquals(4, first.loadMs, 1e-9);
    assertEquals(200, first.firstMs, 1e-9);
    assertEquals(500, first.peakMemoryBytes);
    assertEquals(300, second.peakMemoryBytes);
    assertEquals(10, second.opPackedBytes);
    assertEquals(20, second.opScratchBytes);
    assertEquals("a.tflite", first.path);
    assertEquals(4, fakes.observed);
    assertEquals(0, fakes.open);
    assertEquals("Loading a 0.0", fakes.told.get(0));
    assertEquals("Timing 1.0", fakes.told.get(fakes.told.size() - 1));
    assertTrue(report.failures.isEmpty());
  }

  @Test
  public void outputsAreChecked() {
    Report report = benchmark.run(Arrays.asList(a, b), 1, 1, fakes);
    assertTrue(report.results.get(0).check.passed());
    assertNull(report.results.get(1).check);
    assertTrue(report.wrong().isEmpty());

    Model wrong = fakes.model('w', new Fakes.Behaviour(200_000_000, 1, 0.75f, 0.25f), examples(0.5f, 0.1));
    report = benchmark.run(Collections.singletonList(wrong), 1, 1, fakes);
    assertEquals(0.25 / 0.75, report.results.get(0).check.difference, 1e-9);
    assertEquals(Collections.singletonList("w"), report.wrong());
  }

  @Test
  public void outputsThatAreNoNumbersOrTooFewAreWrong() {
    for (float[] output : new float[][] {{0.75f, Float.NaN}, {0.75f}}) {
      Model model = fakes.model('n', new Fakes.Behaviour(200_000_000, 1, output), examples(0.25f, 0.1));
      Report report = benchmark.run(Collections.singletonList(model), 1, 1, fakes);
      assertFalse(report.results.get(0).check.passed());
    }
  }

  @Test
  public void aBrokenModelIsReportedAndTheOthersRun() {
    Model missing =
        new Model("m", "m", 0, null, null, () -> { throw new FileNotFoundException("no m"); });
    Report report = benchmark.run(Arrays.asList(broken, a, missing), 2, 1, fakes);
    assertEquals(1, report.results.size());
    assertEquals("broken", report.failures.get("x"));
    assertEquals("no m", report.failures.get("m"));
    assertEquals(0, fakes.open);
  }

  @Test
  public void noModelThatRunsIsAnError() {
    IllegalArgumentException error =
        assertThrows(
            IllegalArgumentException.class,
            () -> benchmark.run(Collections.singletonList(broken), 1, 1, fakes));
    assertTrue(error.getMessage(), error.getMessage().contains("broken"));
  }

  @Test
  public void cancelClosesModels() {
    for (int told = 0; told < 8; ++told) {
      fakes.told.clear();
      fakes.cancelAtTold = told;
      assertThrows(
          CancellationException.class, () -> benchmark.run(Arrays.asList(a, b), 100, 1, fakes));
      assertEquals(told, fakes.told.size());
      assertEquals(0, fakes.open);
    }
  }

  @Test
  public void numbersMustBePositive() {
    for (int[] numbers : new int[][] {{0, 1}, {1, 0}, {-1, 1}}) {
      assertThrows(
          IllegalArgumentException.class,
          () -> benchmark.run(Collections.singletonList(a), numbers[0], numbers[1], fakes));
    }
    assertThrows(
        IllegalArgumentException.class, () -> benchmark.run(Collections.emptyList(), 1, 1, fakes));
  }
}
