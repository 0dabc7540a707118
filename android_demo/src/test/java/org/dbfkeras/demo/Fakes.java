package org.dbfkeras.demo;

import java.nio.ByteBuffer;
import java.util.ArrayList;
import java.util.HashMap;
import java.util.List;
import java.util.Map;

/** A machine whose time and memory only models change, and models for it. */
final class Fakes implements Benchmark.Machine, Session.Factory, Benchmark.Listener {
  /** What a run of a model takes, and what it holds while loaded. */
  static final class Behaviour {
    final long nanos;
    final long bytes;
    final float[] output;

    Behaviour(long nanos, long bytes, float... output) {
      this.nanos = nanos;
      this.bytes = bytes;
      this.output = output;
    }
  }

  final Map<Byte, Behaviour> behaviours = new HashMap<>();
  final StringBuilder runs = new StringBuilder(); // which model ran, in order
  final List<String> told = new ArrayList<>();
  int open;
  int observed;
  int cancelAtTold = Integer.MAX_VALUE;
  private long nanos;
  private long bytes = 1000;

  /** Returns a model that behaves so; its file is one byte, its name. */
  Model model(char name, Behaviour behaviour, Model.Examples examples) {
    behaviours.put((byte) name, behaviour);
    return new Model(
        String.valueOf(name), name + ".tflite", 1, null, examples,
        () -> ByteBuffer.wrap(new byte[] {(byte) name}));
  }

  @Override
  public long nanoTime() {
    return nanos;
  }

  @Override
  public long memory() {
    return bytes;
  }

  @Override
  public long[] opMemory() {
    return new long[] {10L * open, 20L * open};
  }

  @Override
  public void observe() {
    ++observed;
  }

  @Override
  public void progress(String what, double share) {
    told.add(what + " " + share);
  }

  @Override
  public boolean cancelled() {
    return told.size() >= cancelAtTold;
  }

  @Override
  public Session open(ByteBuffer model, int threads) {
    byte name = model.get(0);
    Behaviour behaviour = behaviours.get(name);
    if (behaviour.output == null) {
      throw new IllegalArgumentException("broken\n");
    }
    ++open;
    bytes += behaviour.bytes;
    nanos += 2_000_000L * threads;
    return new Session() {
      @Override
      public int[] inputShape() {
        return new int[] {1};
      }

      @Override
      public void setInput(float[] values) {}

      @Override
      public void setRandomInputs(long seed) {}

      @Override
      public void run() {
        runs.append((char) name);
        nanos += behaviour.nanos;
      }

      @Override
      public float[] output() {
        return behaviour.output;
      }

      @Override
      public void close() {
        --open;
        bytes -= behaviour.bytes;
      }
    };
  }
}
