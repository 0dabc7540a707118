package org.dbfkeras.demo;

import android.content.Context;
import java.io.ByteArrayOutputStream;
import java.io.File;
import java.io.FileInputStream;
import java.io.FileOutputStream;
import java.io.IOException;
import java.io.InputStream;
import java.nio.charset.StandardCharsets;
import java.text.SimpleDateFormat;
import java.util.Arrays;
import java.util.Date;
import java.util.Locale;

/** Reports as files of the app. */
final class ReportStore {
  private ReportStore() {}

  static File folder(Context context) {
    File folder = new File(context.getFilesDir(), "results");
    folder.mkdirs();
    return folder;
  }

  /** Writes a report under a new name. */
  static File save(Context context, Report report) throws IOException {
    String name = new SimpleDateFormat("yyyyMMdd-HHmmss-SSS", Locale.ROOT).format(new Date());
    File file = new File(folder(context), "benchmark-" + name + ".json");
    write(file, report.toJson());
    return file;
  }

  /** Returns the file of the last report, or null. */
  static File last(Context context) {
    File[] files = folder(context).listFiles((folder, name) -> name.endsWith(".json"));
    if (files == null || files.length == 0) {
      return null;
    }
    Arrays.sort(files);
    return files[files.length - 1];
  }

  /**
   * Reads a report.
   *
   * @throws IOException if there is none, or the file holds something else
   */
  static Report read(File file) throws IOException {
    ByteArrayOutputStream bytes = new ByteArrayOutputStream();
    try (InputStream in = new FileInputStream(file)) {
      ModelStore.copy(in, bytes);
    }
    try {
      return Report.fromJson(new String(bytes.toByteArray(), StandardCharsets.UTF_8));
    } catch (IllegalArgumentException error) {
      throw new IOException(error.getMessage(), error);
    }
  }

  /** Writes a file whole or not at all. */
  static void write(File file, String text) throws IOException {
    File temporary = new File(file.getPath() + ".part");
    try (FileOutputStream out = new FileOutputStream(temporary)) {
      out.write(text.getBytes(StandardCharsets.UTF_8));
    }
    if (!temporary.renameTo(file)) {
      temporary.delete();
      throw new IOException(file + " cannot be written.");
    }
  }
}
