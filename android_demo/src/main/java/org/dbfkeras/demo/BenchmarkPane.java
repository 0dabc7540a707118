package org.dbfkeras.demo;

import android.app.Activity;
import android.app.AlertDialog;
import android.content.ActivityNotFoundException;
import android.content.Intent;
import android.net.Uri;
import android.os.Bundle;
import android.view.View;
import android.view.WindowManager;
import android.widget.ArrayAdapter;
import android.widget.Button;
import android.widget.CheckBox;
import android.widget.EditText;
import android.widget.LinearLayout;
import android.widget.ProgressBar;
import android.widget.Spinner;
import android.widget.TextView;
import java.io.File;
import java.io.IOException;
import java.util.ArrayList;
import java.util.HashSet;
import java.util.LinkedHashMap;
import java.util.List;
import java.util.Map;
import java.util.Set;

/** The tab that benchmarks models. */
final class BenchmarkPane implements BenchmarkJob.Screen {
  private static final int MOST_RUNS = 100_000;
  private static final String CHOSEN = "chosen";
  private static final String STATUS = "status";

  private final Activity activity;
  private final ModelStore store;
  private final Map<CheckBox, Model> models = new LinkedHashMap<>();
  private final LinearLayout list;
  private final EditText runs;
  private final Spinner threads;
  private final TextView status;
  private final TextView thermal;
  private final ProgressBar progress;
  private final Button start;
  private final Button open;
  private final Button last;

  BenchmarkPane(
      Activity activity, ModelStore store, List<Model> known, String problem, Bundle state) {
    this.activity = activity;
    this.store = store;
    list = activity.findViewById(R.id.models);
    runs = activity.findViewById(R.id.runs);
    threads = activity.findViewById(R.id.threads);
    status = activity.findViewById(R.id.status);
    thermal = activity.findViewById(R.id.thermal);
    progress = activity.findViewById(R.id.progress);
    start = activity.findViewById(R.id.start);
    open = activity.findViewById(R.id.open);
    last = activity.findViewById(R.id.last);

    List<Integer> counts = new ArrayList<>();
    for (int count = 1; count <= Runtime.getRuntime().availableProcessors(); ++count) {
      counts.add(count);
    }
    threads.setAdapter(
        new ArrayAdapter<>(activity, android.R.layout.simple_spinner_dropdown_item, counts));
    Set<String> chosen = state == null ? null : new HashSet<>(state.getStringArrayList(CHOSEN));
    for (Model model : known) {
      show(model, chosen == null ? isFirstChoice(model, known) : chosen.contains(model.name));
    }
    if (state != null) {
      status.setText(state.getCharSequence(STATUS));
    } else if (problem != null) {
      status.setText(problem);
    }
    open.setOnClickListener(view -> askForModel());
    last.setOnClickListener(view -> showResults(ReportStore.last(activity)));
    start.setOnClickListener(view -> startOrCancel());
  }

  /** Whether a model is chosen at first: those of the first zoo model in float32 and int8. */
  private static boolean isFirstChoice(Model model, List<Model> known) {
    return model.zooModel != null
        && model.zooModel.equals(known.get(0).zooModel)
        && !model.name.endsWith("_int8_weights");
  }

  private void show(Model model, boolean chosen) {
    CheckBox box = new CheckBox(activity);
    box.setText(activity.getString(R.string.model_size, model.name, model.bytes / 1e6));
    box.setChecked(chosen);
    box.setSaveEnabled(false);
    if (model.examples == null) {
      box.setOnLongClickListener(view -> askToRemove(box, model));
    }
    models.put(box, model);
    list.addView(box);
  }

  private boolean askToRemove(CheckBox box, Model model) {
    new AlertDialog.Builder(activity)
        .setMessage(activity.getString(R.string.remove, model.name))
        .setNegativeButton(R.string.keep, null)
        .setPositiveButton(
            R.string.removed,
            (dialog, which) -> {
              store.remove(model);
              models.remove(box);
              list.removeView(box);
            })
        .show();
    return true;
  }

  private void askForModel() {
    Intent pick =
        new Intent(Intent.ACTION_OPEN_DOCUMENT).addCategory(Intent.CATEGORY_OPENABLE).setType("*/*");
    try {
      activity.startActivityForResult(pick, MainActivity.OPEN_MODEL);
    } catch (ActivityNotFoundException error) {
      status.setText(error.getMessage());
    }
  }

  /** Adds a file that the user picked. */
  void add(Uri uri) {
    try {
      Model added = store.add(uri);
      for (CheckBox box : new ArrayList<>(models.keySet())) {
        if (models.get(box).examples == null && models.get(box).name.equals(added.name)) {
          models.remove(box);
          list.removeView(box);
        }
      }
      show(added, true);
    } catch (IOException error) {
      status.setText(error.getMessage());
    }
  }

  private void startOrCancel() {
    BenchmarkJob running = BenchmarkJob.current();
    if (running != null) {
      running.cancel();
      return;
    }
    List<Model> chosen = new ArrayList<>();
    for (Map.Entry<CheckBox, Model> entry : models.entrySet()) {
      if (entry.getKey().isChecked()) {
        chosen.add(entry.getValue());
      }
    }
    int count = runs();
    if (chosen.isEmpty() || count < 1) {
      status.setText(chosen.isEmpty() ? R.string.choose_models : R.string.bad_runs);
      return;
    }
    BenchmarkJob.start(
            activity, MainActivity.factory, chosen, count, (Integer) threads.getSelectedItem())
        .attach(this);
    showRunning(true);
  }

  /** Returns the number of runs asked for, or 0 if that is none. */
  private int runs() {
    try {
      int count = Integer.parseInt(runs.getText().toString());
      return count <= MOST_RUNS ? count : 0;
    } catch (NumberFormatException error) {
      return 0;
    }
  }

  private void showRunning(boolean running) {
    start.setText(running ? R.string.cancel : R.string.start);
    progress.setVisibility(running ? View.VISIBLE : View.INVISIBLE);
    open.setEnabled(!running);
    last.setEnabled(!running && ReportStore.last(activity) != null);
    runs.setEnabled(!running);
    threads.setEnabled(!running);
    for (CheckBox box : models.keySet()) {
      box.setEnabled(!running);
    }
    int keepOn = WindowManager.LayoutParams.FLAG_KEEP_SCREEN_ON;
    if (running) {
      activity.getWindow().addFlags(keepOn);
    } else {
      activity.getWindow().clearFlags(keepOn);
    }
    showThermal();
  }

  private void showThermal() {
    String now = new Phone(activity).thermalStatus();
    thermal.setText(now == null ? "" : activity.getString(R.string.thermal, now));
  }

  void resume() {
    BenchmarkJob running = BenchmarkJob.current();
    showRunning(running != null);
    if (running != null) {
      running.attach(this);
    }
  }

  void pause() {
    BenchmarkJob running = BenchmarkJob.current();
    if (running != null) {
      running.attach(null);
    }
  }

  void save(Bundle state) {
    ArrayList<String> chosen = new ArrayList<>();
    for (Map.Entry<CheckBox, Model> entry : models.entrySet()) {
      if (entry.getKey().isChecked()) {
        chosen.add(entry.getValue().name);
      }
    }
    state.putStringArrayList(CHOSEN, chosen);
    state.putCharSequence(STATUS, status.getText());
  }

  @Override
  public void progress(String what, double share) {
    status.setText(what);
    progress.setProgress((int) (share * progress.getMax()));
    showThermal();
  }

  @Override
  public void finished(File report, String error) {
    showRunning(false);
    if (report == null) {
      status.setText(error == null ? activity.getString(R.string.cancelled) : error);
      return;
    }
    status.setText(R.string.ready);
    showResults(report);
  }

  private void showResults(File report) {
    if (report != null) {
      activity.startActivity(ResultsActivity.intent(activity, report));
    }
  }
}
