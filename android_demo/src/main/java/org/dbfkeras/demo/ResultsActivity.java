package org.dbfkeras.demo;

import android.app.Activity;
import android.content.ClipData;
import android.content.Context;
import android.content.Intent;
import android.net.Uri;
import android.os.Bundle;
import android.text.TextUtils;
import android.view.Gravity;
import android.view.Menu;
import android.view.MenuItem;
import android.widget.TableLayout;
import android.widget.TableRow;
import android.widget.TextView;
import java.io.File;
import java.io.IOException;
import java.util.ArrayList;
import java.util.List;
import java.util.Locale;
import java.util.Map;

/** Shows a report as charts and as a table, and shares it. */
public final class ResultsActivity extends Activity {
  private static final String FILE = "file";

  private File file;
  private Report report; // null if it cannot be read

  static Intent intent(Context context, File report) {
    return new Intent(context, ResultsActivity.class).putExtra(FILE, report.getPath());
  }

  @Override
  protected void onCreate(Bundle state) {
    super.onCreate(state);
    setContentView(R.layout.results);
    file = new File(String.valueOf(getIntent().getStringExtra(FILE)));
    try {
      report = ReportStore.read(file);
      show();
    } catch (IOException error) {
      TextView warnings = findViewById(R.id.warnings);
      warnings.setText(getString(R.string.no_report, error.getMessage()));
    }
  }

  private void show() {
    List<String> facts = new ArrayList<>();
    for (Map.Entry<String, Object> setting : report.settings.entrySet()) {
      if (setting.getValue() != null) {
        facts.add(setting.getKey().replace('_', ' ') + ": " + setting.getValue());
      }
    }
    TextView summary = findViewById(R.id.summary);
    summary.setText(TextUtils.join("\n", facts));
    TextView warnings = findViewById(R.id.warnings);
    warnings.setText(TextUtils.join("\n", warnings()));

    int count = report.results.size();
    String[] names = new String[count];
    double[] latencies = new double[count];
    double[] memories = new double[count];
    double[] sizes = new double[count];
    String[] latencyLabels = new String[count];
    for (int i = 0; i < count; ++i) {
      Result result = report.results.get(i);
      names[i] = result.name;
      latencies[i] = result.median();
      latencyLabels[i] =
          String.format(Locale.ROOT, "%.3f (%.2f×)", result.median(), report.speedup(result));
      memories[i] = result.peakMemoryBytes / 1e6;
      sizes[i] = result.fileBytes / 1e3;
    }
    chart(R.id.latency, R.string.median_latency, names, latencies, latencyLabels);
    chart(R.id.memory, R.string.peak_memory, names, memories, labels("%.2f", memories));
    chart(R.id.size, R.string.file_size, names, sizes, labels("%,.1f", sizes));

    TableLayout table = findViewById(R.id.table);
    int padding = (int) (6 * getResources().getDisplayMetrics().density);
    for (String[] cells : report.toRows()) {
      TableRow row = new TableRow(this);
      for (int i = 0; i < cells.length; ++i) {
        TextView cell = new TextView(this);
        cell.setText(cells[i]);
        cell.setGravity(i == 0 ? Gravity.START : Gravity.END);
        cell.setPadding(padding, padding / 2, padding, padding / 2);
        row.addView(cell);
      }
      table.addView(row);
    }
  }

  private List<String> warnings() {
    List<String> warnings = new ArrayList<>();
    String slow = Phone.warning(report.settings);
    if (slow != null) {
      warnings.add(slow);
    }
    if (!report.wrong().isEmpty()) {
      warnings.add(getString(R.string.wrong_output, TextUtils.join(", ", report.wrong())));
    }
    for (Map.Entry<String, String> failure : report.failures.entrySet()) {
      warnings.add(getString(R.string.failed_model, failure.getKey(), failure.getValue()));
    }
    return warnings;
  }

  private void chart(int view, int title, String[] names, double[] values, String[] labels) {
    BarChartView chart = findViewById(view);
    chart.show(getString(title), names, values, labels);
  }

  private static String[] labels(String format, double[] values) {
    String[] labels = new String[values.length];
    for (int i = 0; i < labels.length; ++i) {
      labels[i] = String.format(Locale.ROOT, format, values[i]);
    }
    return labels;
  }

  @Override
  public boolean onCreateOptionsMenu(Menu menu) {
    if (report != null) {
      getMenuInflater().inflate(R.menu.results, menu);
    }
    return true;
  }

  @Override
  public boolean onOptionsItemSelected(MenuItem item) {
    if (item.getItemId() == R.id.share_json) {
      share(file, "application/json");
      return true;
    }
    if (item.getItemId() == R.id.share_csv) {
      File csv = new File(file.getPath().replaceFirst("\\.json$", ".csv"));
      try {
        ReportStore.write(csv, report.toCsv());
        share(csv, "text/csv");
      } catch (IOException error) {
        TextView warnings = findViewById(R.id.warnings);
        warnings.setText(error.getMessage());
      }
      return true;
    }
    return super.onOptionsItemSelected(item);
  }

  private void share(File shared, String type) {
    Uri uri = ReportProvider.uri(this, shared);
    Intent send =
        new Intent(Intent.ACTION_SEND)
            .setType(type)
            .putExtra(Intent.EXTRA_STREAM, uri)
            .addFlags(Intent.FLAG_GRANT_READ_URI_PERMISSION);
    send.setClipData(ClipData.newRawUri(shared.getName(), uri)); // the grant covers this only
    startActivity(Intent.createChooser(send, shared.getName()));
  }
}
