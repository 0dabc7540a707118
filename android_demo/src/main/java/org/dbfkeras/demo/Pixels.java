package org.dbfkeras.demo;

/** Turns pictures into what models take, and back. */
final class Pixels {
  private Pixels() {}

  /**
   * Returns raw pixels, 0–255, [height · width · channels].
   *
   * @param argb colours as Android packs them
   * @param channels 3, or 1 for brightness
   */
  static float[] ofColors(int[] argb, int channels, boolean invert) {
    float[] values = new float[argb.length * channels];
    for (int i = 0; i < argb.length; ++i) {
      int red = argb[i] >> 16 & 0xff;
      int green = argb[i] >> 8 & 0xff;
      int blue = argb[i] & 0xff;
      if (channels == 1) {
        values[i] = Math.round(0.299f * red + 0.587f * green + 0.114f * blue); // ITU-R BT.601
      } else {
        values[3 * i] = red;
        values[3 * i + 1] = green;
        values[3 * i + 2] = blue;
      }
    }
    if (invert) {
      for (int i = 0; i < values.length; ++i) {
        values[i] = 255 - values[i];
      }
    }
    return values;
  }

  /** Returns colours as Android packs them, of raw pixels [height · width · channels]. */
  static int[] toColors(float[] values, int channels) {
    int[] argb = new int[values.length / channels];
    for (int i = 0; i < argb.length; ++i) {
      int red = (int) values[channels * i];
      int green = channels == 1 ? red : (int) values[channels * i + 1];
      int blue = channels == 1 ? red : (int) values[channels * i + 2];
      argb[i] = 0xff000000 | red << 16 | green << 8 | blue;
    }
    return argb;
  }
}
