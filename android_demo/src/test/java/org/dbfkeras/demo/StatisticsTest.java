package org.dbfkeras.demo;

import static org.junit.Assert.assertEquals;
import static org.junit.Assert.assertThrows;

import org.junit.Test;

public class StatisticsTest {
  private static final double[] VALUES = {5, 1, 4, 2};

  @Test
  public void percentilesAreNumPys() {
    assertEquals(3, Statistics.median(VALUES), 0); // np.median([5, 1, 4, 2])
    assertEquals(4.7, Statistics.percentile(VALUES, 90), 1e-12); // np.percentile(…, 90)
    assertEquals(4.97, Statistics.percentile(VALUES, 99), 1e-12);
    assertEquals(5, Statistics.percentile(VALUES, 100), 0);
    assertEquals(1, Statistics.percentile(VALUES, 0), 0);
    assertEquals(7, Statistics.percentile(new double[] {7}, 90), 0);
  }

  @Test
  public void inputStaysAsItIs() {
    Statistics.median(VALUES);
    assertEquals(5, VALUES[0], 0);
  }

  @Test
  public void nothingHasNoPercentile() {
    assertThrows(IllegalArgumentException.class, () -> Statistics.median(new double[0]));
  }
}
