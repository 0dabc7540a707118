package org.dbfkeras.demo;

import android.app.Activity;
import android.app.Instrumentation;
import android.content.Context;
import android.os.Bundle;
import java.io.File;
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
    Bundle result = run(getTargetContext(), arguments);
    finish(result.containsKey("error") ? Activity.RESULT_CANCELED : Activity.RESULT_OK, result);
  }

  /**
   * Runs a benchmark.
   *
   * @param arguments all optional: models (names, or paths of files or of folders of them, with commas between), runs,
   *     threads, output
   * @return the file under "json", or what went wrong under "error"; and a text to print
   */
  static Bundle run(Context context, Bundle arguments) {
    Bundle result = new Bundle();
    try {
      int threads = number(arguments, "threads", 1);
      List<Model> models = models(arguments.getString("models"), new ModelStore(context).list());
      Phone phone = new Phone(context);
      Report report =
          new Benchmark(phone, TfliteSession::new)
              .run(models, number(arguments, "runs", 100), threads, new Silent());
      phone.describe(report.settings, threads);
      String path = arguments.getString("output");
      File file =
          path != null
              ? new File(path)
              : new File(context.getExternalFilesDir(null), "benchmark.json");
      ReportStore.write(file, report.toJson());
      result.putString("json", file.getPath());
      result.putString(REPORT_KEY_STREAMRESULT, "\n" + table(report) + file + "\n");
    } catch (Exception | LinkageError error) {
      String message = error.getMessage() == null ? error.toString() : error.getMessage();
      result.putString("error", message);
      result.putString(REPORT_KEY_STREAMRESULT, "\nerror: " + message + "\n");
    }
    return result;
  }

  private static int number(Bundle arguments, String key, int standard) {
    String text = arguments.getString(key, String.valueOf(standard));
    try {
      return Integer.parseInt(text);
    } catch (NumberFormatException error) {
      throw new IllegalArgumentException("-e " + key + " takes a whole number; got " + text + ".", error);
    }
  }

  /** Returns the models that were asked for: names, files, or all of a folder; by default those of the first zoo model. */
  private static List<Model> models(String wanted, List<Model> known) {
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
      if (name.contains("/")) {
        chosen.addAll(ModelStore.ofPath(new File(name)));
      } else {
        chosen.add(find(name, known));
      }
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
