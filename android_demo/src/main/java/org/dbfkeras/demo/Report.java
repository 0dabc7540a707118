package org.dbfkeras.demo;

import java.util.ArrayList;
import java.util.Collections;
import java.util.LinkedHashMap;
import java.util.List;
import java.util.Locale;
import java.util.Map;
import org.json.JSONArray;
import org.json.JSONException;
import org.json.JSONObject;

/**
 * The results of a benchmark and how they were measured. As JSON it is what {@code python -m
 * dbf_keras.benchmark --json} writes, and {@code --html} draws it.
 */
final class Report {
  /** Strings, numbers, booleans or null. */
  final Map<String, Object> settings = new LinkedHashMap<>();

  /** Speed-ups are against the first. */
  final List<Result> results = new ArrayList<>();

  /** Models that did not run, with the reason. */
  final Map<String, String> failures = new LinkedHashMap<>();

  double speedup(Result result) {
    return results.get(0).median() / result.median();
  }

  /** Returns the names of models whose outputs are not as expected. */
  List<String> wrong() {
    List<String> names = new ArrayList<>();
    for (Result result : results) {
      if (result.check != null && !result.check.passed()) {
        names.add(result.name);
      }
    }
    return names;
  }

  String toJson() {
    try {
      JSONArray models = new JSONArray();
      for (Result result : results) {
        models.put(toJson(result));
      }
      JSONObject settingsObject = new JSONObject();
      for (Map.Entry<String, Object> setting : settings.entrySet()) {
        settingsObject.put(setting.getKey(), orNull(setting.getValue()));
      }
      JSONObject failed = new JSONObject();
      for (Map.Entry<String, String> failure : failures.entrySet()) {
        failed.put(failure.getKey(), failure.getValue());
      }
      return new JSONObject()
              .put("settings", settingsObject)
              .put("models", models)
              .put("failures", failed)
              .toString(2)
          + "\n";
    } catch (JSONException error) {
      throw new IllegalStateException(error); // not a number among the results
    }
  }

  private JSONObject toJson(Result result) throws JSONException {
    JSONArray times = new JSONArray();
    for (double time : result.timesMs) {
      times.put(time);
    }
    JSONObject check = null;
    if (result.check != null) {
      boolean finite = !Double.isNaN(result.check.difference) && !Double.isInfinite(result.check.difference);
      check =
          new JSONObject()
              .put("difference", orNull(finite ? result.check.difference : null))
              .put("tolerance", result.check.tolerance)
              .put("passed", result.check.passed());
    }
    return new JSONObject()
        .put("name", result.name)
        .put("path", result.path)
        .put("file_bytes", result.fileBytes)
        .put("peak_memory_bytes", result.peakMemoryBytes)
        .put("op_packed_bytes", result.opPackedBytes)
        .put("op_scratch_bytes", result.opScratchBytes)
        .put("load_ms", result.loadMs)
        .put("first_ms", result.firstMs)
        .put("median_ms", result.median())
        .put("p90_ms", result.percentile(90))
        .put("p99_ms", result.percentile(99))
        .put("runs", result.timesMs.length)
        .put("speedup", speedup(result))
        .put("accuracy", JSONObject.NULL)
        .put("check", orNull(check))
        .put("times_ms", times);
  }

  /**
   * Reads what {@link #toJson()} wrote.
   *
   * @throws IllegalArgumentException if the text is something else
   */
  static Report fromJson(String text) {
    try {
      JSONObject object = new JSONObject(text);
      Report report = new Report();
      JSONObject settings = object.getJSONObject("settings");
      for (String key : sortedLikeWritten(settings)) {
        report.settings.put(key, settings.isNull(key) ? null : settings.get(key));
      }
      JSONArray models = object.getJSONArray("models");
      for (int i = 0; i < models.length(); ++i) {
        report.results.add(resultFromJson(models.getJSONObject(i)));
      }
      JSONObject failures = object.getJSONObject("failures");
      for (String key : sortedLikeWritten(failures)) {
        report.failures.put(key, failures.getString(key));
      }
      return report;
    } catch (JSONException error) {
      throw new IllegalArgumentException("This is no benchmark result: " + error.getMessage(), error);
    }
  }

  private static List<String> sortedLikeWritten(JSONObject object) {
    List<String> keys = new ArrayList<>();
    Collections.addAll(keys, toStrings(object.names()));
    return keys;
  }

  private static String[] toStrings(JSONArray names) {
    String[] strings = new String[names == null ? 0 : names.length()];
    for (int i = 0; i < strings.length; ++i) {
      strings[i] = names.optString(i);
    }
    return strings;
  }

  private static Result resultFromJson(JSONObject object) throws JSONException {
    Result result = new Result();
    result.name = object.getString("name");
    result.path = object.getString("path");
    result.fileBytes = object.getLong("file_bytes");
    result.peakMemoryBytes = object.getLong("peak_memory_bytes");
    result.opPackedBytes = object.getLong("op_packed_bytes");
    result.opScratchBytes = object.getLong("op_scratch_bytes");
    result.loadMs = object.getDouble("load_ms");
    result.firstMs = object.getDouble("first_ms");
    JSONArray times = object.getJSONArray("times_ms");
    result.timesMs = new double[times.length()];
    for (int i = 0; i < result.timesMs.length; ++i) {
      result.timesMs[i] = times.getDouble(i);
    }
    if (!object.isNull("check")) {
      JSONObject check = object.getJSONObject("check");
      result.check = new OutputCheck(check.optDouble("difference"), check.getDouble("tolerance"));
    }
    return result;
  }

  /** Returns the results as rows of text, the heading first: what the results screen and CSV show. */
  List<String[]> toRows() {
    List<String[]> rows = new ArrayList<>();
    rows.add(
        new String[] {
          "model", "file kB", "peak MB", "packed kB", "scratch kB", "load ms", "first ms",
          "median ms", "p90 ms", "p99 ms", "speed-up", "output"
        });
    for (Result result : results) {
      rows.add(
          new String[] {
            result.name,
            format("%.1f", result.fileBytes / 1e3),
            format("%.2f", result.peakMemoryBytes / 1e6),
            format("%.1f", result.opPackedBytes / 1e3),
            format("%.1f", result.opScratchBytes / 1e3),
            format("%.3f", result.loadMs),
            format("%.3f", result.firstMs),
            format("%.3f", result.median()),
            format("%.3f", result.percentile(90)),
            format("%.3f", result.percentile(99)),
            format("%.2f", speedup(result)),
            result.check == null ? "" : result.check.passed() ? "as expected" : "WRONG"
          });
    }
    return rows;
  }

  String toCsv() {
    StringBuilder text = new StringBuilder();
    for (String[] row : toRows()) {
      for (int i = 0; i < row.length; ++i) {
        text.append(i > 0 ? "," : "").append(quoted(row[i]));
      }
      text.append("\r\n");
    }
    return text.toString();
  }

  private static String quoted(String cell) {
    boolean plain = cell.indexOf(',') < 0 && cell.indexOf('"') < 0 && cell.indexOf('\n') < 0;
    return plain ? cell : '"' + cell.replace("\"", "\"\"") + '"';
  }

  private static Object orNull(Object value) {
    return value == null ? JSONObject.NULL : value;
  }

  private static String format(String pattern, double value) {
    return String.format(Locale.ROOT, pattern, value);
  }
}
