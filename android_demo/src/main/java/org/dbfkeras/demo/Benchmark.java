package org.dbfkeras.demo;

import java.nio.ByteBuffer;
import java.util.ArrayList;
import java.util.List;
import java.util.concurrent.CancellationException;

/** Measures models side by side. */
final class Benchmark {
  /** Of a model in a row, after one that is not timed and brings its weights back into the caches. */
  private static final int BURST = 3;

  private static final double WARM_UP_SECONDS = 1;

  /** The machine that is measured on. */
  interface Machine {
    /** Returns nanoseconds since some moment. */
    long nanoTime();

    /** Returns the bytes of memory that this process has, its share of what it shares (PSS). */
    long memory();

    /** Returns bytes of packed coefficients and of scratch memory that the DBF ops of this process hold. */
    long[] opMemory();

    /** Notes whether the machine throttles now; called between timed runs. */
    void observe();
  }

  /** Is told of the progress, between timed runs. */
  interface Listener {
    /**
     * Notes progress.
     *
     * @param what what is going on
     * @param share the share of it that is done, 0 to 1
     */
    void progress(String what, double share);

    /** Returns whether to stop. */
    boolean cancelled();
  }

  private final Machine machine;
  private final Session.Factory factory;

  Benchmark(Machine machine, Session.Factory factory) {
    this.machine = machine;
    this.factory = factory;
  }

  /**
   * Measures models: loads one after the other, then times them in turns.
   *
   * @param runs timed runs of each model
   * @return the results, with failures for models that did not load or run; without settings
   * @throws CancellationException if the listener says so
   * @throws IllegalArgumentException if no model runs, or numbers are not positive
   */
  Report run(List<Model> models, int runs, int threads, Listener listener) {
    if (models.isEmpty() || runs < 1 || threads < 1) {
      throw new IllegalArgumentException(
          "A benchmark needs a model, a run and a thread at least; got " + models.size() + " models, "
              + runs + " runs and " + threads + " threads.");
    }
    Report report = new Report();
    List<Session> sessions = new ArrayList<>();
    try {
      for (int i = 0; i < models.size(); ++i) {
        Model model = models.get(i);
        tell(listener, "Loading " + model.name, (double) i / models.size());
        load(model, threads, report, sessions);
      }
      if (sessions.isEmpty()) {
        throw new IllegalArgumentException("No model could be run: " + report.failures);
      }
      warmUp(sessions, listener);
      time(sessions, runs, report.results, listener);
      return report;
    } finally {
      for (Session session : sessions) {
        session.close();
      }
    }
  }

  private void load(Model model, int threads, Report report, List<Session> sessions) {
    Session session = null;
    try {
      Result result = new Result();
      result.name = model.name;
      result.path = model.path;
      result.fileBytes = model.bytes;
      ByteBuffer file = model.source.open();
      long memory = machine.memory();
      long[] opMemory = machine.opMemory();
      long start = machine.nanoTime();
      session = factory.open(file, threads);
      result.loadMs = (machine.nanoTime() - start) * 1e-6;
      long peak = machine.memory();
      setInput(session, model);
      start = machine.nanoTime();
      session.run();
      result.firstMs = (machine.nanoTime() - start) * 1e-6;
      peak = Math.max(peak, machine.memory());
      if (model.examples != null) {
        result.check = OutputCheck.of(session, model.examples);
        setInput(session, model);
        peak = Math.max(peak, machine.memory());
      }
      long[] now = machine.opMemory();
      result.opPackedBytes = now[0] - opMemory[0];
      result.opScratchBytes = now[1] - opMemory[1];
      result.peakMemoryBytes = Math.max(0, peak - memory);
      report.results.add(result);
      sessions.add(session);
    } catch (Exception error) { // of a file that anyone may have made: whatever the runtime throws
      if (session != null) {
        session.close();
      }
      String message = error.getMessage();
      report.failures.put(model.name, message == null ? error.toString() : message.trim());
    }
  }

  private static void setInput(Session session, Model model) {
    if (model.examples == null) {
      session.setRandomInputs(0);
    } else {
      session.setInput(model.examples.images[0]);
    }
  }

  private void warmUp(List<Session> sessions, Listener listener) {
    long start = machine.nanoTime();
    double share = 0;
    while (share < 1) {
      tell(listener, "Warming up", share);
      for (Session session : sessions) {
        session.run();
      }
      share = (machine.nanoTime() - start) * 1e-9 / WARM_UP_SECONDS;
    }
  }

  private void time(List<Session> sessions, int runs, List<Result> results, Listener listener) {
    for (Result result : results) {
      result.timesMs = new double[runs];
    }
    for (int done = 0; done < runs; done += BURST) {
      tell(listener, "Timing", (double) done / runs);
      machine.observe();
      for (int side = 0; side < sessions.size(); ++side) {
        Session session = sessions.get(side);
        double[] times = results.get(side).timesMs;
        session.run();
        for (int i = done; i < Math.min(done + BURST, runs); ++i) {
          long start = machine.nanoTime();
          session.run();
          times[i] = (machine.nanoTime() - start) * 1e-6;
        }
      }
    }
    machine.observe();
    tell(listener, "Timing", 1);
  }

  private static void tell(Listener listener, String what, double share) {
    if (listener.cancelled()) {
      throw new CancellationException();
    }
    listener.progress(what, Math.min(1, share));
  }
}
