package org.dbfkeras.demo;

import android.content.ContentProvider;
import android.content.ContentValues;
import android.content.Context;
import android.database.Cursor;
import android.database.MatrixCursor;
import android.net.Uri;
import android.os.ParcelFileDescriptor;
import android.provider.OpenableColumns;
import java.io.File;
import java.io.FileNotFoundException;

/** Lets apps that a report is shared with read its file, and nothing else. */
public final class ReportProvider extends ContentProvider {
  static Uri uri(Context context, File file) {
    return new Uri.Builder()
        .scheme("content")
        .authority(context.getPackageName() + ".reports")
        .appendPath(file.getName())
        .build();
  }

  private File file(Uri uri) throws FileNotFoundException {
    String name = uri.getLastPathSegment();
    File file = new File(ReportStore.folder(getContext()), name == null ? "" : name);
    boolean inside = name != null && new File(name).getName().equals(name) && !name.startsWith(".");
    if (!inside || !file.isFile()) {
      throw new FileNotFoundException("There is no report " + uri + ".");
    }
    return file;
  }

  @Override
  public boolean onCreate() {
    return true;
  }

  @Override
  public ParcelFileDescriptor openFile(Uri uri, String mode) throws FileNotFoundException {
    if (!"r".equals(mode)) {
      throw new FileNotFoundException("Reports can only be read.");
    }
    return ParcelFileDescriptor.open(file(uri), ParcelFileDescriptor.MODE_READ_ONLY);
  }

  @Override
  public String getType(Uri uri) {
    return String.valueOf(uri.getLastPathSegment()).endsWith(".csv") ? "text/csv" : "application/json";
  }

  @Override
  public Cursor query(Uri uri, String[] wanted, String where, String[] values, String order) {
    MatrixCursor cursor =
        new MatrixCursor(new String[] {OpenableColumns.DISPLAY_NAME, OpenableColumns.SIZE});
    try {
      File file = file(uri);
      cursor.addRow(new Object[] {file.getName(), file.length()});
    } catch (FileNotFoundException error) {
      return cursor; // empty, as providers say "nothing there"
    }
    return cursor;
  }

  @Override
  public Uri insert(Uri uri, ContentValues values) {
    throw new UnsupportedOperationException();
  }

  @Override
  public int delete(Uri uri, String where, String[] values) {
    throw new UnsupportedOperationException();
  }

  @Override
  public int update(Uri uri, ContentValues contents, String where, String[] values) {
    throw new UnsupportedOperationException();
  }
}
