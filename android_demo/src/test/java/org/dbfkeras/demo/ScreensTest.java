package org.dbfkeras.demo;

import static org.junit.Assert.assertEquals;
import static org.junit.Assert.assertFalse;
import static org.junit.Assert.assertNotNull;
import static org.junit.Assert.assertNull;
import static org.junit.Assert.assertThrows;
import static org.junit.Assert.assertTrue;
import static org.robolectric.Shadows.shadowOf;

import android.app.Activity;
import android.app.Application;
import android.content.Intent;
import android.content.pm.ProviderInfo;
import android.database.Cursor;
import android.graphics.Bitmap;
import android.graphics.Canvas;
import android.graphics.Color;
import android.net.Uri;
import android.os.Bundle;
import android.os.Looper;
import android.os.ParcelFileDescriptor;
import android.os.PowerManager;
import android.view.View;
import android.widget.CheckBox;
import android.widget.EditText;
import android.widget.LinearLayout;
import android.widget.RadioButton;
import android.widget.Spinner;
import android.widget.TableLayout;
import android.widget.TextView;
import java.io.ByteArrayOutputStream;
import java.io.File;
import java.io.FileNotFoundException;
import java.io.FileOutputStream;
import java.io.IOException;
import java.nio.charset.StandardCharsets;
import java.nio.file.Files;
import java.nio.file.Paths;
import java.util.Arrays;
import java.util.Locale;
import java.util.concurrent.CountDownLatch;
import java.util.concurrent.TimeUnit;
import java.util.concurrent.atomic.AtomicReference;
import org.junit.After;
import org.junit.Before;
import org.junit.Test;
import org.junit.runner.RunWith;
import org.robolectric.Robolectric;
import org.robolectric.RobolectricTestRunner;
import org.robolectric.RuntimeEnvironment;
import org.robolectric.android.controller.ActivityController;
import org.robolectric.annotation.Config;
import org.robolectric.annotation.GraphicsMode;
import org.robolectric.shadows.ShadowPowerManager;

/** The screens, with Android's TensorFlow Lite and libdbf_op.so. */
@RunWith(RobolectricTestRunner.class)
@Config(sdk = 34, qualifiers = "w411dp-h891dp-xhdpi")
@GraphicsMode(GraphicsMode.Mode.NATIVE)
public class ScreensTest {
  private final Application app = RuntimeEnvironment.getApplication();
  private ActivityController<MainActivity> main;

  @Before
  public void start() {
    main = Robolectric.buildActivity(MainActivity.class).setup();
  }

  @After
  public void stop() throws Exception {
    BenchmarkJob job = BenchmarkJob.current();
    if (job != null) {
      job.cancel();
      await(() -> BenchmarkJob.current() == null);
    }
    main.close();
  }

  private interface Condition {
    boolean holds();
  }

  /** Lets the main thread do what other threads post until something holds. */
  private void await(Condition condition) throws InterruptedException {
    for (int i = 0; i < 12_000 && !condition.holds(); ++i) {
      idleForTenMillis();
    }
    assertTrue(
        "gave up waiting at: " + text(R.id.status) + "; " + text(R.id.classes), condition.holds());
  }

  private static void idleForTenMillis() throws InterruptedException {
    CountDownLatch never = new CountDownLatch(1);
    assertFalse(never.await(10, TimeUnit.MILLISECONDS)); // here, Thread.sleep does not wait
    shadowOf(Looper.getMainLooper()).idle();
  }

  private <T extends View> T view(int id) {
    return main.get().findViewById(id);
  }

  private String text(int id) {
    TextView view = view(id);
    return view.getText().toString();
  }

  private void click(int id) {
    assertTrue(view(id).performClick());
    shadowOf(Looper.getMainLooper()).idle();
  }

  /** Chooses the models whose names start so, and no other. */
  private int choose(String start) {
    LinearLayout models = view(R.id.models);
    int chosen = 0;
    for (int i = 0; i < models.getChildCount(); ++i) {
      CheckBox box = (CheckBox) models.getChildAt(i);
      boolean wanted = box.getText().toString().startsWith(start);
      box.setChecked(wanted);
      chosen += wanted ? 1 : 0;
    }
    return chosen;
  }

  private void runs(String count) {
    EditText runs = view(R.id.runs);
    runs.setText(count);
  }

  /** Runs the chosen models and returns the report that is then shown. */
  private File runAndAwaitResults() throws InterruptedException {
    click(R.id.start);
    return awaitResults();
  }

  private File awaitResults() throws InterruptedException {
    AtomicReference<Intent> started = new AtomicReference<>();
    await(
        () -> {
          if (started.get() == null) {
            started.set(shadowOf(main.get()).getNextStartedActivity());
          }
          return started.get() != null;
        });
    assertEquals(ResultsActivity.class.getName(), started.get().getComponent().getClassName());
    return new File(started.get().getStringExtra("file"));
  }

  private static void screenshot(Activity activity, String name, int height) throws IOException {
    View root = activity.getWindow().getDecorView();
    if (height > 0) { // all of what scrolls
      root.measure(
          View.MeasureSpec.makeMeasureSpec(root.getWidth(), View.MeasureSpec.EXACTLY),
          View.MeasureSpec.makeMeasureSpec(height, View.MeasureSpec.EXACTLY));
      root.layout(0, 0, root.getMeasuredWidth(), root.getMeasuredHeight());
    }
    Bitmap bitmap = Bitmap.createBitmap(root.getWidth(), root.getHeight(), Bitmap.Config.ARGB_8888);
    root.draw(new Canvas(bitmap));
    try (FileOutputStream file = new FileOutputStream(System.getProperty("dbf.output") + "/" + name + ".png")) {
      bitmap.compress(Bitmap.CompressFormat.PNG, 100, file);
    }
    int background = bitmap.getPixel(bitmap.getWidth() - 1, bitmap.getHeight() - 1);
    int other = 0;
    for (int x = 0; x < bitmap.getWidth(); x += 3) {
      for (int y = 0; y < bitmap.getHeight(); y += 3) {
        other += bitmap.getPixel(x, y) != background ? 1 : 0;
      }
    }
    assertTrue(name + " is empty", other > 1000);
  }

  private Uri file(String name, byte[] content) throws IOException {
    File file = new File(app.getCacheDir(), name);
    Files.write(file.toPath(), content);
    return Uri.fromFile(file);
  }

  private byte[] digits() throws IOException {
    return Files.readAllBytes(Paths.get(System.getProperty("dbf.assets"), "digits_onthefly.tflite"));
  }

  private void pick(int button, Uri uri) {
    click(button);
    main.get()
        .onActivityResult(
            button == R.id.open ? MainActivity.OPEN_MODEL : MainActivity.PICK_IMAGE,
            Activity.RESULT_OK,
            new Intent().setData(uri));
    shadowOf(Looper.getMainLooper()).idle();
    shadowOf(main.get()).clearNextStartedActivities();
  }

  @Test
  public void firstScreen() throws IOException {
    assertEquals(View.VISIBLE, view(R.id.benchmark_pane).getVisibility());
    assertEquals(View.GONE, view(R.id.demo_pane).getVisibility());
    LinearLayout models = view(R.id.models);
    assertTrue(((CheckBox) models.getChildAt(0)).isChecked());
    assertFalse(view(R.id.last).isEnabled());
    assertEquals("Thermal status: none", text(R.id.thermal));
    screenshot(main.get(), "main", 0);
  }

  @Test
  @Config(qualifiers = "+land-night")
  public void firstScreenAtNightOnItsSide() throws IOException {
    screenshot(main.get(), "main_night", 0);
  }

  @Test
  public void benchmarkFromStartToResults() throws Exception {
    int count = choose("digits");
    runs("20");
    File file = runAndAwaitResults();
    Report report = ReportStore.read(file);
    assertEquals(count, report.results.size());
    assertTrue(report.failures.toString(), report.failures.isEmpty());
    assertTrue(report.wrong().toString(), report.wrong().isEmpty());
    for (Result result : report.results) {
      assertEquals(20, result.timesMs.length);
      assertEquals(result.name.contains("onthefly"), result.opPackedBytes > 0);
    }
    assertTrue(report.settings.get("runtime").toString().startsWith("tensorflow-lite 2."));
    assertEquals("none", report.settings.get("thermal_status"));
    assertEquals(file, ReportStore.last(app));
    Files.write(
        Paths.get(System.getProperty("dbf.output"), "phone.json"), Files.readAllBytes(file.toPath()));
    assertTrue(view(R.id.last).isEnabled());

    Intent intent = ResultsActivity.intent(app, file);
    try (ActivityController<ResultsActivity> results =
        Robolectric.buildActivity(ResultsActivity.class, intent).setup()) {
      TableLayout table = results.get().findViewById(R.id.table);
      assertEquals(count + 1, table.getChildCount());
      TextView warnings = results.get().findViewById(R.id.warnings);
      assertEquals("", warnings.getText().toString());
      View chart = results.get().findViewById(R.id.latency);
      assertTrue(chart.getContentDescription().toString().contains("digits_onthefly"));
      screenshot(results.get(), "results", 4200);

      shadowOf(results.get()).clickMenuItem(R.id.share_csv);
      Intent chooser = shadowOf(results.get()).getNextStartedActivity();
      Intent send = chooser.getParcelableExtra(Intent.EXTRA_INTENT);
      assertEquals("text/csv", send.getType());
      Uri uri = send.getParcelableExtra(Intent.EXTRA_STREAM);
      assertEquals(report.toCsv(), new String(shared(uri), StandardCharsets.UTF_8));
      shadowOf(results.get()).clickMenuItem(R.id.share_json);
      send = shadowOf(results.get()).getNextStartedActivity().getParcelableExtra(Intent.EXTRA_INTENT);
      assertEquals("application/json", send.getType());
      results.recreate();
      table = results.get().findViewById(R.id.table);
      assertEquals(count + 1, table.getChildCount());
    }
  }

  private byte[] shared(Uri uri) throws IOException {
    ReportProvider provider = provider();
    try (ParcelFileDescriptor.AutoCloseInputStream in =
        new ParcelFileDescriptor.AutoCloseInputStream(provider.openFile(uri, "r"))) {
      ByteArrayOutputStream out = new ByteArrayOutputStream();
      ModelStore.copy(in, out);
      return out.toByteArray();
    }
  }

  private ReportProvider provider() {
    ProviderInfo info = new ProviderInfo();
    info.authority = "org.dbfkeras.demo.reports";
    return Robolectric.buildContentProvider(ReportProvider.class).create(info).get();
  }

  @Test
  public void onlyReportsAreShared() throws IOException {
    ReportProvider provider = provider();
    Uri none = Uri.parse("content://org.dbfkeras.demo.reports/none.json");
    Uri outside = Uri.parse("content://org.dbfkeras.demo.reports/..%2Fmodels");
    assertThrows(FileNotFoundException.class, () -> provider.openFile(none, "r"));
    assertThrows(FileNotFoundException.class, () -> provider.openFile(outside, "r"));
    File file = ReportStore.save(app, ReportTest.report());
    Uri uri = ReportProvider.uri(app, file);
    assertThrows(FileNotFoundException.class, () -> provider.openFile(uri, "rw"));
    try (Cursor cursor = provider.query(uri, null, null, null, null)) {
      assertTrue(cursor.moveToFirst());
      assertEquals(file.getName(), cursor.getString(0));
      assertEquals(file.length(), cursor.getLong(1));
    }
  }

  @Test
  public void rotationKeepsChoicesAndTheRunningBenchmark() throws Exception {
    int count = choose("digits");
    runs("12"); // the warm-up alone takes a second
    Spinner threads = view(R.id.threads);
    threads.setSelection(1);
    click(R.id.start);
    assertEquals("Cancel", text(R.id.start));
    assertFalse(view(R.id.runs).isEnabled());
    BenchmarkJob job = BenchmarkJob.current();
    assertNotNull(job);
    RuntimeEnvironment.setQualifiers("+land");
    main.recreate();
    assertEquals("12", text(R.id.runs));
    assertEquals(2, ((Spinner) view(R.id.threads)).getSelectedItem());
    await(() -> BenchmarkJob.current() == null);
    Intent started = shadowOf(main.get()).getNextStartedActivity();
    Report report = ReportStore.read(new File(started.getStringExtra("file")));
    assertEquals(count, report.results.size());
    assertEquals(2, report.settings.get("num_threads"));
    assertEquals("Start", text(R.id.start));
  }

  @Test
  public void resultsThatComeWhileNoScreenIsThereAreShownLater() throws Exception {
    choose("digits_explicit");
    runs("3");
    click(R.id.start);
    main.pause().stop();
    await(() -> ReportStore.last(app) != null);
    shadowOf(Looper.getMainLooper()).idle();
    assertNull(shadowOf(main.get()).getNextStartedActivity());
    main.restart().start().resume();
    assertEquals(ReportStore.last(app), awaitResults());
    assertNull(BenchmarkJob.current());
  }

  @Test
  public void cancel() throws Exception {
    choose("digits");
    runs("100000");
    click(R.id.start);
    await(() -> text(R.id.status).equals("Timing"));
    screenshot(main.get(), "running", 0);
    click(R.id.start);
    await(() -> BenchmarkJob.current() == null);
    assertEquals("Cancelled.", text(R.id.status));
    assertEquals("Start", text(R.id.start));
    assertNull(shadowOf(main.get()).getNextStartedActivity());
    assertNull(ReportStore.last(app));
  }

  @Test
  public void wrongNumbersAndNoModels() {
    for (String count : new String[] {"", "0", "999999"}) {
      runs(count);
      click(R.id.start);
      assertTrue(text(R.id.status), text(R.id.status).startsWith("Runs must be"));
    }
    choose("no such");
    click(R.id.start);
    assertEquals("Choose at least one model.", text(R.id.status));
    assertNull(BenchmarkJob.current());
  }

  @Test
  public void throttlingIsShown() throws Exception {
    PowerManager power = app.getSystemService(PowerManager.class);
    ShadowPowerManager shadow = shadowOf(power);
    shadow.setCurrentThermalStatus(PowerManager.THERMAL_STATUS_SEVERE);
    choose("digits_onthefly");
    runs("3");
    Report report = ReportStore.read(runAndAwaitResults());
    assertEquals("severe", report.settings.get("thermal_status"));
    assertTrue(Phone.warning(report.settings).contains("throttled"));
    assertEquals("Thermal status: severe", text(R.id.thermal));
  }

  @Test
  public void openedModels() throws Exception {
    pick(R.id.open, file("mine.tflite", digits()));
    LinearLayout models = view(R.id.models);
    CheckBox box = (CheckBox) models.getChildAt(models.getChildCount() - 1);
    String label = String.format(Locale.ROOT, "mine · %.2f MB", digits().length / 1e6);
    assertTrue(box.getText().toString(), box.getText().toString().startsWith(label));
    assertTrue(box.isChecked());
    int count = models.getChildCount();
    pick(R.id.open, file("mine.tflite", digits()));
    assertEquals(count, models.getChildCount());
    choose("mine");
    runs("5");
    Report report = ReportStore.read(runAndAwaitResults());
    assertNull(report.results.get(0).check);
    assertTrue(report.results.get(0).opPackedBytes > 0);
    main.recreate();
    assertEquals(count, ((LinearLayout) view(R.id.models)).getChildCount());
  }

  @Test
  public void brokenAndMissingModelsDoNotCrash() throws Exception {
    pick(R.id.open, file("notes.txt", "not a model".getBytes(StandardCharsets.UTF_8)));
    assertEquals("notes.txt is not a TFLite model.", text(R.id.status));
    pick(R.id.open, Uri.fromFile(new File("/no/such/file.tflite")));
    assertTrue(text(R.id.status), text(R.id.status).contains("file.tflite"));
    byte[] half = Arrays.copyOf(digits(), 20_000);
    pick(R.id.open, file("half.tflite", half));
    choose("half");
    runs("3");
    click(R.id.start);
    await(() -> BenchmarkJob.current() == null);
    assertTrue(text(R.id.status), text(R.id.status).startsWith("No model could be run: {half="));

    choose("");
    choose("digits_explicit");
    LinearLayout models = view(R.id.models);
    ((CheckBox) models.getChildAt(models.getChildCount() - 1)).setChecked(true);
    File file = runAndAwaitResults();
    try (ActivityController<ResultsActivity> results =
        Robolectric.buildActivity(ResultsActivity.class, ResultsActivity.intent(app, file)).setup()) {
      TextView warnings = results.get().findViewById(R.id.warnings);
      assertTrue(warnings.getText().toString().startsWith("half did not run: "));
    }
  }

  @Test
  public void resultsThatAreGoneOrDamaged() throws Exception {
    File damaged = new File(ReportStore.folder(app), "damaged.json");
    ReportStore.write(damaged, "{");
    for (File file : new File[] {damaged, new File("/no/such.json")}) {
      try (ActivityController<ResultsActivity> results =
          Robolectric.buildActivity(ResultsActivity.class, ResultsActivity.intent(app, file)).setup()) {
        TextView warnings = results.get().findViewById(R.id.warnings);
        assertTrue(warnings.getText().toString().startsWith("These results cannot be read"));
      }
    }
  }

  @Test
  public void demo() throws Exception {
    RadioButton tab = view(R.id.demo_tab);
    tab.performClick();
    assertEquals(View.VISIBLE, view(R.id.demo_pane).getVisibility());
    await(() -> text(R.id.classes).contains("One inference"));
    assertEquals("Test image 1 of 8", text(R.id.image_name));
    screenshot(main.get(), "demo", 0);
    String first = text(R.id.classes);
    click(R.id.next);
    assertEquals("Test image 2 of 8", text(R.id.image_name));
    await(() -> !text(R.id.classes).equals(first));
    click(R.id.previous);
    click(R.id.previous);
    assertEquals("Test image 8 of 8", text(R.id.image_name));
    main.recreate();
    assertEquals(View.VISIBLE, view(R.id.demo_pane).getVisibility());
    shadowOf(Looper.getMainLooper()).idle();
    assertEquals("Test image 8 of 8", text(R.id.image_name));
  }

  @Test
  public void demoNamesTheDigit() throws Exception {
    Model model = new ModelStore(app).list().get(0);
    float[] expected = model.examples.expected[0];
    int best = 0;
    for (int i = 0; i < expected.length; ++i) {
      best = expected[i] > expected[best] ? i : best;
    }
    int digit = best;
    view(R.id.demo_tab).performClick();
    await(() -> text(R.id.classes).startsWith(digit + ": "));
  }

  @Test
  public void demoWithAPickedImage() throws Exception {
    ByteArrayOutputStream png = new ByteArrayOutputStream();
    Bitmap bitmap = Bitmap.createBitmap(40, 30, Bitmap.Config.ARGB_8888);
    bitmap.eraseColor(Color.WHITE);
    bitmap.compress(Bitmap.CompressFormat.PNG, 100, png);
    RadioButton tab = view(R.id.demo_tab);
    tab.performClick();
    pick(R.id.pick, file("white.png", png.toByteArray()));
    assertEquals("Picked image", text(R.id.image_name));
    await(() -> text(R.id.classes).contains("One inference"));
    CheckBox invert = view(R.id.invert);
    assertEquals(View.VISIBLE, invert.getVisibility());
    invert.performClick();
    main.recreate();
    shadowOf(Looper.getMainLooper()).idle();
    assertEquals("Picked image", text(R.id.image_name));
    invert = view(R.id.invert);
    for (int i = 0; i < 20; ++i) { // asks so often that the last answer comes late
      invert.performClick();
    }
    pick(R.id.pick, file("bad.png", new byte[] {1, 2, 3}));
    for (int i = 0; i < 100; ++i) {
      assertEquals("This image cannot be read.", text(R.id.classes));
      idleForTenMillis();
    }
    assertEquals(View.INVISIBLE, view(R.id.invert).getVisibility());
    click(R.id.next);
    assertEquals("Test image 2 of 8", text(R.id.image_name));
  }

  @Test
  public void withoutAScreen() throws Exception {
    Bundle arguments = new Bundle();
    arguments.putString("models", "digits_explicit,digits_onthefly");
    arguments.putString("runs", "4");
    File output = new File(app.getCacheDir(), "out.json");
    arguments.putString("output", output.getPath());
    Bundle result = BenchmarkInstrumentation.run(app, arguments);
    assertNull(result.getString("error"));
    assertEquals(output.getPath(), result.getString("json"));
    Report report = ReportStore.read(output);
    assertEquals(2, report.results.size());
    assertEquals(4, report.results.get(1).timesMs.length);
  }

  @Test
  public void withoutAScreenAllFilesOfAFolder() throws Exception {
    File folder = new File(app.getCacheDir(), "layers");
    assertTrue(folder.mkdir());
    for (String name : new String[] {"b.tflite", "a.tflite", "notes.txt"}) {
      Files.copy(
          Paths.get(System.getProperty("dbf.assets"), "digits_explicit.tflite"),
          new File(folder, name).toPath());
    }
    Bundle arguments = new Bundle();
    arguments.putString("models", folder.getPath());
    arguments.putString("runs", "2");
    File output = new File(app.getCacheDir(), "out.json");
    arguments.putString("output", output.getPath());
    assertNull(BenchmarkInstrumentation.run(app, arguments).getString("error"));
    Report report = ReportStore.read(output);
    assertEquals(2, report.results.size());
    assertEquals("a", report.results.get(0).name);
    assertEquals(new File(folder, "b.tflite").getPath(), report.results.get(1).path);
  }

  @Test
  public void withoutAScreenErrorsAreTold() throws Exception {
    String[][] wrong = {
      {"models", "nothing", "There is no model nothing; the app has [dbfnet_mnist_explicit, "},
      {"runs", "many", "-e runs takes a whole number; got many."},
      {"models", "/no/such.tflite", "No model could be run"},
    };
    for (String[] each : wrong) {
      Bundle arguments = new Bundle();
      arguments.putString(each[0], each[1]);
      String error = BenchmarkInstrumentation.run(app, arguments).getString("error");
      assertTrue(error, error.startsWith(each[2]));
    }
  }
}
