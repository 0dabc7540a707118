package org.dbfkeras.demo;

import android.content.ContentResolver;
import android.content.Context;
import android.content.res.AssetFileDescriptor;
import android.content.res.AssetManager;
import android.database.Cursor;
import android.net.Uri;
import android.provider.OpenableColumns;
import java.io.ByteArrayOutputStream;
import java.io.File;
import java.io.FileInputStream;
import java.io.FileOutputStream;
import java.io.IOException;
import java.io.InputStream;
import java.io.OutputStream;
import java.nio.ByteBuffer;
import java.nio.channels.FileChannel;
import java.util.ArrayList;
import java.util.Arrays;
import java.util.Collections;
import java.util.List;

/** The models of the app: those that it came with, and those that the user opened. */
final class ModelStore {
  private static final byte[] MAGIC = {'T', 'F', 'L', '3'};
  private static final int MAGIC_OFFSET = 4;

  private final Context context;

  ModelStore(Context context) {
    this.context = context.getApplicationContext();
  }

  /** Returns all models, those of the app first. */
  List<Model> list() throws IOException {
    List<Model> models = new ArrayList<>(BundledModels.list(new AppAssets(context.getAssets())));
    models.addAll(ofPath(folder()));
    return models;
  }

  /**
   * Copies a file into the app.
   *
   * @return its model
   * @throws IOException if it cannot be read, or is no TFLite model
   */
  Model add(Uri uri) throws IOException {
    String name = displayName(uri);
    File file = new File(folder(), name.endsWith(".tflite") ? name : name + ".tflite");
    File temporary = new File(folder(), file.getName() + ".part");
    try (InputStream in = context.getContentResolver().openInputStream(uri)) {
      if (in == null) {
        throw new IOException(name + " cannot be read.");
      }
      try (OutputStream out = new FileOutputStream(temporary)) {
        copy(in, out);
      }
      checkMagic(temporary, name);
      if (!temporary.renameTo(file)) {
        throw new IOException(file + " cannot be written.");
      }
    } catch (SecurityException error) {
      throw new IOException(name + " cannot be read: " + error.getMessage(), error);
    } finally {
      temporary.delete();
    }
    return ofFile(file);
  }

  /** Forgets a model that the user opened. Returns false for those that the app came with. */
  boolean remove(Model model) {
    return model.examples == null && new File(folder(), model.name + ".tflite").delete();
  }

  /** Returns the model in a file. */
  static Model ofFile(File file) {
    return new Model(
        file.getName().replaceFirst("\\.tflite$", ""),
        file.getPath(),
        file.length(),
        null,
        null,
        () -> {
          try (FileInputStream in = new FileInputStream(file)) {
            return in.getChannel().map(FileChannel.MapMode.READ_ONLY, 0, file.length());
          }
        });
  }

  /** Returns the model in a file, or those in a folder, by name. */
  static List<Model> ofPath(File path) {
    File[] files = path.listFiles((folder, name) -> name.endsWith(".tflite"));
    if (files == null) {
      return Collections.singletonList(ofFile(path));
    }
    Arrays.sort(files);
    List<Model> models = new ArrayList<>();
    for (File file : files) {
      models.add(ofFile(file));
    }
    return models;
  }

  private File folder() {
    File folder = new File(context.getFilesDir(), "models");
    folder.mkdirs();
    return folder;
  }

  private String displayName(Uri uri) {
    String name = null;
    if (ContentResolver.SCHEME_CONTENT.equals(uri.getScheme())) {
      String[] columns = {OpenableColumns.DISPLAY_NAME};
      try (Cursor cursor = context.getContentResolver().query(uri, columns, null, null, null)) {
        if (cursor != null && cursor.moveToFirst()) {
          name = cursor.getString(0);
        }
      } catch (SecurityException error) {
        name = null; // reading the file tells
      }
    }
    if (name == null) {
      name = uri.getLastPathSegment();
    }
    return name == null ? "model" : new File(name).getName();
  }

  private static void checkMagic(File file, String name) throws IOException {
    byte[] start = new byte[MAGIC_OFFSET + MAGIC.length];
    try (FileInputStream in = new FileInputStream(file)) {
      int read = in.read(start);
      if (read < start.length
          || !Arrays.equals(MAGIC, Arrays.copyOfRange(start, MAGIC_OFFSET, start.length))) {
        throw new IOException(name + " is not a TFLite model.");
      }
    }
  }

  static void copy(InputStream in, OutputStream out) throws IOException {
    byte[] buffer = new byte[1 << 16];
    for (int read = in.read(buffer); read >= 0; read = in.read(buffer)) {
      out.write(buffer, 0, read);
    }
  }

  private static final class AppAssets implements BundledModels.Assets {
    private final AssetManager assets;

    AppAssets(AssetManager assets) {
      this.assets = assets;
    }

    @Override
    public byte[] read(String name) throws IOException {
      ByteArrayOutputStream bytes = new ByteArrayOutputStream();
      try (InputStream in = assets.open(name)) {
        copy(in, bytes);
      }
      return bytes.toByteArray();
    }

    @Override
    public ByteBuffer map(String name) throws IOException {
      try (AssetFileDescriptor asset = assets.openFd(name);
          FileInputStream in = asset.createInputStream()) {
        return in.getChannel()
            .map(FileChannel.MapMode.READ_ONLY, asset.getStartOffset(), asset.getLength());
      }
    }
  }
}
