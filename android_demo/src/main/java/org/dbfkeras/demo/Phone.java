package org.dbfkeras.demo;

import android.content.Context;
import android.os.Build;
import android.os.Debug;
import android.os.PowerManager;
import java.text.SimpleDateFormat;
import java.util.Date;
import java.util.Locale;
import java.util.Map;
import org.dbfkeras.DbfDelegate;
import org.tensorflow.lite.TensorFlowLite;

/** The phone that is measured on. */
final class Phone implements Benchmark.Machine {
  private static final String[] THERMAL_STATUS = {
    "none", "light", "moderate", "severe", "critical", "emergency", "shutdown"
  };

  private final PowerManager power;
  private int worstThermalStatus = -1; // unknown

  Phone(Context context) {
    power = (PowerManager) context.getSystemService(Context.POWER_SERVICE);
  }

  @Override
  public long nanoTime() {
    return System.nanoTime();
  }

  @Override
  public long memory() {
    return Debug.getPss() * 1024;
  }

  @Override
  public long[] opMemory() {
    return DbfDelegate.memory();
  }

  @Override
  public void observe() {
    if (Build.VERSION.SDK_INT >= 29) {
      worstThermalStatus = Math.max(worstThermalStatus, power.getCurrentThermalStatus());
    }
  }

  /** Returns the thermal status now, or null where Android does not tell (before 10). */
  String thermalStatus() {
    return Build.VERSION.SDK_INT >= 29 ? name(power.getCurrentThermalStatus()) : null;
  }

  /** Adds how results were measured, in the words of the Python benchmark where it has them. */
  void describe(Map<String, Object> settings, int threads) {
    settings.put("date", new SimpleDateFormat("yyyy-MM-dd'T'HH:mm:ssXXX", Locale.ROOT).format(new Date()));
    settings.put("runtime", "tensorflow-lite " + TensorFlowLite.runtimeVersion());
    settings.put("cpu", Build.VERSION.SDK_INT >= 31 ? Build.SOC_MODEL : Build.HARDWARE);
    settings.put("system", "Android " + Build.VERSION.RELEASE + " (API " + Build.VERSION.SDK_INT + ")");
    settings.put("num_threads", threads);
    settings.put("dataset", null);
    settings.put("device", Build.MANUFACTURER + " " + Build.MODEL);
    settings.put("abi", System.getProperty("os.arch"));
    settings.put("peak_memory", "growth of PSS, models loaded one after the other in one process");
    settings.put("thermal_status", worstThermalStatus < 0 ? null : name(worstThermalStatus));
    settings.put("power_save_mode", power.isPowerSaveMode());
  }

  /** Returns what may have slowed a run down, for people to read, or null. */
  static String warning(Map<String, Object> settings) {
    Object status = settings.get("thermal_status");
    if (status != null && !"none".equals(status)) {
      return "The phone throttled (thermal status: " + status + "). Let it cool and run again.";
    }
    if (Boolean.TRUE.equals(settings.get("power_save_mode"))) {
      return "Battery saver was on, which slows the processor. Turn it off and run again.";
    }
    return null;
  }

  private static String name(int status) {
    return status < THERMAL_STATUS.length ? THERMAL_STATUS[status] : String.valueOf(status);
  }
}
