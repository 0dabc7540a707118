package org.dbfkeras.demo;

import static org.junit.Assert.assertArrayEquals;
import static org.junit.Assert.assertEquals;
import static org.junit.Assert.assertFalse;
import static org.junit.Assert.assertNull;
import static org.junit.Assert.assertThrows;
import static org.junit.Assert.assertTrue;

import org.json.JSONObject;
import org.junit.Test;

public class ReportTest {
  static Report report() {
    Report report = new Report();
    report.settings.put("num_threads", 2);
    report.settings.put("device", "A \"phone\"");
    report.settings.put("dataset", null);
    report.results.add(result("explicit", 400_000, 4, 2, 3));
    Result second = result("on, the \"fly\"", 100_000, 1, 1.5, 1);
    second.check = new OutputCheck(2.5e-7, 1e-4);
    report.results.add(second);
    report.failures.put("bad", "it is broken");
    return report;
  }

  private static Result result(String name, long bytes, double... times) {
    Result result = new Result();
    result.name = name;
    result.path = "/models/" + name + ".tflite";
    result.fileBytes = bytes;
    result.peakMemoryBytes = 5_100_000;
    result.opPackedBytes = 98_300;
    result.opScratchBytes = 5_000;
    result.loadMs = 12.5;
    result.firstMs = 6;
    result.timesMs = times;
    return result;
  }

  @Test
  public void jsonHasWhatThePythonBenchmarkWrites() throws Exception {
    JSONObject read = new JSONObject(report().toJson());
    assertTrue(read.getJSONObject("settings").isNull("dataset"));
    assertEquals(2, read.getJSONObject("settings").getInt("num_threads"));
    JSONObject second = read.getJSONArray("models").getJSONObject(1);
    assertEquals("on, the \"fly\"", second.getString("name"));
    assertEquals(100_000, second.getLong("file_bytes"));
    assertEquals(1, second.getDouble("median_ms"), 0);
    assertEquals(1.4, second.getDouble("p90_ms"), 1e-12);
    assertEquals(1.49, second.getDouble("p99_ms"), 1e-12);
    assertEquals(3, second.getDouble("speedup"), 0);
    assertEquals(3, second.getInt("runs"));
    assertTrue(second.isNull("accuracy"));
    assertTrue(second.getJSONObject("check").getBoolean("passed"));
    assertTrue(read.getJSONArray("models").getJSONObject(0).isNull("check"));
  }

  @Test
  public void jsonIsReadBack() {
    Report read = Report.fromJson(report().toJson());
    assertEquals(report().toJson(), read.toJson());
    assertEquals("A \"phone\"", read.settings.get("device"));
    assertNull(read.settings.get("dataset"));
    assertArrayEquals(new double[] {4, 2, 3}, read.results.get(0).timesMs, 0);
  }

  @Test
  public void outputsThatAreNoNumbersFitIntoJson() {
    Report report = report();
    report.results.get(0).check = new OutputCheck(Double.NaN, 0.1);
    Report read = Report.fromJson(report.toJson());
    assertFalse(read.results.get(0).check.passed());
    assertEquals("WRONG", read.toRows().get(1)[11]);
  }

  @Test
  public void otherTextIsNoReport() {
    for (String text : new String[] {"", "[]", "{}", "{\"settings\": {}}"}) {
      IllegalArgumentException error =
          assertThrows(IllegalArgumentException.class, () -> Report.fromJson(text));
      assertTrue(error.getMessage(), error.getMessage().startsWith("This is no benchmark result"));
    }
  }

  @Test
  public void csvQuotesWhatItMust() {
    String[] lines = report().toCsv().split("\r\n");
    assertEquals(3, lines.length);
    assertTrue(lines[0], lines[0].startsWith("model,file kB,peak MB,"));
    assertEquals("explicit,400.0,5.10,98.3,5.0,12.500,6.000,3.000,3.800,3.980,1.00,", lines[1]);
    assertTrue(lines[2], lines[2].startsWith("\"on, the \"\"fly\"\"\",100.0,"));
    assertTrue(lines[2], lines[2].endsWith(",3.00,as expected"));
  }
}
