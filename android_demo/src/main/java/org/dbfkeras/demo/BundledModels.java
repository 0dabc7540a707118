package org.dbfkeras.demo;

import java.io.IOException;
import java.nio.ByteBuffer;
import java.nio.charset.StandardCharsets;
import java.util.ArrayList;
import java.util.List;
import org.json.JSONArray;
import org.json.JSONException;
import org.json.JSONObject;

/** The models that bundle.py put into the app. */
final class BundledModels {
  /** The files of the app. */
  interface Assets {
    byte[] read(String name) throws IOException;

    ByteBuffer map(String name) throws IOException;
  }

  private BundledModels() {}

  /**
   * Reads the list of models with their examples; opens no model.
   *
   * @throws IOException if a file is missing or not as bundle.py writes it
   */
  static List<Model> list(Assets assets) throws IOException {
    try {
      String text = new String(assets.read("models.json"), StandardCharsets.UTF_8);
      JSONArray entries = new JSONObject(text).getJSONArray("models");
      List<Model> models = new ArrayList<>();
      for (int i = 0; i < entries.length(); ++i) {
        models.add(model(entries.getJSONObject(i), assets));
      }
      return models;
    } catch (JSONException error) {
      throw new IOException("The app's models.json is damaged: " + error.getMessage(), error);
    }
  }

  private static Model model(JSONObject entry, Assets assets) throws IOException, JSONException {
    String file = entry.getString("file");
    JSONArray names = entry.getJSONArray("classes");
    String[] classes = new String[names.length()];
    for (int i = 0; i < classes.length; ++i) {
      classes[i] = names.getString(i);
    }
    JSONArray sizes = entry.getJSONArray("shape");
    int[] shape = {sizes.getInt(0), sizes.getInt(1), sizes.getInt(2)};
    float[][] expected = floats(entry.getJSONArray("expected"));
    byte[] pixels = assets.read(entry.getString("pixels"));
    int size = shape[0] * shape[1] * shape[2];
    if (pixels.length != expected.length * size) {
      throw new IOException(
          entry.getString("pixels") + " has " + pixels.length + " bytes for " + expected.length
              + " images of " + size + ".");
    }
    float[][] images = new float[expected.length][size];
    for (int i = 0; i < pixels.length; ++i) {
      images[i / size][i % size] = pixels[i] & 0xff;
    }
    return new Model(
        file.replaceFirst("\\.tflite$", ""),
        file,
        entry.getLong("bytes"),
        entry.getString("model"),
        new Model.Examples(classes, shape, images, expected, entry.getDouble("tolerance")),
        () -> assets.map(file));
  }

  private static float[][] floats(JSONArray rows) throws JSONException {
    float[][] values = new float[rows.length()][];
    for (int i = 0; i < values.length; ++i) {
      JSONArray row = rows.getJSONArray(i);
      values[i] = new float[row.length()];
      for (int k = 0; k < values[i].length; ++k) {
        values[i][k] = (float) row.getDouble(k);
      }
    }
    return values;
  }
}
