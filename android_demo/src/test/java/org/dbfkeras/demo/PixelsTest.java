package org.dbfkeras.demo;

import static org.junit.Assert.assertArrayEquals;

import org.junit.Test;

public class PixelsTest {
  private static final int[] COLORS = {0xff0a141e, 0x80ffffff};

  @Test
  public void channelsAreLast() {
    float[] values = {10, 20, 30, 255, 255, 255};
    assertArrayEquals(values, Pixels.ofColors(COLORS, 3, false), 0);
    assertArrayEquals(new int[] {0xff0a141e, 0xffffffff}, Pixels.toColors(values, 3));
  }

  @Test
  public void oneChannelIsBrightness() {
    assertArrayEquals(new float[] {18, 255}, Pixels.ofColors(COLORS, 1, false), 0); // 18.15
    assertArrayEquals(new int[] {0xff121212}, Pixels.toColors(new float[] {18}, 1));
  }

  @Test
  public void inverted() {
    assertArrayEquals(new float[] {237, 0}, Pixels.ofColors(COLORS, 1, true), 0);
  }
}
