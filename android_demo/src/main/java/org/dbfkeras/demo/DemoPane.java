package org.dbfkeras.demo;

import android.app.Activity;
import android.content.ActivityNotFoundException;
import android.content.Intent;
import android.graphics.Bitmap;
import android.graphics.BitmapFactory;
import android.graphics.drawable.BitmapDrawable;
import android.net.Uri;
import android.os.Bundle;
import android.os.Handler;
import android.os.Looper;
import android.view.View;
import android.widget.AdapterView;
import android.widget.ArrayAdapter;
import android.widget.CheckBox;
import android.widget.ImageView;
import android.widget.Spinner;
import android.widget.TextView;
import java.io.IOException;
import java.io.InputStream;
import java.util.ArrayList;
import java.util.Arrays;
import java.util.List;
import java.util.concurrent.ExecutorService;
import java.util.concurrent.Executors;

/** The tab that classifies an image with a model. */
final class DemoPane implements AdapterView.OnItemSelectedListener {
  private static final String IMAGE = "demo_image";
  private static final String PICKED = "demo_picked";
  private static final int SHOWN_CLASSES = 3;
  private static final int MOST_PIXELS_A_SIDE = 1024;

  private final Activity activity;
  private final List<Model> models = new ArrayList<>();
  private final Spinner chooser;
  private final ImageView view;
  private final TextView name;
  private final TextView classes;
  private final CheckBox invert;
  private final ExecutorService worker = Executors.newSingleThreadExecutor();
  private final Handler main = new Handler(Looper.getMainLooper());
  private int image;
  private Uri picked; // null: a test image
  private int asked; // how often, so that late answers are not shown

  DemoPane(Activity activity, List<Model> known, Bundle state) {
    this.activity = activity;
    for (Model model : known) {
      if (model.examples != null) {
        models.add(model);
      }
    }
    chooser = activity.findViewById(R.id.demo_model);
    view = activity.findViewById(R.id.image);
    name = activity.findViewById(R.id.image_name);
    classes = activity.findViewById(R.id.classes);
    invert = activity.findViewById(R.id.invert);
    if (state != null) {
      image = state.getInt(IMAGE);
      picked = state.getParcelable(PICKED);
    }
    chooser.setAdapter(
        new ArrayAdapter<>(activity, android.R.layout.simple_spinner_dropdown_item, models));
    chooser.setOnItemSelectedListener(this);
    invert.setOnCheckedChangeListener((box, checked) -> classify());
    activity.findViewById(R.id.previous).setOnClickListener(button -> step(-1));
    activity.findViewById(R.id.next).setOnClickListener(button -> step(1));
    activity.findViewById(R.id.pick).setOnClickListener(button -> askForImage());
  }

  private void step(int by) {
    image += picked == null ? by : 0;
    picked = null;
    classify();
  }

  private void askForImage() {
    Intent pick =
        new Intent(Intent.ACTION_OPEN_DOCUMENT)
            .addCategory(Intent.CATEGORY_OPENABLE)
            .setType("image/*");
    try {
      activity.startActivityForResult(pick, MainActivity.PICK_IMAGE);
    } catch (ActivityNotFoundException error) {
      classes.setText(error.getMessage());
    }
  }

  /** Classifies an image that the user picked. */
  void pick(Uri uri) {
    picked = uri;
    classify();
  }

  void save(Bundle state) {
    state.putInt(IMAGE, image);
    state.putParcelable(PICKED, picked);
  }

  void close() {
    worker.shutdownNow();
    ++asked;
  }

  @Override
  public void onItemSelected(AdapterView<?> parent, View item, int position, long id) {
    classify();
  }

  @Override
  public void onNothingSelected(AdapterView<?> parent) {}

  private void classify() {
    Model model = (Model) chooser.getSelectedItem();
    if (model == null) {
      return;
    }
    int question = ++asked;
    int[] shape = model.examples.shape;
    float[] pixels;
    if (picked == null) {
      image = Math.floorMod(image, model.examples.images.length);
      pixels = model.examples.images[image];
      name.setText(
          activity.getString(R.string.test_image, image + 1, model.examples.images.length));
    } else {
      Bitmap bitmap = read(picked);
      if (bitmap == null) {
        picked = null;
        view.setImageDrawable(null);
        name.setText("");
        invert.setVisibility(View.INVISIBLE);
        classes.setText(R.string.no_image);
        return;
      }
      Bitmap scaled = Bitmap.createScaledBitmap(bitmap, shape[1], shape[0], true);
      int[] argb = new int[shape[0] * shape[1]];
      scaled.getPixels(argb, 0, shape[1], 0, 0, shape[1], shape[0]);
      pixels = Pixels.ofColors(argb, shape[2], invert.isChecked());
      name.setText(R.string.picked_image);
    }
    invert.setVisibility(picked == null ? View.INVISIBLE : View.VISIBLE);
    show(pixels, shape);
    worker.execute(
        () -> {
          String answer = answer(model, pixels);
          main.post(
              () -> {
                if (question == asked) {
                  classes.setText(answer);
                }
              });
        });
  }

  /** Shows what the model sees. */
  private void show(float[] pixels, int[] shape) {
    Bitmap seen =
        Bitmap.createBitmap(
            Pixels.toColors(pixels, shape[2]), shape[1], shape[0], Bitmap.Config.ARGB_8888);
    BitmapDrawable drawable = new BitmapDrawable(activity.getResources(), seen);
    drawable.setFilterBitmap(false);
    view.setImageDrawable(drawable);
  }

  private Bitmap read(Uri uri) {
    try {
      BitmapFactory.Options options = new BitmapFactory.Options();
      options.inJustDecodeBounds = true;
      try (InputStream in = activity.getContentResolver().openInputStream(uri)) {
        BitmapFactory.decodeStream(in, null, options);
      }
      options.inJustDecodeBounds = false;
      options.inSampleSize =
          Math.max(1, Math.max(options.outWidth, options.outHeight) / MOST_PIXELS_A_SIDE);
      try (InputStream in = activity.getContentResolver().openInputStream(uri)) {
        return BitmapFactory.decodeStream(in, null, options);
      }
    } catch (IOException | SecurityException error) {
      return null; // the caller says so
    }
  }

  /** Runs the model; returns the likeliest classes, or what went wrong. */
  private String answer(Model model, float[] pixels) {
    try (Session session = MainActivity.factory.open(model.source.open(), 1)) {
      session.setInput(pixels);
      session.run();
      long start = System.nanoTime();
      session.run();
      double millis = (System.nanoTime() - start) * 1e-6;
      float[] shares = session.output();
      Integer[] order = new Integer[Math.min(shares.length, model.examples.classes.length)];
      for (int i = 0; i < order.length; ++i) {
        order[i] = i;
      }
      Arrays.sort(order, (a, b) -> Float.compare(shares[b], shares[a]));
      StringBuilder text = new StringBuilder();
      for (int i = 0; i < Math.min(SHOWN_CLASSES, order.length); ++i) {
        String label = model.examples.classes[order[i]];
        text.append(activity.getString(R.string.class_share, label, 100 * shares[order[i]]))
            .append('\n');
      }
      return text.append(activity.getString(R.string.inference_time, millis)).toString();
    } catch (Exception | LinkageError error) { // of whatever the runtime throws
      return model.name + ": " + error.getMessage();
    }
  }
}
