package org.dbfkeras.demo;

import android.app.Activity;
import android.app.Instrumentation;
import android.os.Bundle;
import java.io.File;
import java.io.IOException;
import java.util.ArrayList;
import java.util.List;

/**
 * Runs a benchmark without a screen, writes its JSON and prints its table.
 *
 * <pre>adb shell am instrument -w -e models dbfnet_mnist_explicit,dbfnet_mnist_onthefly -e runs 200
 * -e threads 1 org.dbfkeras.demo/.BenchmarkInstrumentation</pre>
 */
public final class BenchmarkInstrumentation extends Instrumentation {
  private Bundle arguments;

  @Override
  public void onCreate(Bundle given) {
    super.onCreate(given);
    arguments = given == null ? new Bundle() : given;
    start();
  }

  @Override
  public void onStart() {
    Bundle result = new Bundle();
    int code = Activity.RESULT_CANCELED;
    try {
      File file = run();
      result.putString("json", file.getPath());
      result.putString(REPORT_KEY_STREAMRESULT, "\n" + table(ReportStore.read(file)) + "\n" + file + "\n");
      code = Activity.RESULT_OK;
    } catch (Exception | LinkageError error) {
      String message = error.getMessage() == null ? error.toString() : error.getMessage();
      result.putString("error", message);
      result.putString(REPORT_KEY_STREAMRESULT, "\nerror: " + message + "\n");
    }
    finish(code, result);
  }

  private File run() throws IOException {
    int runs = number("runs", 100);
    int threads = number("threads", 1);
    List<Model> models = models(new ModelStore(getTargetContext()).list());
    Phone phone = new Phone(getTargetContext());
    Report report =
        new Benchmark(phone, TfliteSession::new).run(models, runs, threads, new Silent());
    phone.describe(report.settings, threads);
    String path = arguments.getString("output");
    File file =
        path != null
            ? new File(path)
            : new File(getTargetContext().getExternalFilesDir(null), "benchmark.json");
    ReportStore.write(file, report.toJson());
    return file;
  }

  private int number(String key, int standard) {
    String text = arguments.getString(key, String.valueOf(standard));
    try {
      return Integer.parseInt(text);
    } catch (NumberFormatException error) {
      throw new IllegalArgumentException("-e " + key + " takes a whole number; got " + text + ".", error);
    }
  }

  /** Returns the models that were asked for: names, or paths of files; by default those of the first zoo model. */
  private List<Model> models(List<Model> known) {
    String wanted = arguments.getString("models");
    List<Model> chosen = new ArrayList<>();
    if (wanted == null) {
      for (Model model : known) {
        if (model.zooModel != null && model.zooModel.equals(known.get(0).zooModel)) {
          chosen.add(model);
        }
      }
      return chosen;
    }
    for (String name : wanted.split(",")) {
      chosen.add(name.contains("/") ? ModelStore.ofFile(new File(name)) : find(name, known));
    }
    return chosen;
  }

  private static Model find(String name, List<Model> known) {
    for (Model model : known) {
      if (model.name.equals(name)) {
        return model;
      }
    }
    throw new IllegalArgumentException("There is no model " + name + "; the app has " + known + ".");
  }

  private static String table(Report report) {
    StringBuilder text = new StringBuilder(report.toCsv().replace(",", "\t").replace("\r", ""));
    for (String name : report.failures.keySet()) {
      text.append("FAILED ").append(name).append(": ").append(report.failures.get(name)).append('\n');
    }
    String warning = Phone.warning(report.settings);
    return warning == null ? text.toString() : text + warning + "\n";
  }

  private static final class Silent implements Benchmark.Listener {
    @Override
    public void progress(String what, double share) {}

    @Override
    public boolean cancelled() {
      return false;
    }
  }
}
