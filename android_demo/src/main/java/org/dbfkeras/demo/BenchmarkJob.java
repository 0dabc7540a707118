package org.dbfkeras.demo;

import android.content.Context;
import android.os.Handler;
import android.os.Looper;
import java.io.File;
import java.util.List;
import java.util.concurrent.CancellationException;

/** The benchmark that is running, which outlives the screens that show it. */
final class BenchmarkJob {
  /** A screen; called on the main thread. */
  interface Screen {
    void progress(String what, double share);

    /** The end: a report's file, or an error to show, or neither if cancelled. */
    void finished(File report, String error);
  }

  private static final long MIN_MILLIS_BETWEEN_UPDATES = 100;

  private static BenchmarkJob current; // of the main thread, as the fields that are not volatile

  private final Handler main = new Handler(Looper.getMainLooper());
  private volatile boolean cancelled;
  private Screen screen;
  private String what = "";
  private double share;
  private boolean done;
  private File report;
  private String error;

  private BenchmarkJob() {}

  /** Returns the job that runs, or has finished and been shown by no screen; or null. */
  static BenchmarkJob current() {
    return current;
  }

  /** Starts a job. */
  static BenchmarkJob start(
      Context context, Session.Factory factory, List<Model> models, int runs, int threads) {
    BenchmarkJob job = new BenchmarkJob();
    current = job;
    Context app = context.getApplicationContext();
    new Thread(() -> job.run(app, factory, models, runs, threads), "benchmark").start();
    return job;
  }

  /** Shows the job on a screen from now on, or on none. */
  void attach(Screen screen) {
    this.screen = screen;
    if (screen != null) {
      screen.progress(what, share);
      deliver();
    }
  }

  void cancel() {
    cancelled = true;
  }

  private void run(
      Context context, Session.Factory factory, List<Model> models, int runs, int threads) {
    File saved = null;
    String message = null;
    try {
      Phone phone = new Phone(context);
      Report measured = new Benchmark(phone, factory).run(models, runs, threads, new Updates());
      phone.describe(measured.settings, threads);
      saved = ReportStore.save(context, measured);
    } catch (CancellationException stopped) {
      message = null;
    } catch (Exception | LinkageError failure) { // LinkageError: no native library for this phone
      message = failure.getMessage() == null ? failure.toString() : failure.getMessage();
    }
    File file = saved;
    String text = message;
    main.post(
        () -> {
          done = true;
          report = file;
          error = text;
          deliver();
        });
  }

  private void deliver() {
    if (done && screen != null) {
      if (current == this) {
        current = null;
      }
      Screen shown = screen;
      screen = null;
      shown.finished(report, error);
    }
  }

  private final class Updates implements Benchmark.Listener {
    private long last;

    @Override
    public void progress(String now, double nowShare) {
      long millis = System.currentTimeMillis();
      if (millis - last < MIN_MILLIS_BETWEEN_UPDATES && nowShare < 1) {
        return;
      }
      last = millis;
      main.post(
          () -> {
            what = now;
            share = nowShare;
            if (screen != null) {
              screen.progress(now, nowShare);
            }
          });
    }

    @Override
    public boolean cancelled() {
      return cancelled;
    }
  }
}
